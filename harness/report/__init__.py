"""Reports, made from the journal alone."""
