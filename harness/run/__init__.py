"""A run: stages, machines, detectors, and one scenario at a time.  Nothing here imports pytest."""
