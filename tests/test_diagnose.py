"""Why a machine stopped: the dump of its processors."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.vm import diagnose

DEAF = (Path(__file__).parent / "data" / "processors" / "deaf.txt").read_text()


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (DEAF, "QEMU has lost the end of interrupt 236 on processor 0, which now waits forever"),
        (DEAF.replace("ISR\t 236 ", "ISR\t (none)"), ""),
        (DEAF.replace("HLT=1", "HLT=0"), ""),  # the processor serves the interrupt
        (DEAF + DEAF.replace("HLT=1", "HLT=0"), ""),
        (DEAF + DEAF.replace("ISR\t 236 ", "ISR\t 37"), ""),
        (DEAF.replace("RFL=00000246", "RFL=00000046"), ""),  # interrupts are off: the kernel is dead
        ("", ""),
    ],
)
def test_deaf_names_a_processor_without_interrupts(said: str, fault: str) -> None:
    """The dump is from a guest that stopped answering after some hundred resets of its devices."""
    assert diagnose.lost_interrupt(said) == fault
