"""Why a machine did not come up, and whose fault that is."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.klog import patterns
from harness.lib.errors import BootError, HarnessError, PatchproofError
from harness.vm.console import Console
from harness.vm.qmp import Monitor

# How long a panic may take to print what it has to say.
LAST_WORDS_SECONDS = 0.5
TAIL_LINES = 25
PANIC_LINES = 100


# The run states (QEMU's qapi/run-state.json, RunState) that a kernel brings its machine into.
_KERNELS_STATES = ("running", "guest-panicked", "shutdown", "suspended", "watchdog")

_INTERRUPTS_ENABLED = 1 << 9  # in the flags register


class QemuCrashedError(HarnessError):
    """QEMU crashed; nothing is said about the kernel in it."""


def silent(console: Console, message: str, kind: type[BootError] = BootError) -> BootError:
    """The kernel is to blame, and all there is to show are the console's last lines."""
    return kind(message, log=console.log, tail=_tail(console.since(), TAIL_LINES))


def panic(console: Console) -> BootError:
    """The kernel panicked: the panic's own text, and the splat before it that led to it."""
    console.wait_for(r"---\[ end Kernel panic", LAST_WORDS_SECONDS)
    splats = [one for one in console.splats() if not one.informational]
    if not any(one.kind == patterns.PANIC for one in splats):
        return silent(console, "The kernel panicked while it booted.")
    first = next(number for number, one in enumerate(splats) if one.kind == patterns.PANIC)
    text = "\n".join(one.text for one in splats[max(first - 1, 0) : first + 1])
    return BootError(
        f"The kernel panicked while it booted: {splats[first].title}",
        log=console.log,
        tail=_tail(text, PANIC_LINES),
    )


def ended(
    status: int, console: Console, events: Sequence[tuple[str, Mapping[str, Any]]], log: Path
) -> PatchproofError:
    """QEMU ended with ``status``: because of the guest, or for a reason of its own, said in ``log``."""
    if any(one.kind == patterns.PANIC for one in console.splats()):
        return panic(console)
    reasons = [data for name, data in events if name == "SHUTDOWN"]
    if any(data.get("guest") for data in reasons):
        how = {"guest-shutdown": "powered off", "guest-reset": "was reset"}
        what = how.get(str(reasons[-1].get("reason")), "ended itself")
        return silent(console, f"The guest {what} before it came up.")
    tail = _tail(log.read_text(errors="replace"), TAIL_LINES)
    if status < 0 and -status not in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        return QemuCrashedError(
            f"QEMU crashed before the guest came up ({_signal(status)}).", log=log, tail=tail
        )
    why = f"was killed ({_signal(status)})" if status < 0 else f"exited with {status}"
    return HarnessError(f"QEMU {why} before the guest came up.", log=log, tail=tail)


def outside(status: int | None, events: Sequence[tuple[str, Mapping[str, Any]]], monitor: Monitor) -> str:
    """What was done to QEMU that its kernel cannot help, as a clause; empty if nothing was.

    ``status`` is QEMU's exit status, None while it runs, ``events`` are all that it
    sent.  A processor may be stopped by whoever has the monitor, and by QEMU itself
    when it cannot write to a disk.
    """
    if status is None:
        try:
            answer = monitor.execute("query-status")
        except HarnessError as error:
            return f"QEMU does not answer: {error.message}"
        state = str(answer.get("status")) if isinstance(answer, dict) else "unknown"
        return "" if state in _KERNELS_STATES else f"QEMU has stopped its machine ({state})"
    if status != 0:
        return f"QEMU was killed ({_signal(status)})" if status < 0 else f"QEMU exited with {status}"
    reasons = [data for name, data in events if name == "SHUTDOWN"]
    if reasons and not reasons[-1].get("guest"):
        return f"QEMU was told to end ({reasons[-1].get('reason')})"
    return ""


def deaf(said: str) -> str:
    """Why no interrupt will ever reach a processor again, as a clause; empty if one may.

    ``said`` is what QEMU's monitor tells by ``info registers -a`` and by ``info
    lapic`` of each processor.  No kernel waits for interrupts, with interrupts
    enabled, while it serves one: that it is over (a write to the EOI register) was
    lost on the way.  With several threads, and before version 8.2, QEMU may lose
    what a processor writes to its interrupt controller while another moves a BAR
    (fixed by "softmmu: Use async_run_on_cpu in tcg_commit").
    """
    parts = re.split(r"^(CPU#|dumping local APIC state for CPU )(\d+)\s*$", said, flags=re.MULTILINE)
    waits: dict[str, list[bool]] = {}
    serves: dict[str, set[str]] = {}
    for what, processor, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        if what == "CPU#":
            flags = re.search(r"\bRFL=([0-9a-f]+).*\bHLT=1\b", text)
            enabled = flags is not None and bool(int(flags[1], 16) & _INTERRUPTS_ENABLED)
            waits.setdefault(processor, []).append(enabled)
        else:
            served = re.search(r"^ISR\s+(\d+)", text, re.MULTILINE)
            serves.setdefault(processor, set()).add(served[1] if served else "")
    for processor, (vector, *others) in serves.items():
        if vector and not others and all(waits.get(processor, [False])):
            return (
                f"QEMU has lost the end of interrupt {vector} on processor {processor}, which waits for ever"
            )
    return ""


def _signal(status: int) -> str:
    return signal.Signals(-status).name


def _tail(text: str, lines: int) -> str:
    return "\n".join(text.splitlines()[-lines:])
