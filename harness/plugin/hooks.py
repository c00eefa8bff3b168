"""The hooks of pytest that take the suites through a run: plan, stages, scenarios, reports.

A scenario is a test with the marker ``requirement``; other tests are left alone.
The command line passes the run's input in the stash (``items.RUN_INPUT``).  Without it
pytest can collect scenarios, but not run them.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from _pytest.runner import runtestprotocol

from harness.journal.facts import Facts, read_facts
from harness.journal.reader import read
from harness.lib import interruption
from harness.lib.errors import ExitCode, PatchproofError, UsageError
from harness.lib.host import host_errors
from harness.lib.text import counted, visible
from harness.plugin import durations, fast, markers, pytest_report, side_by_side
from harness.plugin.assertion import explain
from harness.plugin.items import (
    RUN,
    RUN_INPUT,
    RUNNER,
    SCENARIO,
    entry_of,
    needs_of,
    requirement_ids,
    words_of,
)
from harness.plugin.order import first, in_order, repeated, seed_of
from harness.plugin.selection import ids_of, one_of_each, split
from harness.plugin.shards import assign, of_shard
from harness.report import terminal
from harness.run.run import Run
from harness.run.runner import Runner
from harness.run.scenario import ScenarioRun
from harness.verdict import requirements
from harness.verdict.verdict import STAGES, Kind

PASSED = pytest.StashKey[int]()  # of the config: how many scenarios have conformed
SELECTED = pytest.StashKey[bool]()  # of the config: set once the scenarios are selected
FAST = pytest.StashKey[str]()  # of the config: the note of a run with --fast
SCENARIOS_PER_DOT = 10

pytest_plugins = ("harness.plugin.base_hooks", "harness.plugin.fixtures")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers of a scenario."""
    for line in markers.LINES:
        config.addinivalue_line("markers", line)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let an interruption end the import of a test file, which may wait for anything."""
    with interruption.anywhere():
        return (yield)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Refuse a scenario that names an unknown requirement."""
    interruption.check()
    if ids := requirement_ids(item):
        with _errors_end_pytest():
            requirements.load().check(ids, item.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select the scenarios, and order them so that they need the fewest machines."""
    with _errors_end_pytest():
        run_input = config.stash.get(RUN_INPUT, None)
        if run_input is not None and run_input.request.requirement:
            items[:], others = split(items, ids_of(run_input.request.requirement, requirements.load()))
            config.hook.pytest_deselected(items=others)
        if run_input is not None and run_input.request.variants == "one":
            items[:], others = one_of_each(items)
            config.hook.pytest_deselected(items=others)
        if run_input is not None and run_input.request.fast:
            items[:] = _fast(config, items)
        items[:] = first(in_order(items), run_input.caught_by if run_input is not None else ())
        config.stash[SELECTED] = True


def _fast(config: pytest.Config, items: list[pytest.Item]) -> list[pytest.Item]:
    """Return the selection of --fast, and keep the note that says so."""
    chosen = fast.covering(items, durations.load(), fast.always())
    others = set(items).difference(chosen)
    config.hook.pytest_deselected(items=[item for item in items if item in others])
    config.stash[FAST] = fast.sentence(len(chosen), len(items))
    return chosen


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the plan before any machine starts; for a resumed run, leave out the reached scenarios."""
    config = session.config
    # pytest calls this hook also if the collection was interrupted, before all were selected.
    if SELECTED not in config.stash or not any(requirement_ids(item) for item in session.items):
        return
    run_input = config.stash.get(RUN_INPUT, None)
    if run_input is None:
        if config.option.collectonly:
            return
        with _errors_end_pytest():
            raise UsageError("Scenarios need a kernel and a machine: run them by `python -m harness run`.")
    with _errors_end_pytest():
        request = run_input.request
        seed = seed_of(request.random_order) if request.resume is None else ""
        order = partial(first, ids=run_input.caught_by)
        if request.shard is not None:
            assign(session.items, request.shard.total, durations.load())
        whole = repeated(session.items, request.repeat, seed, order)
        session.items[:], elsewhere = of_shard(whole, request.shard)
        config.hook.pytest_deselected(items=elsewhere)
        if config.option.collectonly:
            return
        selection = Facts(
            selection=list(run_input.arguments),
            directory=str(config.invocation_params.dir),
            repeat=request.repeat,
            random_order=seed,
        )
        scenarios = {item.nodeid: item for item in session.items if requirement_ids(item)}
        others = [item for item in session.items if not requirement_ids(item)]
        selected = [item for item in whole if requirement_ids(item)]
        planned = [(entry_of(item, run_input.series), needs_of(item)) for item in selected]
        with host_errors(request.results):
            run = config.stash[RUN] = config.stash[RUNNER] = Run(run_input, planned, selection)
            run.note = config.stash.get(FAST, "")
    session.items[:] = [*(scenarios[name] for name in run.left), *others]
    left = set(run.left)
    if reached := [item for name, item in scenarios.items() if name not in left]:
        config.hook.pytest_deselected(items=reached)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Report how many scenarios of a resumed run are left, and the seed of a random order."""
    run = config.stash.get(RUN, None)
    if run is None:
        return []
    lines = []
    if (shard := run.request.shard) is not None:
        count = sum(entry.kind is Kind.SCENARIO for entry in run.planned)
        lines.append(f"shard {shard}: {counted(count, 'scenario') if count else 'no scenarios'}")
    if run.earlier is not None:
        lines.append(f"resuming {run.results.dir}: {len(run.left) or 'no'} scenarios are left to run")
    if seed := read_facts(run.results.dir).get("random_order"):
        lines.append(f"random order: {seed}")
    return lines


@contextmanager
def _errors_end_pytest() -> Iterator[None]:
    """Turn an error before the run into the end of pytest, with its message and exit code."""
    try:
        yield
    except PatchproofError as error:
        pytest.exit(str(error), returncode=int(error.exit_code))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Go through the stages; run no scenario if one fails or no scenario is left."""
    run = session.config.stash.get(RUN, None)
    if run is None:
        return None
    if (workers := side_by_side.workers(session, run)) is not None:
        side_by_side.run_scenarios(session, run, workers)
        return True
    return None if run.prepare() else True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Record a scenario as kernel-died until it ends; try it once more if QEMU has cut it off."""
    run = item.config.stash.get(RUNNER, None)
    if run is None or not requirement_ids(item):
        return (yield)
    interruption.check()
    with _unrecorded_ends_pytest(run):
        scenario = item.stash[SCENARIO] = run.scenario(item.nodeid)
        scenario.begin()
    result = yield
    interruption.again()
    if scenario.defect and scenario.failure is None:
        with _unrecorded_ends_pytest(run):
            first, scenario = scenario, run.scenario(item.nodeid)
            scenario.begin_after(first)
        item.stash[SCENARIO] = scenario
        runtestprotocol(item, nextitem=nextitem)
        interruption.again()
    with _unrecorded_ends_pytest(run):
        run.end(scenario)
    if run.violated and run.request.until_violated:
        item.session.shouldfail = "the kernel unexpectedly failed a scenario (--until-violated)"
    return result


@contextmanager
def _unrecorded_ends_pytest(run: Runner) -> Iterator[None]:
    """End pytest, and keep the error for the summary, if the body cannot write to the journal."""
    try:
        with host_errors(run.results.dir):
            yield
    except PatchproofError as error:
        run.failures.append(error)
        pytest.exit("the run cannot go on", returncode=int(ExitCode.HARNESS))


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Skip a scenario that is not for the kernel's interfaces or options, with the reason."""
    scenario = item.stash.get(SCENARIO, None)
    if scenario is not None and (reason := item.config.stash[RUNNER].interface_missing(*words_of(item))):
        pytest.skip(reason)
    if scenario is not None:
        names = [name for needed in item.iter_markers("needs_option") for name in needed.args]
        for reason in filter(None, map(item.config.stash[RUNNER].kernel.absent, names)):
            pytest.skip(reason)
    with _examined(scenario, item.config):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Examine the kernel's health after the body of a scenario."""
    scenario = item.stash.get(SCENARIO, None)
    with _examined(scenario, item.config):
        yield
    if scenario is not None:
        scenario.end_actors()
        scenario.examine()


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport, config: pytest.Config) -> tuple[str, str, str] | None:
    """Show a dot for every tenth scenario that conforms, and a letter for one that fails.

    With -v pytest shows each.
    """
    run = config.stash.get(RUN, None)
    if run is None or not isinstance(report, pytest.TestReport):
        return None
    if str(report.outcome) == pytest_report.REPEATED:
        return pytest_report.REPEATED, "R", pytest_report.REPEATED.upper()
    if config.get_verbosity() >= 0:
        return None
    if report.skipped and not hasattr(report, "wasxfail"):
        return "skipped", "", "SKIPPED"
    if report.passed and report.when == "call":
        config.stash[PASSED] = config.stash.get(PASSED, 0) + 1
        return "passed", "" if config.stash[PASSED] % SCENARIOS_PER_DOT else ".", "PASSED"
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_assertrepr_compare(
    config: pytest.Config, op: str, left: object, right: object
) -> list[str] | None:
    """Say a comparison of a scenario that does not hold in words; leave other tests to pytest."""
    return explain(config, op, left, right) if RUNNER in config.stash else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """End the actors of a scenario, and examine the kernel's health after its clean-up."""
    scenario = item.stash.get(SCENARIO, None)
    if scenario is not None:
        scenario.end_actors()
    with _examined(scenario, item.config):
        yield
    if scenario is not None:
        scenario.end_actors()  # of fixtures that start one in their clean-up
        scenario.examine()


