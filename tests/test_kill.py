"""Attacks on a whole run: each verdict is explained by the kernel or by one attack, and none is missing.

The ordinary tests make each kind of attack once, except LONGER.  ``PATCHPROOF_KILLS=50`` makes fifty of all
kinds, in a random order; ``PATCHPROOF_KILLS_SEED`` chooses another order.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko
import pytest
from host_limits import fill, make_clock, memory_group, mounted, pause
from real import guest_image
from small_run import (
    PATIENCE,
    Built,
    Invocation,
    assert_locks_free,
    events,
    junit,
    make_qemu,
    run,
    until,
)

from harness.journal.reader import read
from harness.journal.results_folder import LIMIT
from harness.lib.cache import default_root
from harness.lib.errors import ExitCode
from harness.report.junit import RUN
from harness.verdict.record import Result
from harness.verdict.verdict import Verdict

SUITE = Path("suites/test_map.py")
SELECTION = "a_dmabuf_reaches"  # short scenarios, by the C actor and the Python probe in turns
PAUSES = (2.0, 7.0, 50.0)  # seconds, of the attacks of a longer test
DISK = "320m"  # for the results, or the cache
REPEAT = "15"  # each scenario: a run is to last longer than an attack takes to begin
RUNS = 20  # with which each attack of an ordinary test finds its target
SCENARIOS_FOR_EACH = 3  # attack: time for its effect to show
SOUND = (Verdict.CONFORMS, Verdict.NOT_APPLICABLE)


@dataclass(frozen=True)
class Effect:
    """The effect of an attack on a scenario: the verdict, whether it was given, and a word of its reason."""

    verdict: Verdict
    given: bool
    reason: str

    def matches(self, result: Result) -> bool:
        """Return whether this is what happened to the scenario."""
        given = self.verdict is result.verdict and self.given is result.ended
        return given and self.reason in result.reason


UNENDED = Effect(Verdict.KERNEL_DIED, False, "It started and never ended")
# The effect that needs no attack: QEMU before 8.2 does it by itself on a busy host (docs/findings.md).
BY_ITSELF = Effect(Verdict.HARNESS_ERROR, True, "QEMU has lost the end of interrupt")


class Attack:
    """Something done to a run in progress."""

    ends_the_run = False
    code: int  # exit code of an attack that ends the run
    effects: tuple[Effect, ...]

    blocks_reports = False  # the run cannot write its reports

    @classmethod
    def possible(cls, place: Path) -> bool:
        """Return whether this user can make the attack here; ``place`` is a folder to try it in."""
        return True

    def make(self, attacked: AttackedRun, invocation: Invocation) -> bool:
        """Make the attack; False if it found no target."""
        raise NotImplementedError

    def undo(self, attacked: AttackedRun) -> None:
        """Give back what the attack took from the host."""


class KillHarness(Attack):
    """Send SIGKILL to the harness."""

    ends_the_run = True
    code = -signal.SIGKILL
    effects = (UNENDED,)

    def make(self, attacked: AttackedRun, invocation: Invocation) -> bool:
        invocation.process.kill()
        return True


class Interrupt(Attack):
    """Send SIGINT to the harness, as Ctrl-C does."""

    ends_the_run = True
    code = ExitCode.INTERRUPTED
    effects = (Effect(Verdict.HARNESS_ERROR, False, "interrupted by Ctrl-C (SIGINT) during this scenario"),)

    def make(self, attacked: AttackedRun, invocation: Invocation) -> bool:
        invocation.process.send_signal(signal.SIGINT)
        return True


class FillDisk(Attack):
    """Limit the size of every file of the harness to that of the journal plus some 300 bytes."""

    ends_the_run = True
    blocks_reports = True
    code = ExitCode.HARNESS
    effects = (UNENDED,)

    def make(self, attacked: AttackedRun, invocation: Invocation) -> bool:
        room = (attacked.latest / "events.jsonl").stat().st_size + attacked.random.randrange(300)
        pid = invocation.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, hard))
        return True


class FullResults(Attack):
    """Fill the disk that the results are on, which is one of their own."""

    ends_the_run = True
    blocks_reports = True
    code = ExitCode.HARNESS
    effects = (
        UNENDED,
        Effect(Verdict.HARNESS_ERROR, True, "No space left"),
        Effect(Verdict.HARNESS_ERROR, True, "cannot be written"),
    )

    @classmethod
    def possible(cls, place: Path) -> bool:
        with contextlib.ExitStack() as undo:
            return mounted(place, undo, DISK)

    def make(self, attacked: AttackedRun, invocation: Invocation) -> bool:
        fill(attacked.results / "ballast")
        return True

    def undo(self, attacked: AttackedRun) -> None:
        (attacked.results / "ballast").unlink(missing_ok=True)


class FullCache(Attack):
    """Fill the disk that the cache is on; a run whose kernel is built and booted needs none of it."""

    effects = ()

    @classmethod
    def possible(cls, place: Path) -> bool:
        with contextlib.ExitStack() as undo:
            return mounted(place, undo, DISK)

    def make(self, attacked: AttackedRun, invocation: Invocation) -> bool:
        fill(attacked.cache / "ballast")
        return True

    def undo(self, attacked: AttackedRun) -> None:
        (attacked.cache / "ballast").unlink(missing_ok=True)


class LargeResults(Attack):
    """Write more results than a run may have."""

    ends_the_run = True
    code = ExitCode.HARNESS
    effects = (UNENDED,)

    def make(self, attacked: AttackedRun, invocation: Invocation) -> bool:
        (attacked.latest / "large").touch()
        os.truncate(attacked.latest / "large", 2 * LIMIT)
        return True

    def undo(self, attacked: AttackedRun) -> None:
        (attacked.latest / "large").unlink(missing_ok=True)


class SetClock(Attack):
    """Set the clock of the day; no deadline and no order of events depends on it."""

    effects = ()

    def make(self, attacked: AttackedRun, invocation: Invocation) -> bool:
        attacked.clock.write_text(attacked.random.choice(("-3600", "+90000", "-40000000")) + "\n")
        return True


class StopQemu(Attack):
    """Stop QEMU for a while with SIGSTOP."""

    effects = (
        Effect(Verdict.HARNESS_ERROR, True, "QEMU was stopped by a signal"),
        Effect(Verdict.HARNESS_ERROR, True, "QEMU does not answer"),
    )

    def make(self, attacked: AttackedRun, invocation: Invocation) -> bool:
        qemu = invocation.qemu()
        if qemu is None:
            return False
        pause([qemu], attacked.seconds())
        return True


class Suspend(Attack):
    """Stop the harness and QEMU together for a while, as a laptop does when it is closed."""

    effects = (Effect(Verdict.HARNESS_ERROR, True, "this program did not run for"),)

    def make(self, attacked: AttackedRun, invocation: Invocation) -> bool:
        pause([invocation.process.pid, *invocation.children()], attacked.seconds())
        return True


class KillQemu(Attack):
    """Send SIGKILL to QEMU, as a host does that runs out of memory."""

    effects = (Effect(Verdict.HARNESS_ERROR, True, "QEMU was killed (SIGKILL)"),)

    def make(self, attacked: AttackedRun, invocation: Invocation) -> bool:
        qemu = invocation.qemu()
        if qemu is None:
            return False
        os.kill(qemu, signal.SIGKILL)
        return True


class OutOfMemory(Attack):
    """Put QEMU into a control group without memory, so that the host's kernel kills it."""

    effects = (Effect(Verdict.HARNESS_ERROR, True, "killed a process for lack of memory"),)

    def __init__(self) -> None:
        self._undo = contextlib.ExitStack()

    @classmethod
    def possible(cls, place: Path) -> bool:
        with contextlib.ExitStack() as undo:
            return memory_group("try", undo) is not None

    def make(self, attacked: AttackedRun, invocation: Invocation) -> bool:
        qemu = invocation.qemu()
        group = memory_group(str(qemu), self._undo) if qemu is not None else None
        if group is None:
            return False
        (group / "cgroup.procs").write_text(str(qemu))
        return True

    def undo(self, attacked: AttackedRun) -> None:
        self._undo.close()


