"""A scenario of a run: its guest, its actors, its transcript, and its verdict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from harness.actor import load
from harness.actor.actor import Actor
from harness.actor.scene import Operation
from harness.actor.start import start_actor, start_python
from harness.actor.transcript import Transcript, forget_operation, latest_operation
from harness.guest.guest import Guest
from harness.guest.health import KernelHealth
from harness.journal.results_folder import ResultsFolder
from harness.journal.writer import JournalWriter
from harness.klog.splat import Splat
from harness.lib.errors import PatchproofError
from harness.run.error_to_verdict import (
    KERNELS_FAULT,
    NOT_RUN,
    SEVERITY,
    Observation,
    Phase,
    deviation_of,
    first_line,
    observation_of,
)
from harness.run.examine_kernel import Examiner, MachineState
from harness.run.failure import both, failure_of
from harness.run.give_up import Doings, cause_of
from harness.run.machines import Machines
from harness.run.needs import Needs
from harness.run.outside_cause import cause_outside
from harness.verdict.comparison import BaseAnswer
from harness.verdict.record import ConsoleRange, Entry
from harness.verdict.verdict import Verdict
from harness.vm.diagnose import QemuDefectError
from harness.vm.ram_bar import RamBar
from harness.vm.recorded_ram import RecordedRam
from harness.vm.recorder import NoRecord


def revoke_via(dialect: str) -> str | None:
    """Return the call that revokes in a dialect, as Session.revoke_via has it.

    It is None on a base, where the actor's own choice is refused by the kernel.
    """
    return {"base": None, "map": "none"}.get(dialect, dialect)


class ScenarioRun:
    """A scenario from its first phase to its verdict in the journal.

    From begin() to end() its record is ``kernel-died``.  ``failure`` is the error that
    prevented the record of a phase, None if there was none.  ``answer`` is the result for a
    comparison with another kernel, None before end() and for a scenario that was given up.
    ``defect`` is the sentence of the defect of QEMU that has cut it off, empty without one, or if
    something else was wrong before; ``second`` is true if one has cut off an earlier try.
    """

    def __init__(
        self,
        entry: Entry,
        needs: Needs,
        *,
        machines: Machines,
        examiner: Examiner,
        results: ResultsFolder,
        journal: JournalWriter,
    ) -> None:
        self.entry = entry
        self.failure: PatchproofError | None = None
        self.answer: BaseAnswer | None = None
        self.defect = ""
        self.second = False
        self._needs = needs
        self._machines = machines
        self._examiner = examiner
        self._results = results
        self._journal = journal
        self._recorded = False  # the verdict is in the journal
        self._ran = False  # the body has run, or a phase has failed
        self._worst = Observation(Verdict.CONFORMS)
        self._without_console = Verdict.CONFORMS
        self._start: MachineState | None = None
        self._latest: KernelHealth | None = None
        self._doings = Doings(self._forbid)
        self._transcript = Transcript(results.transcript(entry.id), entry.id, self._doings)
        self._lost_by: tuple[BaseException, Operation] | None = None
        self._actors = ExitStack()

    def begin(self) -> None:
        """Write to the journal that the scenario has started.  Raises HarnessError."""
        forget_operation()
        self._journal.started(self.entry.id)

    def begin_after(self, first: ScenarioRun) -> None:
        """Begin in place of a ``first`` try that QEMU has cut off, whose transcript is kept beside.

        The journal has one start, and a finding.  Raises HarnessError.
        """
        forget_operation()
        self.second = True
        first.set_aside()
        self.finding(f"This is the second try, on another machine. {first.defect}")

    def set_aside(self) -> None:
        """End a try that gets no verdict, and its machine."""
        self._transcript.close()
        if self._transcript.written:
            path = self._transcript.path
            path.replace(path.with_name(f"{path.stem}-first-try{path.suffix}"))
        if self._start is not None:
            self._start.guest.recorder = NoRecord()
            self._machines.lines.take(self._start.guest)
            if self._start.guest is self._machines.guest:
                self._machines.end(self.defect)

    def guest(self) -> Guest:
        """Return the guest that the scenario needs; the first call reads its kernel's health.

        Raises BootError, HarnessError, SshLostError.
        """
        if self._start is None:
            self._start = self._examiner.begin(self._needs)
            self._machines.lines.begin(self.entry.scenario)
            if self._start.health is None:
                self._start = replace(self._start, health=KernelHealth.of(self._start.guest))
            self._clear_memories(self._start.guest)
            self._transcript.machine(self._start.guest.machine.layout.words())
            self._start.guest.recorder = self._transcript
        return self._start.guest

    @staticmethod
    def _clear_memories(guest: Guest) -> None:
        """Clear all RAM BARs, so that what a scenario finds there is in its transcript."""
        for path in guest.machine.ram_bars.values():
            with RamBar(path) as bar:
                bar.clear()

    def actor(self, kind: str) -> Actor:
        """Start an actor of this ``kind``, ``c`` or ``python``; it shares the scenario's transcript.

        Raises SshLostError, SshTimeoutError, and the errors of guest().
        """
        guest, software = self.guest(), self._machines.ready
        if kind == "python":
            actor = start_python(guest, self._transcript, software.interfaces.numbers)
        else:
            actor = start_actor(guest, software.actor, self._transcript)
        actor.revoke_via = revoke_via(software.dialect)
        actor.attribute_via = software.interfaces.attribute
        actor.slowdown = software.kernel.time_scale * guest.machine.slowdown
        actor.absent = software.kernel.absent
        return self._actors.enter_context(actor)

    def _forbid(self, done: frozenset[str], upcoming: str) -> None:
        """Raise NotReachedError if the next operation has lost machine after machine."""
        self._machines.give_up.check(self._needs.layout, done, upcoming)

    def build_importer(self) -> None:
        """Build the test importer, if none has needed it yet.  Raises as ImporterModule.path() does."""
        self._machines.ready.importer.path()

    @contextmanager
    def test_importer(self) -> Iterator[None]:
        """Load the test importer before the ``with`` block, which ends after the actors.

        Raises the errors of ImporterModule.path() and guest(), and HarnessError if the module does
        not load, or is in use at the end.
        """
        guest = self.guest()
        self._transcript.step("guest load-importer")
        module = self._machines.load_importer()
        yield
        if guest.machine.alive():
            load.require_unused(guest, module)

    def end_actors(self) -> None:
        """End the actors, before their devices are unbound and the kernel is examined."""
        self._actors.close()

    def begin_anew(self) -> None:
        """End the actors and set their transcript aside; a new one continues from before the first actor."""
        self.end_actors()
        self._transcript.begin_anew()

    def ram(self, role: str) -> RamBar:
        """Return the host's view of the RAM BAR of the device ``role``."""
        guest = self.guest()
        self._transcript.device(role, guest.devices[role].address)
        return RecordedRam(guest.machine.ram_bars[role], role, self._transcript)

    def finding(self, text: str) -> None:
        """Record a sentence for the report; no verdict depends on it."""
        self._journal.finding(self.entry.id, text)

    def examine(self, error: BaseException | None = None) -> None:
        """Examine the kernel's health after a phase that ``error``, if any, has ended.

        Raises the errors of Examiner.examine().
        """
        if self._start is not None:
            passed = self._worst.verdict is Verdict.CONFORMS
            self._latest = self._examiner.examine(self._start, error, self._needs, passed=passed)

    def observe(self, phase: Phase, error: BaseException | None, details: str) -> Observation | None:
        """Record a phase for the verdict; return the observation for its ``error``, None if it passed.

        ``details`` is the traceback as text.
        """
        self._ran = self._ran or phase is Phase.CALL or error is not None
        if error is None:
            return None
        if isinstance(error, QemuDefectError) and self._worst.verdict is Verdict.CONFORMS:
            self.defect = first_line(error.message)
        new = replace(
            observation_of(error, details), failure=failure_of(error), deviation=deviation_of(error)
        )
        if phase is Phase.TEARDOWN:
            self._machines.end(f"cleaning up failed: {first_line(new.reason)}")
            if new.verdict is Verdict.VIOLATES and not isinstance(error, KERNELS_FAULT):
                new = Observation(Verdict.HARNESS_ERROR, f"Cleaning up failed: {new.reason}", new.details)
        if self._start is not None and self._start.guest is not self._machines.guest:
            self._lost_by = self._lost_by or (error, latest_operation())
        self._without_console = max(
            self._without_console, new.without_console or new.verdict, key=SEVERITY.index
        )
        worst = self._worst
        if SEVERITY.index(new.verdict) > SEVERITY.index(worst.verdict):
            self._worst = new
        elif new.verdict is worst.verdict:
            reason = f"{first_line(worst.reason)}; after that, {new.reason}"
            details = f"{worst.details}\n\n{new.details}"
            failure = both(worst.failure, new.failure)
            self._worst = replace(worst, reason=reason, details=details, failure=failure)
        return new

    def end(self) -> bool:
        """Write the verdict to the journal; return whether it shows an unexpected fault of the kernel.

        Raises HarnessError.
        """
        violated = self._record()
        if self._start is not None and self._needs.alone:
            self._machines.retire("the scenario had it for itself")
        return violated

    def cut_off(self) -> None:
        """Write the verdict of a scenario that the run's time limit has cut off, if it has violated already.

        Else it stays open in the journal, and a resumed run does it again.  Raises HarnessError.
        """
        if self._recorded:
            return
        if self._start is not None and self._worst.verdict is Verdict.CONFORMS:
            running = self._start.guest.machine
            faults = [one for one in running.console.splats(self._start.mark) if one.fault]
            if faults and not cause_outside(running, self._start.time, faults):
                reason = f"the kernel said: {faults[0].title}"
                self._worst = Observation(Verdict.VIOLATES, reason, on_console=True)
                self._without_console = Verdict.HARNESS_ERROR  # as it did not come to its end
        if self._worst.verdict in (Verdict.VIOLATES, Verdict.KERNEL_DIED):
            self._ran = True
            self._record()

    def _record(self) -> bool:
        """Write the verdict to the journal; return whether it shows an unexpected fault of the kernel."""
        if not self._ran:
            self._worst, self._without_console = NOT_RUN, NOT_RUN.verdict
        if (cut_off := self._doings.cut_off) is not None and self._worst.verdict is Verdict.CONFORMS:
            self._worst = observation_of(cut_off, "")  # the scenario went on without the operation
        self._transcript.close()
        if (deviation := self._worst.deviation) is not None:
            operation = Operation(deviation.operation, deviation.line)
            self._transcript.expect(operation, deviation.wanted)
        console: ConsoleRange | None = None
        complaints: list[Splat] = []
        if self._start is not None:
            self._start.guest.recorder = NoRecord()
            self._machines.lines.take(self._start.guest)
            output = self._start.guest.machine.console
            state = MachineState(self._start.guest, output.mark(), self._latest)
            self._examiner.remember(state)
            complaints = [one for one in output.splats(self._start.mark) if not one.informational]
            log = str(output.log.relative_to(self._results.dir))
            console = ConsoleRange(log, self._start.mark, state.mark)
        self._recorded = True
        if self._worst.verdict is Verdict.NOT_REACHED:
            self._journal.not_reached(self.entry.id, self._worst.reason)
            return False
        verdict = self._journal.ended(
            self.entry.id,
            self._worst.verdict,
            without_console=self._without_console,
            reason=first_line(self._worst.reason),
            details=self._worst.details,
            transcript=self._transcript.path if self._transcript.written else None,
            console=console,
            failure=self._worst.failure,
            deviation=self._worst.deviation,
            refused=self._transcript.refused if self._worst.verdict is not Verdict.CONFORMS else (),
        )
        self.answer = BaseAnswer(
            self._worst.verdict,
            first_line(self._worst.reason),
            self._worst.failure,
            tuple(dict.fromkeys(one.place for one in complaints if one.fault)),
            tuple(self._transcript.refused),
        )
        self._machines.write_stacks(complaints)
        faults = [one for one in complaints if one.fault]
        violated = self.entry.violated(verdict, bool(faults))
        if violated or self._lost_by is None or verdict is Verdict.HARNESS_ERROR:
            self._count_machine(faults)
        return violated

    def _count_machine(self, faults: list[Splat]) -> None:
        """Tell whether the scenario has lost its machine by its kernel, or left it as it should."""
        give_up, layout = self._machines.give_up, self._needs.layout
        if self._lost_by is None:
            give_up.kept(self._doings.all)
        elif (cause := cause_of(*self._lost_by, faults)) is not None:
            give_up.lost(cause, layout, self._doings.all)
