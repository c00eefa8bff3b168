"""Scenarios that need certain machines, damage the kernel, or make it complain.

tests/test_machines.py runs this suite and states the expected verdict of each scenario.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.guest.guest import Guest
from harness.plugin.items import RUN
from harness.plugin.markers import machine, requirement

WARN_COUNT = "/sys/kernel/warn_count"
WARNINGS_OF_THE_CONTROL = "2\n"  # provoked to prove the detectors
TAINT_OF_THE_CONTROL = "512\n"  # TAINT_WARN
DROPPED = "'<4>** 12 printk messages dropped **'"


def write(guest: Guest, text: str, path: str) -> None:
    guest.run(["sh", "-c", f"echo {text} >{path}"])


def panic(guest: Guest) -> None:
    write(guest, "c", "/proc/sysrq-trigger")


def warn(guest: Guest) -> None:
    write(guest, "WARNING", "/sys/kernel/debug/provoke-crash/DIRECT")


@requirement("MAP-01")
@machine(alone=True)
def test_kernel_panics(guest: Guest) -> None:
    panic(guest)
    raise AssertionError("the guest lives")


@requirement("MAP-02")
@machine(alone=True)
def test_kernel_warns(guest: Guest) -> None:
    assert guest.read(WARN_COUNT) == WARNINGS_OF_THE_CONTROL
    warn(guest)


@requirement("REV-01")
@machine(kernel="patchproof.word")
def test_command_line_has_the_word(guest: Guest) -> None:
    assert "patchproof.word" in guest.read("/proc/cmdline").split()


@requirement("REV-02")
@machine(big_ram=True)
def test_bigram_has_1_gib(guest: Guest) -> None:
    assert guest.devices["bigram"].bars[2] == 1 << 30


@requirement("LIFE-01")
def test_guest_gets_a_file(guest: Guest) -> None:
    assert "bigram" not in guest.devices
    write(guest, "x", "/run/used")


@requirement("LIFE-02")
def test_shared_guest_has_the_file(guest: Guest) -> None:
    assert guest.read("/run/used") == "x\n"


@requirement("LIFE-03")
@machine(fresh=True)
def test_fresh_guest_has_no_file(guest: Guest) -> None:
    assert guest.run(["test", "-e", "/run/used"]).status == 1


@pytest.fixture
def warning_at_teardown(guest: Guest) -> Iterator[None]:
    yield
    warn(guest)


@requirement("LIFE-04")
def test_teardown_warns(warning_at_teardown: None) -> None:
    pass


@requirement("LIFE-05")
def test_guest_after_a_warning_is_new(guest: Guest) -> None:
    assert guest.read(WARN_COUNT) == WARNINGS_OF_THE_CONTROL


@pytest.fixture
def panic_at_setup(guest: Guest) -> None:
    panic(guest)


@requirement("LIFE-06")
def test_setup_panics(panic_at_setup: None) -> None:
    pass


@requirement("LIFE-07")
def test_guest_after_a_panic_is_new(guest: Guest) -> None:
    assert guest.read(WARN_COUNT) == WARNINGS_OF_THE_CONTROL


@pytest.fixture
def taint_at_teardown(guest: Guest) -> Iterator[None]:
    yield
    write(guest, "64", "/proc/sys/kernel/tainted")


@requirement("REV-03")
def test_teardown_taints_silently(taint_at_teardown: None) -> None:
    pass


@requirement("REV-04")
def test_guest_after_a_taint_is_new(guest: Guest) -> None:
    assert guest.read("/proc/sys/kernel/tainted") == TAINT_OF_THE_CONTROL


@requirement("REV-05")
def test_kernel_warns_without_the_fixture(request: pytest.FixtureRequest) -> None:
    guest = request.config.stash[RUN].machines.guest
    assert guest is not None
    warn(guest)


@requirement("REV-06")
def test_guest_after_an_unseen_warning_is_new(guest: Guest) -> None:
    pass


@requirement("REV-07")
def test_messages_are_lost_without_the_fixture(request: pytest.FixtureRequest) -> None:
    guest = request.config.stash[RUN].machines.guest
    assert guest is not None
    write(guest, DROPPED, "/dev/kmsg")


@requirement("LIFE-08")
def test_only_the_console_reports_a_hung_task(guest: Guest) -> None:
    write(guest, "'<3>INFO: task x:1 blocked for more than 9 seconds.'", "/dev/kmsg")


@requirement("LIFE-09")
def test_console_loses_messages(guest: Guest) -> None:
    write(guest, DROPPED, "/dev/kmsg")
