"""The manifest of a series, ``series.toml``: what it is called, what is promised, what is expected of it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.lib.errors import UsageError
from harness.lib.text import printable
from harness.verdict.words import EXPECTABLE

MANIFEST = "series.toml"
DIALECTS = ("base", "map", "ioctl", "feature", "auto")

_KEYS = {"title", "base", "dialect", "patches", "expect", "prefix"}
_KEYS_OF_PREFIX = {"dialect", "like", "expect", "first_of"}


@dataclass(frozen=True)
class Prefix:
    """What holds for the first ``limit`` patches of a series alone, and for fewer of them."""

    limit: int
    dialect: str
    expect: Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """A table of series.toml; each method raises UsageError for what is malformed in it."""

    path: Path
    table: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """The manifest ``path``; an empty one if there is no such file."""
        if not path.is_file():
            return cls(path, {})
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is not a TOML file: {error}.") from error
        return cls(path, table)._with(_KEYS)

    @property
    def patches(self) -> Sequence[str] | None:
        """The listed patch files, None if there is no list."""
        names = self.table.get("patches")
        if names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            return names
        raise UsageError(f"`patches` in {self.path} must be a list of file names.")

    def text(self, key: str, default: str) -> str:
        """The text of ``key``."""
        value = self.table.get(key, default)
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"`{key}` in {self.path} must be a text.")
        return value.strip()

    def dialect(self, default: str) -> str:
        """One of DIALECTS."""
        dialect = self.text("dialect", default)
        if dialect not in DIALECTS:
            raise UsageError(
                f"The dialect {printable(dialect)!r} in {self.path} is none of {', '.join(DIALECTS)}."
            )
        return dialect

    def expect(self) -> dict[str, str]:
        """Verdict words by requirement id, group, scenario id, or "default"."""
        expect = self.table.get("expect", {})
        if not isinstance(expect, dict):
            raise UsageError(f"`expect` in {self.path} must be a table.")
        for key, word in expect.items():
            if word not in EXPECTABLE:
                raise UsageError(
                    f"{self.path} expects {printable(str(word))!r} of {printable(key)}; "
                    f"what can be expected is {', '.join(EXPECTABLE)}."
                )
        return expect

    def prefixes(self, whole: Prefix, others: Path) -> tuple[Prefix, ...]:
        """The tables ``[prefix.N]`` of a series that is ``whole``, in ascending order.

        What one of them does not say is as with more patches, or, if it says
        ``like``, as that series below ``others`` expects it.  One that says
        ``first_of`` is the last: all patches that it is about are the first of that
        series, too, and what is said there holds.
        """
        given = self.table.get("prefix", {})
        if not isinstance(given, dict) or not all(isinstance(entry, dict) for entry in given.values()):
            raise UsageError(f"`prefix` in {self.path} must hold a table for each number of patches.")
        wrong = sorted(set(given) - {str(number) for number in range(whole.limit)})
        if wrong:
            raise UsageError(
                f"{self.path} has a table [prefix.{printable(wrong[0])}]; of {whole.limit} patches "
                f"there are the first 0 to {whole.limit - 1}."
            )
        result = [whole]
        for limit in sorted(map(int, given), reverse=True):
            entry = Manifest(self.path, given[str(limit)])._with(_KEYS_OF_PREFIX)
            if "first_of" in entry.table:
                if len(entry.table) > 1 or limit > min(map(int, given)):
                    raise UsageError(
                        f"{self.path} says `first_of` of {limit} patches: nothing else can be said of them, "
                        "nor of fewer."
                    )
                result.extend(entry._first_of(limit, others))
                break
            more = result[-1]
            outer = entry._like(others) if "like" in entry.table else more.expect
            result.append(Prefix(limit, entry.dialect(more.dialect), _over(entry.expect(), outer)))
        return tuple(reversed(result[1:]))

    def _with(self, known: set[str]) -> Manifest:
        unknown = sorted(set(self.table) - known)
        if unknown:
            raise UsageError(f"{self.path} has the key {printable(unknown[0])!r}, which is not known there.")
        return self

    def _like(self, others: Path) -> dict[str, str]:
        return self._other("like", others).expect()

    def _first_of(self, limit: int, others: Path) -> list[Prefix]:
        """What another series says of its first ``limit`` patches and of fewer, in descending order."""
        other = self._other("first_of", others)
        given = other.table.get("prefix", {})
        if not isinstance(given, dict) or any("first_of" in entry for entry in given.values()):
            raise UsageError(f"{self.path} says `first_of` of a series that says so itself: {other.path}.")
        count = max([limit, *(int(key) + 1 for key in given if key.isdecimal())])
        whole = Prefix(count, other.dialect("auto"), other.expect())
        tables = (*other.prefixes(whole, others), whole)
        first = next(table for table in tables if table.limit >= limit)
        fewer = [table for table in tables if table.limit < limit]
        return [replace(first, limit=limit), *reversed(fewer)]

    def _other(self, key: str, others: Path) -> Manifest:
        other = others / self.text(key, "") / MANIFEST
        if not (other.is_file() and other.resolve().is_relative_to(others.resolve())):
            raise UsageError(f"{self.path} says `{key}` of a series that is not there: {other}.")
        return Manifest.read(other)


def group(requirement: str) -> str:
    """``REV`` of ``REV-01``."""
    return requirement.partition("-")[0]


def _over(inner: Mapping[str, str], outer: Mapping[str, str]) -> dict[str, str]:
    """``inner`` before ``outer``: a group stands for all of it, and a default for all that is not named."""
    if "default" in inner:
        return dict(inner)
    kept = {key: word for key, word in outer.items() if "::" in key or group(key) not in inner}
    return {**kept, **inner}
