"""The threads of a guest that wait in the kernel, as a report names them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import real

from harness.actor.reply import DeadlineError
from harness.guest.guest import Guest
from harness.guest.waiting import MAX_FUNCTIONS, MAX_TASKS, WaitingTask, parse, place_of, waiting_tasks
from harness.run.error_to_verdict import deviation_of
from harness.vm import machine

# The parent of a vfork() waits in state D until its child ends or executes a program.
VFORK = "import ctypes, signal; ctypes.PyDLL(None).vfork() or signal.pause()"
RESET = (
    "msleep",
    "pcie_flr",
    "pci_reset_function",
    "vfio_pci_core_ioctl",
    "__x64_sys_ioctl",
    "do_syscall_64",
)


def test_parse_reads_tasks_and_their_functions() -> None:
    listed = (
        "task 81 83 D actor\n[<0>] msleep+0x2d/0x40\n[<0>] pcie_flr.isra.0+0x5/0x9 [vfio]\n"
        "task 9 9 S python3\n[<0>] 0xffffffff\n"
    )
    assert parse(listed) == (
        WaitingTask(81, 83, "D", "actor", ("msleep", "pcie_flr.isra.0")),
        WaitingTask(9, 9, "S", "python3", ("0xffffffff",)),
    )


@pytest.mark.parametrize(
    "listed", ["", "task 1 1 D\n", "task x 1 D actor\n[<0>] msleep+0x1/0x2\n", "task 1 1 R actor\n", "\0" * 9]
)
def test_parse_leaves_out_what_it_cannot_read(listed: str) -> None:
    assert parse(listed) == ()


def test_parse_is_bounded() -> None:
    tasks = parse(f"task 1 1 D a\n{'[<0>] msleep+0x1/0x2' + chr(10):s}" * (MAX_TASKS + 1))
    assert len(tasks) == MAX_TASKS
    (task,) = parse("task 1 1 D a\n" + "[<0>] msleep+0x1/0x2\n" * (MAX_FUNCTIONS + 1))
    assert len(task.functions) == MAX_FUNCTIONS


def test_place_is_that_of_calls_and_not_of_idle_processes() -> None:
    idle = WaitingTask(1, 1, "S", "actor", ("anon_pipe_read", "vfs_read", "ksys_read", "__x64_sys_read"))
    reset = WaitingTask(2, 2, "S", "actor", RESET)
    fault = WaitingTask(3, 3, "D", "actor", ("down_read", "vfio_pci_mmap_huge_fault"))
    assert place_of((idle,)) == ""
    assert place_of((idle, reset, fault)) == (
        "msleep < pcie_flr < pci_reset_function < vfio_pci_core_ioctl, and in "
        "down_read < vfio_pci_mmap_huge_fault"
    )


def test_deviation_names_the_place_of_a_call_that_hangs() -> None:
    late = DeadlineError("reset dev1", 10.0, answered=True)
    late.waits_in = "msleep < pcie_flr"
    found = deviation_of(late)
    assert found is not None
    assert (found.expected, found.seen) == ("an answer within 10 s", "none; it waits in msleep < pcie_flr")


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp("unpatched")
    with machine.boot(
        real.base_kernel().bzimage,
        real.guest_image(),
        run_dir=folder / "machine",
        accelerator=real.accelerator(),
    ) as booted:
        yield Guest(booted)


@pytest.mark.vm
def test_waiting_tasks_shows_where_a_process_waits(guest: Guest) -> None:
    script = (
        f"python3 -c '{VFORK}' >/dev/null 2>&1 & parent=$!\n"
        "until grep -q kernel_clone /proc/$parent/stack; do :; done; echo $parent"
    )
    parent = int(guest.script(script).stdout)
    tasks = waiting_tasks(guest)
    guest.script("kill -9 $1", str(parent))
    (found,) = (one for one in tasks if one.process == parent)
    assert (found.thread, found.state, found.name) == (parent, "D", "python3")
    assert "kernel_clone" in found.functions
    assert "kernel_clone < __do_sys_vfork" in place_of(tasks)
