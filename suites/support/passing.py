"""Descriptors that a parent passes from one of its children to another, and does not keep."""

from __future__ import annotations

from harness.actor.actor import Actor
from harness.actor.handles import Buffer, Device


def pass_buffer(parent: Actor, buffer: Buffer, child: Actor) -> Buffer:
    """Give a buffer of one child to another ``child``; return that one's handle."""
    with parent.take(buffer) as passed:
        return parent.give(passed, child)


def pass_device(parent: Actor, device: Device, child: Actor) -> Device:
    """Give a device of one child, without its group or iommufd, to another ``child``; return its handle."""
    passed = parent.borrow(device)
    lent = parent.lend(passed, child)
    passed.close()
    return lent
