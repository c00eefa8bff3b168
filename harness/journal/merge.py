"""Put the shards of one selection together into one results folder, as if one machine had run them all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from harness.journal import plan_file
from harness.journal.copy_part import PartFiles, last_machine
from harness.journal.facts import IDENTITY, RUN, read_facts
from harness.journal.plan_file import Plan
from harness.journal.reader import read
from harness.journal.results_folder import BY_MACHINE, ResultsFolder
from harness.journal.writer import EVENTS, JournalWriter
from harness.lib import jsonl
from harness.lib.errors import HarnessError, UsageError
from harness.lib.files import write_atomically
from harness.lib.shard import Shard
from harness.verdict.record import Record
from harness.verdict.verdict import STAGES, Verdict

#: The facts that must be equal in all shards, and their descriptions for a message.
SAME = {
    **IDENTITY,
    "identity": "the identity of the series",
    "base": "the version of the base",
    "fragments": "the digest of the requested configuration",
    "compiler": "the compiler",
    "dialect": "the dialect",
    "program": "the digest of suites, probes and harness",
    "repeat": "the number of repetitions",
    "random_order": "the seed of the order",
}
#: The facts that may differ; a note in the journal tells of each.
NOTED = {
    "accelerator": "the accelerator",
    "qemu": "the version of QEMU",
    "image": "the identity of the guest's root file system",
}
GRAVITY = (Verdict.NOT_REACHED, Verdict.CONFORMS, Verdict.HARNESS_ERROR)  # of a stage; any other is graver


@dataclass(frozen=True)
class _Part:
    """The run of one shard; ``name`` is the folder as the user wrote it."""

    name: Path
    folder: Path
    plan: Plan
    shard: Shard
    facts: Mapping[str, object]
    record: Record

    @classmethod
    def of(cls, name: Path) -> _Part:
        """Read the run of a shard.  Raises HarnessError if ``name`` does not hold one."""
        folder = name.resolve()
        plan = plan_file.read(name)
        if plan.shard is None:
            raise HarnessError(f"{name} is no part of a run: it was run without --shard.")
        numbers = {entry.shard for entry in plan.entries} | {plan.shard.number}
        whole = plan_file.selection_digest(plan.entries)
        if whole != plan.selection or not numbers <= set(range(plan.shard.total + 1)):
            raise HarnessError(f"The plan in {name} was changed: its digest is another. Run the shard again.")
        journal = JournalWriter(folder)
        journal.lock()  # refuses a run that still goes on
        journal.unlock()
        record = read(folder)
        if record.damage:
            raise HarnessError(
                f"{name} cannot be put together with others, because its journal contradicts itself "
                f"({record.damage}). Run shard {plan.shard} again."
            )
        return cls(name, folder, plan, plan.shard, read_facts(folder), record)

    @property
    def cut_off(self) -> bool:
        """Return whether the run did not come to its own end."""
        return not self.record.complete or bool(self.record.interrupted)

    def events(self) -> Iterator[tuple[bytes, dict[str, object]]]:
        """Yield each line of the journal and its event, without the start and the end of the run."""
        begun = False
        for line in jsonl.whole_lines(self.folder / EVENTS):
            event = json.loads(line)
            if event["event"] == "run-ended" or (event["event"] == "run-started" and not begun):
                begun = True
                continue
            yield line, event


def merge(names: Sequence[Path], into: Path | None, *, incomplete: bool = False) -> Path:
    """Put the runs of all shards together, and return the new results folder.

    ``into`` is that folder, which must be new or empty; None makes one below ``results/``.
    With ``incomplete`` shards may be missing or cut off; their other scenarios are ``not-reached``.

    Raises UsageError or HarnessError, and writes nothing, if a folder holds no shard, or two
    hold the same, or they differ in plan or facts, or one is missing or was cut off.
    """
    parts = sorted((_Part.of(name) for name in names), key=lambda part: part.shard.number)
    _check_alike(parts)
    missing = _check_whole(parts, incomplete)
    folder = _make_folder(parts, into)
    files = _copy(parts, folder)
    _write_facts(parts, files, folder)
    whole = not missing and not any(part.cut_off for part in parts)
    (folder / EVENTS).write_bytes(b"".join(_events(parts, files, missing, whole=whole)))
    # The plan is the last: without it a reader refuses the folder.
    plan_file.write(folder, parts[0].plan.entries)
    return folder


def _check_alike(parts: Sequence[_Part]) -> None:
    """Raise HarnessError unless all parts are of the same run, each another shard."""
    first = parts[0]
    known: dict[str, _Part] = {}  # the first part that has the fact
    for part in parts:
        for name, words in SAME.items():
            if part.facts.get(name) is None:
                continue
            before = known.setdefault(name, part)
            if (one := before.facts[name]) != (other := part.facts[name]):
                raise HarnessError(
                    f"{before.name} and {part.name} are not parts of one run: {words} is {one} in the one, "
                    f"and {other} in the other."
                )
        if (part.shard.total, part.plan.entries) != (first.shard.total, first.plan.entries):
            raise HarnessError(
                f"{first.name} and {part.name} are not parts of one run: the one is shard {first.shard} of "
                f"{len(first.plan.entries)} planned entries (digest {first.plan.selection[:12]}), the other "
                f"shard {part.shard} of {len(part.plan.entries)} (digest {part.plan.selection[:12]}). Run "
                "all parts with the same options."
            )
    for before, part in pairwise(parts):
        if before.shard == part.shard:
            raise HarnessError(
                f"{before.name} and {part.name} overlap: both are shard {part.shard}. Leave one of them out."
            )


def _check_whole(parts: Sequence[_Part], incomplete: bool) -> list[Shard]:
    """Return the missing shards; raise HarnessError if one is missing or cut off, unless that is allowed."""
    given = {part.shard for part in parts}
    total = parts[0].shard.total
    missing = [one for number in range(1, total + 1) if (one := Shard(number, total)) not in given]
    if missing and not incomplete:
        raise HarnessError(
            f"Of {total} shards these are missing: {', '.join(map(str, missing))}. Give their results, too, "
            "or take their scenarios as not-reached with --incomplete."
        )
    for part in parts:
        if part.cut_off and not incomplete:
            raise HarnessError(
                f"The run in {part.name} (shard {part.shard}) was cut off. Resume it by `python -m harness "
                f"run --resume {part.name}`, or take its other scenarios as not-reached with --incomplete."
            )
    return missing


def _make_folder(parts: Sequence[_Part], into: Path | None) -> Path:
    if into is None:
        return ResultsFolder.create(Path("results"), str(parts[0].facts.get("series", ""))).dir
    folder = into.resolve()
    for part in parts:
        if folder == part.folder or folder.is_relative_to(part.folder):
            raise UsageError(f"{into} is inside of {part.name}, which is copied: choose another folder.")
    if into.is_file() or (into.is_dir() and any(into.iterdir())):
        raise UsageError(f"{into} exists already: choose a folder that is new or empty.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _copy(parts: Sequence[_Part], folder: Path) -> list[PartFiles]:
    """Copy the files of all parts, and link those of the newest machine."""
    machines = 0
    copied = []
    for part in parts:
        # The first part keeps its names; a file of the others that is no evidence gets a folder.
        files = PartFiles(machines, "" if part is parts[0] else f"shard-{part.shard.number}")
        files.copy(part.folder, folder)
        machines += last_machine(part.folder, part.record.machines)
        copied.append(files)
    if machines:
        ResultsFolder(folder).machine(f"machine-{machines}")
    return copied


def _write_facts(parts: Sequence[_Part], files: Sequence[PartFiles], folder: Path) -> None:
    """Write the facts of the first part, with those that only later parts have."""
    facts: dict[str, object] = {}
    for part in reversed(parts):
        facts |= part.facts
    for name in BY_MACHINE:
        members: dict[str, object] = {}
        for part, renamed in zip(parts, files, strict=True):
            if isinstance(found := part.facts.get(name), Mapping):
                members |= {renamed.renumbered(str(machine)): value for machine, value in found.items()}
        if members:
            facts[name] = members
    facts["selection"] = _without_shard(facts.get("selection"))
    facts["shards"] = [part.record.run for part in parts]
    write_atomically(folder / RUN, json.dumps(facts, indent=1) + "\n")


def _without_shard(selection: object) -> list[str]:
    """Return the arguments of a run without ``--shard I/N``."""
    words = iter(map(str, selection if isinstance(selection, list) else ()))
    kept = []
    for word in words:
        if word == "--shard":
            next(words, None)
        elif not word.startswith("--shard="):
            kept.append(word)
    return kept


def _events(
    parts: Sequence[_Part], files: Sequence[PartFiles], missing: Sequence[Shard], *, whole: bool
) -> Iterator[bytes]:
    """Yield the lines of the joined journal."""
    starts = [part.record.started for part in parts if part.record.started]
    if starts:
        yield _line("run-started", min(starts))
    decisive = _decisive(parts)
    noted: set[str] = set()
    for part, renamed in zip(parts, files, strict=True):
        for line, event in part.events():
            if decisive.get(str(event.get("id")), part) is not part:
                continue
            changed = renamed.event(event)
            if event["event"] == "note":
                text = str(changed.get("text"))
                if text in noted:
                    continue
                noted.add(text)
            yield line + b"\n" if changed == event else json.dumps(changed).encode() + b"\n"
        for result in part.record.results:
            if result.verdict is Verdict.NOT_REACHED and decisive.get(result.entry.id, part) is part:
                reason = renamed.renumbered(f"Shard {part.shard}: {result.reason}")
                yield _line("not-reached", id=result.entry.id, reason=reason)
        yield _line("shard-ended", shard=str(part.shard), run=part.record.run)
    for entry in parts[0].plan.entries:
        if entry.shard in {one.number for one in missing}:
            shard = replace(missing[0], number=entry.shard)
            reason = f"The results of shard {shard} are missing: they were not put together with the others."
            yield _line("not-reached", id=entry.id, reason=reason)
    yield from (_line("note", text=text) for text in _notes(parts, missing))
    if whole:
        yield _line("run-ended")


def _decisive(parts: Sequence[_Part]) -> dict[str, _Part]:
    """Return for each stage the part whose events stay: the first in which it had the gravest verdict."""
    found: dict[str, tuple[int, _Part]] = {}
    for part in parts:
        for result in part.record.results:
            if result.entry.kind in STAGES:
                known = result.verdict in GRAVITY
                gravity = GRAVITY.index(result.verdict) if known else len(GRAVITY)
                if result.entry.id not in found or gravity > found[result.entry.id][0]:
                    found[result.entry.id] = gravity, part
    return {name: part for name, (_, part) in found.items()}


def _notes(parts: Sequence[_Part], missing: Sequence[Shard]) -> Iterator[str]:
    yield f"This is a run of {parts[0].shard.total} shards, put together from {len(parts)} results folders."
    if missing:
        yield f"The results of these shards are missing: {', '.join(map(str, missing))}."
    for part in parts:
        if part.cut_off:
            yield f"The run of shard {part.shard} was cut off."
    for name, words in NOTED.items():
        values = {str(part.shard): str(part.facts[name]) for part in parts if name in part.facts}
        if len(set(values.values())) > 1:
            each = ", ".join(f"{value} in shard {shard}" for shard, value in values.items())
            yield f"The shards differ in {words}: {each}."


def _line(event: str, time: str = "", **members: object) -> bytes:
    when = time or datetime.now(UTC).isoformat()
    return json.dumps({"time": when, "event": event, **members}).encode() + b"\n"
