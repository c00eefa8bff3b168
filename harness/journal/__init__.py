"""The files of a run: write plan and events, read them back, search the consoles again, resume the run."""
