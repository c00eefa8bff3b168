"""Find out why a machine did not come up or does not answer, and whether its kernel is the cause."""

from __future__ import annotations

import contextlib
import itertools
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.klog import patterns
from harness.lib.errors import BootError, HarnessError, PatchproofError
from harness.lib.text import signal_name
from harness.vm.console import Console
from harness.vm.qmp import Monitor

# How long a panic may take to print its text.
PANIC_SECONDS = 0.5
TAIL_LINES = 25
PANIC_LINES = 100
# The state of processors is read so often, with so many seconds between.
MOMENTS = 5
MOMENT_SECONDS = 0.1

# The run states (QEMU's qapi/run-state.json, RunState) that the guest's kernel itself can cause.
_GUEST_STATES = ("running", "guest-panicked", "shutdown", "suspended", "watchdog")

# Signals that end a QEMU which has not crashed.
_KILLS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

_INTERRUPTS_ENABLED = 1 << 9  # IF in the RFLAGS register

# What QEMU says when the host lacks something, and what to do.
_LACKING = (
    (
        r"Could not set up host forwarding",
        " No TCP port of 127.0.0.1 is free: end programs that hold ports.",
    ),
    (
        r"[Cc]annot allocate memory|[Ff]ailed to allocate|[Cc]ould not allocate",
        " Memory ran out: end other programs, or give this machine more of it.",
    ),
    (
        r"Resource temporarily unavailable|Too many open files",
        " A limit of processes or open files is reached: raise it (`ulimit -a` shows all).",
    ),
    (r"No space left on device|Disk quota exceeded", " The disk is full: make room."),
)


class QemuDefectError(HarnessError):
    """QEMU has failed a machine by a defect of its own.

    It is no evidence about the kernel, and another machine can do the same work.
    """


class QemuCrashedError(QemuDefectError):
    """QEMU itself crashed before its guest was up."""


def boot_error(console: Console, message: str, kind: type[BootError] = BootError) -> BootError:
    """Return a BootError of this ``kind`` with the console's last lines."""
    return kind(message, log=console.log, tail=_tail(console.since(), TAIL_LINES))


def panic_error(console: Console) -> BootError:
    """Return the BootError for a panic, with the panic's text and that of the splat before it."""
    console.wait_for(r"---\[ end Kernel panic", PANIC_SECONDS)
    splats = [one for one in console.splats() if not one.informational]
    if not any(one.kind == patterns.PANIC for one in splats):
        return boot_error(console, "The kernel panicked while it booted.")
    first = next(number for number, one in enumerate(splats) if one.kind == patterns.PANIC)
    text = "\n".join(one.text for one in splats[max(first - 1, 0) : first + 1])
    return BootError(
        f"The kernel panicked while it booted: {splats[first].title}",
        log=console.log,
        tail=_tail(text, PANIC_LINES),
    )


def exit_error(
    status: int,
    console: Console,
    events: Sequence[tuple[str, Mapping[str, Any]]],
    log: Path,
    meanwhile: str = "",
) -> PatchproofError:
    """Return the error for a QEMU that ended with ``status`` before the guest was up.

    A BootError if the guest panicked, powered off or was reset; otherwise a
    HarnessError or QemuCrashedError with the end of QEMU's ``log``.  ``events`` are
    all QMP events, name and data.  ``meanwhile`` is a clause about the host.
    """
    if any(one.kind == patterns.PANIC for one in console.splats()):
        return panic_error(console)
    reasons = [data for name, data in events if name == "SHUTDOWN"]
    if any(data.get("guest") for data in reasons):
        how = {"guest-shutdown": "powered off", "guest-reset": "was reset"}
        end = how.get(str(reasons[-1].get("reason")), "ended itself")
        return boot_error(console, f"The guest {end} before it came up.")
    tail = _tail(log.read_text(errors="replace"), TAIL_LINES)
    advice = next((words for pattern, words in _LACKING if re.search(pattern, tail)), "")
    if crashed(status):
        return QemuCrashedError(
            f"QEMU crashed before the guest came up ({signal_name(-status)}){meanwhile}.{advice}",
            log=log,
            tail=tail,
        )
    end = f"was killed ({signal_name(-status)})" if status < 0 else f"exited with {status}"
    return HarnessError(f"QEMU {end} before the guest came up{meanwhile}.{advice}", log=log, tail=tail)


def crashed(status: int | None) -> bool:
    """Return whether a QEMU with this exit status, None while it runs, has ended by a crash."""
    return status is not None and status < 0 and -status not in _KILLS


def outside_fault(
    status: int | None, events: Sequence[tuple[str, Mapping[str, Any]]], monitor: Monitor
) -> str:
    """Describe, as a clause, what happened to QEMU that its kernel did not cause; empty if nothing did.

    ``status`` is QEMU's exit status, None while it runs; ``events`` are all QMP
    events, name and data.  A user of the monitor may stop the processors, and so does
    QEMU itself when it cannot write to a disk.
    """
    if status is None:
        try:
            answer = monitor.execute("query-status")
        except HarnessError as error:
            return f"QEMU does not answer: {error.message}"
        state = str(answer.get("status")) if isinstance(answer, dict) else "unknown"
        return "" if state in _GUEST_STATES else f"QEMU has stopped its machine ({state})"
    if status != 0:
        return f"QEMU was killed ({signal_name(-status)})" if status < 0 else f"QEMU exited with {status}"
    reasons = [data for name, data in events if name == "SHUTDOWN"]
    if reasons and not reasons[-1].get("guest"):
        return f"QEMU was ended from outside ({reasons[-1].get('reason')})"
    return ""


