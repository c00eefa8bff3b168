"""pytest meets the harness: options in, plan and verdicts out.

A scenario is a test with the marker ``requirement``; tests without it (the
harness's own) are none of this plugin's business.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from harness.actor.actor import Actor
from harness.guest.guest import Guest
from harness.journal.folder import Facts, read_facts
from harness.lib.errors import ExitCode, PatchproofError
from harness.plugin.search import Search
from harness.plugin.selection import arranged, first, ids_of, one_of_each, seed_of, split
from harness.report import table
from harness.run import options, stages
from harness.run.needs import WORDS, in_order
from harness.run.run import ARGUMENTS, RUN, Run, requirement_ids
from harness.run.stages import host_errors
from harness.verdict import requirements
from harness.vm.ram_bar import RamBar

requirement = pytest.mark.requirement
on_dialect = pytest.mark.on_dialect
machine = pytest.mark.machine


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of a run, in pytest's own --help."""
    group = parser.getgroup("patchproof", "patchproof: which kernel, which machine")
    kinds = (options.add_source, options.add_kernel, options.add_machine, options.add_run, options.add_resume)
    for add in kinds:
        add(group.addoption)


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers of a scenario known."""
    config.addinivalue_line("markers", "requirement(*ids): the rows of the matrix that a scenario checks")
    config.addinivalue_line("markers", "on_dialect(*names): a scenario that only these dialects can have")
    words = "; ".join(f"{word}: {what}" for word, what in WORDS.items())
    config.addinivalue_line("markers", f"machine(...): what a scenario needs of its machine. {words}")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Refuse a scenario that names a requirement that there is not."""
    if ids := requirement_ids(item):
        with _told():
            requirements.load().check(ids, item.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put together the scenarios that can share a machine, those before them that must see a mutant."""
    with _told():
        request = options.request(config.getoption)
        if request.requirement:
            ids = ids_of(request.requirement, requirements.load())
            items[:], others = split(items, ids)
            config.hook.pytest_deselected(items=others)
        if request.variants == "one":
            items[:], others = one_of_each(items)
            config.hook.pytest_deselected(items=others)
        items[:] = _first_things_first(request, in_order(items))


def _first_things_first(request: options.Request, items: list[pytest.Item]) -> list[pytest.Item]:
    fault = stages.mutant_of(request)
    return first(items, fault.caught_by) if fault else items


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the plan, before any machine starts; or read it, and leave out what was reached."""
    config = session.config
    if not any(requirement_ids(item) for item in session.items):
        return
    with _told():
        request = options.request(config.getoption)
        seed = seed_of(request.random_order) if request.resume is None else ""
        order = partial(_first_things_first, request)
        session.items[:] = arranged(session.items, request.repeat, seed, order)
        if config.option.collectonly:
            return
        asked = Facts(
            selection=config.stash.get(ARGUMENTS, [str(each) for each in config.invocation_params.args]),
            directory=str(config.invocation_params.dir),
            repeat=request.repeat,
            random_order=seed,
        )
        scenarios = [item for item in session.items if requirement_ids(item)]
        others = [item for item in session.items if not requirement_ids(item)]
        with host_errors(request.results):
            run = config.stash[RUN] = Run(request, scenarios, asked)
    session.items[:] = [*run.items, *others]
    left = set(run.items)
    if reached := [item for item in scenarios if item not in left]:
        config.hook.pytest_deselected(items=reached)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """What is left of a run that is resumed, and the order of the scenarios if it is by chance."""
    run = config.stash.get(RUN, None)
    if run is None:
        return []
    lines = []
    if run.past is not None:
        lines.append(f"resuming {run.results.dir}: {len(run.items) or 'no'} scenarios are left to run")
    if seed := read_facts(run.results.dir).get("random_order"):
        lines.append(f"random order: {seed}")
    return lines


@contextmanager
def _told() -> Iterator[None]:
    """Say an error before the run as a sentence, and end with its exit code."""
    try:
        yield
    except PatchproofError as error:
        pytest.exit(str(error), returncode=int(error.exit_code))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Go through the stages; without a booted machine there is no scenario to run."""
    run = session.config.stash.get(RUN, None)
    if run is None or run.prepare():
        return None
    return True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A scenario's record says kernel-died from here until it ends."""
    run = item.config.stash.get(RUN, None)
    if run is None or not requirement_ids(item):
        return (yield)
    with _record_kept(run):
        run.begin(item)
    result = yield
    with _record_kept(run):
        if run.unrecorded is not None:
            raise run.unrecorded
        run.end(item)
    if run.violated and run.request.until_violated:
        item.session.shouldfail = "the kernel unexpectedly failed a scenario (--until-violated)"
    return result


@contextmanager
def _record_kept(run: Run) -> Iterator[None]:
    """What cannot be recorded is not run: end the session, with the reason."""
    try:
        with host_errors(run.results.dir):
            yield
    except PatchproofError as error:
        run.failures.append(error)
        pytest.exit("the run cannot go on", returncode=int(ExitCode.HARNESS))


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Leave out what another dialect's kernel cannot have, saying why."""
    run = item.config.stash.get(RUN, None)
    mark = item.get_closest_marker("on_dialect")
    if run is not None and mark is not None and run.pipeline.dialect not in mark.args:
        pytest.skip(f"asks for the dialect {' or '.join(mark.args)}; this kernel's is {run.pipeline.dialect}")
    with _examined(run):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Look at the kernel's health when the scenario is through."""
    run = item.config.stash.get(RUN, None)
    with _examined(run):
        yield
    if run is not None:
        run.end_actors()
        run.examine()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """No actor outlives its scenario, whatever became of it; then look at the kernel's health again."""
    run = item.config.stash.get(RUN, None)
    if run is not None:
        run.end_actors()
    with _examined(run):
        yield
    if run is not None:
        run.examine()


@contextmanager
def _examined(run: Run | None) -> Iterator[None]:
    """When the body fails, ask first whether the kernel is to blame."""
    try:
        yield
    except (Exception, pytest.fail.Exception) as error:
        if run is not None:
            run.end_actors()
            run.examine(error)
        raise


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell the journal what was observed, and pytest what was expected of it."""
    report = yield
    run = item.config.stash.get(RUN, None)
    if run is not None and requirement_ids(item):
        try:
            run.observe(item, call, report)
        except PatchproofError as error:
            run.unrecorded = error  # until its fixtures are gone, too
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """End the machine, write the reports; the exit code is the journal's."""
    run = session.config.stash.get(RUN, None)
    if run is None:
        return
    try:
        with host_errors(run.results.dir):
            code = run.finish(interrupted=exitstatus == pytest.ExitCode.INTERRUPTED and not run.failures)
    except PatchproofError as error:
        run.failures.append(error)
        code = ExitCode.HARNESS
    if exitstatus == pytest.ExitCode.INTERNAL_ERROR:
        code = ExitCode.HARNESS
    session.exitstatus = int(code)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table of verdicts, or the sentence that says why there is none."""
    run = config.stash.get(RUN, None)
    if run is None:
        return
    terminalreporter.section("patchproof")
    sys.stdout.flush()
    try:
        with host_errors(run.results.dir):
            if run.refused is None:
                table.show(run.results.dir, sys.stdout)
    except PatchproofError as error:
        run.failures.append(error)
    for failure in run.failures:
        terminalreporter.line("")
        terminalreporter.line(str(failure))


@pytest.fixture
def guest(request: pytest.FixtureRequest) -> Guest:
    """The running guest; a fresh one if the last scenario cost the machine."""
    return request.config.stash[RUN].guest()


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Callable[[str], Actor]:
    """Start actors: ``start("c")``, ``start("python")``.  They end with the scenario."""
    run = request.config.stash[RUN]
    return lambda kind: run.actor(request.node, kind)


@pytest.fixture
def search(request: pytest.FixtureRequest) -> Search:
    """Look among random cases, with the C actor, for one that does not hold."""
    run = request.config.stash[RUN]
    return Search(lambda: run.actor(request.node, "c"), run.begin_anew)


@pytest.fixture
def finding(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Record a sentence that a reader of the report should see and no verdict hangs on."""
    journal = request.config.stash[RUN].journal
    return lambda text: journal.finding(request.node.nodeid, text)


@pytest.fixture
def ram_witness(request: pytest.FixtureRequest) -> Generator[RamBar, None, None]:
    """The memory behind the RAM BAR as the host sees it."""
    with request.config.stash[RUN].ram("ram") as bar:
        yield bar
