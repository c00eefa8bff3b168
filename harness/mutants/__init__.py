"""Try the mutants of series, and score the scenarios by them."""
