"""The conformance matrix: the requirements, and the reasons why some have no scenario.

They are read from ``suites/requirements.toml`` and ``suites/not-covered.toml``.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.lib.errors import HarnessError
from harness.lib.paths import SUITES
from harness.verdict.verdict import Strength

REQUIREMENTS = SUITES / "requirements.toml"
NOT_COVERED = SUITES / "not-covered.toml"

#: The kernel without any series, then the postings in order; patches/public/ has their message-ids.
REVISIONS = ("base", "RFC1", "RFC2", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8")
#: The letters of a requirement's ``evidence``; suites/requirements.toml explains them.
EVIDENCE = "PRKJE"

_ID = re.compile(r"([A-Z]+)(-[0-9]{2})?")


@dataclass(frozen=True)
class Requirement:
    """A row of the matrix; suites/requirements.toml explains each member."""

    id: str
    strength: Strength
    sentence: str
    expect: str
    sources: tuple[str, ...]
    evidence: str
    revisions: str
    findings: str = ""
    observe: str = ""
    broken_in: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """``MAP`` of ``MAP-01``."""
        return self.id.partition("-")[0]


@dataclass(frozen=True)
class Scenario:
    """A scenario of the suites.

    ``id`` is its pytest node id without parameters, ``requirements`` the ids that it
    checks, and ``dialects`` the names of the dialects that it applies to.  ``attributes``
    are the interfaces for the memory attribute that it needs one of; empty if it needs none.
    """

    id: str
    requirements: tuple[str, ...]
    dialects: tuple[str, ...]
    attributes: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The interfaces that it applies to, as words for a reader."""
        attribute = f"; attribute: {' '.join(self.attributes)}" if self.attributes else ""
        return f"{' '.join(self.dialects)}{attribute}"


@dataclass(frozen=True)
class Matrix:
    """All requirements by id, in the order of the file; ``groups`` maps each group to its title."""

    groups: Mapping[str, str]
    requirements: Mapping[str, Requirement]

    def check(self, requirement_ids: Iterable[str], source: str) -> None:
        """Raise HarnessError if one of these ids, which ``source`` names, is unknown."""
        for name in requirement_ids:
            if name not in self.requirements:
                raise HarnessError(
                    f"{source} names the requirement {name!r}, "
                    f"which suites/{REQUIREMENTS.name} does not have."
                )

    def strength(self, requirement_ids: Iterable[str]) -> Strength:
        """Return the strength of the most binding of these requirements.

        Raises ValueError without any id, and KeyError for an unknown one.
        """
        return min((self.requirements[name].strength for name in requirement_ids), key=list(Strength).index)


@dataclass(frozen=True)
class Reasons:
    """The reasons why requirements have no scenario: sentences by requirement id and by group."""

    ids: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)

    def of(self, requirement: Requirement) -> str:
        """Return the reason for ``requirement``, or else the one for its group; empty without either."""
        return self.ids.get(requirement.id) or self.groups.get(requirement.group, "")


@functools.cache
def load(path: Path = REQUIREMENTS) -> Matrix:
    """Read the requirements; raise HarnessError with file and row if one is malformed."""
    content = _toml(path)
    groups = content.pop("groups", None)
    if not isinstance(groups, dict) or not all(isinstance(title, str) for title in groups.values()):
        raise HarnessError(f"{path} has no table `groups` that says what each group is about.")
    requirements = {name: _requirement(path, name, row) for name, row in content.items()}
    if stray := sorted({found.group for found in requirements.values()} ^ set(groups)):
        raise HarnessError(f"The group {stray[0]} in {path} has a title and no rows, or rows and no title.")
    return Matrix(groups, requirements)


def load_reasons(matrix: Matrix, path: Path = NOT_COVERED) -> Reasons:
    """Read why requirements have no scenario; raise HarnessError for a malformed or unknown entry."""
    content = _toml(path)
    groups = content.pop("group", {})
    if not isinstance(groups, dict) or not all(
        isinstance(entry, dict) and set(entry) == {"reason"} for entry in groups.values()
    ):
        raise HarnessError(f"A table [group.NAME] in {path} holds `reason` and nothing else.")
    reasons = Reasons(content, {name: entry["reason"] for name, entry in groups.items()})
    matrix.check(content, path.name)
    if unknown := [name for name in groups if name not in matrix.groups]:
        raise HarnessError(
            f"{path.name} names the group {unknown[0]!r}, which {REQUIREMENTS.name} does not have."
        )
    for name, reason in (*reasons.ids.items(), *reasons.groups.items()):
        if not isinstance(reason, str) or not reason.strip():
            raise HarnessError(f"The reason for {name} in {path} must be a text.")
    return reasons


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise HarnessError(f"There is no file {path}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path} is not a TOML file: {error}.") from error


def _requirement(path: Path, name: str, row: object) -> Requirement:
    """Return the requirement of one row; raise HarnessError with what is wrong in the row."""

    def wrong(what: str) -> HarnessError:
        return HarnessError(f"{path}: the requirement {name!r} {what}.")

    if not _ID.fullmatch(name):
        raise wrong("is not named like MAP-01")
    if not isinstance(row, dict):
        raise wrong("is no table")
    texts = {"strength", "sentence", "expect", "evidence", "revisions"}
    optional = {"findings", "observe"}
    lists = {"sources", "broken_in"}
    if missing := sorted((texts | {"sources"}) - set(row)):
        raise wrong(f"has no `{missing[0]}`")
    if unknown := sorted(set(row) - texts - optional - lists):
        raise wrong(f"has a member `{unknown[0]}`, which is not known")
    for key, value in row.items():
        of_texts = isinstance(value, list) and value and all(isinstance(text, str) for text in value)
        if not (of_texts if key in lists else isinstance(value, str) and value.strip()):
            raise wrong(f"has a `{key}` that is no {'list of texts' if key in lists else 'text'}")
    if row["strength"] not in list(Strength):
        raise wrong(f"has the strength {row['strength']!r}; one of {', '.join(Strength)} is allowed")
    if not set(row["evidence"]) <= set(EVIDENCE):
        raise wrong(f"has the evidence {row['evidence']!r}; letters of {EVIDENCE} are allowed")
    if not _is_span(row["revisions"]):
        raise wrong(
            f"has the revisions {row['revisions']!r}; all, one, or FROM..TO of {REVISIONS} is allowed"
        )
    if strange := sorted(set(row.get("broken_in", ())) - set(REVISIONS)):
        raise wrong(f"is broken in {strange[0]!r}, which is none of {', '.join(REVISIONS)}")
    return Requirement(
        id=name,
        strength=Strength(row["strength"]),
        sources=tuple(row["sources"]),
        broken_in=tuple(row.get("broken_in", ())),
        **{key: row[key] for key in (texts - {"strength"}) | (optional & set(row))},
    )


def _is_span(text: str) -> bool:
    """Return whether ``text`` is "all", a revision, or "FROM..TO" where TO may be missing."""
    first, dots, last = text.partition("..")
    if not dots:
        return text == "all" or text in REVISIONS
    return first in REVISIONS and (
        not last or (last in REVISIONS and REVISIONS.index(first) < REVISIONS.index(last))
    )
