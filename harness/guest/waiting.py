"""List the tasks of a guest that wait in the kernel, with the functions that they wait in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.guest.guest import Guest
from harness.lib.errors import NoReturnError, PatchproofError

# Print a line for each thread that sleeps without regard to signals, and for each thread of an actor or
# a probe that sleeps: process, thread, state and name.  Its kernel stack follows (fs/proc/base.c,
# proc_pid_stack()).
_LIST = r"""
for folder in /proc/[0-9]*/task/[0-9]*; do
    { read -r line <"$folder/stat"; } 2>/dev/null || continue
    state=${line##*) }
    state=${state%% *}
    name=${line#*(}
    name=${name%)*}
    case "$state $name" in D\ *) ;; "S actor" | "S python3") ;; *) continue ;; esac
    process=${folder#/proc/}
    echo "task ${process%%/*} ${folder##*/} $state $name"
    cat "$folder/stack" 2>/dev/null
done
"""
_TASK = re.compile(r"task (\d{1,10}) (\d{1,10}) ([DS]) (.{0,16})")
_FRAME = re.compile(r"\[<\w+>\] (\w[\w.]{0,80})(?:\+0x\w+/0x\w+.*)?")
# Functions through which every system call comes (arch/x86/entry).
_ENTRY = ("__x64_sys_", "do_syscall_64", "entry_SYSCALL_64")
MAX_TASKS = 32
MAX_FUNCTIONS = 24
SHOWN = 5  # functions, in a sentence


@dataclass(frozen=True)
class WaitingTask:
    """A thread that waits: ``functions`` of its kernel stack, the innermost first.

    ``state`` is ``D`` if no signal but SIGKILL ends the wait, else ``S`` (proc_pid_stat(5)).
    """

    process: int
    thread: int
    state: str
    name: str
    functions: tuple[str, ...] = ()

    def __str__(self) -> str:
        place = " < ".join(self.functions) or "a place that the kernel does not show"
        return f"thread {self.thread} of process {self.process} ({self.name}, {self.state}) waits in {place}"

    @property
    def in_call(self) -> bool:
        """True if it waits in a place where no process waits for orders: in state D, or in an ioctl."""
        return self.state == "D" or any(one.endswith("sys_ioctl") for one in self.functions)


def note_waiting(guest: Guest, error: BaseException | None) -> None:
    """Write to the guest's recorder which threads wait, and to a NoReturnError where its call waits.

    Nothing is written if the guest does not answer as it should: the verdict is about the call.
    """
    try:
        tasks = waiting_tasks(guest)
    except PatchproofError:
        return
    for one in tasks:
        guest.recorder.comment(str(one))
    if isinstance(error, NoReturnError):
        error.waits_in = place_of(tasks)


def waiting_tasks(guest: Guest) -> tuple[WaitingTask, ...]:
    """Return the threads that wait in state D, and all of actors and Python programs that sleep.

    They are MAX_TASKS at most.  Raises the errors of Guest.script().
    """
    return parse(guest.script(_LIST).stdout.decode(errors="replace"))


def parse(listed: str) -> tuple[WaitingTask, ...]:
    """Return the tasks of what the guest has ``listed``; lines that cannot be understood are left out."""
    found: list[tuple[re.Match[str], list[str]]] = []
    for line in listed.split("\n"):
        if task := _TASK.fullmatch(line):
            found.append((task, []))
        elif found and (frame := _FRAME.fullmatch(line)) and len(found[-1][1]) < MAX_FUNCTIONS:
            found[-1][1].append(frame[1])
    return tuple(
        WaitingTask(int(task[1]), int(task[2]), task[3], task[4], tuple(functions))
        for task, functions in found[:MAX_TASKS]
    )


def place_of(tasks: tuple[WaitingTask, ...]) -> str:
    """Return where the tasks wait that are in a call, as a clause; empty if none is."""
    called = ([name for name in one.functions if not name.startswith(_ENTRY)] for one in tasks if one.in_call)
    places = dict.fromkeys(" < ".join(names[:SHOWN]) for names in called)
    return ", and in ".join(one for one in places if one)