def dump_processors(monitor: Monitor, path: Path) -> None:
    """Write registers, local APICs and virtio queues to ``path``, at MOMENTS moments while the guest runs.

    A processor that spins is at another address each time, one that waits for an
    interrupt at the same.  The dump ends early if QEMU does not answer.
    """
    with path.open("w") as stream, contextlib.suppress(HarnessError):

        def ask(command: str) -> str:
            answer = str(monitor.execute("human-monitor-command", {"command-line": command}))
            stream.write(f"{answer}\n")
            return answer

        for moment in range(MOMENTS):
            if moment:
                time.sleep(MOMENT_SECONDS)
            for number in re.findall(r"^CPU#(\d+)", ask("info registers -a"), re.MULTILINE):
                ask(f"info lapic {number}")
            for line in _queues(monitor):
                stream.write(f"{line}\n")


def _queues(monitor: Monitor) -> Iterator[str]:
    """Yield a line for each queue of a virtio device: the counts (16 bits) of buffers offered and taken.

    The guest counts what it offers in its memory (struct vring_avail in linux/virtio_ring.h), QEMU what
    it has taken.  QEMU before version 7.2 cannot tell.
    """
    with contextlib.suppress(HarnessError):
        devices = monitor.execute("x-query-virtio")
        for device in devices if isinstance(devices, list) else ():
            with contextlib.suppress(HarnessError):  # there is no queue with this number
                for number in itertools.count():
                    arguments = {"path": device["path"], "queue": number}
                    queue = monitor.execute("x-query-virtio-queue-status", arguments)
                    if not isinstance(queue, dict) or not queue["vring-avail"]:
                        continue
                    words = {"command-line": f"xp /2xh {queue['vring-avail']:#x}"}
                    memory = str(monitor.execute("human-monitor-command", words))
                    if offered := re.search(r": 0x\w+ 0x(\w+)", memory):
                        counts = f"{int(offered[1], 16)} offered, {queue['last-avail-idx']} taken"
                        yield f"{device['name']} queue {number}: {counts}"


def lost_write(dump: str) -> str:
    """Describe, as a clause, which write of a processor QEMU has lost; empty if the dump shows none.

    ``dump`` is what dump_processors() wrote.  With several threads, QEMU before version 8.2 may lose a
    processor's write to a device while another processor moves a BAR (fixed by "softmmu: Use
    async_run_on_cpu in tcg_commit").
    """
    return lost_interrupt(dump) or lost_notification(dump)


def lost_notification(dump: str) -> str:
    """Describe, as a clause, the virtio queue that QEMU does not serve; empty if it serves all.

    The guest notifies a device of what it offers.  After a notification that was lost it sends no other,
    as the device has not asked for one (event index of the virtio specification), so the guest waits.
    QEMU takes no more than it needs of queue 0 of virtio-net, which is for received packets.
    """
    counts: dict[str, list[tuple[str, str]]] = {}
    for line in re.finditer(r"^(\S{1,20} queue \d{1,4}): (\d+) offered, (\d+) taken$", dump, re.MULTILINE):
        counts.setdefault(line[1], []).append((line[2], line[3]))
    counts.pop("virtio-net queue 0", None)
    for name, (first, *others) in counts.items():
        if others and set(others) == {first} and first[0] != first[1]:
            device, _, number = name.partition(" queue ")
            return f"QEMU does not serve queue {number} of {device}: it has lost the guest's notification"
    return ""


def lost_interrupt(dump: str) -> str:
    """Describe, as a clause, why no interrupt reaches some processor any more; empty if all can get one.

    A kernel never halts with interrupts enabled, nor runs a user's code, while it serves an interrupt.  If
    a processor was seen at that, and served the same interrupt at all moments, its write to the EOI
    register was lost.  It may do something else at some moments, as other processors can still wake it.
    """
    parts = re.split(r"^(CPU#|dumping local APIC state for CPU )(\d+)\s*$", dump, flags=re.MULTILINE)
    elsewhere: set[str] = set()  # the processors that were seen outside of the kernel's interrupts
    served: dict[str, set[str]] = {}
    for heading, processor, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        if heading == "CPU#":
            state = re.search(r"\bRFL=([0-9a-f]+) .*\b(CPL=3|HLT=1)\b", text)
            if state is not None and int(state[1], 16) & _INTERRUPTS_ENABLED:
                elsewhere.add(processor)
        else:
            vector = re.search(r"^ISR\s+(\d+)", text, re.MULTILINE)
            served.setdefault(processor, set()).add(vector[1] if vector else "")
    for processor, (number, *others) in served.items():
        if number and not others and processor in elsewhere:
            return (
                f"QEMU has lost the end of interrupt {number} on processor {processor}, "
                "which gets no such interrupt any more"
            )
    return ""


def _tail(text: str, lines: int) -> str:
    return "\n".join(text.splitlines()[-lines:])
