"""The host's paths in a report: shortened wherever they stand, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
from results import Run

from harness.cli import main
from harness.journal.facts import read_facts
from harness.journal.reader import read
from harness.report.host_paths import hider, read_shortened
from harness.verdict.record import Record
from harness.verdict.verdict import Verdict

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


HOST = "hostcanary"  # a part of every path of the host in the run below


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose facts, reasons and notes have paths of the host."""
    (tmp_path / HOST).mkdir()
    one = Run(tmp_path / HOST / "map-20260226T202211Z")
    path = f"/home/{HOST}/v4.mbox"
    one.results.write_run(series="v4", directory=f"/home/{HOST}/x", origin=path, selection=["--series", path])
    one.results.write_run(base_source=f"/home/{HOST}/linux at abc", qemu_command=[f"/opt/{HOST}/qemu"])
    one.begin()
    log = one.folder / "machine-1" / "console.log"
    one.end(
        one.revoke, Verdict.VIOLATES, reason=f"See {log} and /home/{HOST}/x.c", details=f"/a/{HOST}/t.py:3"
    )
    one.end(one.map, Verdict.HARNESS_ERROR, reason=f"The log /home/{HOST}/b.log cannot be written.")
    one.journal.note(f"The series is from {path}.")
    one.finish()
    return one


@pytest.mark.parametrize("form", ["junit", "html", "kcidb", "markdown", "mail", "patchwork", "b4", "ktap"])
def test_report_has_no_path_of_the_host(
    run: Run, form: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main.main(["report", form, str(run.folder)]) == 0
    report = capsysbinary.readouterr().out
    assert len(report) > 50
    assert HOST.encode() not in report


def test_junit_keeps_the_paths_on_request(run: Run, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main.main(["report", "junit", str(run.folder), "--host-paths"]) == 0
    assert f"/home/{HOST}/x.c".encode() in capsysbinary.readouterr().out


def test_shortened_record_is_the_same_but_for_texts(run: Run) -> None:
    record, facts = read_shortened(run.folder)
    whole = read(run.folder)
    assert [one.verdict for one in record.results] == [one.verdict for one in whole.results]
    assert [one.entry for one in record.results] == [one.entry for one in whole.results]
    assert facts.keys() == read_facts(run.folder).keys() - {"directory"}
    (violated,) = [one for one in record.results if one.verdict is Verdict.VIOLATES]
    assert violated.reason == "See machine-1/console.log and .../x.c"
