"""Why a machine stopped, or did not start: the dump of its processors, and what QEMU says."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from harness.lib import cgroup
from harness.lib.errors import HarnessError
from harness.vm import diagnose
from harness.vm.console import Console

DEAF = (Path(__file__).parent / "data" / "processors" / "deaf.txt").read_text()
LOST = "QEMU has lost the end of interrupt 236 on processor 0, which gets no such interrupt any more"


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (DEAF, LOST),
        (DEAF.replace("ISR\t 236 ", "ISR\t (none)"), ""),
        (DEAF.replace("HLT=1", "HLT=0"), ""),  # the processor serves the interrupt
        # Another processor woke it, so that it ran the kernel, or a program.
        (DEAF + DEAF.replace("HLT=1", "HLT=0"), LOST),
        (DEAF.replace("CPL=0", "CPL=3").replace("HLT=1", "HLT=0"), LOST),
        (DEAF + DEAF.replace("ISR\t 236 ", "ISR\t 37"), ""),
        (DEAF.replace("RFL=00000246", "RFL=00000046"), ""),  # interrupts are off: the kernel is dead
        ("", ""),
    ],
)
def test_deaf_names_a_processor_without_interrupts(said: str, fault: str) -> None:
    """The dump is from a guest that stopped answering after some hundred resets of its devices."""
    assert diagnose.lost_interrupt(said) == fault


QUEUES = (Path(__file__).parent / "data" / "processors" / "queues.txt").read_text()


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (QUEUES, "QEMU does not serve queue 1 of virtio-net: it has lost the guest's notification"),
        (QUEUES.replace("queue 1: 26 offered", "queue 1: 21 offered"), ""),
        (QUEUES.replace("queue 1: 26 offered, 21", "queue 1: 26 offered, 22", 1), ""),  # QEMU goes on
        (QUEUES.partition("virtio-blk queue 1")[0], ""),  # seen once
        ("", ""),
    ],
)
def test_queue_that_is_not_served_is_named(said: str, fault: str) -> None:
    """The dump is from a guest whose network card got no writes any more, as its memory decoding was off."""
    assert diagnose.lost_notification(said) == fault
    assert diagnose.lost_write(said) == fault


@pytest.fixture
def console(tmp_path: Path) -> Console:
    """The console of a guest that wrote nothing."""
    reading, writing = os.pipe()
    os.close(writing)
    return Console(reading, tmp_path / "console.log")


QEMU = "qemu-system-x86_64 -machine q35 -nodefaults -display none"


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("{qemu} -netdev user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22", "No TCP port of 127.0.0.1 is free"),
        ("prlimit --as=900000000 {qemu} -m 1024", "Memory ran out"),
        ("setpriv --reuid=65534 --clear-groups prlimit --nproc=1 {qemu}", "A limit of processes"),
    ],
)
def test_qemu_that_lacks_a_resource_is_told_with_advice(
    tmp_path: Path, console: Console, command: str, advice: str
) -> None:
    if "setpriv" in command and os.geteuid() != 0:
        pytest.skip("only root can take another user's limit")
    log = tmp_path / "qemu.log"
    with socket.create_server(("127.0.0.1", 0)) as taken, log.open("wb") as stream:
        words = command.format(qemu=QEMU, port=taken.getsockname()[1]).split()
        status = subprocess.run(words, stdout=stream, stderr=stream, check=False).returncode
    error = diagnose.exit_error(status, console, [], log)
    assert isinstance(error, HarnessError)
    assert advice in error.message


def test_kills_for_lack_of_memory_are_told_beside_the_signal(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "qemu.log").touch()
    monkeypatch.setattr(cgroup, "out_of_memory_kills", lambda: 7)
    for before, words in ((7, "."), (6, ", and meanwhile the kernel of this host has killed a process for ")):
        clause = cgroup.kills_since(before)
        error = diagnose.exit_error(-9, console, [], tmp_path / "qemu.log", clause)
        assert error.message.startswith(f"QEMU was killed (SIGKILL) before the guest came up{words}")
