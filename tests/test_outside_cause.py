"""Causes outside of the kernel, where it is judged without an examination."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from harness.actor.reply import DeadlineError
from harness.actor.steps import Step
from harness.guest import kmemleak
from harness.guest.guest import Guest
from harness.journal.reader import read
from harness.journal.results_folder import ResultsFolder
from harness.klog.splat import Splat
from harness.lib.errors import HarnessError
from harness.run.error_to_verdict import Phase
from harness.run.examine_kernel import Examiner, MachineState
from harness.run.machines import Machines
from harness.run.needs import USUAL, Needs
from harness.run.player import Player
from harness.run.positive_control import Proof
from harness.run.request import Request
from harness.run.scenario import ScenarioRun
from harness.verdict.detector import KMEMLEAK, Detector, State
from harness.verdict.record import Entry
from harness.verdict.verdict import Kind, Verdict
from harness.vm.diagnose import QemuDefectError

STALL = Splat("rcu-stall", "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "")
WARNING = Splat("warning", "WARNING: drivers/vfio/vfio_main.c:1 at f", "")
PAUSE = "this program did not run for 30 s"
UNUSED: Any = None


class PausedMachine:
    """A machine of a host that slept; its kernel complains once it has been looked at."""

    def __init__(self, fault: Splat) -> None:
        self.console = self
        self.name = "machine-1"
        self.run_dir = Path("machine-1")
        self.log = Path("console.log")
        self._faults = [fault]

    def mark(self) -> int:
        return 0

    def splats(self, mark: int) -> list[Splat]:
        return self._faults[mark:]

    def paused(self, since: float) -> str:
        return PAUSE

    def alive(self) -> bool:
        return False


class PausedGuest:
    def __init__(self, fault: Splat) -> None:
        self.machine = PausedMachine(fault)


class Run:
    """A run of one scenario, without a kernel."""

    def __init__(self, folder: Path) -> None:
        self.results = ResultsFolder.create(folder, "series")
        self.journal = self.results.journal()
        self.entry = Entry("suites/test_a.py::test_a", Kind.SCENARIO, "a")
        self.journal.plan([self.entry])
        self.journal.run_started()
        self.machines = Machines(Request(series="s"), self.results, self.journal)

    def scenario(self) -> ScenarioRun:
        found = ScenarioRun(
            self.entry,
            Needs(),
            machines=self.machines,
            examiner=Examiner(self.machines, self.results),
            results=self.results,
            journal=self.journal,
        )
        found.begin()
        return found


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_proof_that_takes_too_long_is_no_violation(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def boot(machines: Machines, layout: object) -> Guest:
        raise DeadlineError("version", 10.0, answered=False)

    monkeypatch.setattr(Machines, "_boot", boot)
    with pytest.raises(HarnessError, match=r"could not be used now: The operation `version` did not end"):
        run.machines.guest_for(Needs(USUAL))


@pytest.mark.parametrize(("fault", "verdict"), [(STALL, Verdict.HARNESS_ERROR), (WARNING, Verdict.VIOLATES)])
def test_pause_during_a_scan_for_leaks_is_no_violation(
    run: Run, monkeypatch: pytest.MonkeyPatch, fault: Splat, verdict: Verdict
) -> None:
    monkeypatch.setattr(kmemleak, "scan", lambda _: "")
    monkeypatch.setattr(Machines, "write_stacks", lambda *_: None)
    run.machines.guest = cast(Guest, PausedGuest(fault))
    run.machines._proof = Proof((Detector(KMEMLEAK, State.PROVEN, ""),))
    found = run.machines._scan_for_leaks()
    assert found is not None
    assert found[1] is verdict
    assert found[0].startswith(f"during the scan for leaks, the kernel said: {fault.title}")
    assert found[0].endswith(f", because {PAUSE}") == (verdict is Verdict.HARNESS_ERROR)


@pytest.mark.parametrize(("fault", "ended"), [(STALL, False), (WARNING, True)])
def test_scenario_cut_off_after_a_pause_stays_open(
    run: Run, monkeypatch: pytest.MonkeyPatch, fault: Splat, ended: bool
) -> None:
    monkeypatch.setattr(
        ScenarioRun, "_record", lambda self: run.journal.ended(self.entry.id, Verdict.VIOLATES)
    )
    scenario = run.scenario()
    scenario._start = MachineState(cast(Guest, PausedGuest(fault)), 0, None)
    scenario.cut_off()
    assert read(run.results.dir).scenarios[0].ended is ended


def test_violation_is_not_tried_again_after_a_crash(run: Run) -> None:
    crash = QemuDefectError("The scenario was cut off: QEMU was killed (SIGSEGV).")
    violated, crashed = run.scenario(), run.scenario()
    violated.observe(Phase.CALL, AssertionError("the revoke returned early"), "")
    for scenario in (violated, crashed):
        scenario.observe(Phase.TEARDOWN, crash, "")
    assert crashed.defect == crash.message
    assert violated.defect == ""


@pytest.mark.parametrize("text", ["host word ram 0xzz", "host word", "actor one c", "end 7"])
def test_step_that_nobody_writes_is_a_sentence(text: str) -> None:
    player = Player(UNUSED, {})
    player._bars["ram"] = UNUSED
    with pytest.raises(HarnessError, match=r"Line 3 of the transcript is no step"):
        player.play(Step(text, 3))