class StopGuest(Attack):
    """Stop the guest's processors; QEMU itself goes on."""

    effects = (Effect(Verdict.HARNESS_ERROR, True, "QEMU has stopped its machine (paused)"),)

    def make(self, attacked: AttackedRun, invocation: Invocation) -> bool:
        sockets = sorted(attacked.monitors.iterdir(), key=lambda path: path.stat().st_mtime)
        with socket.socket(socket.AF_UNIX) as monitor:
            try:
                monitor.connect(str(sockets[-1]))
            except (ConnectionRefusedError, IndexError):
                return False
            with monitor.makefile("rw") as stream:
                for command in ("qmp_capabilities", "stop"):
                    stream.write(json.dumps({"execute": command, "id": command}) + "\n")
                    stream.flush()
                    while (line := stream.readline()) and json.loads(line).get("id") != command:
                        pass
                return bool(line)


class Panic(Attack):
    """Make the guest's kernel panic; the verdict is the kernel's own."""

    effects = (Effect(Verdict.KERNEL_DIED, True, "sysrq triggered crash"),)

    def make(self, attacked: AttackedRun, invocation: Invocation) -> bool:
        return attacked.in_guest("echo c >/proc/sysrq-trigger", answers=False) is not None


class Hang(Attack):
    """Make every processor of the guest spin with interrupts off: the guest is silent."""

    effects = (Effect(Verdict.KERNEL_DIED, True, "it does not answer any more"),)

    def make(self, attacked: AttackedRun, invocation: Invocation) -> bool:
        # Half a second later, because the script has to answer first.
        script = """
            cd /sys/devices/system/cpu
            for cpu in cpu[0-9]*; do
                hang="sleep 0.5; echo HARDLOCKUP >/sys/kernel/debug/provoke-crash/DIRECT"
                setsid taskset -c ${cpu#cpu} sh -c "$hang" >/dev/null 2>&1 &
            done
            echo $!
        """
        return bool(attacked.in_guest(script))


