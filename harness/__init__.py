"""patchproof: does this kernel do what the series promises?"""

__version__ = "0.1.0"
