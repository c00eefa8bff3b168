"""A run whose guest is hostile, on the real kernel: no verdict is better than it deserves."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_run import SUITES, Case, junit, run

from harness.lib.errors import ExitCode
from harness.plugin import scenario_list

SUITE = SUITES / "hostile.py"
CONSOLE_LIMIT = 512 << 10  # as SUITE sets it
WELL = "unexpectedly-conforms"  # the manifest of the base expects no scenario to conform
# The expected verdict of each scenario, and words of its report.
EXPECTED = {
    "test_guest_is_well": (WELL, ""),
    "test_console_imitates_a_verdict": ("violates", "a violation"),
    "test_console_floods": ("harness-error", "it printed more than 8 MiB on its console"),
    "test_kernel_floods_with_warnings": ("kernel-died", "BUG: number 0"),
    "test_actor_answers_without_a_newline": ("harness-error", "bytes without a newline"),
    "test_actor_trickles": ("violates", "did not answer"),
    "test_actor_says_nonsense": ("harness-error", "cannot be understood"),
    "test_script_prints_without_end": ("harness-error", "printed more than 1 MiB"),
    "test_clock_of_the_guest_jumps": (WELL, ""),
    "test_guest_after_all_of_this_is_well": (WELL, ""),
}


class Report:
    """The results of one run of SUITE."""

    def __init__(self, folder: Path) -> None:
        results = folder / "results"
        options = ["-v", "--series", "baseline", "--no-base", "--no-give-up", "--results", str(results)]
        self.code, self.output = run("run", *options, SUITE, mark=folder)
        self.dir = results / "latest"
        self.cases: dict[str, Case] = junit(results)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return Report(tmp_path_factory.mktemp("hostile"))


def test_every_scenario_has_an_expected_verdict() -> None:
    assert sorted(one.id.rpartition("::")[2] for one in scenario_list.scenarios(SUITE)) == sorted(EXPECTED)


@pytest.mark.vm
@pytest.mark.parametrize("name", EXPECTED)
def test_scenario_gets_its_verdict(report: Report, name: str) -> None:
    verdict, words = EXPECTED[name]
    assert report.cases[name].verdict == verdict, report.output
    assert words in report.cases[name].text


@pytest.mark.vm
def test_run_is_not_green(report: Report) -> None:
    assert report.code in (ExitCode.SERIES, ExitCode.HARNESS)


@pytest.mark.vm
def test_consoles_are_bounded(report: Report) -> None:
    sizes = [path.stat().st_size for path in report.dir.glob("machine-*/console.log")]
    assert CONSOLE_LIMIT <= max(sizes) < CONSOLE_LIMIT + 1000


@pytest.mark.vm
def test_reports_of_a_hostile_guest_are_plain_text(report: Report) -> None:
    written = [report.output, *(path.read_text() for path in report.dir.glob("*.xml"))]
    written.append((report.dir / "report.html").read_text())
    assert not any("\x1b" in text or "\x07" in text for text in written)
