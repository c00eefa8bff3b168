"""Scenarios during which QEMU or a processor stands still; tests/test_pauses.py states their verdicts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.actor.actor import Actor
from harness.actor.call import Call
from harness.guest.guest import Guest
from harness.guest.hold import Hold
from harness.plugin.markers import machine, requirement
from harness.vm import pauses

FIRST = 1  # the processor that is held
LOCKUP = "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [swapper/0:0]"


def pause() -> None:
    """Stop QEMU, a child of this process, for longer than a look of the watch takes."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    processes = [int(number) for one in children for number in one.read_text().split()]
    (qemu,) = [one for one in processes if b"qemu-system" in Path(f"/proc/{one}/cmdline").read_bytes()]
    os.kill(qemu, signal.SIGSTOP)
    time.sleep(2)
    os.kill(qemu, signal.SIGCONT)


def say(guest: Guest, line: str) -> None:
    guest.run(["sh", "-c", f"echo '<4>{line}' >/dev/kmsg"])


@requirement("MAP-01")
def test_pause_alone(guest: Guest) -> None:
    pause()


@requirement("MAP-01")
def test_pause_and_a_lockup(guest: Guest) -> None:
    pause()
    say(guest, LOCKUP)


@requirement("MAP-01")
def test_pause_and_a_failure(guest: Guest) -> None:
    pause()
    raise AssertionError("something was late")


@requirement("MAP-01")
def test_pause_and_a_warning(guest: Guest) -> None:
    pause()
    guest.run(["sh", "-c", "echo WARNING >/sys/kernel/debug/provoke-crash/DIRECT"])


@requirement("MAP-01")
def test_lockup_without_a_pause(guest: Guest) -> None:
    say(guest, LOCKUP)


@requirement("MAP-01")
@machine(hold=True)
@pytest.mark.parametrize("long", [True, False])
def test_hold_and_a_lockup(
    guest: Guest, start: Callable[[str], Actor], hold: Hold, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    if long:
        monkeypatch.setattr(pauses, "HOLD_SECONDS", 0.0)
    director = start("c")
    director.confine(0)
    child = director.spawn("held")
    child.pin(FIRST)
    with hold.at("do_sys_openat2", cpu=FIRST) as held:
        call = Call.begin(child, child.descriptors)
        held.arrive()
    call.result()
    say(guest, LOCKUP)
