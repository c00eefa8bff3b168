"""Compare two runs: what the newer series breaks, fixes, keeps, and answers in another way."""
