"""What was tested, as the page shows it: the series, its base, the kernel, the machine, the detectors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from harness.journal.facts import read_mails
from harness.lib.text import counted, one_line
from harness.verdict.detector import State, by_name
from harness.verdict.record import Record

#: Facts with a place of their own on the page, or with paths of the host alone.
_ELSEWHERE = ("title", "mails", "qemu_command", "directory", "selection", "warnings", "missing_options")
_SOURCE = (
    "--series",
    "--revision",
    "--patches",
    "--mutant",
    "--tree",
    "--base",
    "--kconfig",
    "--kernel",
    "--headers",
)
_TAG = re.compile(r"^(?:\s*\[[^\]]*\])+\s*")
_OF_THE_HOST = ("--results", "--resume", "--junit", "--qemu")


@dataclass(frozen=True)
class Row:
    """A line of a table of facts; ``remark`` is shown smaller."""

    name: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class DetectorRow:
    """A detector on all machines: its worst state, with the evidence and the number of machines."""

    name: str
    state: State
    words: str


@dataclass(frozen=True)
class StateRow:
    """The detectors of one state, which is the worst that they have on any machine."""

    state: str
    style: str
    names: tuple[str, ...]


#: The classes of the states, the worst state first.
_STYLES = {
    State.BLIND: "bad",
    State.NOT_PROVEN: "warn",
    State.PROVEN: "ok",
    State.NOT_BUILT: "na",
}


def first_rows(facts: Mapping[str, object], record: Record) -> tuple[Row, ...]:
    """Return the facts of the first screen."""
    return tuple(row for row in _first_rows(facts, record) if row.value)


def _first_rows(facts: Mapping[str, object], record: Record) -> Iterator[Row]:
    identity = _text(facts, "identity") or _text(facts, "digest")
    revision = _text(facts, "revision")
    of_patches = "patches" if facts.get("identity") else "mails"
    yield Row(
        "series",
        _text(facts, "series") + (f", revision {revision}" if revision else ""),
        f"identity of its {of_patches}: {identity[:12]}" if identity else "",
    )
    if checkout := _text(facts, "checkout"):
        yield Row("checkout", f"tree {checkout[:12]}")
    if message := _text(facts, "message_id"):
        yield Row("Message-ID", message)
    wanted, used = _text(facts, "base_wanted"), _text(facts, "base")
    instead = f"{used} instead of {wanted}" if used and wanted and used != wanted else used or wanted
    yield Row("base", instead or "unknown", _text(facts, "base_reason"))
    yield Row("kernel", _text(facts, "kernel_release") or "none was built")
    yield Row("interfaces", _text(facts, "dialect"), _text(facts, "interfaces"))
    yield Row(
        "accelerator",
        _text(facts, "accelerator") or "no machine was started",
        _text(facts, "accelerator_reason"),
    )
    machines = counted(len(record.machines), "machine") if record.machines else ""
    yield Row("started", record.started[: len("2026-02-26T20:22")].replace("T", " ") + " UTC", machines)
    warnings = facts.get("warnings")
    if isinstance(warnings, list) and warnings:
        yield Row("compiler", f"{counted(len(warnings), 'warning')} that the base does not have")


def environment(facts: Mapping[str, object]) -> tuple[Row, ...]:
    """Return all facts that have no place of their own, without paths of the host."""
    rows = []
    for name, value in facts.items():
        if name in _ELSEWHERE or value in ("", [], None):
            continue
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        rows.append(Row(name.replace("_", " "), PurePath(text).name if text.startswith("/") else text))
    if options := command_line(facts):
        rows.append(Row("options", options))
    return tuple(rows)


def command_line(facts: Mapping[str, object]) -> str:
    """Return the options of the run as a user typed them, without those about places of the host."""
    words = _words(facts)
    kept = []
    for word in words:
        if word.partition("=")[0] not in _OF_THE_HOST:
            kept.append(word)
        elif "=" not in word:
            next(words, "")  # its value
    return shlex.join(kept)


def source_options(facts: Mapping[str, object]) -> str:
    """Return those options of the run that choose its kernel."""
    words = _words(facts)
    kept = []
    for word in words:
        if word.partition("=")[0] in _SOURCE:
            kept += [word] if "=" in word else [word, next(words, "")]
    return shlex.join(kept)


def _words(facts: Mapping[str, object]) -> Iterator[str]:
    found = facts.get("selection")
    return iter([str(word) for word in found] if isinstance(found, list) else [])


def lists(facts: Mapping[str, object], *names: str) -> dict[str, list[str]]:
    """Return the facts of these names that are lists with something in them."""
    found = ((name, facts.get(name)) for name in names)
    return {name: [str(one) for one in value] for name, value in found if isinstance(value, list) and value}


def patches(facts: Mapping[str, object]) -> tuple[str, ...]:
    """Return the subjects of the patches, without their tags."""
    return tuple(_TAG.sub("", one["subject"]) for one in read_mails(facts) if one["number"] > 0)


def detectors(record: Record) -> tuple[DetectorRow, ...]:
    """Return a row for each detector, those that are worth least first."""
    order = list(_STYLES)
    rows = []
    for name, variants in by_name(record.detectors).items():
        worst = min(variants, key=lambda one: order.index(one.state))
        machines = sum(len(names) for one, names in variants.items() if one.state is worst.state)
        rows.append(DetectorRow(name, worst.state, f"{worst.words} ({counted(machines, 'machine')})"))
    return tuple(sorted(rows, key=lambda row: order.index(row.state)))


def detector_states(record: Record) -> tuple[StateRow, ...]:
    """Return a row for each state that a detector has, the worst first."""
    found: dict[State, list[str]] = {}
    for row in detectors(record):
        found.setdefault(row.state, []).append(row.name)
    return tuple(StateRow(str(state), _STYLES[state], tuple(names)) for state, names in found.items())


def _text(facts: Mapping[str, object], name: str) -> str:
    value = facts.get(name)
    return one_line(str(value)) if value else ""
