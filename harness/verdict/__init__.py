"""The vocabulary of a run: requirements, expectations, verdicts, records.  Values only."""
