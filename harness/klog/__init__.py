"""What a kernel writes to its console: splats, their fingerprints, and decoded call traces."""
