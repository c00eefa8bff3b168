"""Races decided on purpose: one side is held inside the kernel while the other acts.

The two sides are children of a third actor, the director.  It runs on processor 0 with
the rest of the guest; each side has a processor of its own, of which one is held.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from harness.actor.actor import Actor
from harness.actor.answer import call_of
from harness.actor.call import Call
from harness.actor.expect import require_equal, require_no_page
from harness.actor.handles import PCI_COMMAND, PCI_COMMAND_MEMORY, Buffer, Device, Mapping, Range
from harness.actor.mismatch import Mismatch
from harness.actor.reply import BUS_ADRERR, Fault, Refused, Sigbus
from harness.actor.scene import Operation
from harness.guest.guest import PciFunction
from harness.guest.held import Held, NeverHeldError
from harness.guest.hold import Hold
from harness.lib.errors import HarnessError
from harness.vm.hardware import PAGE
from harness.vm.ram_bar import RamBar
from suites.support.constants import MIB, RAM_BAR
from suites.support.passing import pass_buffer, pass_device

SYSTEM, HELD, OTHER = 0, 1, 2  # the processors of @machine(hold=True)
PATIENCE = 4.0  # seconds for the other side to return or to be seen to wait
# The other side waits for what the held side has if it sleeps at one place for so many looks, or if its
# processor spins on the owner of a lock.
LOOKS = 4
SPINS = ("spin", "osq_lock", "smp_call_function")
# These wait for time, or for the next operation.
SLEEPS = ("msleep", "usleep", "nanosleep", "unix_stream_read", "do_poll")

START, LENGTH = 4 * MIB, 4 * PAGE  # of the DMABUF in the RAM BAR
FIRST_WORD = START // PAGE  # of its first page, after RamBar.stamp()
DONE, DATA = "", f"{FIRST_WORD:#010x}"  # results of a call without an answer, and of a load of that word

# Every implementation passes these.  vmf_insert_pfn() is a call of vmf_insert_pfn_prot().
INSERT = ("vmf_insert_pfn_prot", "vmf_insert_pfn")
INSERT_HUGE = ("vmf_insert_pfn_pmd",)
ZAP = ("unmap_mapping_range",)
MMAP = ("dma_buf_mmap_internal",)
RESTORE = ("pci_restore_state",)
RESET = ("pci_try_reset_function",)
#: The moment at which a process leaves.
MOMENTS = pytest.mark.parametrize("leaving", [False, True], ids=["before the zap", "after the zap"])


@dataclass(frozen=True)
class Sides:
    """Two processes that race, the ``owner`` of a device and a ``client``, and their ``director``.

    ``device`` is the owner's, and ``buffer`` a DMABUF of LENGTH bytes at START of its RAM BAR, by default;
    ``shared`` is the client's descriptor of it.
    """

    director: Actor
    owner: Actor
    client: Actor
    device: Device
    buffer: Buffer
    shared: Buffer

    @classmethod
    def of(
        cls,
        director: Actor,
        function: PciFunction,
        held: str,
        length: int = LENGTH,
        bar: int = RAM_BAR,
        start: int = START,
    ) -> Sides:
        """Make both sides, of which ``held`` (``owner`` or ``client``) is the one to be held."""
        director.confine(SYSTEM)
        owner, client = director.spawn("owner"), director.spawn("client")
        owner.pin(HELD if held == "owner" else OTHER)
        client.pin(HELD if held == "client" else OTHER)
        device = owner.open(function.address)
        buffer = owner.export(device, bar, [Range(start, length)])
        sides = cls(director, owner, client, device, buffer, buffer)
        return replace(sides, shared=sides.share(buffer))

    def share(self, buffer: Buffer) -> Buffer:
        """Give an owner's DMABUF to the client, too; return the client's handle."""
        return pass_buffer(self.director, buffer, self.client)

    def lend(self, device: Device | None = None) -> Device:
        """Give a descriptor of the owner's device to the client; return the client's handle."""
        return pass_device(self.director, device or self.device, self.client)

    def again(self) -> Sides:
        """Make another DMABUF for the same processes, in place of the one that they have."""
        self.buffer.close()
        self.shared.close()
        buffer = self.owner.export(self.device, RAM_BAR, [Range(START, LENGTH)])
        return replace(self, buffer=buffer, shared=self.share(buffer))

    def revoke(self) -> None:
        """Revoke the DMABUF."""
        self.owner.revoke(self.buffer)

    def huge(self) -> Mapping:
        """Map the client's DMABUF where it fits huge pages."""
        mapping = self.client.map(self.shared, align=2 * MIB, congruent=0)
        mapping.advise("hugepage")
        return mapping


