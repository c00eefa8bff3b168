"""A run under fire: whatever kills it, no verdict is given that the kernel did not earn, and none is missing.

In the test run each kind of attack comes once.  ``PATCHPROOF_KILLS=50`` makes as many at random,
``PATCHPROOF_KILLS_SEED`` others than the last time.
"""

from __future__ import annotations

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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import paramiko
import pytest
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
from harness.lib.cache import default_root
from harness.lib.errors import ExitCode
from harness.verdict.record import Result
from harness.verdict.words import Verdict

SELECTION = "a_dmabuf_reaches"  # short scenarios, by the C actor and the Python probe in turns
SCENARIOS_FOR_EACH = 3  # attack: time for the harm to show
SOUND = (Verdict.CONFORMS, Verdict.NOT_APPLICABLE)


@dataclass(frozen=True)
class Harm:
    """What an attack may do to a scenario: the verdict, whether that was given, and a word of its reason."""

    verdict: Verdict
    given: bool
    reason: str

    def done_to(self, result: Result) -> bool:
        """Whether this is what became of the scenario."""
        given = self.verdict is result.verdict and self.given is result.ended
        return given and self.reason in result.reason


UNENDED = Harm(Verdict.KERNEL_DIED, False, "It started and never ended")
# What needs no attack: QEMU before 8.2 does it by itself on a busy host (docs/findings.md).
BY_ITSELF = Harm(Verdict.HARNESS_ERROR, True, "QEMU has lost the end of interrupt")


class Attack:
    """Something done to a run in progress."""

    ends_the_run = False
    code: int  # of the program, if so
    harm: tuple[Harm, ...]

    def strike(self, siege: Siege, invocation: Invocation) -> bool:
        """Do it; False if there was nothing to do it to."""
        raise NotImplementedError


class KillHarness(Attack):
    """SIGKILL to the harness."""

    ends_the_run = True
    code = -signal.SIGKILL
    harm = (UNENDED,)

    def strike(self, siege: Siege, invocation: Invocation) -> bool:
        invocation.process.kill()
        return True


class Interrupt(Attack):
    """Ctrl-C."""

    ends_the_run = True
    code = ExitCode.INTERRUPTED
    harm = (Harm(Verdict.HARNESS_ERROR, False, "interrupted (SIGINT) during this scenario"),)

    def strike(self, siege: Siege, invocation: Invocation) -> bool:
        invocation.process.send_signal(signal.SIGINT)
        return True


class FillDisk(Attack):
    """No file of the harness may grow beyond a little more than the journal has by now."""

    ends_the_run = True
    code = ExitCode.HARNESS
    harm = (UNENDED,)

    def strike(self, siege: Siege, invocation: Invocation) -> bool:
        room = (siege.latest / "events.jsonl").stat().st_size + siege.random.randrange(300)
        pid = invocation.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, hard))
        return True


class KillQemu(Attack):
    """SIGKILL to QEMU, as a host does that runs out of memory."""

    harm = (Harm(Verdict.HARNESS_ERROR, True, "QEMU was killed (SIGKILL)"),)

    def strike(self, siege: Siege, invocation: Invocation) -> bool:
        for pid, command in invocation.children().items():
            if "qemu-system" in command and "-accel" in command:
                os.kill(pid, signal.SIGKILL)
                return True
        return False


class StopGuest(Attack):
    """The guest's processors stand still, and QEMU itself does not."""

    harm = (Harm(Verdict.HARNESS_ERROR, True, "QEMU has stopped its machine (paused)"),)

    def strike(self, siege: Siege, invocation: Invocation) -> bool:
        sockets = sorted(siege.monitors.iterdir(), key=lambda path: path.stat().st_mtime)
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
    """A kernel that panics has earned it."""

    harm = (Harm(Verdict.KERNEL_DIED, True, "sysrq triggered crash"),)

    def strike(self, siege: Siege, invocation: Invocation) -> bool:
        return siege.in_guest("echo c >/proc/sysrq-trigger", answers=False) is not None


class Hang(Attack):
    """Every processor of the guest spins with its interrupts off: nothing answers, and nothing is said."""

    harm = (Harm(Verdict.KERNEL_DIED, True, "it does not answer any more"),)

    def strike(self, siege: Siege, invocation: Invocation) -> bool:
        # A moment later, as it is to answer first.
        script = """
            cd /sys/devices/system/cpu
            for cpu in cpu[0-9]*; do
                hang="sleep 0.5; echo HARDLOCKUP >/sys/kernel/debug/provoke-crash/DIRECT"
                setsid taskset -c ${cpu#cpu} sh -c "$hang" >/dev/null 2>&1 &
            done
            echo $!
        """
        return bool(siege.in_guest(script))


