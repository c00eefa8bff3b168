"""From a base and a series to a bzImage."""
