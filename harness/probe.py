"""Actors: processes in the guest that do what one line asks, and say what they saw.

The C actor and the Python probe speak one protocol (probes/PROTOCOL.md), so one
class serves both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from harness.guest.guest import Guest
from harness.guest.health import PageTable
from harness.hammer import Blows, Hammer
from harness.lib import command
from harness.lib.cache import Store
from harness.lib.command import TAIL_LINES, CommandError
from harness.lib.errors import BuildError, HarnessError, PatchproofError
from harness.lib.files import digest
from harness.lib.paths import PROBES
from harness.reply import (
    BUS_ADRERR,
    SEGV_ACCERR,
    SEGV_MAPERR,
    ActorDiedError,
    DeadlineError,
    Fault,
    Refused,
    Sigbus,
    Sigsegv,
    Vma,
    judge,
    outcome,
    refusal,
    word_or_fault,
)
from harness.transcript import Transcript, Wire
from harness.vm.hardware import PAGE
from harness.vm.ssh import Stream
from harness.watch import Watched

__all__ = [
    "BUS_ADRERR",
    "PAGE",
    "SEGV_ACCERR",
    "SEGV_MAPERR",
    "Actor",
    "ActorDiedError",
    "Blows",
    "Buffer",
    "DeadlineError",
    "Device",
    "Fault",
    "Hammer",
    "Mapping",
    "PageTable",
    "Range",
    "Refused",
    "Region",
    "Sigbus",
    "Sigsegv",
    "Transcript",
    "Vma",
    "Watched",
    "build_actor",
    "outcome",
    "refusal",
    "start_actor",
    "start_python",
]

REMOTE_ACTOR = "/run/actor"
REMOTE_PYTHON = "/run/probe.py"
# The processes that sshd has started, an actor or an interpreter, and that a signal has stopped.
_STOPPED = r"""
for stat in /proc/[0-9]*/stat; do
    { read -r pid name state parent rest <"$stat"; } 2>/dev/null || continue
    case "$name $state" in "(actor) T" | "(python3) T")
        { read -r _ name rest <"/proc/$parent/stat"; } 2>/dev/null || continue
        case $name in "(sshd"*) echo "$pid" ;; esac ;;
    esac
