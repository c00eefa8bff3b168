"""What each patch of a series brought and broke: the runs on its prefixes, and the file that keeps them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.journal.reader import read
from harness.lib.errors import HarnessError
from harness.lib.files import write_atomically
from harness.verdict.record import Record
from harness.verdict.verdict import Verdict

PREFIXES = "prefixes.json"
_BROKEN = (Verdict.VIOLATES, Verdict.KERNEL_DIED)
_WHOLE = (Verdict.CONFORMS, Verdict.UNEXPECTEDLY_CONFORMS, Verdict.NOT_APPLICABLE)


@dataclass(frozen=True)
class PrefixRow:
    """A prefix of ``count`` patches, the last of which has ``subject``.

    - ``warnings`` are new lines of checkpatch and compilers, by the name of the tool.
    - ``folder`` is its results folder, relative to the file; empty without a run.
    - ``verdicts`` are the numbers of scenarios by verdict.
    - ``brought``, ``fixed`` and ``broke`` are scenarios that do otherwise than on the prefix before:
      those that conform and could not run there, that conform and violated there, and that violate and
      did not there.  ``compared`` is false if that prefix has no run.
    """

    count: int
    subject: str
    warnings: Mapping[str, list[str]] = field(default_factory=dict)
    outcome: str = ""
    folder: str = ""
    verdicts: Mapping[str, int] = field(default_factory=dict)
    compared: bool = False
    brought: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    broke: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prefixes:
    """The prefixes of one series, in the order of their patches; ``identity`` is that of the whole series."""

    series: str
    title: str
    identity: str
    rows: tuple[PrefixRow, ...]

    def since(self, scenario: str) -> PrefixRow | None:
        """Return the latest prefix that broke a scenario; None if none is known to."""
        return next((row for row in reversed(self.rows) if scenario in row.broke), None)


def compared(rows: Iterable[PrefixRow], root: Path) -> tuple[PrefixRow, ...]:
    """Return the rows with what their runs in folders below ``root`` say, each against the one before."""
    found: list[PrefixRow] = []
    before: Record | None = None
    for row in rows:
        record = read(root / row.folder) if row.folder else None
        found.append(_with_run(row, before, record))
        before = record
    return tuple(found)


def _with_run(row: PrefixRow, before: Record | None, record: Record | None) -> PrefixRow:
    members = {**vars(row)}
    if record is not None:
        now = _verdicts(record)
        members["verdicts"] = dict(Counter(str(verdict) for verdict in now.values()))
        if before is not None:
            then = _verdicts(before)
            conforms = [name for name, verdict in now.items() if verdict is Verdict.CONFORMS]
            members["compared"] = True
            members["fixed"] = tuple(one for one in conforms if then.get(one) in _BROKEN)
            members["brought"] = tuple(
                one for one in conforms if then.get(one, Verdict.NOT_APPLICABLE) is Verdict.NOT_APPLICABLE
            )
            members["broke"] = tuple(
                name for name, verdict in now.items() if verdict in _BROKEN and then.get(name) in _WHOLE
            )
    return PrefixRow(**members)


def _verdicts(record: Record) -> dict[str, Verdict]:
    """Return the verdict of each scenario that ended, by its id."""
    return {one.entry.id: one.verdict for one in record.scenarios if one.ended}


def write(root: Path, prefixes: Prefixes) -> Path:
    """Write ``prefixes.json`` in the folder ``root`` and return its path; an older one is replaced."""
    path = root / PREFIXES
    write_atomically(path, json.dumps(asdict(prefixes), indent=1) + "\n")
    return path


def load(root: Path) -> Prefixes | None:
    """Return the prefixes of a folder, None without the file; raise HarnessError if it is damaged."""
    path = root / PREFIXES
    try:
        content = json.loads(path.read_bytes())
        return Prefixes(
            str(content["series"]),
            str(content["title"]),
            str(content["identity"]),
            tuple(_row(row) for row in content["rows"]),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HarnessError(
            f"The prefixes of a series cannot be read: {path} is damaged ({error!r}). Delete it."
        ) from error


def _row(members: Mapping[str, Any]) -> PrefixRow:
    return PrefixRow(
        count=int(members["count"]),
        subject=str(members["subject"]),
        warnings={str(tool): [str(line) for line in lines] for tool, lines in members["warnings"].items()},
        outcome=str(members["outcome"]),
        folder=str(members["folder"]),
        verdicts={str(word): int(number) for word, number in members["verdicts"].items()},
        compared=bool(members["compared"]),
        brought=tuple(map(str, members["brought"])),
        fixed=tuple(map(str, members["fixed"])),
        broke=tuple(map(str, members["broke"])),
    )


def of_run(directory: Path, identity: str) -> Prefixes | None:
    """Return the prefixes of the series that the run in ``directory`` tested; None if none were run.

    They lie beside the run, if their series has the ``identity`` of the run's, or two folders above one
    of their own runs.  A damaged file counts as none: it is not the run's own.
    """
    here = directory.resolve()
    for root in (here.parent, here.parent.parent):
        try:
            found = load(root)
        except HarnessError:
            continue
        if found is None:
            continue
        own = any(row.folder and (root / row.folder).resolve() == here for row in found.rows)
        if own or (identity and found.identity == identity):
            return found
    return None
