"""patchproof: a conformance test harness for kernel patch series."""

__version__ = "0.1.0"
