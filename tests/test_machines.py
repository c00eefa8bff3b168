"""Machines that change, die or complain on the real kernel: one run, and one verdict for each scenario."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from small_run import SUITES, Case, events, junit, run

from harness.lib.errors import ExitCode
from harness.plugin import scenario_list

SUITE = SUITES / "machines.py"
WORD, BIG = "arguments=('patchproof.word',)", "bigram=1073741824"  # layouts, as the journal spells them


@dataclass(frozen=True)
class Expected:
    """The expected report of one scenario of SUITE.

    ``words`` are in the report; ``layout`` is the machine's.  ``beside`` is the scenario that had the
    same machine just before, empty for a new machine.  ``silent`` is the verdict without the
    console's evidence, where the journal keeps one.
    """

    verdict: str = "unexpectedly-conforms"  # the manifest of the base expects no scenario to conform
    words: str = ""
    layout: str = "usual"
    beside: str = ""
    silent: str = ""


# In the order of the run: the usual layout, each other layout, then the scenarios that have a machine alone.
EXPECTED = {
    "test_guest_gets_a_file": Expected(),
    "test_shared_guest_has_the_file": Expected(beside="test_guest_gets_a_file"),
    "test_fresh_guest_has_no_file": Expected(),
    "test_teardown_warns": Expected("violates", "WARNING: ", beside="test_fresh_guest_has_no_file"),
    "test_guest_after_a_warning_is_new": Expected(),
    "test_setup_panics": Expected("kernel-died", beside="test_guest_after_a_warning_is_new"),
    "test_guest_after_a_panic_is_new": Expected(),
    "test_teardown_taints_silently": Expected(
        "violates", "new taint bit 6 ", beside="test_guest_after_a_panic_is_new"
    ),
    "test_guest_after_a_taint_is_new": Expected(),
    "test_kernel_warns_without_the_fixture": Expected(beside="test_guest_after_a_taint_is_new"),
    "test_guest_after_an_unseen_warning_is_new": Expected(),
    "test_messages_are_lost_without_the_fixture": Expected(
        beside="test_guest_after_an_unseen_warning_is_new"
    ),
    "test_only_the_console_reports_a_hung_task": Expected(
        "violates", "INFO: task x:1 blocked", silent="conforms"
    ),
    "test_console_loses_messages": Expected("harness-error", "12 printk messages dropped", silent="conforms"),
    "test_command_line_has_the_word": Expected(layout=WORD),
    "test_bigram_has_1_gib": Expected(layout=BIG),
    "test_kernel_panics": Expected("kernel-died", "sysrq triggered crash"),
    "test_kernel_warns": Expected("violates", "WARNING: "),
}


class Report:
    """The results of one run of SUITE."""

    def __init__(self, folder: Path) -> None:
        results = folder / "results"
        self.code, self.output = run("run", "--series", "baseline", "--results", results, SUITE, mark=folder)
        self.dir = results / "latest"
        self.cases = junit(results)
        self.layouts: dict[str, str] = {}  # machine to layout
        self.scenarios: dict[str, list[str]] = {}  # machine to its scenarios, in the order of their ends
        self.silent: dict[str, str] = {}  # scenario to the verdict without the console's evidence
        for event in events(results):
            name = str(event.get("id", "")).rpartition("::")[2]
            if event["event"] == "machine-started":
                self.layouts[event["machine"]] = event["layout"]
                self.scenarios[event["machine"]] = []
            elif event["event"] == "ended" and name.startswith("test_") and self.scenarios:
                self.scenarios[list(self.scenarios)[-1]].append(name)
            if "silent" in event:
                self.silent[name] = event["silent"]

    def machine(self, name: str) -> str:
        """Return the machine on which the scenario ended."""
        (found,) = (machine for machine, names in self.scenarios.items() if name in names)
        return found

    def before(self, name: str) -> str:
        """Return the scenario that had the same machine just before; empty if there is none."""
        names = self.scenarios[self.machine(name)]
        return ["", *names][names.index(name)]

    def machine_case(self, name: str) -> Case:
        """Return the test case of the machine on which the scenario ended."""
        return self.cases[self.machine(name)]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return Report(tmp_path_factory.mktemp("machines"))


def test_every_scenario_has_an_expected_verdict() -> None:
    found = [one.id.rpartition("::")[2] for one in scenario_list.scenarios(SUITE)]
    assert sorted(found) == sorted(EXPECTED)


@pytest.mark.vm
def test_run_blames_the_series_and_misses_no_scenario(report: Report) -> None:
    assert report.code == ExitCode.SERIES, report.output
    assert {name for name in report.cases if name.startswith("test_")} == set(EXPECTED)
    assert set(report.silent) <= set(EXPECTED)


@pytest.mark.vm
@pytest.mark.parametrize("name", EXPECTED)
def test_scenario_gets_its_verdict_and_machine(report: Report, name: str) -> None:
    words = EXPECTED[name].words
    found = Expected(
        report.cases[name].verdict,
        words if words in report.cases[name].text else report.cases[name].text,
        report.layouts[report.machine(name)],
        report.before(name),
        report.silent.get(name, ""),
    )
    assert found == EXPECTED[name], report.output


@pytest.mark.vm
def test_machines_start_one_layout_after_the_other(report: Report) -> None:
    assert [name for names in report.scenarios.values() for name in names] == list(EXPECTED)
    assert list(report.layouts.values()) == [each.layout for each in EXPECTED.values() if not each.beside]


@pytest.mark.vm
def test_warning_between_scenarios_is_the_machines(report: Report) -> None:
    case = report.machine_case("test_kernel_warns_without_the_fixture")
    assert (case.outcome, case.verdict) == ("failure", "violates")
    assert "the kernel said: WARNING: " in case.text


@pytest.mark.vm
def test_messages_lost_between_scenarios_are_an_error(report: Report) -> None:
    case = report.machine_case("test_messages_are_lost_without_the_fixture")
    assert (case.outcome, case.verdict) == ("error", "harness-error")
    assert "may have been missed: ** 12 printk messages dropped **" in case.text


@pytest.mark.vm
def test_no_other_machine_has_a_case_of_its_own(report: Report) -> None:
    """Complaints during a scenario are the scenario's, and are not reported again."""
    names = [report.machine(name) for name in EXPECTED if name.endswith("_without_the_fixture")]
    assert [name for name in report.cases if name.startswith("machine-")] == names


@pytest.mark.vm
def test_stacks_without_line_numbers_are_kept_as_they_are(report: Report) -> None:
    stacks = [path.read_text() for path in (report.dir / "stacks").iterdir()]
    assert all(text.startswith("# not decoded: the kernel was built without line numbers") for text in stacks)
    assert sum("lkdtm_WARNING+0x" in text for text in stacks) == 1  # of three, all the same


@pytest.mark.vm
def test_every_machine_leaves_its_console_and_command(report: Report) -> None:
    assert list(report.layouts) == [f"machine-{number}" for number in range(1, len(report.layouts) + 1)]
    for machine in report.layouts:
        for file in ("console.log", "qemu.txt"):
            assert (report.dir / machine / file).stat().st_size