@contextmanager
def _examined(scenario: ScenarioRun | None, config: pytest.Config) -> Iterator[None]:
    """Examine the kernel if the body fails, because the kernel may be the cause."""
    try:
        yield
    except (Exception, pytest.fail.Exception) as error:
        interruption.again()
        if scenario is not None:
            scenario.end_actors()
            scenario.examine(pytest_report.error_of(error, config))
        raise


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record the observation of a phase, and report to pytest whether it was expected."""
    report = yield
    if (scenario := item.stash.get(SCENARIO, None)) is not None:
        try:
            told = bool(scenario.defect)
            pytest_report.observe(scenario, item, call, report)
            if scenario.defect and not scenario.second:
                pytest_report.set_repeated(report, told=told)
        except PatchproofError as error:
            scenario.failure = error  # raised once the fixtures are torn down
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """End the machine and write the reports; take the exit code from the journal."""
    run = session.config.stash.get(RUN, None)
    if run is None:
        return
    try:
        with host_errors(run.results.dir):
            early = exitstatus == pytest.ExitCode.INTERRUPTED and not run.failures
            code = run.finish((interruption.taken() or "pytest") if early else "")
    except PatchproofError as error:
        run.failures.append(error)
        code = ExitCode.HARNESS
    if exitstatus == pytest.ExitCode.INTERNAL_ERROR:
        code = ExitCode.HARNESS
    session.exitstatus = int(code)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of verdicts, and the errors that ended the run early."""
    run = config.stash.get(RUN, None)
    if run is None:
        return
    terminalreporter.section("patchproof")
    sys.stdout.flush()
    told: set[str] = set()  # the reasons of stages, which the report has
    try:
        with host_errors(run.results.dir):
            if run.refusal is None:
                terminal.show(run.results.dir, sys.stdout, every=config.get_verbosity() >= 0)
                told = {one.reason for one in read(run.results.dir).results if one.entry.kind in STAGES}
    except PatchproofError as error:
        run.failures.append(error)
    for failure in run.failures:
        if failure.message in told:
            continue
        terminalreporter.line("")
        terminalreporter.line(visible(str(failure)))
