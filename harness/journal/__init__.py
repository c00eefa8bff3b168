"""The record of a run on disk: write it, read it back, judge it again, resume from it."""
