"""The pytest plugin; no other package of harness/ imports pytest."""
