"""Patch series, their manifests, and the mutants of a series."""
