"""A host that fails in the middle of a run: make killed or without memory, disks full, no port.

tests/test_kill.py attacks the scenarios; these runs are attacked before them.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from host_limits import fill, memory_group, mounted
from small_run import SUITES, Built, Invocation, events, is_open, make_checkout, make_qemu, until

from harness.lib.errors import ExitCode

LARGE = 32 << 20  # bytes of the kernel, more than what others free on a full disk meanwhile
HARNESS_ERROR = "harness-error"


@pytest.fixture
def undo() -> Iterator[contextlib.ExitStack]:
    """What is closed at the end of a test, when nothing of it runs any more."""
    with contextlib.ExitStack() as stack:
        yield stack


class HeldBuild:
    """A run of a small kernel whose build waits."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.results, self.cache = folder, folder / "results", folder / "cache"
        self.cache.mkdir()
        self.hold = folder / "held"
        self.hold.touch()
        checkout = make_checkout(folder / "linux", hold=str(self.hold), ballast="x" * LARGE)
        self.arguments: list[str | Path] = ["run", "--tree", checkout, "--results", self.results]
        # In the sandbox the build does not see the file that it waits for.
        self.arguments += ["--sandbox=off", "--no-base", SUITES / "idle.py"]

    def start(self) -> Invocation:
        return Invocation(*self.arguments, mark=self.folder, cache=self.cache)

    def make(self, invocation: Invocation) -> int:
        """Wait for the build; return the process id of its make."""
        until(lambda: is_open(self.results, "build"), "the build to begin")
        return int(until(lambda: self._make(invocation), "make to run"))

    @staticmethod
    def _make(invocation: Invocation) -> int:
        """Return the process id of the make that builds, not of the one that configures; 0 without one."""
        processes = invocation.children().items()
        return next((one for one, words in processes if words.startswith("make ") and "bzImage" in words), 0)

    def require_blamed_on_host(self, invocation: Invocation, *words: str) -> None:
        """Require that the run ends as the host's fault, whose report has these words."""
        assert invocation.end() == ExitCode.HARNESS, invocation.output
        (build,) = self.ends()
        assert build["verdict"] == HARNESS_ERROR
        for word in words:
            assert word in build["reason"]
            assert word in " ".join(invocation.output.split())

    def require_resumed(self) -> None:
        """Require that --resume builds the kernel; what comes after it is not awaited."""
        self.hold.unlink(missing_ok=True)
        latest = self.results / "latest"
        with Invocation("run", "--resume", latest, mark=self.folder, cache=self.cache):
            until(lambda: len(self.ends()) > 1, "the build to end")
        assert [one["verdict"] for one in self.ends()] == [HARNESS_ERROR, "conforms"]

    def ends(self) -> list[dict[str, Any]]:
        """Return the events in which the build ended."""
        return [one for one in events(self.results) if one["event"] == "ended" and one["id"] == "build"]


@pytest.mark.build
def test_make_that_is_killed_blames_the_host(tmp_path: Path) -> None:
    held = HeldBuild(tmp_path)
    with held.start() as invocation:
        os.kill(held.make(invocation), signal.SIGKILL)
        held.require_blamed_on_host(invocation, "was killed by signal 9", "proves nothing about the series")
    held.require_resumed()


@pytest.mark.build
def test_make_without_memory_blames_the_host(tmp_path: Path, undo: contextlib.ExitStack) -> None:
    group = memory_group("make", undo)
    if group is None:
        pytest.skip("this user can make no control group for memory")
    held = HeldBuild(tmp_path)
    with held.start() as invocation:
        (group / "cgroup.procs").write_text(str(held.make(invocation)))
        held.hold.unlink()
        held.require_blamed_on_host(invocation, "for lack of memory")
    held.require_resumed()


@pytest.mark.build
def test_full_cache_in_the_build_blames_the_host(tmp_path: Path, undo: contextlib.ExitStack) -> None:
    held = HeldBuild(tmp_path)
    if not mounted(held.cache, undo, "4g"):
        pytest.skip("this user can mount no disk")
    with held.start() as invocation:
        held.make(invocation)
        fill(held.cache / "ballast")
        held.hold.unlink()
        held.require_blamed_on_host(invocation, "No space left on device", "no evidence against the series")
    (held.cache / "ballast").unlink()
    held.require_resumed()


@pytest.mark.vm
def test_full_shared_memory_changes_no_verdict(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=4k none /dev/shm && ! head -c 8192 /dev/zero >/dev/shm/full && exec "$@"'
    under = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    arguments: list[str | Path] = [*Built(tmp_path).arguments, "--results", tmp_path / "results"]
    with Invocation("run", *arguments, SUITES / "idle.py", mark=tmp_path, under=under) as invocation:
        assert invocation.end() == ExitCode.OK, invocation.output


ONE_PORT = """
import os, socket, sys
open("/proc/sys/net/ipv4/ip_local_port_range", "w").write("40000 40000")
taken = socket.create_server(("127.0.0.1", 40000))
taken.set_inheritable(True)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.vm
def test_boot_without_a_free_port_blames_the_host(tmp_path: Path) -> None:
    (tmp_path / "port.py").write_text(ONE_PORT)
    under = ["unshare", "--map-root-user", "--net"]
    taking = (
        f'case "$1" in -accel) set -- python3 {tmp_path}/port.py $qemu "$@" ;; *) set -- $qemu "$@" ;; esac'
    )
    qemu = make_qemu(tmp_path / "qemu", f'{taking}\nexec "$@"')
    arguments: list[str | Path] = [
        "run",
        *Built(tmp_path).arguments,
        "--qemu",
        qemu,
        "--results",
        tmp_path / "results",
    ]
    with Invocation(*arguments, SUITES / "idle.py", mark=tmp_path, under=under) as invocation:
        assert invocation.end() == ExitCode.HARNESS, invocation.output
    (boot,) = (e for e in events(tmp_path / "results") if e["event"] == "ended" and e["id"] == "boot")
    assert boot["verdict"] == HARNESS_ERROR
    assert "No TCP port of 127.0.0.1 is free" in boot["reason"]
