"""The host's paths in a report: shortened wherever they stand, and nothing else is."""

from __future__ import annotations

import pytest

from harness.report.host_paths import hider
from harness.verdict.record import Record

RECORD = Record("map-20260226T202211Z", ())
HIDE = hider(RECORD, {"directory": "/home/dev/my tree"})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("The whole log: /data/results/map-20260226T202211Z/build.log", "The whole log: build.log"),
        ("see /data/ci/map-20260226T202211Z.", "see .../map-20260226T202211Z."),
        ("in /home/dev/my tree/patches/x.mbox:", "in patches/x.mbox:"),
        ("--series=/home/dev/x.mbox", "--series=.../x.mbox"),
        ("socket,path=/tmp/run/qmp,server=on", "socket,path=.../qmp,server=on"),
        ("('/root/.cache/patchproof/kernel/ab/bzImage')", "('.../bzImage')"),
        ("/dev/shm/results/x/y", ".../y"),
        ("from /builds/group/project/ it", "from .../project it"),
        ("started in /home/dev/my tree", "started in ."),
    ],
)
def test_path_of_the_host_is_shortened(text: str, shown: str) -> None:
    assert HIDE(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "drivers/vfio/pci/vfio_pci_dmabuf.c:7:2: unused",
        "f+0x12/0x40 [vfio_pci]",
        "open /dev/vfio/devices/vfio0",
        "cat /proc/12/stack and /sys/bus/pci/drivers/vfio-pci/bind",
        "/lib/modules/6.19.6/x.ko",
        "https://lore.kernel.org/all/20260226@example.org/T",
        "Comm: /init, 3/4, and/or, a / b / c",
        "../outside/of/it ~/x/y ./a/b",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert HIDE(text) == text


@pytest.mark.parametrize("directory", ["", "/", "/home"])
def test_short_directory_hides_nothing_more(directory: str) -> None:
    hide = hider(Record("", ()), {"directory": directory})
    assert hide("a /x /home 1/2 /home/dev/x") == "a /x /home 1/2 .../x"
