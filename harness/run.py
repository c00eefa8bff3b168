"""One run of the suites: from what a scenario showed to its verdict in the journal."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from harness import options, pipeline
from harness.errors import BootError, ExitCode, HarnessError, PatchproofError
from harness.guest import Guest
from harness.probe import Actor, DeadlineError, Refused, Transcript, start_actor, start_python
from harness.progress import Progress
from harness.record import read
from harness.report import junit
from harness.results import Results
from harness.ssh import SshLostError, SshTimeoutError
from harness.store import Store
from harness.verdict import Entry, Kind, Span, Verdict
from harness.witness import KernelHealth, RamBar

SETTLE_SECONDS = 2.0  # for the kernel to free what the last process let go
LAST_WORDS_SECONDS = 2.0  # between the end of SSH and that of QEMU, when a kernel dies

# How bad an observation is; of a scenario's phases the worst counts.
SEVERITY = (
    Verdict.CONFORMS,
    Verdict.NOT_APPLICABLE,
    Verdict.VIOLATES,
    Verdict.HARNESS_ERROR,
    Verdict.KERNEL_DIED,
)


class KernelDiedError(PatchproofError):
    """The guest kernel panicked, or answers no more."""


class UnhealthyKernelError(PatchproofError):
    """The kernel complained while the scenario ran: a splat, a new taint bit, something left over."""


@dataclass(frozen=True)
class Observation:
    """What one phase of a scenario (setup, call, teardown) showed."""

    verdict: Verdict
    reason: str = ""
    details: str = ""


def requirement_ids(item: pytest.Item) -> tuple[str, ...]:
    """The requirement ids a scenario names, in order; empty for any other test."""
    return tuple(str(name) for mark in item.iter_markers("requirement") for name in mark.args)


def observation_of(error: BaseException, details: str) -> Observation:
    """What it means that a phase ended with ``error``."""
    if isinstance(error, pytest.skip.Exception):
        return Observation(Verdict.NOT_APPLICABLE, str(error.msg))
    reason = error.message if isinstance(error, PatchproofError) else str(error)
    if isinstance(error, (KernelDiedError, BootError)):
        return Observation(Verdict.KERNEL_DIED, reason, details)
    if isinstance(
        error, (AssertionError, pytest.fail.Exception, Refused, DeadlineError, UnhealthyKernelError)
    ):
        return Observation(Verdict.VIOLATES, reason.strip() or "The assertion does not hold.", details)
    if isinstance(error, PatchproofError):
        return Observation(Verdict.HARNESS_ERROR, reason, details)
    return Observation(Verdict.HARNESS_ERROR, f"{type(error).__name__}: {reason}", details)


class Run:
    """Results folder, journal, stages, and the machine in use."""

    def __init__(self, request: options.Request, items: list[pytest.Item], selection: str) -> None:
        self.request = request
        self.series = pipeline.load_series(request)
        entries = [*pipeline.stages_of(request), *(self._entry(item) for item in items)]
        self.results = Results.create(request.results, self.series.name)
        self.results.write_run(selection=selection)
        self.journal = self.results.journal()
        self.journal.plan(entries)
        store = Store()
        self.progress = Progress(store)
        self.pipeline = pipeline.Pipeline(
            request, self.series, store, self.progress, self.results, self.journal
        )
        self.failures: list[PatchproofError] = []
        self._expected = {entry.id: entry.expected for entry in entries}
        self._worst = Observation(Verdict.CONFORMS)
        self._healthy: KernelHealth | None = None
        self._mark = 0
        self._transcript: Transcript | None = None
        self._actors = ExitStack()

    def _entry(self, item: pytest.Item) -> Entry:
        ids = requirement_ids(item)
        text = getattr(getattr(item, "function", None), "__doc__", None) or item.name
        return Entry(
            id=item.nodeid,
            kind=Kind.SCENARIO,
            title=text.strip().splitlines()[0],
            requirements=ids,
            expected=self.series.expected(ids, item.nodeid),
        )

    def prepare(self) -> bool:
        """Run the stages; False if one failed, which the journal then holds."""
        try:
            self.journal.run_started()
            self.pipeline.prepare()
        except PatchproofError as error:
            self.failures.append(error)
            return False
        return True

    # -- one scenario ------------------------------------------------------------------

    def begin(self, item: pytest.Item) -> None:
        """From here until end() the record says that the kernel died."""
        self._worst = Observation(Verdict.CONFORMS)
        self._transcript = None
        self._healthy = None
        self.journal.started(item.nodeid)

    def guest(self) -> Guest:
        """The running guest, its health noted at the scenario's first look."""
        guest = self.pipeline.fresh_guest()
        if self._healthy is None:
            self._mark = guest.machine.console.mark()
            self._healthy = KernelHealth.of(guest)
        return guest

    def actor(self, item: pytest.Item, kind: str) -> Actor:
        """A new actor, written in ``c`` or ``python``; all it does goes into the scenario's transcript."""
        guest = self.guest()
        if self._transcript is None:
            self._transcript = Transcript(self.results.transcript(item.nodeid), item.nodeid)
        if kind == "python":
            actor = start_python(guest, self._transcript)
        else:
            actor = start_actor(guest, self.pipeline.actor, self._transcript)
        if self.pipeline.dialect in ("feature", "ioctl"):
            actor.revoke_via = self.pipeline.dialect
        return self._actors.enter_context(actor)

    def end_actors(self) -> None:
        """End the actors: before their devices are taken away, and before the kernel is looked at."""
        self._actors.close()

    def ram(self, role: str) -> RamBar:
        """The host's view of a RAM BAR."""
        return RamBar(self.guest().machine.ram_bars[role])

    def examine(self) -> None:
        """Raise if the kernel is not as healthy as it was when the scenario began."""
        if self.pipeline.guest is None or self._healthy is None:
            return
        complaints = self._complaints(self.pipeline.guest, self._healthy)
        if complaints:
            self.pipeline.spend(complaints[0])
            raise UnhealthyKernelError("The scenario passed, but " + "; ".join(complaints) + ".")

    def examine_after(self, error: Exception) -> None:
        """After a failure: raise KernelDiedError if the kernel failed; a machine in doubt is spent."""
        guest = self.pipeline.guest
        if guest is None or isinstance(error, pytest.skip.Exception):
            return
        lost = isinstance(error, (SshLostError, SshTimeoutError, DeadlineError))
        if lost and guest.machine.alive():
            guest.machine.wait_ended(LAST_WORDS_SECONDS)
        died = ""
        if not guest.machine.alive():
            splats = guest.machine.console.splats(self._mark)
            died = splats[0].title if splats else "the machine ended by itself"
        elif lost and not self._answers(guest):
            died = f"the kernel does not answer after this: {error}"
        if died:
            self.pipeline.spend(died)
            raise KernelDiedError(f"The kernel died: {died}") from error
        if lost:
            self.pipeline.spend(f"an operation did not end: {error}")
        elif self._healthy is not None and (complaints := self._complaints(guest, self._healthy)):
            self.pipeline.spend(complaints[0])
            self._worst = Observation(Verdict.VIOLATES, "; ".join(complaints))

    def observe(self, item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        """Take in a phase; what was expected to fail is told to pytest as such."""
        expected = self._expected[item.nodeid]
        if call.excinfo is not None:
            seen = observation_of(call.excinfo.value, report.longreprtext)
            if call.when == "teardown" and seen.verdict is Verdict.VIOLATES:
                seen = Observation(Verdict.HARNESS_ERROR, f"Cleaning up failed: {seen.reason}", seen.details)
            if SEVERITY.index(seen.verdict) >= SEVERITY.index(self._worst.verdict):
                self._worst = seen
            if seen.verdict is expected and expected is not Verdict.NOT_APPLICABLE:
                report.outcome = "skipped"
                report.wasxfail = f"expected: {_first_line(seen.reason)}"
        elif call.when == "call" and expected in (Verdict.VIOLATES, Verdict.KERNEL_DIED):
            report.outcome = "failed"
            report.longrepr = "This scenario conforms, and the manifest of the series says that it does not."

    def end(self, item: pytest.Item) -> None:
        """The scenario is through all its phases."""
        if self._transcript is not None:
            self._transcript.close()
        guest = self.pipeline.guest
        span = None
        if guest is not None and self._healthy is not None:
            log = guest.machine.console.log
            span = Span(str(log.relative_to(self.results.dir)), self._mark, guest.machine.console.mark())
        self.journal.ended(
            item.nodeid,
            self._worst.verdict,
            reason=_first_line(self._worst.reason),
            details=self._worst.details,
            transcript=self._transcript.path if self._transcript is not None else None,
            console=span,
        )

    # -- the end -----------------------------------------------------------------------

    def finish(self, *, interrupted: bool) -> ExitCode:
        """End what runs, write the reports, and tell the exit code."""
        try:
            if interrupted:
                self.journal.interrupted("SIGINT")
            else:
                self._keep()
        finally:
            self.pipeline.close()
        self.journal.run_ended()
        junit.write(self.results.dir)
        return read(self.results.dir).exit_code

    def _keep(self) -> None:
        """Leave the machine to the user who asked for it."""
        guest = self.pipeline.guest
        if self.request.keep_vm and guest is not None and guest.machine.alive():
            self.progress.say("")  # pytest's line of dots is still open
            pipeline.hold(guest.machine, self.progress)

    def _complaints(self, guest: Guest, before: KernelHealth) -> list[str]:
        splats = [s for s in guest.machine.console.splats(self._mark) if not s.informational]
        said = [f"the kernel said: {splat.title}" for splat in splats]
        try:
            return said + _settled(guest, before).worse_than(before)
        except (HarnessError, SshLostError, SshTimeoutError) as error:
            return [*said, f"the kernel's state cannot be read: {error.message}"]

    @staticmethod
    def _answers(guest: Guest) -> bool:
        try:
            return guest.run(["true"]).status == 0
        except (SshLostError, SshTimeoutError):
            return False


def _settled(guest: Guest, before: KernelHealth) -> KernelHealth:
    """The kernel's state once what was let go is gone: the last reference to a file is put a little later."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (now := KernelHealth.of(guest)).dmabufs > before.dmabufs and time.monotonic() < deadline:
        pass
    return now


def _first_line(text: str) -> str:
    return re.split(r"[\r\n]", text.strip(), maxsplit=1)[0]