# SIGNAL to those that are WANTED, a parent and its child by their names, but not to this script's own.
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
    """SIGSTOP to every actor in the guest."""

    harm = (Harm(Verdict.HARNESS_ERROR, True, "a signal has stopped the actor"),)

    def strike(self, siege: Siege, invocation: Invocation) -> bool:
        script = _SESSIONS.replace("SIGNAL", "STOP").replace(
            "WANTED", '"(sshd"*" (actor)" | "(sshd"*" (python3)"'
        )
        return bool(siege.in_guest(script))


class DropSsh(Attack):
    """The guest's end of every SSH connection is killed."""

    harm = (
        Harm(Verdict.HARNESS_ERROR, True, "onnection broke"),
        Harm(Verdict.HARNESS_ERROR, True, "session not active"),
        Harm(Verdict.HARNESS_ERROR, True, "gone away"),
        Harm(Verdict.HARNESS_ERROR, True, "could not be started"),
        Harm(Verdict.HARNESS_ERROR, True, "The actor ended while it did"),
    )

    def strike(self, siege: Siege, invocation: Invocation) -> bool:
        return bool(siege.in_guest(_SESSIONS.replace("SIGNAL", "KILL").replace("WANTED", '*" (sshd"*')))


ATTACKS = (KillHarness, Interrupt, FillDisk, KillQemu, StopGuest, Panic, Hang, StopProbe, DropSsh)


@dataclass
class Struck:
    """An attack, the moment, and what it did, if anything: the id of the scenario."""

    attack: Attack
    when: datetime
    harmed: str = ""


@dataclass
class Siege:
    """A run with all its parts; ``pending`` are the attacks still to be made."""

    folder: Path
    arguments: list[str | Path]
    cache: Path
    monitors: Path
    random: random.Random
    pending: list[Attack]
    struck: list[Struck] = field(default_factory=list)
    parts: int = 0

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def latest(self) -> Path:
        return self.results / "latest"

    def scenarios(self, kind: str) -> list[dict[str, Any]]:
        """The journal's events of this kind that are about scenarios."""
        return [
            event
            for event in events(self.results)
            if event["event"] == kind and str(event.get("id", "")).startswith("suites/")
        ]

    def left(self) -> list[str]:
        """The scenarios that were never reached."""
        return [
            result.entry.id for result in read(self.latest).scenarios if result.verdict is Verdict.NOT_REACHED
        ]

    def in_guest(self, script: str, *, answers: bool = True) -> str | None:
        """What the script says, run in the newest machine, if it ``answers``; None if nobody gets in."""
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
                print(f"nobody gets into {folder.name}: {error!r}")
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

    def moment(self, invocation: Invocation, attack: Attack) -> bool:
        """Wait for a random one; False if the run is over, or nearly so."""
        if attack.ends_the_run and self.random.random() < 0.3:
            machines = len(read(self.latest).machines)
            ready = self.until_ended_or(invocation, lambda: len(read(self.latest).machines) > machines)
        else:
            begun = len(self.scenarios("started")) + self.random.randint(1, 2)
            ready = self.until_ended_or(invocation, lambda: len(self.scenarios("started")) >= begun)
        time.sleep(self.random.uniform(0, 1.5))
        return ready and invocation.process.poll() is None and len(self.left()) >= 2

    def settle(self, invocation: Invocation, when: datetime) -> None:
        """Wait until the harm of an attack has shown, or does not."""

        def settled() -> bool:
            later = [event for event in events(self.results) if _time(event) > when]
            ended = [event for event in later if event["event"] == "ended"]
            return (
                any(event["verdict"] not in SOUND for event in ended)
                or any(event["event"] == "machine-ended" for event in later)
                or len(ended) >= SCENARIOS_FOR_EACH
            )

        self.until_ended_or(invocation, settled)

    def part(self) -> None:
        """The run, or what is left of it, until an attack ends it or it comes to its end."""
        resumed = ["run", "--resume", self.latest]
        expected = self.left() if self.parts else None
        before = len(self.scenarios("started"))
        self.parts += 1
        last: Attack | None = None
        with Invocation(
            *(resumed if expected is not None else self.arguments), mark=self.folder, cache=self.cache
        ) as invocation:
            assert self.until_ended_or(invocation, (self.latest / "plan.json").exists), invocation.output
            while self.pending and self.moment(invocation, self.pending[0]):
                when = datetime.now(UTC)
                if not self.pending[0].strike(self, invocation):
                    continue
                last = self.pending.pop(0)
                self.struck.append(Struck(last, when))
                if last.ends_the_run:
                    break
                self.settle(invocation, when)
            code = invocation.end()
            until(lambda: not invocation.children(), "QEMU to die with the harness")
            output = invocation.output
        ended_by = last if last is not None and last.ends_the_run else None
        begun = [event["id"] for event in self.scenarios("started")[before:]]
        if expected is not None:
            assert begun == expected[: len(begun)], (
                "what was not reached is reached, in order, and nothing else"
            )
        self.check(code, output, ended_by)

    def check(self, code: int, output: str, ended_by: Attack | None) -> None:
        """The reports, as the run left them and as they are judged again."""
        report = self.latest / "junit.xml"
        own = report.read_bytes() if report.exists() else b""
        if ended_by is not None:
            # It may have come to its own end in the moment before.
            assert code in (ended_by.code, ExitCode.OK, ExitCode.HARNESS, ExitCode.SERIES), output
        judged, told = run("judge", self.latest.resolve(), mark=self.folder, cache=self.cache)
        if code == -signal.SIGKILL or isinstance(ended_by, FillDisk):
            # A kernel that died before is not forgotten.
            died = any(
                one.ended and one.verdict is Verdict.KERNEL_DIED for one in read(self.latest).scenarios
            )
            assert judged == (ExitCode.SERIES if died else ExitCode.HARNESS), told
        else:
            assert judged == code, output + told
            assert report.read_bytes() == own
            _, _, shown = output.partition(" patchproof ====")
            assert told.partition("\n")[2].strip() in shown, output + told
        cases = junit(self.results)
        plan = json.loads((self.latest / "plan.json").read_text())
        names = [entry["id"].rpartition("::")[2] or entry["id"] for entry in plan["entries"]]
        # A kernel that was struck when no scenario was on is nobody's.
        assert [name for name in cases if not name.startswith("machine-")] == names
        assert not read(self.latest).damage
        assert_locks_free(self.cache)

    def run(self) -> None:
        """All of it, to the end."""
        self.part()
        # One that the disk was full for comes to its own end, though not to that of its plan.
        while self.left() or not (record := read(self.latest)).complete or record.interrupted:
            self.part()
        for result in record.scenarios:
            if result.verdict not in SOUND and not BY_ITSELF.done_to(result):
                self.blame(result)
        half = [*self.latest.rglob(".*"), *self.cache.glob("*/.*"), *self.cache.glob(".*")]
        assert [path for path in half if path.name != ".config"] == []

    def blame(self, result: Result) -> None:
        """Find the attack that explains the verdict: each explains one."""
        (started,) = (_time(e) for e in self.scenarios("started") if e["id"] == result.entry.id)
        if result.ended:
            (ended,) = (_time(e) for e in self.scenarios("ended") if e["id"] == result.entry.id)
            suspects = [one for one in self.struck if one.when < ended][-1:]
        else:
            suspects = [one for one in self.struck if one.when > started and one.attack.ends_the_run][:1]
        told = f"{result.entry.id}: {result.verdict} ({result.reason})"
        assert suspects, f"nothing was done to {told}"
        (struck,) = suspects
        name = type(struck.attack).__name__
        assert not struck.harmed, f"{name} explains {struck.harmed}, not {told} as well"
        assert any(harm.done_to(result) for harm in struck.attack.harm), f"{name} does not explain {told}"
        struck.harmed = result.entry.id


