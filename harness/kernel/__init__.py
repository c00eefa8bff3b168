"""The kernel under test: fetch a base, apply a series, build a bzImage."""