# Send SIGNAL to each process that matches WANTED, "PARENT CHILD" by their names, except this script's own.
_SESSIONS = r"""
for stat in /proc/[0-9]*/stat; do
    { read -r pid name state parent rest <$stat; } 2>/dev/null || continue
    { read -r _ whose rest </proc/$parent/stat; } 2>/dev/null || continue
    case "$whose $name" in WANTED)
        [ $pid = $PPID ] || [ $pid = $$ ] || { kill -SIGNAL $pid && echo $pid; } ;;
    esac
done
"""


class StopProbe(Attack):
    """Send SIGSTOP to every actor in the guest."""

    effects = (Effect(Verdict.HARNESS_ERROR, True, "a signal has stopped the actor"),)

    def make(self, attacked: AttackedRun, invocation: Invocation) -> bool:
        script = _SESSIONS.replace("SIGNAL", "STOP").replace(
            "WANTED", '"(agent) (actor)" | "(agent) (python3)"'
        )
        return bool(attacked.in_guest(script))


class DropSsh(Attack):
    """Kill the guest's end of every SSH connection."""

    effects = (
        Effect(Verdict.HARNESS_ERROR, True, "onnection broke"),
        Effect(Verdict.HARNESS_ERROR, True, "session not active"),
        Effect(Verdict.HARNESS_ERROR, True, "gone away"),
        Effect(Verdict.HARNESS_ERROR, True, "could not be started"),
        Effect(Verdict.HARNESS_ERROR, True, "The actor ended while it did"),
        Effect(Verdict.HARNESS_ERROR, True, "The agent in the guest is gone"),
    )

    def make(self, attacked: AttackedRun, invocation: Invocation) -> bool:
        return bool(attacked.in_guest(_SESSIONS.replace("SIGNAL", "KILL").replace("WANTED", '*" (sshd"*')))


