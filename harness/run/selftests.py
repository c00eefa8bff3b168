"""Run the kernel's own test programs, after the scenarios; their verdicts are no part of the matrix."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace

from harness.actor.reply import DeadlineError
from harness.guest.guest import Guest, PciFunction
from harness.guest.health import KernelHealth
from harness.kernel.selftests import Built, NoProgramError, Wanted, build_selftests
from harness.lib.errors import BuildError, HarnessError, PatchproofError
from harness.lib.files import digest, write_atomically
from harness.run.error_to_verdict import NotApplicableError, Observation, first_line, observation_of
from harness.run.examine_kernel import Examiner, MachineState
from harness.run.failure import failure_of
from harness.run.machines import Machines
from harness.run.needs import Needs
from harness.run.parts import RunParts
from harness.series.selftest import Program
from harness.series.selftest_table import fill
from harness.verdict.comparison import BaseAnswer
from harness.verdict.record import ConsoleRange, Entry
from harness.verdict.selftest import Outcome, judge
from harness.verdict.verdict import Kind, Verdict
from harness.vm.hardware import GIB, MIB
from harness.vm.pci_devices import Layout
from harness.vm.ssh import SshTimeoutError

FOLDER = "/run/selftests"  # in the guest
LIMIT = 4 << 20  # bytes of output
GRACE = 20.0  # seconds, in which a killed program has to end

# Run a program: FILE LIMIT SECONDS NAME=VALUE... PROGRAM ARGUMENT...  After LIMIT bytes its output is
# closed.  The exit status is the program's, 137 if it was killed after SECONDS.
_RUN = r"""
cd "$1" || exit 126
limit=$2 seconds=$3; shift 3
{ timeout -s KILL "$seconds" env "$@" </dev/null 2>&1; echo $? >status; } | head -c "$limit"
read -r status <status; exit "$status"
"""


def entry_of(program: Program) -> Entry:
    """Return the plan's entry for a program."""
    whose = "the series" if program.own else "the tree"
    return Entry(f"selftests/{program.path}", Kind.SELFTEST, f"A test program of {whose} itself")


def answer_key(program: Program) -> str:
    """Return the name under which the base's result of a program, run in this way, is cached."""
    way = repr(sorted(asdict(replace(program, own=True)).items()))
    return f"{entry_of(program).id} {digest(way)[:16]}"