class Result(str):
    """The result of an operation: the words after ``ok``, the errno of a refusal, or ``SIGBUS``.

    ``line`` is the operation.
    """

    line: str

    @classmethod
    def of(cls, call: Call) -> Result:
        """Wait for the end of an operation; return its result."""
        try:
            result = call.result()
        except Refused as refused:
            result = refused.errno
        made = cls(type(result).__name__.upper() if isinstance(result, Fault) else result)
        made.line = call.line
        return made


@dataclass(frozen=True)
class Meeting:
    """Two operations that were inside at once, both ended since, and their results.

    ``outcome`` is that of the second while the first was held: ``returned`` or ``blocked``.
    """

    outcome: str
    first: Result
    second: Result


def meet(
    hold: Hold,
    at: tuple[str, ...],
    first: tuple[Actor, Callable[[], object]],
    second: tuple[Actor, Callable[[], object]],
    *,
    leaving: bool = False,
) -> Meeting:
    """Hold the ``first`` operation at a function (or ``leaving`` it) while another side does the ``second``.

    Raises HarnessError if they were not inside at once.
    """
    with hold.at(*at, cpu=HELD, leaving=leaving) as held:
        one = begin_held(held, *first)
        other = Call.begin(*second)
        outcome = outcome_while_held(held, other)
    return Meeting(outcome, Result.of(one), Result.of(other))


def begin_held(held: Held, actor: Actor, attempt: Callable[[], object]) -> Call:
    """Begin the operation that is to be held, and wait until it is.

    Raises Refused if the kernel refuses it before; NeverHeldError if it ends otherwise, or does not come.
    """
    call = Call.begin(actor, attempt)
    try:
        held.arrive(call.ended)
    except NeverHeldError:
        if call.ended():
            call.result()
        raise
    return call


def with_memory(device: Device, on: bool) -> Callable[[], None]:
    """Return the one write that turns memory decoding on or off."""
    command = device.read("config", PCI_COMMAND, 2) & ~PCI_COMMAND_MEMORY
    return lambda: device.write("config", PCI_COMMAND, 2, command | (PCI_COMMAND_MEMORY if on else 0))


def told(result: str) -> str:
    """Tell the result of a call as a clause."""
    return f"which was refused with {result}" if result.isupper() else "which succeeded"


def outcome_while_held(held: Held, other: Call) -> str:
    """Return how the other side fares while one is held: it ``returned``, or it is ``blocked``.

    Raises HarnessError if it does neither: then it is not known to have been inside.
    """
    last: tuple[str, ...] = ()
    same = 0
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if other.ended():
            return "returned"
        place = other.place()
        if place.state == "R":
            functions: tuple[str, ...] = (held.sample(OTHER),)
            waits = any(word in functions[0] for word in SPINS)
        else:
            functions = place.functions
            waits = place.state in "DS" and not any(word in one for one in functions for word in SLEEPS)
        same = same + 1 if waits and functions == last else 0
        last = functions
        if same >= LOOKS:
            return "blocked"
    raise HarnessError(
        f"The other side neither returned nor waited for the one held at {held.place}: it was last seen "
        f"in {' < '.join(last) or 'user space'}. So nothing shows that both were inside at once."
    )


def require_result(result: Result, *allowed: str) -> None:
    """Raise Mismatch unless an operation ended with one of the ``allowed`` results."""
    if result not in allowed:
        name = call_of(Operation(call=result.line))
        raise Mismatch(
            f"{name}, with another operation inside at once, ended in {result or 'success'}",
            expected=" or ".join(one or "success" for one in allowed),
            seen=result or "success",
        )


def require_dead(mapping: Mapping, witness: RamBar) -> None:
    """Raise Mismatch unless a mapping of the RAM BAR from START on is without access.

    Every load is SIGBUS, its page table is empty, and a store does not reach the host's bytes.
    """
    require_no_page(mapping)
    before = witness.pages(START, mapping.length)
    places = range(0, min(mapping.length, LENGTH), PAGE)
    for at in places:
        require_equal(mapping.store32(at, 0xBAD), Sigbus(BUS_ADRERR, at))
    require_equal(mapping.at(places), [Sigbus(BUS_ADRERR, at) for at in places])
    require_equal(witness.pages(START, mapping.length), before, "a store still reached the device's memory")


def require_alive(mapping: Mapping) -> None:
    """Raise Mismatch unless the pages of a mapping of the DMABUF have the host's words."""
    places = range(0, min(mapping.length, LENGTH), PAGE)
    require_equal(mapping.at(places), [FIRST_WORD + at // PAGE for at in places])
