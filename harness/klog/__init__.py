"""The kernel log: find splats in a console, give them fingerprints, decode their call traces."""
