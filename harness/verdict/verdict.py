"""The vocabulary of a run: verdicts, strengths of requirements, kinds of plan entries.

A run is a list of planned entries (stages and scenarios), each with its expected
verdict, and a record of the verdict that each one got.
"""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """The verdict of a stage or a scenario on the series."""

    CONFORMS = "conforms"
    VIOLATES = "violates"
    UNEXPECTEDLY_CONFORMS = "unexpectedly-conforms"
    NOT_APPLICABLE = "not-applicable"
    NOT_REACHED = "not-reached"
    KERNEL_DIED = "kernel-died"
    HARNESS_ERROR = "harness-error"


#: The verdicts that a manifest may expect, from the mildest to the worst.
#: The others are about the run itself.
EXPECTABLE = (Verdict.CONFORMS, Verdict.NOT_APPLICABLE, Verdict.VIOLATES, Verdict.KERNEL_DIED)

#: The verdicts that are faults of the series where they were not expected.
SERIES_FAULTS = (Verdict.VIOLATES, Verdict.UNEXPECTEDLY_CONFORMS, Verdict.KERNEL_DIED)

#: The verdicts that say something of the kernel.
ON_KERNEL = (Verdict.CONFORMS, *SERIES_FAULTS)


class Strength(StrEnum):
    """The strength of a requirement, the most binding first; suites/requirements.toml defines each."""

    MUST = "must"
    SHOULD = "should"
    INFO = "info"


class Kind(StrEnum):
    """The kind of an entry of the plan."""

    HARNESS = "harness"
    """A stage that does not depend on the series: fetching the base, building the image."""
    STAGE = "stage"
    """A stage the series can fail: ``apply``, ``build``, ``boot``."""
    SCENARIO = "scenario"
    SELFTEST = "selftest"
    """A test program of the kernel itself.

    Its verdict is no part of the matrix: it covers no requirement.
    """
    PATCH = "patch"
    """The first patches of the series, up to one of them: that prefix builds and boots (``--bisect``)."""
    MACHINE = "machine"
    """A machine whose kernel had a fault between two scenarios or after the last.

    No plan has such an entry; the journal adds it.
    """


STAGES = (Kind.HARNESS, Kind.STAGE)
IN_GUEST = (Kind.SCENARIO, Kind.SELFTEST)  # during which the kernel may die