class Selftests:
    """The test programs of a run; ``answers`` has the result of each that ran, by answer_key()."""

    def __init__(
        self,
        programs: Sequence[Program],
        parts: RunParts,
        machines: Machines,
        examiner: Examiner,
    ) -> None:
        self.answers: dict[str, BaseAnswer] = {}
        self._programs = programs
        self._machines = machines
        self._examiner = examiner
        self._store = parts.store
        self._progress = parts.progress
        self._results = parts.results
        self._journal = parts.journal
        # Without a series, nobody is to blame for a program that does not build.
        self._judged = bool(parts.run_input.series.patches) or parts.run_input.base is not None

    def run(self) -> None:
        """Build the programs and run them one after the other.  Raises HarnessError for the journal."""
        if not self._programs:
            return
        built: Mapping[Wanted, Built] = {}
        failure: PatchproofError | None = None
        try:
            built = self._build()
        except (BuildError, HarnessError) as error:
            failure = error
        self._progress.say("")  # pytest's line of dots is still open
        for one in self._programs:
            with self._progress.stage("selftest", one.path):
                self._run(one, failure or built.get(_wanted(one)))

    def _build(self) -> Mapping[Wanted, Built]:
        software = self._machines.ready
        wanted = [_wanted(one) for one in self._programs if not self._problem(one)]
        if software.tree is None or not wanted:
            return {}
        log = self._results.log("selftests")
        return build_selftests(
            self._store, self._progress, software.tree, software.kernel.headers, wanted, log
        )

    def _problem(self, program: Program) -> str:
        """Return why a program is not run, as a sentence; empty if it is."""
        software = self._machines.ready
        if program.problem:
            return program.problem
        if program.option and (reason := software.kernel.absent(program.option)):
            return f"It {reason}."
        if software.tree is None:
            return "The kernel was built elsewhere (--kernel), so there is no source here to build it from."
        return ""

    def _run(self, program: Program, built: Built | PatchproofError | None) -> None:
        entry = entry_of(program)
        self._journal.started(entry.id)
        start: list[MachineState] = []
        outcome = Outcome(Verdict.CONFORMS, "")
        error: BaseException | None = None
        try:
            outcome = self._outcome(program, built, start)
        except PatchproofError as caught:
            error = caught
        observed = self._observation(outcome, error)
        if start:
            observed = self._examined(start[0], error, observed)
        if outcome.cases:
            self._journal.cases(entry.id, outcome.cases)
        self._end(entry, program, observed, start[0] if start else None)

    def _outcome(
        self, program: Program, built: Built | PatchproofError | None, start: list[MachineState]
    ) -> Outcome:
        """Run a program in the guest, whose state before it is added to ``start``."""
        if problem := self._problem(program):
            raise NotApplicableError(problem)
        if isinstance(built, NoProgramError):
            raise NotApplicableError(built.message)
        if isinstance(built, BuildError):
            return self._unbuilt(built)
        if isinstance(built, PatchproofError):
            raise built
        if built is None:
            raise HarnessError(f"The test program {program.path} was not built.")
        state = self._examiner.begin(Needs(_layout(program)))
        if state.health is None:
            state = replace(state, health=KernelHealth.of(state.guest))
        start.append(state)
        guest = state.guest
        with self._bound(guest, program.devices) as devices:
            remote = guest.push(built, self._remote(guest, program))
            return self._run_in(guest, program, remote, devices)

    def _unbuilt(self, error: BuildError) -> Outcome:
        text = f"{error.message}\n{error.tail}".strip()
        if self._judged:
            return Outcome(Verdict.VIOLATES, text, failure=text)
        lines = [line for line in error.tail.splitlines() if ": error: " in line] or error.tail.splitlines()
        first = f" {lines[0].strip()}" if lines else ""
        return Outcome(Verdict.NOT_APPLICABLE, f"It does not build here. {error.message}{first}")

    @staticmethod
    def _remote(guest: Guest, program: Program) -> str:
        guest.script('mkdir -p "$1"', FOLDER)
        return f"{FOLDER}/{program.path.replace('/', '-')}"

    @staticmethod
    @contextlib.contextmanager
    def _bound(guest: Guest, roles: Sequence[str]) -> Iterator[dict[str, PciFunction]]:
        """Bind the devices to vfio-pci meanwhile.  Raises NotApplicableError if the machine lacks one."""
        if absent := [role for role in roles if role not in guest.devices]:
            raise NotApplicableError(f"This machine has no device {absent[0]}.")
        with contextlib.ExitStack() as stack:
            yield {role: stack.enter_context(guest.bind(role)) for role in roles}

    def _run_in(
        self, guest: Guest, program: Program, remote: str, devices: Mapping[str, PciFunction]
    ) -> Outcome:
        values = {role: (one.address, one.group) for role, one in devices.items()}
        scale = guest.machine.accelerator.time_scale
        seconds = max(1, round(program.timeout * scale))
        environment = [f"{name}={fill(value, values)}" for name, value in program.environment]
        command = [*environment, remote, *(fill(argument, values) for argument in program.arguments)]
        argv = ["sh", "-c", _RUN, "sh", FOLDER, str(LIMIT), str(seconds), *command]
        try:
            done = guest.machine.ssh.run(argv, seconds + GRACE * scale)
        except SshTimeoutError as error:
            self._keep_output(program, error.stdout)
            raise DeadlineError(program.path, seconds + GRACE * scale, answered=False) from error
        self._keep_output(program, done.stdout)
        if done.status in (-1, 126, 127) and not done.stdout.strip():
            said = done.stderr.decode(errors="replace").strip()
            raise HarnessError(f"The test program {program.path} could not be started in the guest: {said}")
        return judge(
            done.stdout, done.status, limit=LIMIT, seconds=seconds, status_decides=program.ktap_optional
        )

    def _keep_output(self, program: Program, output: bytes) -> None:
        write_atomically(self._results.transcript(entry_of(program).id), output[:LIMIT])

    @staticmethod
    def _observation(outcome: Outcome, error: BaseException | None) -> Observation:
        if error is None:
            return Observation(outcome.verdict, outcome.reason, failure=outcome.failure)
        details = error.tail if isinstance(error, PatchproofError) else ""
        return replace(observation_of(error, details), failure=failure_of(error))

    def _examined(
        self, start: MachineState, error: BaseException | None, observed: Observation
    ) -> Observation:
        """Return what was observed, with what the kernel's health adds to it."""
        cause = error
        if cause is None and observed.verdict is Verdict.VIOLATES:
            cause = AssertionError(observed.reason)
        latest = None
        try:
            passed = observed.verdict is Verdict.CONFORMS
            latest = self._examiner.examine(start, cause, Needs(), passed=passed)
        except PatchproofError as worse:
            found = observation_of(worse, observed.details)
            parts = [one for one in (failure_of(worse), observed.failure) if one]
            reason = f"{first_line(found.reason)} {observed.reason}".strip()
            observed = replace(found, reason=reason, failure="\n".join(parts))
        output = start.guest.machine.console
        self._examiner.remember(MachineState(start.guest, output.mark(), latest))
        return observed

    def _end(self, entry: Entry, program: Program, observed: Observation, start: MachineState | None) -> None:
        console: ConsoleRange | None = None
        faults: tuple[str, ...] = ()
        if start is not None:
            output = start.guest.machine.console
            complaints = [one for one in output.splats(start.mark) if not one.informational]
            log = str(output.log.relative_to(self._results.dir))
            console = ConsoleRange(log, start.mark, output.mark())
            self._machines.write_stacks(complaints)
            faults = tuple(dict.fromkeys(one.place for one in complaints if one.fault))
        transcript = self._results.transcript(entry.id)
        log_of_build = self._results.log("selftests")
        self._journal.ended(
            entry.id,
            observed.verdict,
            without_console=observed.without_console,
            reason=observed.reason,
            details=observed.details,
            transcript=transcript if transcript.exists() else log_of_build if log_of_build.exists() else None,
            console=console,
            failure=observed.failure,
        )
        self.answers[answer_key(program)] = BaseAnswer(
            observed.verdict, first_line(observed.reason), observed.failure, faults
        )


def _wanted(program: Program) -> Wanted:
    return Wanted(program.path, program.flags)


def _layout(program: Program) -> Layout:
    """Return the usual layout, with the devices that the program wants beside it."""
    roles = program.devices
    return Layout(
        bigram=GIB if "bigram" in roles else 0,
        rng="rng" in roles,
        pair=MIB if {"pair", "pair2"}.intersection(roles) else 0,
    )
