"""Every mutant of a series, tried and scored."""
