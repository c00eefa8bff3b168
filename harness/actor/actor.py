"""Actors: processes in the guest that do what one line asks, and say what they saw.

The C actor and the Python probe speak one protocol (probes/PROTOCOL.md), so one
class serves both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from harness.actor.hammer import Hammer
from harness.actor.handles import Buffer, Device, Mapping, Range
from harness.actor.page_table import PageTable
from harness.actor.reply import (
    Fault,
    Vma,
    Watched,
    hex_number,
    word_or_fault,
)
from harness.actor.session import Session
from harness.lib.errors import HarnessError, PatchproofError
from harness.vm.hardware import PAGE


@dataclass(frozen=True)
class Survivors:
    """What outlived an exec(): the number of VMAs of DMABUFs, and the DMABUFs still open."""

    vmas: int
    buffers: tuple[Buffer, ...]


class NotOfferedError(PatchproofError):
    """The user-space interface of this kernel has no call for what a scenario asks for."""


class Actor(Session):
    """A process in the guest, and what it can do; a session with it under the names of the operations."""

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
        sizes = (self.read(hex_number, "seek", name, whence="end") for name in names)
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
