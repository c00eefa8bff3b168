"""One run of the suites: from what a scenario showed to its verdict in the journal."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from harness.actor.actor import Actor, NotOfferedError
from harness.actor.reply import DeadlineError, Refused
from harness.actor.start import Spare, start_actor, start_python, stopped_actors
from harness.actor.transcript import Transcript
from harness.guest.guest import Guest, HeldDeviceError
from harness.guest.health import LOCKDEP_OFF, KernelHealth
from harness.journal.folder import Facts, ResultsFolder, read_facts
from harness.journal.reader import read
from harness.journal.resume import EarlierRun
from harness.klog.patterns import PANIC
from harness.klog.splat import Splat
from harness.lib import paths
from harness.lib.cache import Store
from harness.lib.errors import BootError, ExitCode, HarnessError, PatchproofError
from harness.lib.progress import Progress
from harness.report import junit
from harness.run import options, stages
from harness.run.needs import Needs, needs_of
from harness.verdict import requirements
from harness.verdict.record import ConsoleRange, Entry, repetition_mark
from harness.verdict.words import Kind, Verdict
from harness.vm.machine import LAST_WORDS_SECONDS
from harness.vm.ram_bar import RamBar
from harness.vm.ssh import SshLostError, SshTimeoutError

SETTLE_SECONDS = 2.0  # for the kernel to free what the last process let go

# How bad an observation is; of a scenario's phases the worst counts.
SEVERITY = (
    Verdict.CONFORMS,
    Verdict.NOT_APPLICABLE,
    Verdict.VIOLATES,
    Verdict.HARNESS_ERROR,
    Verdict.KERNEL_DIED,
)


# Facts of run.json that may change when a run is resumed, and that a reader should know of then.
SURROUNDINGS = {
    "accelerator": "the accelerator",
    "qemu": "the version of QEMU",
    "image": "the identity of the guest's root file system",
    "program": "the digest of suites, probes and harness",
}

ARGUMENTS = pytest.StashKey[list[str]]()  # of the config: what the user gave the program
RUN = pytest.StashKey["Run"]()  # of the config, from the plan on
REPETITION = pytest.StashKey[int]()  # of an item


class KernelDiedError(PatchproofError):
    """The guest kernel panicked, or answers no more."""


class UnhealthyKernelError(PatchproofError):
    """The kernel complained while the scenario ran: a splat, a new taint bit, something left over.

    ``silent`` is what the verdict were if the console had been silent; None if not
    only the console told it.  ``told`` says whether the console did.
    """

    def __init__(self, message: str, silent: Verdict | None = None, *, told: bool = False) -> None:
        super().__init__(message)
        self.silent = silent
        self.told = told


class BlindConsoleError(HarnessError):
    """The console has lost messages, or a detector has switched itself off, while the scenario ran."""


# After these it is open whether the kernel lives.
LOST = (SshLostError, SshTimeoutError, DeadlineError, HeldDeviceError)
# What is the kernel's fault, whenever it shows.
KERNELS_FAULT = (HeldDeviceError, UnhealthyKernelError)
# What a scenario itself finds wrong.
VIOLATION = (AssertionError, pytest.fail.Exception, Refused)


@dataclass(frozen=True)
class Observation:
    """What one phase of a scenario (setup, call, teardown) showed.

    ``silent`` is the verdict had the console said nothing, if that is another.
    """

    verdict: Verdict
    reason: str = ""
    details: str = ""
    silent: Verdict | None = None


def requirement_ids(item: pytest.Item) -> tuple[str, ...]:
    """The requirement ids a scenario names, in order, each once; empty for any other test."""
    named = (str(name) for mark in item.iter_markers("requirement") for name in mark.args)
    return tuple(dict.fromkeys(named))


def repetition_of(item: pytest.Item) -> int:
    """Which repetition of its scenario an item is, from 1."""
    return item.stash.get(REPETITION, 1)


def observation_of(error: BaseException, details: str) -> Observation:
    """What it means that a phase ended with ``error``."""
    if isinstance(error, pytest.skip.Exception):
        return Observation(Verdict.NOT_APPLICABLE, str(error.msg))
    if isinstance(error, NotOfferedError):
        return Observation(Verdict.NOT_APPLICABLE, error.message)
    reason = error.message if isinstance(error, PatchproofError) else str(error)
    if isinstance(error, (KernelDiedError, BootError)):
        return Observation(Verdict.KERNEL_DIED, reason, details)
    if isinstance(error, (*VIOLATION, DeadlineError, *KERNELS_FAULT)):
        silent = error.silent if isinstance(error, UnhealthyKernelError) else None
        reason = reason.strip() or "The assertion does not hold."
        return Observation(Verdict.VIOLATES, reason, details, silent)
    if isinstance(error, BlindConsoleError):
        return Observation(Verdict.HARNESS_ERROR, reason, details, Verdict.CONFORMS)
    if isinstance(error, PatchproofError):
        return Observation(Verdict.HARNESS_ERROR, reason, details)
    return Observation(Verdict.HARNESS_ERROR, f"{type(error).__name__}: {reason}", details)


# What is known of a scenario if nothing but its fixtures has run.
UNSEEN = Observation(
    Verdict.HARNESS_ERROR, "It was set up and not run: pytest was told so (--setup-only, --setup-plan)."
)


@dataclass(frozen=True)
class Seen:
    """A guest as it was at ``mark`` of its console; ``healthy`` is None if its state was not read."""

    guest: Guest
    mark: int
    healthy: KernelHealth | None


class Run:
    """Results folder, journal, stages, and the machine in use."""

    def __init__(self, request: options.Request, items: list[pytest.Item], asked: Facts) -> None:
        self.request = request
        self.series = stages.load_series(request)
        self.past = EarlierRun.of(request.resume) if request.resume is not None else None
        entries = [*stages.stages_of(request), *(self._entry(item) for item in items)]
        if self.past is not None:
            self.results, self.journal = self.past.results, self.past.journal
            self.results.require(series=self.series.name, digest=self.series.digest)
            self.past.check(entries)
            of_id = {item.nodeid: item for item in items}
            items = [of_id[name] for name in self.past.left]
        else:
            self.results = ResultsFolder.create(request.results, self.series.name)
            self.results.write_run(**asked)
            self.results.write_run(digest=self.series.digest, resumed=[])
            self.journal = self.results.journal()
            self.journal.plan(entries)
        self.results.write_run(program=paths.program_digest())
        self.items = items
        store = Store()
        self.progress = Progress(store)
        self.pipeline = stages.Pipeline(
            request, self.series, store, self.progress, self.results, self.journal
        )
        self.failures: list[PatchproofError] = []
        self.refused: PatchproofError | None = None
        self.unrecorded: PatchproofError | None = None
        self.violated = False
        self._planned = {entry.id: entry for entry in entries}
        self._needs = {item.nodeid: needs_of(item) for item in items}
        self._first = needs_of(items[0]) if items else Needs()
        self._asked = Needs()
        self._ran = False  # more of the scenario than its fixtures, or one that failed
        self._worst = Observation(Verdict.CONFORMS)
        self._silent = Verdict.CONFORMS
        self._guest: Guest | None = None
        self._healthy: KernelHealth | None = None
        self._latest: KernelHealth | None = None
        self._mark = 0
        self._seen: Seen | None = None
        self._transcript: Transcript | None = None
        self._actors = ExitStack()
        self._spare = Spare()

    def _entry(self, item: pytest.Item) -> Entry:
        ids = requirement_ids(item)
        number = repetition_of(item)
        text = getattr(getattr(item, "function", None), "__doc__", None) or item.name
        return Entry(
            id=item.nodeid,
            kind=Kind.SCENARIO,
            title=text.strip().splitlines()[0],
            requirements=ids,
            expected=self.series.expected(ids, item.nodeid.removesuffix(repetition_mark(number))),
            strength=requirements.load().strength(ids),
            repetition=number,
            alone=needs_of(item).alone,
        )

    def prepare(self) -> bool:
        """Run the stages; False if one failed, which the journal then holds, or if nothing is left to run."""
        try:
            if self.past is not None:
                self._resume(self.past)
            if self.items:
                self.journal.run_started()
                self.pipeline.prepare(self._first.layout)
        except PatchproofError as error:
            self.failures.append(error)
            if self.journal.silent:
                self.refused = error
            return False
        finally:
            if self.past is not None and not self.refused and not self.past.over:
                self._tell_resumed(self.past)
        return bool(self.items)

    def _resume(self, past: EarlierRun) -> None:
        past.begin()
        self.pipeline.machines = len(past.record.machines)

    def _tell_resumed(self, past: EarlierRun) -> None:
        """Say when, and what is not as it was when the run was cut off; what is tested is the same."""
        self.results.accept()
        facts = read_facts(self.results.dir)
        before = past.facts.get("resumed")
        earlier = [str(time) for time in before] if isinstance(before, list) else []
        self.results.write_run(resumed=[*earlier, datetime.now(UTC).isoformat(timespec="seconds")])
        for name, words in SURROUNDINGS.items():
            then, now = past.facts.get(name), facts.get(name)
            if then is not None and then != now:
                self.journal.note(f"Since the run was resumed, {words} is {now} instead of {then}.")

    # -- one scenario ------------------------------------------------------------------

    def begin(self, item: pytest.Item) -> None:
        """From here until end() the record says that the kernel died."""
        self._asked = self._needs[item.nodeid]
        self._ran = False
        self._worst = Observation(Verdict.CONFORMS)
        self._silent = Verdict.CONFORMS
        self._transcript = None
        self._guest = None
        self._healthy = None
        self._latest = None
        self.journal.started(item.nodeid)

    def guest(self) -> Guest:
        """The guest that the scenario needs, its health noted at the scenario's first look."""
        if self._guest is None:
            seen = self._aftermath()
            self._guest = guest = self.pipeline.guest_for(self._asked)
            if seen is None or seen.guest is not guest:
                seen = Seen(guest, guest.machine.console.mark(), None)
            self._mark = seen.mark
            self._healthy = seen.healthy or KernelHealth.of(guest)
        return self._guest

    def actor(self, item: pytest.Item, kind: str) -> Actor:
        """A new actor, written in ``c`` or ``python``; all it does goes into the scenario's transcript."""
        guest = self.guest()
        if self._transcript is None:
            self._transcript = Transcript(self.results.transcript(item.nodeid), item.nodeid)
        if kind == "python":
            actor = start_python(guest, self._transcript, self._spare.take(guest))
        else:
            actor = start_actor(guest, self.pipeline.actor, self._transcript)
        if self.pipeline.dialect in ("feature", "ioctl"):
            actor.revoke_via = self.pipeline.dialect
        elif self.pipeline.dialect == "map":
            actor.revoke_via = "none"
        actor.slowdown = self.pipeline.slowdown
        return self._actors.enter_context(actor)

    def end_actors(self) -> None:
        """End the actors: before their devices are taken away, and before the kernel is looked at."""
        self._actors.close()

    def begin_anew(self) -> None:
        """End the actors and set their transcript aside, so that the next one's holds only what comes."""
        self.end_actors()
        if self._transcript is not None:
            self._transcript.close()
            path = self._transcript.path
            path.rename(path.with_stem(f"{path.stem}-before"))
            self._transcript = None

    def ram(self, role: str) -> RamBar:
        """The host's view of a RAM BAR."""
        return RamBar(self.guest().machine.ram_bars[role])

    def examine(self, error: BaseException | None = None) -> None:
        """Raise if the kernel is not as healthy as it was when the scenario began.

        ``error`` is what ended a phase of the scenario, if anything did: the kernel's
        failure explains it, not the other way round.  Raises KernelDiedError,
        UnhealthyKernelError, and BlindConsoleError where nothing else was wrong; the
        machine is then spent, as it is after an operation that did not end.
        """
        guest = self._guest
        if guest is None or guest is not self.pipeline.guest:
            return
        if self._asked.alone and isinstance(error, VIOLATION):
            # It may have broken the kernel, as it was meant to.  What such a kernel does
            # when more is asked of it is chance, and no verdict should hang on that.
            splats = _faults(guest, self._mark)
            self.pipeline.spend("a scenario that had it for itself has failed")
            self._raise(splats, [], error)
            return
        worse: list[str] = []
        unread: PatchproofError | None = None
        self._latest = None
        lost = isinstance(error, LOST) or not guest.machine.alive()
        if not lost and self._healthy is not None:
            try:
                self._latest = _settled(guest, self._healthy)
                worse = self._latest.worse_than(self._healthy)
            except SshTimeoutError as stuck:
                lost = True
                worse = [f"the kernel's state cannot be read: {stuck.message}"]
            except (HarnessError, *LOST) as unreadable:
                lost = isinstance(unreadable, LOST)
                unread = unreadable
        if lost and (death := self._death(guest, error)):
            self.pipeline.spend(death)
            raise KernelDiedError(f"The kernel died: {death}") from error
        if lost:
            self.pipeline.spend(f"an operation did not end: {error or unread or worse[0]}")
        # The console last: a kernel that is damaged may show it only when it is asked.
        splats = _faults(guest, self._mark)
        if worse == [LOCKDEP_OFF] and not splats and error is None:
            self.pipeline.spend(LOCKDEP_OFF)
            raise HarnessError(f"{LOCKDEP_OFF.capitalize()} and has found nothing: it has no room left.")
        if worse and not splats and not lost and (fault := self._stopped(guest)):
            self.pipeline.spend(fault)
            raise HarnessError(f"The scenario was cut off: {fault}.") from error
        self._raise(splats, worse, error)
        if unread is not None and error is None:
            self.pipeline.spend(f"its kernel's state cannot be read: {unread.message}")
            raise HarnessError(f"The kernel's state cannot be read: {unread.message}") from unread
        if error is None:
            self._require_sight(guest)

    def observe(self, item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
        """Take in a phase; what was expected to fail, or is but a finding, is told to pytest as such."""
        planned = self._planned[item.nodeid]
        self._ran = self._ran or call.when == "call" or call.excinfo is not None
        if call.excinfo is not None:
            seen = observation_of(call.excinfo.value, report.longreprtext)
            if call.when == "teardown":
                self.pipeline.spend(f"cleaning up failed: {_first_line(seen.reason)}")
            kernels = isinstance(call.excinfo.value, KERNELS_FAULT)
            if call.when == "teardown" and seen.verdict is Verdict.VIOLATES and not kernels:
                seen = Observation(Verdict.HARNESS_ERROR, f"Cleaning up failed: {seen.reason}", seen.details)
            self._silent = max(self._silent, seen.silent or seen.verdict, key=SEVERITY.index)
            worst, here = (SEVERITY.index(one.verdict) for one in (self._worst, seen))
            if here > worst:
                self._worst = seen
            elif here == worst:
                reason = f"{_first_line(self._worst.reason)}; after that, {seen.reason}"
                self._worst = Observation(seen.verdict, reason, f"{self._worst.details}\n\n{seen.details}")
            complained = isinstance(call.excinfo.value, UnhealthyKernelError) and call.excinfo.value.told
            welcome = seen.verdict is planned.expected or not planned.binding
            if planned.violated(seen.verdict, complained) or seen.verdict is Verdict.NOT_APPLICABLE:
                welcome = False
            if welcome:
                report.outcome = "skipped"
                why = "expected" if planned.binding else "finding"
                report.wasxfail = f"{why}: {_first_line(seen.reason)}"
            elif isinstance(call.excinfo.value, NotOfferedError):
                report.outcome = "skipped"
                report.longrepr = (str(item.path), item.location[1] or 0, f"Skipped: {seen.reason}")
        elif call.when == "call" and planned.judge(Verdict.CONFORMS) is not Verdict.CONFORMS:
            report.outcome = "failed"
            report.longrepr = "This scenario conforms, and the manifest of the series says that it does not."

    def end(self, item: pytest.Item) -> None:
        """The scenario is through all its phases."""
        if not self._ran:
            self._worst, self._silent = UNSEEN, UNSEEN.verdict
        if self._transcript is not None:
            self._transcript.close()
        span, complaints = None, []
        if self._guest is not None:
            console = self._guest.machine.console
            self._seen = Seen(self._guest, console.mark(), self._latest)
            complaints = [one for one in console.splats(self._mark) if not one.informational]
            span = ConsoleRange(str(console.log.relative_to(self.results.dir)), self._mark, self._seen.mark)
        verdict = self.journal.ended(
            item.nodeid,
            self._worst.verdict,
            silent=self._silent,
            reason=_first_line(self._worst.reason),
            details=self._worst.details,
            transcript=self._transcript.path if self._transcript is not None else None,
            console=span,
        )
        self.pipeline.explain(complaints)
        complained = any(one.fault for one in complaints)
        self.violated = self.violated or self._planned[item.nodeid].violated(verdict, complained)
        if self._guest is not None and self._asked.alone:
            self.pipeline.give_up("the scenario had it for itself")
        self._guest = None

    # -- the end -----------------------------------------------------------------------

    def finish(self, *, interrupted: bool) -> ExitCode:
        """End what runs, write the reports, and tell the exit code."""
        try:
            if interrupted:
                self.journal.interrupted("SIGINT")
            else:
                self._aftermath()
                self._spare.close()
                self.pipeline.give_up("the run is over", self._keep)
        finally:
            self.pipeline.close()
        if not self.untouched:
            self.journal.run_ended()
            junit.write(self.results.dir)
        self.journal.unlock()
        return self.refused.exit_code if self.refused else read(self.results.dir).exit_code

    @property
    def untouched(self) -> bool:
        """Whether nothing was added to an earlier run: it is refused, or was over."""
        nothing = self.refused is not None or (self.past is not None and self.past.over)
        return nothing and self.journal.silent

    def _keep(self) -> None:
        """Leave the machine to the user who asked for it."""
        guest = self.pipeline.guest
        if self.request.keep_vm and guest is not None and guest.machine.alive():
            self.progress.say("")  # pytest's line of dots is still open
            stages.hold(guest.machine, self.progress)

    def _aftermath(self) -> Seen | None:
        """The machine of the last scenario, as it was seen last, if nothing has happened to it since.

        What the kernel did since the verdict was given cannot be that scenario's any
        more, and is nothing that the next one did: it is the run's.
        """
        guest, before = self.pipeline.guest, self._seen
        if guest is None or before is None or before.guest is not guest:
            return None
        mark = guest.machine.console.mark()
        said = guest.machine.console.splats(before.mark)
        splats = [one for one in said if one.fault]
        unseen = [one for one in said if one.blinding]
        if not splats and not unseen and guest.machine.alive():
            return replace(before, mark=mark)
        if splats:
            self.pipeline.explain(splats)
            self.pipeline.spend(f"the kernel said: {splats[0].title}", Verdict.VIOLATES)
        elif fault := guest.machine.outside_fault():
            self.pipeline.spend(fault)
        elif unseen:
            reason = f"what the kernel complained of may have been missed: {unseen[0].title}"
            self.pipeline.spend(reason, Verdict.HARNESS_ERROR)
        else:
            self.pipeline.spend("the machine ended by itself", Verdict.KERNEL_DIED)
        return None

    def _raise(self, splats: list[Splat], worse: list[str], error: BaseException | None) -> None:
        """Hold against the kernel what the console said, and what else is ``worse`` than before."""
        if not splats and not worse:
            return
        for one in splats:
            if one.kind == PANIC:  # in the moment since its state was read
                self.pipeline.spend(one.title)
                raise KernelDiedError(f"The kernel died: {one.title}") from error
        said = [f"the kernel said: {splat.title}" for splat in splats]
        complaints = "; ".join([*said, *worse])
        self.pipeline.spend([*said, *worse][0])
        passed = error is None and self._worst.verdict is Verdict.CONFORMS
        silent = Verdict.CONFORMS if error is None else observation_of(error, "").verdict
        raise UnhealthyKernelError(
            f"The scenario passed, but {complaints}" if passed else complaints,
            None if worse else silent,
            told=bool(splats),
        ) from error

    def _require_sight(self, guest: Guest) -> None:
        """Raise BlindConsoleError if a complaint may have been missed."""
        unseen = [one for one in guest.machine.console.splats(self._mark) if one.blinding]
        if unseen:
            self.pipeline.spend(unseen[0].title)
            raise BlindConsoleError(
                f"What the kernel complained of may have been missed: {unseen[0].title}. A verdict needs "
                "a kernel log that is whole."
            )

    def _death(self, guest: Guest, error: BaseException | None) -> str:
        """How the kernel died, empty if it lives.

        Raises HarnessError if something was done to the machine, or to the actor, that
        the kernel cannot help.
        """
        if guest.machine.alive():
            guest.machine.wait_ended(LAST_WORDS_SECONDS)
        said = _faults(guest, self._mark)
        fault = "" if said else guest.machine.outside_fault()
        answers = not fault and guest.machine.alive() and self._answers(guest)
        if answers and not said:
            fault = self._actors_fault(guest, error)
        if fault:
            self.pipeline.spend(fault)
            raise HarnessError(f"The scenario was cut off: {fault}.") from error
        if answers:
            return ""
        if guest.machine.alive():
            path, fault = guest.machine.dump_processors()
            where = f"where its processors are stands in {path.relative_to(self.results.dir)}"
            if fault:
                self.pipeline.spend(fault)
                raise HarnessError(f"The scenario was cut off: {fault} ({where}).") from error
            return f"it does not answer any more ({where})"
        return said[0].title if said else "the machine ended by itself"

    @staticmethod
    def _answers(guest: Guest) -> bool:
        try:
            return guest.run(["true"]).status == 0
        except SshTimeoutError:
            return False
        except SshLostError:
            return guest.machine.reachable()

    def _actors_fault(self, guest: Guest, error: BaseException | None) -> str:
        """What was done to the actor that does not answer, as a clause; empty if nothing was."""
        return self._stopped(guest) if isinstance(error, DeadlineError) and not error.answered else ""

    @staticmethod
    def _stopped(guest: Guest) -> str:
        """Which actors do nothing any more, and so keep what they have, as a clause; empty if none."""
        stopped = ", ".join(map(str, stopped_actors(guest)))
        return f"a signal has stopped the actor (process {stopped})" if stopped else ""


def _settled(guest: Guest, before: KernelHealth) -> KernelHealth:
    """The kernel's state once what was let go is gone: the last reference to a file is put a little later."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (now := KernelHealth.of(guest)).dmabufs > before.dmabufs and time.monotonic() < deadline:
        pass
    return now


def _faults(guest: Guest, mark: int) -> list[Splat]:
    """What the kernel has complained of since ``mark``."""
    return [splat for splat in guest.machine.console.splats(mark) if splat.fault]


def _first_line(text: str) -> str:
    return re.split(r"[\r\n]", text.strip(), maxsplit=1)[0]