ATTACKS = (
    *(KillHarness, Interrupt, FillDisk, FullResults, FullCache, LargeResults),
    *(KillQemu, OutOfMemory, StopQemu, Suspend, SetClock),
    *(StopGuest, Panic, Hang, StopProbe, DropSsh),
)

# In longer tests only; the walls against these have other tests (test_host_attacks.py, test_pauses.py,
# test_results_folder.py).
LONGER = (OutOfMemory, FullCache, StopQemu, LargeResults)


@dataclass
class MadeAttack:
    """An attack, the number of events before it, and the id of the scenario that it affected, if any.

    ``after`` is the number of events at the end of the part that it ended, else 0.  Its effect can
    come some events later, as that of a full disk.  The time of the events is that of a clock that
    an attack may set.
    """

    attack: Attack
    before: int
    after: int = 0
    affected: str = ""


@dataclass
class AttackedRun:
    """A run in one or more parts; ``pending`` are the attacks still to be made."""

    folder: Path
    arguments: list[str | Path]
    cache: Path
    monitors: Path
    random: random.Random
    pending: list[Attack]
    pauses: tuple[float, ...] = (7.0,)  # seconds, of an attack that stops something
    made: list[MadeAttack] = field(default_factory=list)
    parts: int = 0

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def clock(self) -> Path:
        """The file that sets the clock of the run."""
        return self.folder / "clock"

    def under(self) -> list[str]:
        """Return the command that starts the program, so that its clock can be set."""
        return ["env", f"LD_PRELOAD={self.folder / 'clock.so'}", f"TEST_CLOCK={self.clock}"]

    def seconds(self) -> float:
        """Return the length of a pause."""
        return self.random.choice(self.pauses)

    @property
    def latest(self) -> Path:
        return self.results / "latest"

    def scenarios(self, kind: str) -> list[dict[str, Any]]:
        """Return the journal's events of this kind that are about scenarios."""
        return [
            event
            for event in events(self.results)
            if event["event"] == kind and str(event.get("id", "")).startswith("suites/")
        ]

    def unreached(self) -> list[str]:
        """Return the ids of the scenarios that were never reached."""
        return [
            result.entry.id for result in read(self.latest).scenarios if result.verdict is Verdict.NOT_REACHED
        ]

    def in_guest(self, script: str, *, answers: bool = True) -> str | None:
        """Run the script in the newest machine; return its output, None if there is no login.

        A script that does not answer (``answers`` False) is started and not waited for.
        """
        machines = [event["machine"] for event in events(self.results) if event["event"] == "machine-up"]
        folder = self.latest / machines[-1] if machines else self.latest
        if not (folder / "known_hosts").exists():
            return None
        place = (folder / "known_hosts").read_text().split()[0]
        with paramiko.SSHClient() as client:
            client.load_host_keys(str(folder / "known_hosts"))
            try:
                client.connect(
                    *("127.0.0.1", int(place.rpartition(":")[2]), "root"),
                    key_filename=str(folder / "id_ed25519"),
                    look_for_keys=False,
                    allow_agent=False,
                    timeout=10,
                    banner_timeout=10,
                    auth_timeout=10,
                )
                _, output, _ = client.exec_command(script, timeout=10)
                return output.read().decode() if answers else ""
            except (paramiko.SSHException, OSError, EOFError) as error:
                print(f"no login to {folder.name}: {error!r}")
                return None

    def until_ended_or(self, invocation: Invocation, condition: Callable[[], bool]) -> bool:
        """Wait for the condition; False if the run ended before it came true."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if invocation.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, invocation.output
            time.sleep(0.05)
        return True

    def wait_for_moment(self, invocation: Invocation, attack: Attack) -> bool:
        """Wait for a random moment; False if the run is over, or nearly over."""
        if attack.ends_the_run and self.random.random() < 0.3:
            machines = len(read(self.latest).machines)
            ready = self.until_ended_or(invocation, lambda: len(read(self.latest).machines) > machines)
        else:
            begun = len(self.scenarios("started")) + self.random.randint(1, 2)
            ready = self.until_ended_or(invocation, lambda: len(self.scenarios("started")) >= begun)
        time.sleep(self.random.uniform(0, 1.5))
        return ready and invocation.process.poll() is None and len(self.unreached()) >= 2

    def wait_for_effect(self, invocation: Invocation, before: int) -> None:
        """Wait until the effect of an attack shows, or until it had the time to show."""

        def settled() -> bool:
            later = events(self.results)[before:]
            ended = [event for event in later if event["event"] == "ended"]
            return (
                any(event["verdict"] not in SOUND for event in ended)
                or any(event["event"] == "machine-ended" for event in later)
                or len(ended) >= SCENARIOS_FOR_EACH
            )

        self.until_ended_or(invocation, settled)

    def run_part(self) -> None:
        """Start the run, or resume it, and wait until an attack or its plan ends it."""
        resumed = ["run", "--resume", self.latest]
        expected = self.unreached() if self.parts else None
        begun_earlier = len(self.scenarios("started"))
        self.parts += 1
        last: Attack | None = None
        with Invocation(
            *(resumed if expected is not None else self.arguments),
            mark=self.folder,
            cache=self.cache,
            under=self.under(),
        ) as invocation:
            assert self.until_ended_or(invocation, (self.latest / "plan.json").exists), invocation.output
            while self.pending and self.wait_for_moment(invocation, self.pending[0]):
                before = len(events(self.results))
                if not self.pending[0].make(self, invocation):
                    continue
                last = self.pending.pop(0)
                self.made.append(MadeAttack(last, before))
                if last.ends_the_run:
                    break
                self.wait_for_effect(invocation, before)
                last.undo(self)
            code = invocation.end()
            if last is not None:
                last.undo(self)
            until(lambda: not invocation.children(), "QEMU to die with the harness")
            output = invocation.output
        ended_by = last if last is not None and last.ends_the_run else None
        if ended_by is not None:
            self.made[-1].after = len(events(self.results))
        begun = [event["id"] for event in self.scenarios("started")[begun_earlier:]]
        if expected is not None:
            assert begun == expected[: len(begun)], "a resumed run starts what was not reached, in order"
        self.check(code, output, ended_by)

    def check(self, code: int, output: str, ended_by: Attack | None) -> None:
        """Check the reports as the run left them, and as `judge` makes them again."""
        report = self.latest / "junit.xml"
        own = report.read_bytes() if report.exists() else b""
        if ended_by is not None:
            # The run may have come to its own end just before the attack.
            assert code in (ended_by.code, ExitCode.OK, ExitCode.HARNESS, ExitCode.SERIES), output
        judged, told = run("judge", self.latest.resolve(), mark=self.folder, cache=self.cache)
        if code == -signal.SIGKILL or (ended_by is not None and ended_by.blocks_reports):
            # A kernel that died before the attack, in a scenario or after one, still fails the series.
            died = any(
                one.ended and one.verdict in (Verdict.KERNEL_DIED, Verdict.VIOLATES)
                for one in read(self.latest).results
            )
            assert judged == (ExitCode.SERIES if died else ExitCode.HARNESS), told
        else:
            assert judged == code, output + told
            assert report.read_bytes() == own
            _, _, shown = output.partition(" patchproof ====")
            # `judge` first names the two files that it has written.
            assert told.split("\n", 2)[2].strip() in shown, output + told
        cases = junit(self.results)
        plan = json.loads((self.latest / "plan.json").read_text())
        names = [entry["id"].rpartition("::")[2] or entry["id"] for entry in plan["entries"]]
        # A kernel that was attacked between scenarios has a test case of its own.
        assert sorted(name for name in cases if not name.startswith("machine-")) == sorted([*names, RUN])
        assert not read(self.latest).damage
        assert_locks_free(self.cache)

    def run(self) -> None:
        """Run every part, to the end of the plan."""
        self.run_part()
        # A part that met a full disk ends in order, before the end of its plan.
        while self.unreached() or not (record := read(self.latest)).complete or record.interrupted:
            self.run_part()
        for result in record.scenarios:
            if result.verdict not in SOUND and not BY_ITSELF.matches(result):
                self.explain(result)
        half = [*self.latest.rglob(".*"), *self.cache.glob("*/.*"), *self.cache.glob(".*")]
        assert [path for path in half if path.name != ".config"] == []

    def explain(self, result: Result) -> None:
        """Find the attack that explains the verdict; an attack explains one verdict at most."""
        places = {
            event["event"]: number
            for number, event in enumerate(events(self.results))
            if event.get("id") == result.entry.id
        }
        if result.ended:
            suspects = [one for one in self.made if one.before <= places["ended"]][-1:]
        else:
            suspects = [one for one in self.made if one.after > places["started"]][:1]
        told = f"{result.entry.id}: {result.verdict} ({result.reason})"
        assert suspects, f"no attack was made before {told}"
        (made,) = suspects
        name = type(made.attack).__name__
        assert not made.affected, f"{name} explains {made.affected}, not {told} as well"
        assert any(effect.matches(result) for effect in made.attack.effects), (
            f"{name} does not explain {told}"
        )
        made.affected = result.entry.id


@pytest.fixture
def undo() -> Iterator[contextlib.ExitStack]:
    """What is closed at the end of a test, when nothing of it runs any more."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def cache(tmp_path: Path, undo: contextlib.ExitStack) -> Path:
    """A cache of the test's own, with the image of the shared one."""
    image = guest_image().rootfs
    own = tmp_path / "cache"
    own.mkdir()
    mounted(own, undo, DISK)
    (own / "image").symlink_to(default_root() / image.relative_to(default_root()).parts[0])
    return own


