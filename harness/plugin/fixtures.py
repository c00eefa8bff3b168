"""The fixtures of scenarios."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import nullcontext

import pytest

from harness.actor.actor import Actor
from harness.actor.importer import Importer
from harness.guest.guest import Guest
from harness.guest.hold import Hold
from harness.kernel.dialect import Interfaces
from harness.plugin.items import RUNNER, SCENARIO
from harness.plugin.search import Search
from harness.run.scenario import ScenarioRun
from harness.vm.ram_bar import RamBar


@pytest.fixture
def guest(request: pytest.FixtureRequest) -> Guest:
    """The running guest; one of a new machine if the last scenario cost the machine."""
    return _scenario(request).guest()


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Callable[[str], Actor]:
    """Start actors: ``start("c")``, ``start("python")``.  They end with the scenario."""
    return _scenario(request).actor


@pytest.fixture
def interfaces(request: pytest.FixtureRequest) -> Interfaces:
    """The interfaces in the headers of the kernel under test."""
    return request.config.stash[RUNNER].machines.ready.interfaces


@pytest.fixture
def search(request: pytest.FixtureRequest) -> Search:
    """Search random cases, run by the C actor, for one that fails."""
    scenario = _scenario(request)
    return Search(lambda: scenario.actor("c"), scenario.begin_anew)


@pytest.fixture
def finding(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Record a sentence for the report; no verdict depends on it."""
    return _scenario(request).finding


@pytest.fixture
def hold(guest: Guest) -> Hold:
    """Hold a processor at a kernel function while the others go on: @machine(hold=True)."""
    return Hold(guest)


@pytest.fixture
def ram_witness(request: pytest.FixtureRequest) -> Generator[RamBar, None, None]:
    """The memory behind the RAM BAR as the host sees it."""
    with _scenario(request).ram("ram") as bar:
        yield bar


@pytest.fixture
def importers(request: pytest.FixtureRequest) -> Generator[Callable[[Actor], Importer], None, None]:
    """Open importers of the test module: ``importers(actor)``.  They end with the actor."""
    scenario = _scenario(request)
    # The build reports its progress, and that it waits for another run.
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        scenario.build_importer()
    with scenario.test_importer():
        yield Importer.open


def _scenario(request: pytest.FixtureRequest) -> ScenarioRun:
    node: pytest.Item = request.node
    return node.stash[SCENARIO]
