"""The words of a verdict, and what a whole run says: values only, no files.

A run is a list of entries that were planned (stages and scenarios), each with
the verdict it was expected to get, and a record of the verdict each one got.
"""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """What a stage or a scenario says about the series."""

    CONFORMS = "conforms"
    VIOLATES = "violates"
    UNEXPECTEDLY_CONFORMS = "unexpectedly-conforms"
    NOT_APPLICABLE = "not-applicable"
    NOT_REACHED = "not-reached"
    KERNEL_DIED = "kernel-died"
    HARNESS_ERROR = "harness-error"


#: What a manifest may expect, from the mildest to the worst.  The other words are about the run itself.
EXPECTABLE = (Verdict.CONFORMS, Verdict.NOT_APPLICABLE, Verdict.VIOLATES, Verdict.KERNEL_DIED)

#: What a series can be blamed for, where it was not expected.
SERIES_FAULTS = (Verdict.VIOLATES, Verdict.UNEXPECTEDLY_CONFORMS, Verdict.KERNEL_DIED)


class Strength(StrEnum):
    """How binding a requirement is, the most binding first; suites/requirements.toml says what each means."""

    MUST = "must"
    SHOULD = "should"
    INFO = "info"


class Kind(StrEnum):
    """What an entry of the plan is about."""

    HARNESS = "harness"
    """A stage that says nothing about the series: fetching the base, building the image."""
    STAGE = "stage"
    """A stage the series can fail: ``apply``, ``build``, ``boot``."""
    SCENARIO = "scenario"
    MACHINE = "machine"
    """A machine whose kernel was not well between two scenarios, or after the last: no plan has it."""


STAGES = (Kind.HARNESS, Kind.STAGE)