@pytest.fixture
def monitors() -> Iterator[Path]:
    """The folder in which each QEMU opens a second monitor; a socket's path must be short."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.vm
def test_verdicts_of_an_attacked_run_are_all_explained(
    tmp_path: Path, cache: Path, monitors: Path, undo: contextlib.ExitStack
) -> None:
    kills = int(os.environ.get("PATCHPROOF_KILLS", 0))
    seed = int(os.environ.get("PATCHPROOF_KILLS_SEED", 1))
    chance = random.Random(seed)
    kinds = [kind for kind in ATTACKS if kind.possible(tmp_path) and (kills or kind not in LONGER)]
    print("attacks:", *(kind.__name__ for kind in kinds))
    pending: list[Attack] = []
    while len(pending) < (kills or 1):
        pending += [kind() for kind in chance.sample(kinds, len(kinds))]
    del pending[kills or len(kinds) :]
    another = f'set -- "$@" -qmp unix:{monitors}/$$,server=on,wait=off'
    qemu = make_qemu(tmp_path / "qemu", f'case "$1" in -accel) {another} ;; esac\nexec $qemu "$@"')
    built = Built(tmp_path)
    number = 0
    while pending:
        number += 1
        assert kills or number <= RUNS, f"{pending[0]} finds no target"
        folder = tmp_path / f"run-{number}"
        (folder / "results").mkdir(parents=True)
        (folder / "clock").write_text("+0\n")
        make_clock(folder / "clock.so")
        mounted(folder / "results", undo, DISK)
        arguments: list[str | Path] = ["run", *built.arguments, "--qemu", qemu]
        arguments += ["--results", folder / "results", SUITE, "-k", SELECTION]
        arguments += ["--machines", "1", "--repeat", REPEAT, "--random-order", str(chance.randrange(1000))]
        attacked = AttackedRun(folder, arguments, cache, monitors, chance, pending)
        if kills:
            attacked.pauses = PAUSES
        attacked.run()
        for one in attacked.made:
            affected = one.affected or "no scenario"
            print(f"run {number}, seed {seed}: {type(one.attack).__name__} affected {affected}")
