"""IMP, CONTRACT: importers that a DMABUF of VFIO refuses, and the states in which it refuses all of them.

A DMABUF of udmabuf accepts each of these importers on the same machine.  Without that, a
refusal would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.actor.actor import Actor
from harness.actor.importer import Importer, prime
from harness.actor.reply import outcome
from harness.guest.guest import Guest
from harness.guest.guest import PciFunction as Function
from harness.plugin.markers import machine, needs_option, requirement
from harness.vm.hardware import PAGE
from suites.support.fixtures import Finding, Importers
from suites.support.importing import TAKE_AWAY, Shared, attachments, require_let_go, require_told, ways

STATES = ("live", "memory off", "revoke", "close")


def in_state(owner: Actor, ram: Function, state: str) -> Shared:
    """Export a DMABUF, and take it away by the call that ``state`` names, if any."""
    shared = Shared.of(owner, ram)
    if state != "live":
        TAKE_AWAY[state](shared)
    return shared


def require_accepted_elsewhere(owner: Actor, attempt: Callable[[], object]) -> None:
    """Raise Mismatch unless a DMABUF of udmabuf accepts what a DMABUF of VFIO has refused."""
    assert outcome(attempt) == "success", "a DMABUF of udmabuf refuses the importer as well"


@requirement("IMP-12", "CONTRACT-01")
@pytest.mark.parametrize("state", ways(*STATES))
@pytest.mark.parametrize("kind", ["static", "nop2p"])
def test_importer_that_cannot_let_go_of_a_bar_is_refused(
    c_owner: Actor, ram: Function, guest: Guest, importers: Importers, kind: str, state: str
) -> None:
    """An importer without a callback for moves, or without peer-to-peer, gets EOPNOTSUPP in every state."""
    shared, one = in_state(c_owner, ram, state), importers(c_owner)
    other = importers(c_owner)
    before = attachments(guest)
    assert outcome(lambda: one.attach(shared.buffer, kind, device=ram.address)) == "EOPNOTSUPP"
    assert attachments(guest) == before, "the kernel lists an attachment that was refused"
    require_accepted_elsewhere(c_owner, lambda: other.attach(c_owner.make("udmabuf", PAGE), kind))
    assert attachments(guest) == before + 1, "the kernel does not list the attachment"


@requirement("CONTRACT-02")
@machine(alone=True)
def test_importer_without_a_callback_is_refused(c_owner: Actor, ram: Function, importers: Importers) -> None:
    """An importer without a callback gets EOPNOTSUPP, and the kernel does not complain."""
    shared, one = Shared.of(c_owner, ram), importers(c_owner)
    assert outcome(lambda: one.attach(shared.buffer, "nocallback", device=ram.address)) == "EOPNOTSUPP"
    require_accepted_elsewhere(c_owner, lambda: one.attach(c_owner.make("udmabuf", PAGE), "nocallback"))


@requirement("IMP-12")
@needs_option("DRM_VGEM")
@pytest.mark.parametrize("state", ways(*STATES))
def test_vgem_cannot_import(c_owner: Actor, ram: Function, guest: Guest, state: str) -> None:
    """A DRM driver that imports for good (vgem) gets EOPNOTSUPP in every state."""
    shared = in_state(c_owner, ram, state)
    assert outcome(lambda: prime(shared.buffer)) == "EOPNOTSUPP"
    assert attachments(guest) == 0, "the kernel lists an attachment that was refused"
    require_accepted_elsewhere(c_owner, lambda: prime(c_owner.make("udmabuf", PAGE)))


@requirement("IMP-06", "CONTRACT-03")
@pytest.mark.parametrize("state", ways(*STATES[1:]))
def test_nobody_can_attach_to_what_was_taken_away(
    c_owner: Actor, ram: Function, importers: Importers, state: str
) -> None:
    """A peer-to-peer importer can attach to a live DMABUF, and gets ENODEV once it was taken away."""
    shared = Shared.of(c_owner, ram)
    early = shared.mapped(importers(c_owner))
    TAKE_AWAY[state](shared)
    late = importers(c_owner)
    assert outcome(lambda: late.attach(shared.buffer, device=ram.address)) == "ENODEV"
    assert outcome(early.map) == "ENODEV"
    assert early.counts().events["unmapped"] == 1, "the importer did not unmap once"


@requirement("IMP-13")
def test_importer_that_pins_is_refused_or_cut_off(
    c_owner: Actor, ram: Function, importers: Importers, finding: Finding
) -> None:
    """A pin is refused with EOPNOTSUPP, or the importer loses the DMABUF although it has pinned it twice."""
    shared, elsewhere = Shared.of(c_owner, ram), importers(c_owner)
    elsewhere.attach(c_owner.make("udmabuf", PAGE))
    require_accepted_elsewhere(c_owner, elsewhere.pin)
    one = shared.attached(importers(c_owner))
    if (answer := outcome(one.pin)) != "success":
        assert answer == "EOPNOTSUPP"
        finding("A DMABUF cannot be pinned (EOPNOTSUPP).")
        return
    require_loses_what_it_pinned(shared, one)
    finding("A DMABUF can be pinned, and its importer loses it as any other.")


@requirement("CONTRACT-04")
def test_importer_that_pins_is_admitted(c_owner: Actor, ram: Function, importers: Importers) -> None:
    """A pin succeeds, and the importer loses the DMABUF although it has pinned it twice."""
    shared = Shared.of(c_owner, ram)
    one = shared.attached(importers(c_owner))
    one.pin()
    require_loses_what_it_pinned(shared, one)


def require_loses_what_it_pinned(shared: Shared, one: Importer) -> None:
    """Raise Mismatch unless an importer that has pinned loses the DMABUF at the next suspension."""
    one.pin()
    one.map()
    shared.device.decode_memory(False)
    assert one.counts().pins == 2, "the importer has lost its pins"
    require_let_go(one)
    require_told(one, 1)
    assert outcome(one.map) == "ENODEV"
    one.unpin()
    one.detach()
