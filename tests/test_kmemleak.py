"""The first object of a report of kmemleak."""

from __future__ import annotations

from pathlib import Path

from harness.guest import kmemleak

# From Linux 6.19.6 with a fault: a DMABUF's record is not freed if its device was closed before.
REPORT = (Path(__file__).parent / "data" / "leaks.txt").read_text()


def test_first_object_has_size_process_and_function() -> None:
    expected = "96 bytes that actor (process 54) had allocated, in vfio_pci_core_feature_dma_buf()"
    assert kmemleak.describe_first(REPORT) == expected


def test_object_without_a_trace_has_size_and_process() -> None:
    lines = REPORT.splitlines(keepends=True)
    bare = "".join([*lines[:2], "  backtrace (crc 0):\n"])
    assert kmemleak.describe_first(bare.replace("object 0x", "object (percpu) 0x")) == (
        "96 bytes that actor (process 54) had allocated"
    )


def test_malformed_report_is_no_error() -> None:
    assert kmemleak.describe_first(REPORT[:90]) == "an object that cannot be parsed"
    assert kmemleak.describe_first("x") == "an object that cannot be parsed"
