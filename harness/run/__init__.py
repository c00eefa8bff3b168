"""One run: stages, machines, detectors, and one scenario at a time.  Does not import pytest."""
