"""The plan of a run, ``plan.json``: its entries in order, and those of the other shards of the selection."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.lib.errors import HarnessError, UsageError
from harness.lib.files import digest, write_atomically
from harness.lib.shard import Shard
from harness.lib.text import printable
from harness.verdict.record import Entry
from harness.verdict.verdict import IN_GUEST, Kind, Strength, Verdict

PLAN = "plan.json"


@dataclass(frozen=True)
class Plan:
    """The plan of the run ``run``; ``entries`` are those of all shards, in the order of the whole.

    ``shard`` is None if the run is not split.  ``selection`` is the digest of all entries
    (64 hex digits), and empty if the run is not split.
    """

    run: str
    entries: tuple[Entry, ...]
    shard: Shard | None = None
    selection: str = ""

    @property
    def own(self) -> tuple[Entry, ...]:
        """The entries of this run, see own_entries()."""
        return own_entries(self.entries, self.shard)


def own_entries(entries: Iterable[Entry], shard: Shard | None) -> tuple[Entry, ...]:
    """Return the entries of a shard, all of them if the run is not split (None).

    A shard without scenarios and test programs has nothing to prepare: it has no stages either.
    """
    own = tuple(entry for entry in entries if shard is None or entry.shard in (0, shard.number))
    return own if shard is None or any(entry.kind in IN_GUEST for entry in own) else ()


def selection_digest(entries: Sequence[Entry]) -> str:
    """Return the digest (64 hex digits) of a whole plan, with the shard of each entry."""
    return digest(*(json.dumps(asdict(entry)) for entry in entries))


def write(directory: Path, entries: Sequence[Entry], shard: Shard | None = None) -> Plan:
    """Write the plan of the run in ``directory``, and return it."""
    plan = Plan(directory.name, tuple(entries), shard, selection_digest(entries) if shard else "")
    content: dict[str, object] = {"run": plan.run}
    if shard is not None:
        content["shard"] = {"number": shard.number, "total": shard.total, "selection": plan.selection}
    content["entries"] = [{**_members(entry), "verdict": Verdict.NOT_REACHED} for entry in entries]
    write_atomically(directory / PLAN, json.dumps(content, indent=1) + "\n")
    return plan


def _members(entry: Entry) -> dict[str, object]:
    members = asdict(entry)
    if not entry.shard:
        del members["shard"]
    return members


def read(directory: Path) -> Plan:
    """Read the plan of the run in ``directory``.

    Raises HarnessError if there is none, or it cannot be read.
    """
    path = directory / PLAN
    content = _content(directory, path)
    try:
        entries = tuple(
            Entry(
                id=str(entry["id"]),
                kind=Kind(entry["kind"]),
                title=str(entry["title"]),
                requirements=tuple(str(requirement) for requirement in entry["requirements"]),
                expected=Verdict(entry["expected"]),
                strength=Strength(entry["strength"]),
                repetition=int(entry.get("repetition", 1)),
                alone=entry.get("alone") is True,
                shard=int(entry.get("shard", 0)),
            )
            for entry in content["entries"]
        )
        part = content.get("shard")
        shard = None if part is None else Shard.parse(f"{part['number']}/{part['total']}")
        return Plan(str(content["run"]), entries, shard, "" if part is None else str(part["selection"]))
    except (ValueError, KeyError, TypeError, OverflowError, UsageError) as error:
        missing = f"there is no member {error}" if isinstance(error, KeyError) else str(error)
        raise HarnessError(
            f"{path} is not a plan that this version of the program can read: {printable(missing)}. Another "
            "version wrote it, or it is damaged. Use that version, or start a new run."
        ) from error


def _content(directory: Path, path: Path) -> Any:
    """Return what the file of the plan holds; raise HarnessError if that is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        if not directory.exists():
            raise HarnessError(f"There is no folder {directory}.") from error
        raise HarnessError(
            f"{directory} holds no {PLAN}: it is not the results folder of a run, or the run was ended "
            "before its plan was made."
        ) from error
    except OSError as error:
        raise HarnessError(
            f"{directory} cannot be read as the results folder of a run: {path}: {error.strerror}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise HarnessError(
            f"{path} is damaged, or cut off: it is not JSON ({printable(str(error))}). Without it "
            "nothing can be told of the run; start a new one."
        ) from error
