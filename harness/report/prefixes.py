"""What each patch of a series brought and broke: the runs on its prefixes, and the file that keeps them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.journal.reader import read
from harness.lib.errors import HarnessError
from harness.lib.files import write_atomically
from harness.verdict.record import Record, Result
from harness.verdict.verdict import Verdict

PREFIXES = "prefixes.json"
_VIOLATED = (Verdict.VIOLATES, Verdict.KERNEL_DIED)
_CONFORMED = (Verdict.CONFORMS, Verdict.UNEXPECTEDLY_CONFORMS)


@dataclass(frozen=True)
class PrefixRow:
    """A prefix of ``count`` patches, the last of which has ``subject``.

    - ``warnings`` are new lines of checkpatch and compilers, by the name of the tool.
    - ``folder`` is its results folder, relative to the file; empty without a run.
    - ``verdicts`` are the numbers of scenarios by verdict.
    - ``compared`` is false if the prefix before has no run.  The others are scenarios that do otherwise
      than there: ``brought`` conform and could not run, ``faulty`` violate unexpectedly and could not
      run, ``fixed`` conform and violated, ``broke`` violate unexpectedly and conformed.
    """

    count: int
    subject: str
    warnings: Mapping[str, list[str]] = field(default_factory=dict)
    outcome: str = ""
    folder: str = ""
    verdicts: Mapping[str, int] = field(default_factory=dict)
    compared: bool = False
    brought: tuple[str, ...] = ()
    faulty: tuple[str, ...] = ()
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
        """Return the latest prefix since which a scenario violates; None if none is known to."""
        return next((row for row in reversed(self.rows) if scenario in (*row.broke, *row.faulty)), None)


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
    if record is None:
        return row
    ended = [one for one in record.scenarios if one.ended]
    verdicts = dict(Counter(str(one.verdict) for one in ended))
    if before is None:
        return replace(row, verdicts=verdicts)
    # A scenario that did not end there says nothing; one that is not in the plan could not run.
    then = {one.entry.id: one.verdict if one.ended else None for one in before.scenarios}

    def changed(former: Sequence[Verdict], now: Sequence[Verdict]) -> list[Result]:
        return [
            one
            for one in ended
            if one.verdict in now and then.get(one.entry.id, Verdict.NOT_APPLICABLE) in former
        ]

    def unexpected(former: Sequence[Verdict]) -> tuple[str, ...]:
        return _ids(one for one in changed(former, _VIOLATED) if not one.as_expected)

    return replace(
        row,
        verdicts=verdicts,
        compared=True,
        brought=_ids(changed([Verdict.NOT_APPLICABLE], _CONFORMED)),
        faulty=unexpected([Verdict.NOT_APPLICABLE]),
        fixed=_ids(changed(_VIOLATED, _CONFORMED)),
        broke=unexpected(_CONFORMED),
    )


def _ids(results: Iterable[Result]) -> tuple[str, ...]:
    return tuple(one.entry.id for one in results)


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
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise HarnessError(
            f"The prefixes of a series cannot be read: {path} is damaged ({error!r}). Delete it."
        ) from error


def _row(members: Mapping[str, Any]) -> PrefixRow:
    return PrefixRow(
        count=int(members["count"]),
        subject=str(members["subject"]),
        warnings={str(tool): [str(line) for line in lines] for tool, lines in members["warnings"].items()},
        outcome=str(members["outcome"]),
        folder=_folder(str(members["folder"])),
        verdicts={str(word): int(number) for word, number in members["verdicts"].items()},
        compared=bool(members["compared"]),
        brought=tuple(map(str, members["brought"])),
        faulty=tuple(map(str, members["faulty"])),
        fixed=tuple(map(str, members["fixed"])),
        broke=tuple(map(str, members["broke"])),
    )


def _folder(name: str) -> str:
    if "\0" in name:
        raise ValueError("a folder has a NUL in its name")
    return name


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
