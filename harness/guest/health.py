"""The health of the guest kernel: taint, lockdep, warnings, oopses and leftover DMABUFs."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum, auto

from harness.guest import files
from harness.guest.answers import is_count
from harness.guest.files import StepFailedError
from harness.guest.guest import Guest
from harness.lib.errors import HarnessError
from harness.lib.text import printable

# Documentation/admin-guide/tainted-kernels.rst; the bits that a fault during a scenario can set.
TAINT_WARN = 9
TAINT_SOFT_LOCKUP = 14  # also set by a fence of sw_sync (drivers/dma-buf/sw_sync.c)
# Set when a module of our own is loaded; nothing else loads one (kernel/module/main.c).
TAINT_MODULE = frozenset({12, 13})
TAINTS = {
    1: "a module was forced",
    4: "machine check exception",
    5: "bad page",
    7: "oops or BUG",
    TAINT_WARN: "WARN",
    TAINT_SOFT_LOCKUP: "soft lockup",
    18: "a test of the kernel's own ran",
}

_BUFINFO = "/sys/kernel/debug/dma_buf/bufinfo"
_STEPS = (
    files.read("/proc/sys/kernel/tainted"),
    files.read("/proc/lockdep_stats", may_lack=True),
    files.read("/sys/kernel/warn_count", may_lack=True),
    files.read("/sys/kernel/oops_count", may_lack=True),
    files.read(_BUFINFO),
)
_ABSENT = "-"
_DEBUG_LOCKS = re.compile(r"^[ \t]*debug_locks:[ \t]+([0-9]+)$", re.MULTILINE)
_OBJECTS = re.compile(r"^Total ([0-9]+) objects,", re.MULTILINE)
# No number is longer than that of 64 bits.
_HEALTH = re.compile(r"[0-9]{1,19}\n((-|[0-9]{1,19})\n){3}[0-9]{1,19}\n")


def count_dmabufs(guest: Guest) -> int:
    """Return the number of DMABUFs that exist, as in KernelHealth.  Raises HarnessError, SshLostError."""
    (content,) = guest.steps(files.read(_BUFINFO))
    if not is_count(total := _found(_OBJECTS, _text(content))):
        raise HarnessError(f"The guest's DMABUFs cannot be counted: bufinfo's total is {total[:80]!r}.")
    return int(total)


def _text(content: bytes | None) -> str:
    return _ABSENT if content is None else content.decode(errors="replace").strip()


def _found(pattern: re.Pattern[str], text: str) -> str:
    """Return the group of the pattern's only match, empty without one; ``-`` for an absent file."""
    found = pattern.findall(text)
    return text if text == _ABSENT else found[0] if len(found) == 1 else ""


class Symptom(StrEnum):
    """One way in which a kernel's state gets worse."""

    TAINT = auto()
    WARN_COUNT = auto()
    OOPS_COUNT = auto()
    # Lockdep reported something, which the console shows; or it ran out of room, which it prints
    # only at debug level (kernel/locking/lockdep.c, print_lockdep_off()).
    LOCKDEP = auto()
    DMABUFS = auto()


@dataclass(frozen=True)
class Deterioration:
    """One difference for the worse between two states of a kernel; ``text`` describes it as a clause."""

    symptom: Symptom
    text: str


@dataclass(frozen=True)
class KernelHealth:
    """The guest kernel's state at one moment.

    ``taint`` is the bit mask of /proc/sys/kernel/tainted.  ``lockdep`` is true while
    lockdep watches, None where it is not built in; it turns itself off at its first
    report, and when it has no room left.  ``warnings`` and ``oopses`` count those
    since boot (kernel/panic.c, warn_count; kernel/exit.c, oops_count), None before
    Linux 6.2; the taint shows only the first of each.  ``dmabufs`` is the number of
    DMABUFs that exist.
    """

    taint: int
    lockdep: bool | None
    warnings: int | None
    oopses: int | None
    dmabufs: int

    @classmethod
    def of(cls, guest: Guest) -> KernelHealth:
        """Read the state from the guest.

        Raises HarnessError if the answer is not one; SshTimeoutError, SshLostError.
        """
        try:
            taint, lockdep, warnings, oopses, bufinfo = map(_text, guest.steps(*_STEPS))
            lines = (
                *(taint, _found(_DEBUG_LOCKS, lockdep), warnings, oopses),
                _found(_OBJECTS, bufinfo),
            )
            return cls.parse("".join(f"{line}\n" for line in lines))
        except (StepFailedError, ValueError) as error:
            raise HarnessError(
                "The guest kernel's state cannot be read; the kernel needs CONFIG_DEBUG_FS with debugfs "
                f"mounted, and CONFIG_DMA_SHARED_BUFFER: {printable(str(error))}"
            ) from error

    @classmethod
    def parse(cls, text: str) -> KernelHealth:
        """Parse one line for each field, in their order, ``-`` if absent.  Raises ValueError."""
        if not _HEALTH.fullmatch(text):
            raise ValueError(f"no kernel state: {printable(text)!r}")
        taint, *optional, dmabufs = text.split()
        lockdep, warnings, oopses = (None if word == "-" else int(word) for word in optional)
        return cls(int(taint), None if lockdep is None else lockdep != 0, warnings, oopses, int(dmabufs))

    def worse_than(self, before: KernelHealth, taints: Collection[int] = frozenset()) -> list[Deterioration]:
        """Return what got worse since ``before``; empty if nothing did.

        ``taints`` are the taint bits that a scenario sets itself, which say nothing of the kernel.
        """
        found = []
        fresh = self.taint & ~before.taint
        for bit in range(fresh.bit_length()):
            if fresh >> bit & 1 and bit not in TAINT_MODULE and bit not in taints:
                text = f"new taint bit {bit} ({TAINTS.get(bit, 'see tainted-kernels.rst')})"
                found.append(Deterioration(Symptom.TAINT, text))
        for symptom, now, then in (
            (Symptom.WARN_COUNT, self.warnings, before.warnings),
            (Symptom.OOPS_COUNT, self.oopses, before.oopses),
        ):
            if now is not None and then is not None and now > then:
                found.append(Deterioration(symptom, f"{symptom} has gone up by {now - then}"))
        if before.lockdep and not self.lockdep:
            found.append(Deterioration(Symptom.LOCKDEP, "lockdep has turned itself off"))
        if self.dmabufs > before.dmabufs:
            text = f"{self.dmabufs - before.dmabufs} DMABUFs are left over"
            found.append(Deterioration(Symptom.DMABUFS, text))
        return found