done
"""
DEADLINE = 10  # seconds, the actor's own for one operation

# include/uapi/linux/pci_regs.h
PCI_COMMAND, PCI_COMMAND_MEMORY = 0x04, 0x2
PCI_CAPABILITY_LIST, PCI_CAP_ID_PM, PCI_CAP_ID_EXP = 0x34, 0x01, 0x10
PCI_PM_CTRL, PCI_PM_CTRL_STATE_MASK = 0x04, 0x3
PCI_EXP_DEVCTL, PCI_EXP_DEVCTL_BCR_FLR = 0x08, 0x8000

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """A part of a BAR: ``offset`` and ``length`` in bytes."""

    offset: int
    length: int


@dataclass(frozen=True)
class Survivors:
    """What outlived an exec(): the number of VMAs of DMABUFs, and the DMABUFs still open."""

    vmas: int
    buffers: tuple[Buffer, ...]


@dataclass(frozen=True)
class Region:
    """A region of a VFIO device: bytes, position in the device fd, VFIO_REGION_INFO_FLAG_*."""

    size: int
    offset: int
    flags: int


class NotOfferedError(PatchproofError):
    """The user-space interface of this kernel has no call for what a scenario asks for."""


class Actor:
    """A process in the guest; ``name`` is empty for the first, else what spawn() called it.

    ``revoke_via`` is the call that revokes, where the probe cannot know it from the
    headers: ``feature``, ``ioctl``, or ``none`` if there is none.
    ``slowdown`` is what every deadline is multiplied by.

    Every operation may raise Refused, DeadlineError, ActorDiedError, SshLostError;
    NotOfferedError where it would take a call that this kernel does not have;
    HarnessError where the actor found the line itself wrong.
    """

    def __init__(self, wire: Wire, name: str = "", prefix: str = "") -> None:
        self.name = name
        self._wire = wire
        self._prefix = prefix
        self.revoke_via: str | None = None
        self.slowdown = 1.0

    def raw(self, line: str, seconds: int = DEADLINE) -> str:
        """Any line at all, and the reply as it came; ``seconds`` is the deadline that the line asks for."""
        return self._wire.ask(self._prefix + line, seconds)

    def do(self, *words: object, **options: object) -> str | Fault:
        """An operation: the words of its ``ok``, or the fault.

        An option that is None is left out; ``deadline`` is in whole seconds, for a
        kernel that nothing slows down.
        """
        given = {key: value for key, value in options.items() if value is not None}
        seconds = math.ceil(int(str(given.pop("deadline", DEADLINE))) * self.slowdown)
        if seconds != DEADLINE:
            given["deadline"] = seconds
        line = " ".join([*map(_word, words), *(f"{key}={_word(value)}" for key, value in given.items())])
        return judge(line, self.raw(line, seconds), seconds)

    def say(self, *words: object, **options: object) -> str:
        """An operation that cannot fault."""
        answer = self.do(*words, **options)
        if isinstance(answer, Fault):
            raise HarnessError(f"The operation `{words[0]}` was answered by a fault: {answer}.")
        return answer

    def comment(self, text: str) -> None:
        """A line for people in the transcript."""
        self._wire.comment(text)

    def read(self, parse: Callable[[str], T], *words: object, **options: object) -> T:
        """An operation whose answer ``parse`` understands; HarnessError if it does not."""
        said = self.say(*words, **options)
        try:
            return parse(said)
        except (ValueError, LookupError) as error:
            raise HarnessError(f"The answer to `{words[0]}` cannot be understood: {said[:200]!r}") from error

    def open(self, address: str, via: str = "group") -> Device:
        """Open a device bound to vfio-pci; ``via`` the legacy ``group`` or the ``cdev`` with iommufd."""
        return self.read(lambda said: _device(self, address, said), "open", "vfio", address, via=via)

    def join(self, device: Device, address: str) -> Device:
        """Open another device of the same IOMMU group, by the same way as ``device``."""
        return self.read(lambda said: _device(self, address, said), "join", device.name, address)

    def resource(self, address: str, bar: int, write_combining: bool = False) -> Buffer:
        """A BAR as sysfs offers it, which is not vfio's doing; ``write_combining`` if it is prefetchable."""
        return self.read(
            lambda said: _buffer(self, said, None),
            *("resource", address, bar),
            wc=1 if write_combining else None,
        )

    def export(
        self,
        device: Device,
        bar: int,
        ranges: Sequence[Range] | None = None,
        *,
        flags: int | None = None,
        open_flags: str | None = None,
    ) -> Buffer:
        """Make a DMABUF of ``ranges`` of a BAR, in this order; of all of it if not said."""
        listed = _ranges([Range(0, device.bars[bar])] if ranges is None else ranges)
        options = {"ranges": listed, "flags": flags, "open_flags": open_flags}
        return self.read(lambda said: _buffer(self, said, device), "export", device.name, bar=bar, **options)

    def map(
        self,
        source: Buffer | Device,
        length: int | None = None,
        offset: int = 0,
        prot: str = "rw",
        *,
        bar: int | None = None,
        flags: str | int | None = None,
        align: int | None = None,
        congruent: int | None = None,
    ) -> Mapping:
        """mmap() a buffer, or a BAR of a device; by default all of it from ``offset`` on.

        With ``align`` the address is ``congruent`` modulo ``align``.
        """
        if length is None:
            whole = source.size if isinstance(source, Buffer) else source.bars[bar or 0]
            length = whole - offset
        name = self.say(
            "map",
            source.name,
            bar=bar,
            length=length,
            offset=offset or None,
            prot=prot,
            flags=flags,
            align=align,
            congruent=congruent,
        )
        return Mapping(self, name, -(-length // PAGE) * PAGE)

    def revoke(self, buffer: Buffer, via: str | None = None, device: Device | None = None) -> None:
        """Revoke a DMABUF through ``device``, the one it was exported from if not said."""
        owner = device or buffer.device
        if owner is None:
            raise HarnessError(f"The buffer {buffer.name} was received; say which device is to revoke it.")
        self._need_revoke()
        self.say("revoke", owner.name, buffer.name, via=via or self.revoke_via)

    def reclaim(
        self,
        buffer: Buffer,
        view: Mapping,
        value: int,
        *,
        offset: int | None = None,
        stride: int | None = None,
        release: Hammer | None = None,
        tries: int | None = None,
        deadline: int | None = None,
    ) -> Fault | None:
        """Revoke a DMABUF and in the same breath store ``value`` in every word of ``view``.

        The words begin at ``offset`` and are ``stride`` bytes apart, 4 unless said.  Before that,
        ``release`` a held hammer and wait until its threads have tried ``tries`` times together.
        ``deadline`` as for do().
        """
        if buffer.device is None:
            raise HarnessError(f"The buffer {buffer.name} was received; its device is not known.")
        self._need_revoke()
        words = (buffer.device.name, buffer.name, view.name, value)
        held = None if release is None else release.name
        part = {"offset": offset, "stride": stride}
        options = {**part, "release": held, "tries": tries, "via": self.revoke_via, "deadline": deadline}
        answer = self.do("reclaim", *words, **options)
        return answer if isinstance(answer, Fault) else None

    def make(self, kind: str, length: int) -> Buffer:
        """A buffer of ``length`` bytes that is not of VFIO: ``udmabuf``, ``heap``, or ``memfd``."""
        return self.read(lambda said: _buffer(self, said, None), "make", kind, length=length)

    def set_attribute(self, buffer: Buffer, attribute: str | int, device: Device | None = None) -> None:
        """Give later mappings of a DMABUF the memory attribute ``nc``, ``wc``, or a number, by the feature.

        It is done through ``device``, the one that the buffer was exported from if not said.
        """
        owner = device or buffer.device
        if owner is None:
            raise HarnessError(f"The buffer {buffer.name} was received; say which device is to set it.")
        self.say("memattr", owner.name, buffer.name, attribute)

    def offers(self) -> dict[str, str]:
        """What the kernel's headers offer: ``revoke`` and ``memattr`` by ``feature``, ..., or ``none``."""
        return self.read(lambda said: dict(word.split("=") for word in said.split()), "version")

    def fence(self) -> None:
        """Let no store be held back any longer."""
        self.say("fence")

    def count(self, function: str) -> None:
        """Count the kernel's calls of one of its functions in this actor; Refused (ENOENT) without it."""
        self.say("count", function)

    def counted(self) -> int:
        """End that; how many there were."""
        return self.read(int, "counted")

    def cpus(self) -> tuple[int, ...]:
        """The CPUs that it may run on."""
        return self.read(lambda said: tuple(map(int, said.split(","))), "pin")

    def pin(self, *cpus: int) -> None:
        """Run on these CPUs only; its hammers are not bound by that."""
        self.say("pin", ",".join(map(str, cpus)))

    def page_table(self, mapping: Mapping) -> PageTable:
        """What this actor's page table holds of its mapping."""
        return self.read(PageTable.parse, "pagetable", mapping.name)

    def vmas(self, mapping: Mapping) -> tuple[Vma, ...]:
        """The VMAs of a mapping, as /proc/self/smaps has them."""
        return self.read(lambda said: tuple(map(Vma.parse, said.split())), "vmas", mapping.name)

    def minor_faults(self) -> int:
        """Minor page faults of the process so far."""
        return self.read(lambda said: int(said.split()[0].removeprefix("minor=")), "faults")

    def load_each(self, places: Sequence[tuple[Mapping, int]]) -> list[int | Fault]:
        """The 32-bit words at these offsets in mappings of its own, or how each load faulted."""
        listed = ",".join(f"{mapping.name}:{offset:#x}" for mapping, offset in places)
        return self.read(lambda said: list(map(word_or_fault, said.split())), "loadeach", listed)

    def spawn(self, name: str, uid: int | None = None) -> Actor:
        """Start a fresh actor that inherits no descriptor, as user ``uid``."""
        self.say("spawn", name, uid=uid)
        return self._child(name)

    def fork(self, name: str) -> Actor:
        """Fork; ``adopt()`` gives what this actor has by the same name in the child."""
        self.say("fork", name)
        return self._child(name)

    def give(self, buffer: Buffer, child: Actor) -> Buffer:
        """Send a descriptor over a UNIX socket to an actor of one's own, which receives it."""
        self.say("send", buffer.name, child.name)
        return replace(buffer, actor=child, name=child.say("recv"), device=None)

    def take(self, buffer: Buffer, device: Device | None = None) -> Buffer:
        """Have a child send a descriptor over a UNIX socket, and receive it; it is of ``device``."""
        child = buffer.actor
        child.say("send", buffer.name, "parent")
        return replace(buffer, actor=self, name=self.say("recv", child.name), device=device)

    def lend(self, device: Device, child: Actor) -> Device:
        """Send a device's descriptor, without the group or iommufd, to an actor of one's own."""
        self.say("send", device.name, child.name)
        return replace(device, actor=child, name=child.say("recv"))

    def cycle(
        self, device: Device, bar: int, length: int, count: int, *, revoke: bool = False, keep: bool = False
    ) -> Fault | None:
        """Export, map, load, unmap and close so many times; the fault of a load, if one faulted.

        ``revoke`` half of them; ``keep`` only exports, and closes nothing.  They may
        take 50 ms each, which a kernel with KASAN on a busy host does.
        """
        if revoke:
            self._need_revoke()
        options = {"bar": bar, "length": length, "count": count, "revoke": int(revoke), "keep": int(keep)}
        answer = self.do("cycle", device.name, deadline=10 + count // 20, **options)
        return answer if isinstance(answer, Fault) else None

    def outlive(self, device: Device, bar: int, ranges: int, count: int) -> int:
        """cycle() with ``count`` DMABUFs of ``ranges`` pages, the device closed before any of them ends.

        Half of them are revoked.  How many of the mappings were dead after the close.
        """
        self._need_revoke()
        options = {"bar": bar, "length": ranges * PAGE, "ranges": ranges, "count": count, "revoke": 1}
        return self.read(
            lambda said: int(said.removeprefix("sigbus=")),
            *("outlive", device.name),
            deadline=10 + count // 20,
            **options,
        )

    def attempts(self, device: Device, bar: int, length: int, count: int) -> dict[str, int]:
        """Export so many times, closing each at once: how often it was ``done`` or refused, by errno."""
        options = {"bar": bar, "length": length, "count": count}
        return self.read(Actor._tally, "attempts", device.name, deadline=10 + count // 20, **options)

    def together(
        self, device: Device, call: str, bar: int, length: int, count: int, threads: int = 2
    ) -> dict[str, int]:
        """``export`` in threads at once, or ``revoke`` one DMABUF, so many times; like ``attempts``."""
        if call == "revoke":
            self._need_revoke()
        options = {"bar": bar, "length": length, "count": count, "threads": threads}
        return self.read(Actor._tally, "together", device.name, call, deadline=10 + count // 20, **options)

    @staticmethod
    def _tally(said: str) -> dict[str, int]:
        return {how: int(times) for how, times in (word.split("=") for word in said.split())}

    def watched(self) -> Watched:
        """End the watch; what it saw until then, and in one more round after this call."""
        return self.read(Watched.parse, "watched")

    def descriptors(self) -> int:
        """How many descriptors it has open."""
        return self.read(int, "fds")

    def limit_descriptors(self, limit: int) -> None:
        """RLIMIT_NOFILE: no descriptor of this number or above is opened any more."""
        self.say("setrlimit", nofile=limit)

    def _need_revoke(self) -> None:
        if self.revoke_via == "none":
            raise NotOfferedError("The scenario revokes, for which the headers of this kernel offer no call.")

    def _child(self, name: str) -> Actor:
        child = Actor(self._wire, name, f"{self._prefix}@{name} ")
        child.revoke_via = self.revoke_via
        child.slowdown = self.slowdown
        return child

    def adopt(self, mapping: Mapping) -> Mapping:
        """A parent's mapping as this forked child has it."""
        return replace(mapping, actor=self)

    def exec(self) -> Survivors:
        """exec(); only for an actor that another has made.  What it had of names is gone."""

        def parse(said: str) -> tuple[int, list[str]]:
            vmas, *names = said.split()
            return int(vmas.removeprefix("vmas=")), names

        vmas, names = self.read(parse, "exec")
        sizes = (self.read(_number, "seek", name, whence="end") for name in names)
        buffers = tuple(Buffer(self, name, size, None) for name, size in zip(names, sizes, strict=True))
        return Survivors(vmas, buffers)

    def signal(self, child: Actor, what: str) -> None:
        """``stop``, ``cont``, ``term`` or ``kill`` an actor of one's own."""
        self.say("signal", child.name, what)

    def reap(self, child: Actor) -> str:
        """Wait for the end of an actor of one's own: ``exit=0``, ``signal=9``."""
        return self.say("reap", child.name)

    def exit(self) -> None:
        """Ask it to end."""
        self.say("exit")

    def close(self) -> None:
        """Hang up on it and on all it has spawned."""
        self._wire.close()

    def __enter__(self) -> Actor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Device:
    """An open VFIO device; ``bars`` maps the index of a BAR to its size in bytes."""

    actor: Actor
    name: str
    address: str
    bars: dict[int, int]

    def region(self, index: int) -> Region:
        """VFIO_DEVICE_GET_REGION_INFO."""

        def parse(said: str) -> Region:
            words = dict(word.split("=") for word in said.split())
            return Region(*(int(words[key], 16) for key in ("size", "offset", "flags")))

        return self.actor.read(parse, "region", self.name, index)

    def read(self, region: int | str, offset: int, width: int) -> int:
        """pread() of 1, 2, 4 or 8 bytes of a region; ``config`` is the configuration space."""
        return self.actor.read(_number, "read", self.name, region, offset, width)

    def write(self, region: int | str, offset: int, width: int, value: int) -> None:
        """pwrite() of 1, 2, 4 or 8 bytes of a region."""
        self.actor.say("write", self.name, region, offset, width, value)

    def decode_memory(self, on: bool, width: int = 2) -> None:
        """Have it answer at its memory addresses or not: PCI_COMMAND_MEMORY, in 1, 2 or 4 bytes."""
        # The upper half of four bytes is the status, where a 1 clears.
        command = self.read("config", PCI_COMMAND, width) & 0xFFFF & ~PCI_COMMAND_MEMORY
        self.write("config", PCI_COMMAND, width, command | (PCI_COMMAND_MEMORY if on else 0))

    def power(self, state: int) -> None:
        """Put it into D0 (0) to D3hot (3).  HarnessError if it has no power management."""
        control = self._capability(PCI_CAP_ID_PM) + PCI_PM_CTRL
        now = self.read("config", control, 2)
        self.write("config", control, 2, now & ~PCI_PM_CTRL_STATE_MASK | state)

    def reset_function(self) -> None:
        """Function-level reset by PCI Express' device control.  HarnessError if it is no such device."""
        control = self._capability(PCI_CAP_ID_EXP) + PCI_EXP_DEVCTL
        now = self.read("config", control, 2)
        self.write("config", control, 2, now | PCI_EXP_DEVCTL_BCR_FLR)

    @cached_property
    def _capabilities(self) -> dict[int, int]:
        found = {}
        place = self.read("config", PCI_CAPABILITY_LIST, 1)
        while place:
            entry = self.read("config", place, 2)
            found[entry & 0xFF] = place
            place = entry >> 8
        return found

    def _capability(self, identity: int) -> int:
        if identity not in self._capabilities:
            raise HarnessError(f"The device {self.address} has no capability {identity:#x}.")
        return self._capabilities[identity]

    def reset(self) -> None:
        """VFIO_DEVICE_RESET."""
        self.actor.say("reset", self.name)

    @contextmanager
    def resetting(self, count: int) -> Iterator[None]:
        """VFIO_DEVICE_RESET ``count`` times by a thread of the actor's; when this ends they are done."""
        self.actor.say("resets", self.name, count=count)
        yield
        self.actor.say("resetsdone")

    def hot_reset(self, by: Device | None = None) -> None:
        """VFIO_DEVICE_PCI_HOT_RESET of all on its bus; its group proves the right to, or that of ``by``."""
        self.actor.say("hotreset", self.name, by=None if by is None else by.name)

    def enter_low_power(self, wakeup: bool = False) -> None:
        """VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, or with ``wakeup`` ..._ENTRY_WITH_WAKEUP, see wakeups()."""
        self.actor.say("lowpower", self.name, "wakeup" if wakeup else "enter")

    def wakeups(self) -> int:
        """How often it has told that it was woken up, since this was last asked."""
        return self.actor.read(int, "wakeups", self.name)

    def info(self) -> None:
        """VFIO_DEVICE_GET_INFO."""
        self.actor.say("info", self.name)

    def import_buffer(self, buffer: Buffer, iova: int) -> None:
        """Have iommufd import a DMABUF at ``iova``, alone in an address space that becomes the device's."""
        self.actor.say("import", self.name, buffer.name, length=buffer.size, iova=iova)

    def exit_low_power(self) -> None:
        """VFIO_DEVICE_FEATURE_LOW_POWER_EXIT."""
        self.actor.say("lowpower", self.name, "exit")

    def close(self) -> None:
        """Close it and what kept its IOMMU."""
        self.actor.say("close", self.name)


@dataclass(frozen=True)
class Buffer:
    """A DMABUF of ``size`` bytes; ``device`` is the one it was exported from, if this actor has it."""

    actor: Actor
    name: str
    size: int
    device: Device | None

    def seek(self, whence: str = "end", offset: int = 0) -> int:
        """lseek()."""
        return self.actor.read(_number, "seek", self.name, whence=whence, offset=offset or None)

    def dup(self, via: str | None = None) -> Buffer:
        """A second descriptor; ``via`` dup() or ``fcntl`` F_DUPFD_CLOEXEC."""
        return replace(self, name=self.actor.say("dup", self.name, via=via))

    def ioctl(self, request: int, argument: bytes | None = None) -> None:
        """Any ioctl, without an argument or with a pointer to ``argument``."""
        self.actor.say("ioctl", self.name, request, data=None if argument is None else argument.hex())

    def closes_on_exec(self) -> bool:
        """FD_CLOEXEC."""
        answers = {"cloexec=0": False, "cloexec=1": True}
        return self.actor.read(lambda said: answers[said.split()[0]], "fdflags", self.name)

    def fdinfo(self) -> dict[str, str]:
        """The lines of /proc/self/fdinfo, without inode and mount."""
        return self.actor.read(
            lambda said: dict(word.split("=", 1) for word in said.split()), "fdinfo", self.name
        )

    def reopen(self, open_flags: str | None = None) -> Buffer:
        """Open it again through /proc/self/fd; ``path`` (O_PATH), ``rdonly``, ``wronly``, ``rdwr``."""
        return replace(self, name=self.actor.say("reopen", self.name, open_flags=open_flags))

    def close(self) -> None:
        """Close the descriptor."""
        self.actor.say("close", self.name)

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Mapping:
    """A mapping of ``length`` bytes, whole pages; offsets are bytes from its start."""

    actor: Actor
    name: str
    length: int

    def load(self, bits: int, offset: int) -> int | Fault:
        """One load of 8, 16, 32 or 64 bits."""
        answer = self.actor.do(f"load{bits}", self.name, offset)
        if isinstance(answer, Fault):
            return answer
        try:
            return _number(answer)
        except ValueError as error:
            raise HarnessError(f"The answer to `load{bits}` is no number: {answer[:200]!r}") from error

    def store(self, bits: int, offset: int, value: int) -> Fault | None:
        """One store of 8, 16, 32 or 64 bits; None if it went through."""
        answer = self.actor.do(f"store{bits}", self.name, offset, value)
        return answer if isinstance(answer, Fault) else None

    def load32(self, offset: int) -> int | Fault:
        """One load of 32 bits."""
        return self.load(32, offset)

    def store32(self, offset: int, value: int) -> Fault | None:
        """One store of 32 bits."""
        return self.store(32, offset, value)

    def pages(self, offset: int | None = None, length: int | None = None) -> list[int | Fault]:
        """The first 32-bit word of every page, or how its load faulted."""
        options = {"offset": offset, "length": length}
        return self.actor.read(
            lambda said: [word_or_fault(word) for word in said.split()], "loadpages", self.name, **options
        )

    def at(self, offsets: Iterable[int]) -> list[int | Fault]:
        """The 32-bit words at these offsets, loaded in this order, or how each load faulted."""
        listed = ",".join(map(hex, offsets))
        return self.actor.read(
            lambda said: list(map(word_or_fault, said.split())), "loadlist", self.name, listed
        )

    def touch(
        self, value: int | None = None, offset: int | None = None, length: int | None = None
    ) -> int | Fault:
        """Load from every page in turn, or store ``value`` there; the minor page faults that it took."""
        answer = self.actor.do("touch", self.name, value=value, offset=offset, length=length)
        return answer if isinstance(answer, Fault) else int(answer.partition("faults=")[2])

    def stamp(self, seed: int = 0) -> Fault | None:
        """Write page number + ``seed`` in the first 32-bit word of every page; the first fault ends it."""
        answer = self.actor.do("stamp", self.name, seed=seed or None)
        return answer if isinstance(answer, Fault) else None

    def fill(self, value: int, offset: int | None = None, length: int | None = None) -> Fault | None:
        """Store ``value`` in every 32-bit word."""
        answer = self.actor.do("fill", self.name, value, offset=offset, length=length)
        return answer if isinstance(answer, Fault) else None

    def differs(self, value: int, offset: int | None = None, length: int | None = None) -> str | Fault:
        """Where a 32-bit word is not ``value`` (``offset=0x4 value=0x...``), empty if nowhere."""
        answer = self.actor.do("compare", self.name, value, offset=offset, length=length)
        return answer if isinstance(answer, Fault) else answer.removeprefix("differs ").replace("equal", "")

    def page_table(self) -> PageTable:
        """What the actor's page table holds of it."""
        return self.actor.page_table(self)

    def copy_out(self, offset: int, length: int = 4) -> bytes:
        """write() of up to a page from it to a pipe; what arrived.  Refused (EFAULT) where a load faults."""
        return self.actor.read(
            lambda said: bytes.fromhex(said.partition(" data=")[2]),
            *("syscopy", self.name, "out"),
            offset=offset,
            bytes=length,
        )

    def copy_in(self, offset: int, value: int, length: int = 4) -> int:
        """read() from a pipe into it of a 32-bit value again and again; the bytes copied."""
        return self.actor.read(int, "syscopy", self.name, "in", offset=offset, bytes=length, value=value)

    def hammer(
        self,
        value: int = 0,
        *,
        access: str | None = None,
        threads: int = 1,
        cpus: Sequence[int] | None = None,
        offset: int | None = None,
        length: int | None = None,
        stride: int | None = None,
        held: bool = False,
        inside: str | None = None,
    ) -> Hammer:
        """Start threads that keep storing the 32-bit ``value`` whatever becomes of the mapping.

        ``access`` is ``store``, ``load``, or ``both``; ``cpus`` are where the threads
        are pinned, in turn; ``stride`` is how many bytes each goes on.  ``held`` has
        them wait for the reclaim() that releases them; ``inside`` a signal ``handler``
        they stay in it, ``clone`` makes them processes that share the actor's memory.
        """
        listed = None if cpus is None else ",".join(map(str, cpus))
        part = {"offset": offset, "length": length, "stride": stride}
        options = {"access": access, "cpus": listed, **part, "held": 1 if held else None, "in": inside}
        name = self.actor.say("hammer", self.name, value=value, threads=threads, **options)
        size = self.length - (offset or 0) if length is None else length
        places = size // math.gcd(size, stride or 4)
        return Hammer(self.actor, name, threads, 2 * places if access == "both" else places)

    def protect(self, protection: str, offset: int | None = None, length: int | None = None) -> None:
        """mprotect() all or a part: ``none``, ``r``, ``rw``."""
        self.actor.say("mprotect", self.name, protection, offset=offset, length=length)

    def advise(self, advice: str, offset: int | None = None, length: int | None = None) -> None:
        """madvise() all or a part: ``hugepage``, ``dontneed``."""
        self.actor.say("madvise", self.name, advice, offset=offset, length=length)

    def watch(self, offset: int | None = None, length: int | None = None) -> None:
        """Start a thread that loads the first 32-bit word of every page over and over; one per actor.

        Each has been loaded once when this returns.  Actor.watched() ends it.
        """
        self.actor.say("watch", self.name, offset=offset, length=length)

    def unmap(self, offset: int | None = None, length: int | None = None) -> None:
        """munmap() all or a part."""
        self.actor.say("unmap", self.name, offset=offset, length=length)

    def __enter__(self) -> Mapping:
        return self

    def __exit__(self, *_: object) -> None:
        self.unmap()


def _device(actor: Actor, address: str, said: str) -> Device:
    name, bars = said.split()
    sizes = (entry.split(":") for entry in bars.removeprefix("bars=").split(",") if entry)
    return Device(actor, name, address, {int(bar): int(size, 16) for bar, size in sizes})


def _buffer(actor: Actor, said: str, device: Device | None) -> Buffer:
    name, size = said.split()
    return Buffer(actor, name, int(size.removeprefix("size="), 16), device)


def _ranges(ranges: Sequence[Range]) -> str:
    """As the protocol wants them, equal neighbours as one."""
    counted = [(one, len(list(group))) for one, group in groupby(ranges)]
    return ",".join(
        f"{one.offset:#x}:{one.length:#x}{f'*{times}' if times > 1 else ''}" for one, times in counted
    )


def _number(said: str) -> int:
    return int(said, 16)


def _word(value: object) -> str:
    """As a transcript shows it: addresses and sizes in hexadecimal."""
    return hex(value) if isinstance(value, int) and value > 9 else str(value)


def start_actor(guest: Guest, binary: Path, transcript: Transcript) -> Actor:
    """The C actor, in the guest.  Raises SshLostError, SshTimeoutError."""
    remote = guest.push(binary, REMOTE_ACTOR)
    return Actor(Wire(guest.machine.ssh.stream([remote], guest.patience), transcript, guest.patience))


def python_stream(guest: Guest) -> Stream:
    """A process of the Python probe in the guest.  Raises SshLostError, SshTimeoutError."""
    remote = guest.push(PROBES / "probe.py", REMOTE_PYTHON)
    return guest.machine.ssh.stream(["python3", "-IS", remote], guest.patience)


def start_python(guest: Guest, transcript: Transcript, stream: Stream | None = None) -> Actor:
    """The Python probe, in the guest: a new process, or this one.  Raises SshLostError, SshTimeoutError."""
    return Actor(Wire(stream or python_stream(guest), transcript, guest.patience))


def stopped_actors(guest: Guest) -> list[int]:
    """The processes of actors, not of those that they spawned, that a signal has stopped.

    Raises SshLostError, SshTimeoutError.
    """
    done = guest.script(_STOPPED)
    return [int(word) for word in done.stdout.split()]


def build_actor(store: Store, headers: Path, log: Path) -> Path:
    """The actor, compiled against a kernel's installed headers, from the cache if it is there.

    Raises BuildError if those headers do not compile, HarnessError if the
    compiler itself fails.
    """
    sources = sorted(PROBES.glob("*.[ch]"))
    key = digest(
        command.run(["gcc", "--version"]),
        (PROBES / "Makefile").read_bytes(),
        *(source.read_bytes() for source in sources),
        headers_digest(headers),
    )

    blamed: list[str] = []

    def look(line: str) -> None:
        if re.match(r"(In file included from )?" + re.escape(f"{headers.absolute()}/"), line):
            blamed.append(line)

    def make(folder: Path) -> None:
        settings = ["CC=gcc", f"HEADERS={headers.absolute()}", f"OUT={folder / 'actor'}"]
        command.run(["make", "-C", str(PROBES), *settings], log=log, line=look)

    try:
        return store.entry("probe", key, make) / "actor"
    except CommandError as error:
        if blamed:
            message = "The actor does not compile against the installed headers of this kernel."
            raise BuildError(message, log=log, tail="\n".join(blamed[:TAIL_LINES])) from error
        message = f"The actor does not compile. Are the headers in {headers} those of a Linux 6.19 or later?"
        raise HarnessError(message, log=log, tail=error.tail) from error


def headers_digest(headers: Path) -> str:
    """A digest of all headers below a folder, names and contents.  HarnessError if there are none."""
    files = sorted(headers.rglob("*.h"))
    if not (headers / "linux/vfio.h").is_file():
        raise HarnessError(
            f"The folder {headers} holds no linux/vfio.h. It should be the `include` folder that "
            "`make headers_install` makes."
        )
    return digest(*(part for file in files for part in (str(file.relative_to(headers)), file.read_bytes())))
