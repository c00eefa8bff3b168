"""Turn the exception that ended a phase of a scenario into an observation about the kernel."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from harness.actor.actor import NotOfferedError
from harness.actor.answer import call_of
from harness.actor.mismatch import Mismatch, sentence
from harness.actor.reply import DeadlineError, Refused
from harness.actor.transcript import latest_operation
from harness.guest.guest import UnbindTimeoutError
from harness.lib.errors import BootError, BuildError, HarnessError, NoReturnError, PatchproofError
from harness.lib.host import out_of_resources
from harness.verdict.deviation import ALIVE, NO_COMPLAINT, WAITS_IN, Deviation
from harness.verdict.verdict import Verdict
from harness.vm.ssh import SshLostError, SshOutputError, SshTimeoutError

# From the mildest to the worst; the worst phase decides a scenario's verdict.
SEVERITY = (
    Verdict.CONFORMS,
    Verdict.NOT_APPLICABLE,
    Verdict.NOT_REACHED,
    Verdict.VIOLATES,
    Verdict.HARNESS_ERROR,
    Verdict.KERNEL_DIED,
)


class Phase(StrEnum):
    """A part of a scenario: fixtures, body, or clean-up."""

    SETUP = "setup"
    CALL = "call"
    TEARDOWN = "teardown"


class NotApplicableError(PatchproofError):
    """The scenario cannot be run on this kernel or this machine; the message says why."""


class NotReachedError(PatchproofError):
    """The scenario is not run to its end, through no fault of its own; the message says why."""


class KernelDiedError(PatchproofError):
    """The guest kernel panicked, or no longer answers."""


class UnhealthyKernelError(PatchproofError):
    """The kernel complained during the scenario: a splat, a new taint bit, a DMABUF left over.

    ``without_console`` is the verdict without the console's evidence; None if there is other
    evidence.  ``on_console`` is true if the console has evidence.  ``changes`` are the
    other evidence: changes of the kernel's state for the worse.
    """

    def __init__(
        self,
        message: str,
        without_console: Verdict | None = None,
        *,
        on_console: bool = False,
        changes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.without_console = without_console
        self.on_console = on_console
        self.changes = changes


class BlindConsoleError(HarnessError):
    """The console lost messages, or a detector switched itself off, during the scenario."""


# After these errors it is unknown whether the kernel lives.
LOST = (SshLostError, SshTimeoutError, SshOutputError, DeadlineError, UnbindTimeoutError)
# The kernel's fault in every phase, even in the clean-up.
KERNELS_FAULT = (UnbindTimeoutError, UnhealthyKernelError)
# A violation that the scenario itself found.
VIOLATION = (AssertionError, Refused)


@dataclass(frozen=True)
class Observation:
    """The verdict on one phase of a scenario, with its evidence.

    ``reason`` is a sentence, ``details`` a traceback.  ``without_console`` is the verdict without
    the console's evidence, None if that is the same.  ``on_console`` is true if the console
    has a complaint of the kernel.  ``failure`` is that of failure_of().  ``deviation`` is what
    was expected and seen instead, None if the phase passed or the error does not tell.
    """

    verdict: Verdict
    reason: str = ""
    details: str = ""
    without_console: Verdict | None = None
    on_console: bool = False
    failure: str = ""
    deviation: Deviation | None = None


# For a scenario of which only the fixtures ran.
NOT_RUN = Observation(
    Verdict.HARNESS_ERROR,
    "It was set up and not run, because of pytest's option --setup-only or --setup-plan.",
)


def observation_of(error: BaseException, details: str) -> Observation:
    """Return the observation for a phase that ended with ``error``."""
    if isinstance(error, (NotApplicableError, NotOfferedError)):
        return Observation(Verdict.NOT_APPLICABLE, error.message)
    if isinstance(error, NotReachedError):
        return Observation(Verdict.NOT_REACHED, error.message)
    reason = error.message if isinstance(error, PatchproofError) else str(error)
    if isinstance(error, Refused):
        reason = _refusal(error)
    if isinstance(error, (KernelDiedError, BootError)):
        return Observation(Verdict.KERNEL_DIED, reason, details)
    if isinstance(error, UnhealthyKernelError):
        return Observation(Verdict.VIOLATES, reason, details, error.without_console, error.on_console)
    # A BuildError is that of the test importer, which compiles for the base.
    if isinstance(error, (*VIOLATION, BuildError, DeadlineError, UnbindTimeoutError)):
        return Observation(Verdict.VIOLATES, reason.strip() or "The assertion does not hold.", details)
    if isinstance(error, BlindConsoleError):
        return Observation(Verdict.HARNESS_ERROR, reason, details, Verdict.CONFORMS)
    if isinstance(error, PatchproofError):
        return Observation(Verdict.HARNESS_ERROR, reason, details)
    if lacking := out_of_resources(error):
        return Observation(Verdict.HARNESS_ERROR, lacking.message, details)
    return Observation(Verdict.HARNESS_ERROR, f"{type(error).__name__}: {reason}", details)


def _refusal(error: Refused) -> str:
    """Return the sentence of a refusal that the scenario did not expect."""
    latest = latest_operation()
    if latest.call != error.operation:
        return str(error)
    return sentence(latest.moment, f"{call_of(latest)} was refused with {error.errno}")


def deviation_of(error: BaseException) -> Deviation | None:
    """Return what was expected and seen instead if ``error`` ended a phase; None if it does not tell."""
    latest = latest_operation()

    def unlike(expected: str, seen: str, wanted: str = "") -> Deviation:
        return Deviation(expected, first_line(seen), latest.text, latest.line, wanted)

    match error:
        case Mismatch():
            return error.deviation
        case Refused():
            found = unlike("success", error.errno, "ok *")
            if latest.text.endswith(error.operation):
                return found
            return replace(found, operation=error.operation, line=0)
        case UnhealthyKernelError():
            return unlike(NO_COMPLAINT, str(error))
        case KernelDiedError():
            return unlike(ALIVE, str(error))
        case DeadlineError():
            return unlike(f"an answer within {error.seconds:.0f} s", f"none{_place(error)}")
        case UnbindTimeoutError():
            return unlike("an end of the unbinding", f"{error}{_place(error)}")
    return None


def _place(error: NoReturnError) -> str:
    return f"{WAITS_IN}{error.waits_in}" if error.waits_in else ""


def first_line(text: str) -> str:
    """Return the first line of ``text`` that is not blank."""
    return re.split(r"[\r\n]", text.strip(), maxsplit=1)[0]
