"""A run of a series that brings test programs: good ones, and some that misbehave in each way."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_run import SUITES, junit, run

from harness.journal.reader import read
from harness.lib.errors import ExitCode
from harness.verdict.verdict import Verdict

EXAMPLE = Path(__file__).parent / "data" / "selftests" / "series"


@pytest.mark.vm
def test_each_program_of_a_series_has_a_verdict_and_a_sentence(tmp_path: Path) -> None:
    """The machine stays usable: the programs after one that floods or does not end have their verdicts."""
    results = tmp_path / "results"
    asked = ("--series", EXAMPLE, "--no-base", "--results", results, SUITES / "idle.py")
    code, output = run("run", *asked, mark=tmp_path)
    assert code == ExitCode.SERIES, output
    record = read(results / "latest")
    found = {one.entry.id.rpartition("/")[2]: one for one in record.selftests}
    assert {name: one.verdict for name, one in found.items()} == {
        "broken_test": Verdict.VIOLATES,
        "crash_test": Verdict.VIOLATES,
        "deep_test": Verdict.VIOLATES,
        "endless_test": Verdict.VIOLATES,
        "example_test": Verdict.CONFORMS,
        "flood_test": Verdict.VIOLATES,
        "plain_test": Verdict.NOT_APPLICABLE,
    }
    for name, words in (
        ("broken_test", "The build of example/broken_test failed with 1 error."),
        ("crash_test", "It was ended by SIGABRT after the test before."),
        ("deep_test", "It printed more than 4096 KiB"),
        ("endless_test", "It was killed: it did not end within"),
        ("flood_test", "It printed more than 4096 KiB"),
        ("plain_test", "It printed no KTAP"),
    ):
        assert words in found[name].reason
    assert [(one.name, one.verdict) for one in found["example_test"].cases] == [
        ("the device is bound to vfio-pci", Verdict.CONFORMS),
        ("the headers > the headers have version 0", Verdict.CONFORMS),
        ("the headers > there is nothing else", Verdict.NOT_APPLICABLE),
        ("a power switch", Verdict.NOT_APPLICABLE),
    ]
    assert len(record.machines) == 1
    assert [one.verdict for one in record.scenarios] == [Verdict.CONFORMS] * len(record.scenarios)
    assert junit(results)["the headers > the headers have version 0"].outcome == "passed"
