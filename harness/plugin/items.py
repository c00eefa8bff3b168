"""Read a scenario from a pytest item: requirement ids, repetition, needs, and entry of the plan."""

from __future__ import annotations

from typing import Any

import pytest

from harness.lib.errors import UsageError
from harness.run.needs import BIG, HOLD_ARGUMENTS, HOLD_CPUS, MACHINE_KEYWORDS, Needs
from harness.run.request import RunInput
from harness.run.run import Run
from harness.run.runner import Runner
from harness.run.scenario import ScenarioRun
from harness.series.manifest import DIALECTS
from harness.series.series import Series
from harness.verdict import requirements
from harness.verdict.record import Entry, repetition_mark
from harness.verdict.verdict import Kind
from harness.vm.hardware import MIB
from harness.vm.pci_devices import CPUS, Layout

RUN_INPUT = pytest.StashKey[RunInput]()  # of the config: the input of the run
RUN = pytest.StashKey[Run]()  # of the config, once the plan is written; not in a worker
RUNNER = pytest.StashKey[Runner]()  # of the config: the run, or the worker that this process is
SCENARIO = pytest.StashKey[ScenarioRun]()  # of an item that runs
REPETITION = pytest.StashKey[int]()  # of an item that repeats another one, from 2
SHARD = pytest.StashKey[int]()  # of an item: the number of the shard that runs it, from 1

#: The dialects that a kernel can have; ``auto`` is resolved by the kernel's headers.
KERNEL_DIALECTS = tuple(dialect for dialect in DIALECTS if dialect != "auto")


def requirement_ids(item: pytest.Item) -> tuple[str, ...]:
    """Return the requirement ids that a scenario names, in order, each once; empty for any other test."""
    named = (str(name) for mark in item.iter_markers("requirement") for name in mark.args)
    return tuple(dict.fromkeys(named))


def repetition_of(item: pytest.Item) -> int:
    """Return the number of this repetition of its scenario, from 1."""
    return item.stash.get(REPETITION, 1)


def words_of(item: pytest.Item) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the dialects, and the interfaces for the memory attribute, that a scenario's markers name.

    Without a marker the names are empty: the scenario can run with any.
    """
    return _named(item, "on_dialect"), _named(item, "on_attribute")


def _named(item: pytest.Item, marker: str) -> tuple[str, ...]:
    """Return the words that all markers of this name have in common; empty without a marker."""
    first, *others = [mark.args for mark in item.iter_markers(marker)] or [()]
    return tuple(str(word) for word in first if all(word in words for words in others))


def dialects_of(item: pytest.Item) -> tuple[str, ...]:
    """Return the dialects in which a scenario can run."""
    named = _named(item, "on_dialect")
    return tuple(dialect for dialect in KERNEL_DIALECTS if not named or dialect in named)


def needs_of(item: pytest.Item) -> Needs:
    """Return the needs in the ``machine`` markers of a scenario; for each word the closest marker decides.

    Raises UsageError for a word that is not in needs.MACHINE_KEYWORDS.
    """
    words: dict[str, Any] = {}
    for mark in reversed(list(item.iter_markers("machine"))):
        unknown = [*map(repr, mark.args), *(word for word in mark.kwargs if word not in MACHINE_KEYWORDS)]
        if unknown:
            raise UsageError(
                f"The marker `machine` of {item.nodeid} says {unknown[0]}; "
                f"it knows {', '.join(MACHINE_KEYWORDS)}."
            )
        words |= mark.kwargs
    hold = bool(words.get("hold"))
    # One machine with both serves these scenarios, so the run boots one machine less.
    rng_and_pair = bool(words.get("power") or words.get("pair"))
    layout = Layout(
        bigram=BIG if words.get("big_ram") else 0,
        rng=rng_and_pair or bool(words.get("ats")),
        ats=bool(words.get("ats")),
        pair=MIB if rng_and_pair else 0,
        arguments=(*str(words.get("kernel", "")).split(), *(HOLD_ARGUMENTS if hold else ())),
        cpus=HOLD_CPUS if hold else CPUS,
        debugger=hold,
        parallel=bool(words.get("parallel")),
    )
    alone = bool(words.get("alone"))
    taints = frozenset(int(bit) for bit in words.get("taints", ()))
    return Needs(layout, alone or bool(words.get("fresh")), alone, taints, bool(words.get("quiet")))


def entry_of(item: pytest.Item, series: Series) -> Entry:
    """Return the plan's entry for a scenario, with the verdict that ``series`` expects of it."""
    ids = requirement_ids(item)
    number = repetition_of(item)
    text = getattr(getattr(item, "function", None), "__doc__", None) or item.name
    return Entry(
        id=item.nodeid,
        kind=Kind.SCENARIO,
        title=text.strip().splitlines()[0],
        requirements=ids,
        expected=series.expected(ids, item.nodeid.removesuffix(repetition_mark(number))),
        strength=requirements.load().strength(ids),
        repetition=number,
        alone=needs_of(item).alone,
        shard=item.stash.get(SHARD, 0),
    )