def _time(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["time"])


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of the test's own, with the image of the shared one."""
    image = guest_image().rootfs
    own = tmp_path / "cache"
    own.mkdir()
    (own / "image").symlink_to(default_root() / image.relative_to(default_root()).parts[0])
    return own


@pytest.fixture
def monitors() -> Iterator[Path]:
    """Where each QEMU opens a second monitor; a socket's path must be short."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.vm
def test_no_verdict_that_was_not_earned(tmp_path: Path, cache: Path, monitors: Path) -> None:
    kills = int(os.environ.get("PATCHPROOF_KILLS", len(ATTACKS)))
    seed = int(os.environ.get("PATCHPROOF_KILLS_SEED", 1))
    chance = random.Random(seed)
    pending: list[Attack] = []
    while len(pending) < kills:
        pending += [attack() for attack in chance.sample(ATTACKS, len(ATTACKS))]
    del pending[kills:]
    another = f'set -- "$@" -qmp unix:{monitors}/$$,server=on,wait=off'
    qemu = make_qemu(tmp_path / "qemu", f'case "$1" in -accel) {another} ;; esac\nexec $qemu "$@"')
    built = Built(tmp_path)
    number = 0
    while pending:
        number += 1
        folder = tmp_path / f"siege-{number}"
        folder.mkdir()
        arguments = [
            "run",
            *built.arguments,
            "--qemu",
            qemu,
            "--results",
            folder / "results",
            "-k",
            SELECTION,
        ]
        arguments += ["--repeat", "5", "--random-order", str(chance.randrange(1000))]
        siege = Siege(folder, arguments, cache, monitors, chance, pending)
        siege.run()
        for one in siege.struck:
            print(f"siege {number}, seed {seed}: {type(one.attack).__name__} harmed {one.harmed or 'nobody'}")
