"""The host: processes, files, git, and the cache.  Knows no kernel and imports nothing of harness/."""
