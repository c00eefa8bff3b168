"""Run the scenarios on several machines at once: in this process, and in workers that are forked from it.

The reports of a worker go through the hooks of this process, so that the screen, ``-x`` and the exit code
are those of one run.
"""

from __future__ import annotations

import os

import pytest

from harness.lib import interruption
from harness.lib.errors import ExitCode, PatchproofError
from harness.lib.host import host_errors
from harness.lib.interruption import Interruption
from harness.plugin import durations
from harness.plugin.items import RUN, RUNNER, needs_of, repetition_of
from harness.run import resources
from harness.run.link import Report, ToRun
from harness.run.run import Run
from harness.run.schedule import OWN, Job, Schedule
from harness.run.worker import Worker
from harness.run.workers import Death, Workers


def workers(session: pytest.Session, run: Run) -> Workers | None:
    """Return the workers of a run, which do not work yet; None for a run with one machine."""
    config = session.config
    scenarios = [item for item in session.items if item.nodeid in set(run.left)]
    seconds = durations.of(scenarios, durations.load())
    jobs = [
        Job(item.nodeid, needs_of(item), one, repetition_of(item))
        for item, one in zip(scenarios, seconds, strict=True)
    ]
    machines = run.machines_at_once(jobs)
    if machines < 2 or config.option.collectonly or getattr(config.option, "usepdb", False):
        return None
    run.machines.snapshots.many = True
    schedule = Schedule(jobs, keep_order=run.keeps_order, big_beside=resources.big_beside(machines))
    return Workers(
        machines - 1, lambda link: _serve(session, run, link), schedule, run.machines.give_up, run.journal
    )


def run_scenarios(session: pytest.Session, run: Run, workers: Workers) -> None:
    """Go through the stages, and run the scenarios that are left, here and in the workers."""
    items = {item.nodeid: item for item in session.items}
    try:
        if not run.prepare():
            return
        with host_errors(run.results.dir):
            workers.begin(run.machines.ready, run.machines.count, run.machines.snapshots.all())
        while (name := workers.schedule.next(OWN)) is not None:
            _run_one(session, run, workers, items.pop(name))
        while not interruption.until(workers.ended, interruption.SLICE):
            _take_in(session, run, workers)
        while (name := workers.schedule.next_quiet()) is not None:
            _run_one(session, run, workers, items.pop(name))
        for item in [item for item in items.values() if item.nodeid not in run.left]:
            _run_one(session, run, workers, item)  # no scenario
    finally:
        try:
            workers.end(interruption.taken())
        finally:
            _report(session, run, workers)


def _run_one(session: pytest.Session, run: Run, workers: Workers, item: pytest.Item) -> None:
    """Run a scenario in this process, and take in what the workers have told meanwhile."""
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
    _take_in(session, run, workers)


def _take_in(session: pytest.Session, run: Run, workers: Workers) -> None:
    """Take in what the workers have told; raise what ends a loop of pytest early."""
    _report(session, run, workers)
    if workers.failures:
        pytest.exit("the run cannot go on", returncode=int(ExitCode.HARNESS))
    if run.violated and run.request.until_violated:
        session.shouldfail = "the kernel unexpectedly failed a scenario (--until-violated)"
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)


def _report(session: pytest.Session, run: Run, workers: Workers) -> None:
    """Pass the reports of the workers to the hooks of this process."""
    hook, items = session.config.hook, {item.nodeid: item for item in session.items}
    try:
        with host_errors(run.results.dir):
            for news in workers.reports():
                if isinstance(news, Death):
                    report = _report_of(news, items[news.scenario]) if news.scenario else None
                else:
                    report = hook.pytest_report_from_serializable(config=session.config, data=news.data)
                if report is None:
                    continue
                if report.when == "setup":
                    hook.pytest_runtest_logstart(nodeid=report.nodeid, location=report.location)
                hook.pytest_runtest_logreport(report=report)
                if report.when == "teardown":
                    hook.pytest_runtest_logfinish(nodeid=report.nodeid, location=report.location)
    except PatchproofError as error:
        workers.failures.append(error)
    run.violated = run.violated or workers.violated
    run.left_behind = workers.died
    run.failures += [one for one in workers.failures if one not in run.failures]


def _report_of(death: Death, item: pytest.Item) -> pytest.TestReport:
    """Return the report for a scenario whose worker has died."""
    return pytest.TestReport(item.nodeid, item.location, {}, "failed", death.reason, "call")


class _Reporter:
    """A pytest plugin that sends the reports of a worker to the run."""

    def __init__(self, config: pytest.Config, link: ToRun) -> None:
        self._config = config
        self._link = link

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Send a report of a phase."""
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._link.send(Report(data))


def _serve(session: pytest.Session, run: Run, link: ToRun) -> None:
    """Run scenarios for the run in a process that was just forked from it, until it has no more."""
    config = session.config
    _capture_anew(config)
    config.pluginmanager.unregister(name="terminalreporter")
    config.pluginmanager.register(_Reporter(config, link))
    run.journal.unlock()  # the run's own process keeps the lock
    worker = config.stash[RUNNER] = Worker(run.request, run.results, run.scenarios, run.store, link)
    del config.stash[RUN]
    items = {item.nodeid: item for item in session.items}
    interrupted = ""
    try:
        for name in worker.orders():
            config.hook.pytest_runtest_protocol(item=items[name], nextitem=None)
    except Interruption as end:
        interrupted = end.reason
    except pytest.exit.Exception:
        assert worker.failures  # they say why
    worker.finish(interrupted)


def _capture_anew(config: pytest.Config) -> None:
    """Let pytest capture the output of this process in files of its own."""
    if (capture := config.pluginmanager.getplugin("capturemanager")) is not None:
        kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
        capture.stop_global_capturing()  # gives back the output of the run
        for descriptor, copy in kept.items():
            os.dup2(copy, descriptor)
            os.close(copy)
        capture.start_global_capturing()
        capture.suspend_global_capture()
