"""Generate mutants from the C lines that a series adds, and keep those that compile to other code."""
