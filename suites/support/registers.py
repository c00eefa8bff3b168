"""The ways to reset a device."""

from __future__ import annotations

from harness.actor.handles import Device

RESETS = {"reset": Device.reset, "hot reset": Device.hot_reset, "function-level reset": Device.reset_function}
