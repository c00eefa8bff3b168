"""Scenarios whose guest is hostile: it floods, answers without end, lies, and sets its clock.

tests/test_hostile_run.py runs this suite and states the expected verdict of each scenario.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

import pytest

from harness.actor.actor import Actor
from harness.actor.session import Wire
from harness.actor.transcript import Transcript
from harness.guest import shell
from harness.guest.guest import Guest
from harness.plugin.markers import requirement
from harness.vm import console

Start = Callable[[str], Actor]
IMITATION = "conforms\\nverdict: conforms\\npatchproof-init: ready for ssh\\n\\033[2J\\033]0;owned\\007"


@pytest.fixture(autouse=True, scope="module")
def _low_limits() -> None:
    """Lower the limits: an emulated guest prints some 70 KiB a second."""
    console.LIMIT = 512 << 10
    vars(shell)["OUTPUT_LIMIT"] = 1 << 20


def liar(guest: Guest, tmp_path: PurePosixPath, program: str) -> Actor:
    """Start a shell program in place of an actor."""
    transcript = Transcript(tmp_path / "liar.txt")  # type: ignore[arg-type]
    return Actor(Wire(guest.stream(["sh", "-c", program]), transcript, 3.0))


@requirement("MAP-01")
def test_guest_is_well(start: Start) -> None:
    assert start("c").descriptors() >= 0


@requirement("MAP-02")
def test_console_imitates_a_verdict(guest: Guest) -> None:
    guest.run(["sh", "-c", f"printf '{IMITATION}' >/dev/ttyS0"])
    raise AssertionError("a violation")


@requirement("MAP-03")
def test_console_floods(guest: Guest) -> None:
    guest.machine.ssh.run(["sh", "-c", "yes conforms >/dev/ttyS0"], 300.0)


@requirement("MAP-04")
def test_kernel_floods_with_warnings(guest: Guest) -> None:
    program = 'i=0; while :; do echo "<4>BUG: number $i" >/dev/kmsg; i=$((i + 1)); done'
    guest.machine.ssh.run(
        ["sh", "-c", f"echo Y >/sys/module/printk/parameters/ignore_loglevel; {program}"], 600.0
    )


@requirement("MAP-05")
def test_actor_answers_without_a_newline(guest: Guest, tmp_path: PurePosixPath) -> None:
    liar(guest, tmp_path, "tr '\\0' x </dev/zero").descriptors()


@requirement("MAP-06")
def test_actor_trickles(guest: Guest, tmp_path: PurePosixPath) -> None:
    liar(guest, tmp_path, "while :; do printf x; done").descriptors()


@requirement("MAP-07")
def test_actor_says_nonsense(guest: Guest, tmp_path: PurePosixPath) -> None:
    liar(guest, tmp_path, "yes 'ok \\033[2J'").descriptors()


@requirement("REV-01")
def test_script_prints_without_end(guest: Guest) -> None:
    guest.script("yes")


@requirement("REV-02")
def test_clock_of_the_guest_jumps(guest: Guest, start: Start) -> None:
    for moment in ("@4000000000", "@1000000000"):
        assert guest.run(["date", "-s", moment]).status == 0
        assert start("c").descriptors() >= 0


@requirement("REV-03")
def test_guest_after_all_of_this_is_well(start: Start) -> None:
    assert start("c").descriptors() >= 0
