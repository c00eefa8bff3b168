"""The host: processes, files, git, apt, and the cache.

Nothing here depends on a kernel or on another package of harness/.
"""
