"""CONTRACT: importers that come and go while an owner is held inside a call that takes their DMABUF away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.actor.actor import Actor
from harness.actor.call import Call
from harness.actor.handles import PCI_COMMAND, PCI_COMMAND_MEMORY
from harness.actor.importer import NEVER, Importer
from harness.actor.reply import outcome
from harness.guest.guest import PciFunction as Function
from harness.lib.errors import HarnessError
from harness.plugin.markers import requirement
from suites.support.fixtures import Importers
from suites.support.importing import Shared, require_let_go, require_told


@pytest.fixture
def shared(c_owner: Actor, ram: Function) -> Shared:
    """A DMABUF whose owner is a child, so that the scenario's actor can act while the owner is held."""
    theirs = Shared.of(c_owner.spawn("owner"), ram)
    return Shared(theirs.owner, theirs.device, c_owner.take(theirs.buffer))


@contextmanager
def held(shared: Shared, holder: Importer) -> Iterator[Call]:
    """Hold the owner in the callback of an importer, while it turns memory off; then let it go on."""
    shared.attached(holder)
    holder.plan(stall=NEVER)
    command = shared.device.read("config", PCI_COMMAND, 2) & ~PCI_COMMAND_MEMORY
    call = Call.begin(shared.owner, lambda: shared.device.write("config", PCI_COMMAND, 2, command))
    holder.wait("stalled")
    holder.plan()  # for later callbacks, as at the end of the suspension
    try:
        yield call
        if call.ended():
            raise HarnessError("The owner was to be held, and its call has ended.")
    finally:
        holder.release()


@requirement("CONTRACT-03")
def test_importer_cannot_attach_while_the_owner_is_held(
    c_owner: Actor, importers: Importers, shared: Shared
) -> None:
    """While importers are being told, another one gets ENODEV, at once or when the call has ended."""
    late = c_owner.spawn("late")
    importer = importers(late)
    buffer = c_owner.give(shared.buffer, late)
    with held(shared, importers(c_owner)) as call:
        attach = Call.begin(late, lambda: importer.attach(buffer, device=shared.device.address))
    assert attach.outcome() == "ENODEV"
    assert call.outcome() == "success"
    shared.device.decode_memory(True)
    importer.attach(buffer, device=shared.device.address)


@requirement("CONTRACT-11")
@pytest.mark.parametrize("ending", ["detach", "close", "unmap"])
def test_importer_lets_go_while_the_owner_is_held(
    c_owner: Actor, importers: Importers, shared: Shared, ending: str
) -> None:
    """While importers are being told, another one lets go by itself: both calls end, and it lets go once."""
    late = c_owner.spawn("late")
    importer, buffer = importers(late), c_owner.give(shared.buffer, late)
    importer.attach(buffer, device=shared.device.address)
    importer.map()
    ends = {"detach": importer.detach, "close": importer.close, "unmap": importer.unmap}
    with held(shared, importers(c_owner)) as call:
        leave = Call.begin(late, ends[ending])
    # Either has the lock next and unmaps, so the importer may find nothing to unmap.
    assert leave.outcome() in {"success", "EINVAL" if ending == "unmap" else "success"}
    assert call.outcome() == "success"
    if ending != "close":
        require_let_go(importer)
        assert importer.counts().events["unmapped"] == 1, "the importer did not unmap once"
        require_told(importer, 0, 1)


@requirement("CONTRACT-07")
def test_map_while_the_owner_is_held_is_refused(c_owner: Actor, importers: Importers, shared: Shared) -> None:
    """While importers are being told, an importer that wants to map waits for the call and gets ENODEV."""
    late = c_owner.spawn("late")
    importer, buffer = importers(late), c_owner.give(shared.buffer, late)
    importer.attach(buffer, device=shared.device.address)
    with held(shared, importers(c_owner)) as call:
        attempt = Call.begin(late, importer.map)
    assert attempt.outcome() == "ENODEV"
    assert call.outcome() == "success"
    assert outcome(importer.map) == "ENODEV"
