"""The processes of a run that work side by side: their orders, their news, their end, and one journal."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import small_run
from small_run import SUITES, Built, events, facts, junit

from harness.journal.facts import read_facts
from harness.journal.reader import read
from harness.journal.results_folder import ResultsFolder
from harness.journal.writer import EVENTS
from harness.lib import interruption, jsonl
from harness.lib.errors import ExitCode, HarnessError
from harness.lib.interruption import Interruption
from harness.run import machines, workers
from harness.run.give_up import LIMIT, Cause, GiveUp
from harness.run.link import ToRun
from harness.run.needs import USUAL, Needs
from harness.run.request import Request
from harness.run.schedule import OWN, Job, Schedule
from harness.run.worker import Worker
from harness.run.workers import Death, Workers
from harness.verdict.record import Entry, Result
from harness.verdict.verdict import Kind, Verdict
from harness.vm.pci_devices import Layout

IDS = ("one", "two", "three", "four", "five", "six")
UNUSED: Any = None
SOFTWARE = machines.TestedSoftware(UNUSED, UNUSED, Path("actor"), "auto", UNUSED, UNUSED, UNUSED)
HANG = Cause("unbind", "the kernel did not unbind a device")


@pytest.fixture(autouse=True)
def state() -> Iterator[None]:
    interruption.dismiss()
    yield
    interruption.dismiss()


class Run:
    """A run of IDS without machines; ``work`` is done by a worker for each scenario."""

    def __init__(self, root: Path, work: Callable[[Worker, str], None], *jobs: Job, count: int = 2) -> None:
        self.results = ResultsFolder.create(root, "series")
        self.journal = self.results.journal()
        entries = {name: Entry(name, Kind.SCENARIO, name) for name in IDS}
        self.journal.plan(entries.values())
        self.journal.run_started()
        self.told: list[str] = []
        self.deaths: list[Death] = []
        self.give_up = GiveUp(self.told.append)
        scenarios = {name: (entry, Needs()) for name, entry in entries.items()}

        def serve(link: ToRun) -> None:
            worker = Worker(Request(series="s"), self.results, scenarios, None, link)
            interrupted = ""
            try:
                for name in worker.orders():
                    worker.journal.started(name)
                    work(worker, name)
                    worker.journal.ended(name, Verdict.CONFORMS)
            except Interruption as end:
                interrupted = end.reason
            except HarnessError as error:
                worker.failures.append(error)
            worker.finish(interrupted)

        schedule = Schedule(jobs or [Job(name, Needs(), 100.0) for name in IDS])
        self.workers = Workers(count, serve, schedule, self.give_up, self.journal)

    def begin(self) -> None:
        self.workers.begin(SOFTWARE, 0, [])

    def take_in(self) -> None:
        self.deaths += [news for news in self.workers.reports() if isinstance(news, Death)]

    def finish(self) -> dict[str, Result]:
        """Wait until the workers have ended, and return the results by the ids of their entries."""
        while not self.workers.ended(0.1):
            self.take_in()
        self.workers.end()
        self.take_in()
        return self.read()

    def read(self) -> dict[str, Result]:
        record = read(self.results.dir)
        assert record.damage == ""
        return {one.entry.id: one for one in record.results}


def wait(worker: Worker, name: str) -> None:
    interruption.until(lambda seconds: time.sleep(seconds), 60.0)


def test_workers_share_the_scenarios_and_one_journal(tmp_path: Path) -> None:
    run = Run(tmp_path, lambda worker, name: worker.journal.finding(name, str(os.getpid())))
    run.begin()
    results = run.finish()
    assert {one.verdict for one in results.values()} == {Verdict.CONFORMS}
    assert str(os.getpid()) not in {one.noted[0] for one in results.values()}
    times = [json.loads(line)["time"] for line in jsonl.whole_lines(run.results.dir / EVENTS)]
    assert len(times) == 1 + 3 * len(IDS)
    assert times == sorted(times)


def test_worker_that_dies_leaves_its_scenario_and_no_other(tmp_path: Path) -> None:
    def work(worker: Worker, name: str) -> None:
        if name == "two":
            os.write(2, b"its last words\n")
            os.kill(os.getpid(), signal.SIGKILL)

    run = Run(tmp_path, work)
    run.begin()
    results = run.finish()
    assert results["two"].verdict is Verdict.HARNESS_ERROR
    assert results["two"].reason == "The process that ran it ended by the signal SIGKILL."
    assert results["two"].details == "its last words\n"
    assert [one.scenario for one in run.deaths] == ["two"]
    assert {one.verdict for name, one in results.items() if name != "two"} == {Verdict.CONFORMS}


def test_worker_that_dies_before_the_start_leaves_a_verdict(tmp_path: Path) -> None:
    run = Run(tmp_path, lambda worker, name: None, count=1)
    death = Death("one", "It died.", "")
    run.workers._record(death)  # as if it had died with the order in its hands
    run.workers.end()
    assert run.read()["one"].verdict is Verdict.HARNESS_ERROR


def test_worker_that_dies_leaves_its_layout_to_the_run(tmp_path: Path) -> None:
    other = Needs(Layout(rng=True))
    jobs = (Job("one", Needs(), 1.0), Job("two", other, 1.0), Job("three", other, 1.0))
    run = Run(tmp_path, lambda worker, name: os._exit(3), *jobs, count=1)
    run.begin()
    while not run.workers.ended(0.1):
        run.take_in()
    run.take_in()
    assert [one.scenario for one in run.deaths] == ["two"]
    assert run.deaths[0].reason == "The process that ran it ended with the exit code 3."
    assert [run.workers.schedule.next(OWN) for _ in range(2)] == ["one", "three"]
    run.workers.end()


def test_interruption_ends_all_workers_at_once(tmp_path: Path) -> None:
    run = Run(tmp_path, wait)
    run.begin()
    while len(jsonl.whole_lines(run.results.dir / EVENTS)) < 3:
        time.sleep(0.01)
    run.workers.end("SIGTERM")
    run.journal.interrupted("SIGTERM")
    results = run.read()
    assert run.workers.ended(0.0)
    reasons = {name: one.reason for name, one in results.items() if one.verdict is Verdict.HARNESS_ERROR}
    assert len(reasons) == 2
    assert all("SIGTERM" in reason for reason in reasons.values())
    assert [one.verdict for one in results.values()].count(Verdict.NOT_REACHED) == len(IDS) - 2


def test_worker_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "END_SECONDS", 0.2)
    run = Run(tmp_path, lambda worker, name: time.sleep(600.0), count=1)
    run.begin()
    while len(jsonl.whole_lines(run.results.dir / EVENTS)) < 2:
        time.sleep(0.01)
    run.workers.end("SIGTERM")
    run.take_in()
    assert [one.reason for one in run.deaths] == ["The process that ran it ended by the signal SIGKILL."]
    (scenario,) = {one.scenario for one in run.deaths}
    assert not run.read()[scenario].ended  # the interruption has cut it off, and a resumed run knows that
    assert [note for note in read(run.results.dir).notes if note.endswith(f"It ran {scenario}.")]


def test_signals_are_left_to_the_run(tmp_path: Path) -> None:
    before = {number: signal.signal(number, interruption._noted) for number in interruption.SIGNALS}
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    woken = signal.set_wakeup_fd(writing)
    try:
        run = Run(tmp_path, lambda worker, name: os.kill(os.getpid(), signal.SIGTERM))
        run.begin()
        assert {one.verdict for one in run.finish().values()} == {Verdict.CONFORMS}
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)  # the signal of a worker does not arrive in the run
    os.close(reading)
    os.close(writing)


def test_end_lets_scenarios_in_progress_end(tmp_path: Path) -> None:
    run = Run(tmp_path, lambda worker, name: time.sleep(0.5))
    run.begin()
    while len(jsonl.whole_lines(run.results.dir / EVENTS)) < 3:
        time.sleep(0.01)
    run.workers.end()
    verdicts = [one.verdict for one in run.read().values()]
    assert verdicts.count(Verdict.CONFORMS) == 2
    assert verdicts.count(Verdict.NOT_REACHED) == len(IDS) - 2


def test_workers_of_failed_stages_end_without_a_scenario(tmp_path: Path) -> None:
    run = Run(tmp_path, wait)
    run.workers.end()
    assert {one.verdict for one in run.read().values()} == {Verdict.NOT_REACHED}


def test_machines_lost_by_workers_are_given_up_together(tmp_path: Path) -> None:
    def work(worker: Worker, name: str) -> None:
        worker.machines.give_up.check(USUAL, frozenset(), "map")
        worker.machines.give_up.lost(HANG, USUAL, frozenset({"map"}))
        if name == "four":
            wait(worker, name)  # the run has to take in what the others have told

    run = Run(tmp_path, work, count=3)
    run.begin()
    while len(run.told) < 1:
        run.take_in()
    assert run.told[0].startswith(f"Given up: {LIMIT} machines in a row were lost to one cause")
    run.workers.end("SIGTERM")
    given_up = run.give_up.given_up()
    follower = GiveUp(run.told.append)
    follower.follow(given_up)
    with pytest.raises(Exception, match="Given up, as 3 machines in a row"):
        follower.check(USUAL, frozenset(), "map")


def test_failure_of_a_worker_reaches_the_run(tmp_path: Path) -> None:
    def work(worker: Worker, name: str) -> None:
        raise HarnessError("There is no room.")

    run = Run(tmp_path, work, count=1)
    run.begin()
    run.finish()
    assert [one.message for one in run.workers.failures] == ["There is no room."]


def test_machines_of_two_processes_have_two_names(tmp_path: Path) -> None:
    results = ResultsFolder.create(tmp_path, "series")
    other = ResultsFolder(results.dir)
    assert [results.claim_machine(0), other.claim_machine(0), results.claim_machine(1)] == [1, 2, 3]
    assert results.claim_machine(7) == 8


def test_facts_by_machine_are_added_to_those_of_others(tmp_path: Path) -> None:
    results = ResultsFolder.create(tmp_path, "series")
    results.write_run(slowdowns={"machine-1": 2.0})
    ResultsFolder(results.dir).write_run(slowdowns={"machine-2": 3.0})
    assert read_facts(results.dir)["slowdowns"] == {"machine-1": 2.0, "machine-2": 3.0}


def test_events_of_two_processes_are_written_in_turns(tmp_path: Path) -> None:
    path = tmp_path / EVENTS
    jsonl.append(path, "one")
    other = threading.Thread(target=jsonl.append, args=(path, "two"))
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        other.start()
        other.join(0.5)
        assert len(jsonl.whole_lines(path)) == 1
        after = datetime.now(UTC).isoformat()
    other.join()
    assert json.loads(jsonl.whole_lines(path)[1])["time"] > after


def test_torn_line_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    path = tmp_path / EVENTS
    jsonl.append(path, "one")
    with path.open("ab") as stream:
        stream.write(b'{"time": "2026')
    jsonl.append(path, "two")
    assert [json.loads(line)["event"] for line in path.read_bytes().splitlines()] == ["one", "two"]


@pytest.mark.vm
def test_two_machines_give_one_run_with_a_dead_worker(tmp_path: Path) -> None:
    results = tmp_path / "results"
    options = (*Built(tmp_path).arguments, "--no-base", "--machines", "2", "--results", str(results))
    code, output = small_run.run("run", *options, SUITES / "side_by_side.py", mark=tmp_path)
    assert code == ExitCode.HARNESS, output
    verdicts = {name: case.verdict for name, case in junit(results).items() if name.startswith("test_")}
    assert verdicts.pop("test_worker_dies") == "harness-error"
    assert set(verdicts.values()) == {"conforms"}
    assert len(verdicts) == 4
    happened = [f"{one['event']} {one.get('id', one.get('machine', ''))}" for one in events(results)]
    dead = next(one for one in happened if one.startswith("ended") and one.endswith("test_worker_dies"))
    quiet = next(one for one in happened if one.endswith("no_other_machine_is_at_work"))
    assert happened.index("machine-started machine-2") < happened.index(dead) < happened.index(quiet)
    assert "machine-started machine-3" in happened
    assert facts(results)["slowdowns"].keys() >= {"machine-1", "machine-2", "machine-3"}
