"""The manifest of a series, ``series.toml``: title, base, dialect, patches and expected verdicts."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.lib.errors import UsageError
from harness.lib.text import printable
from harness.series import selftest, selftest_table
from harness.verdict.verdict import EXPECTABLE

MANIFEST = "series.toml"
DIALECTS = ("base", "map", "ioctl", "device-ioctl", "feature", "auto")

_KEYS = {"title", "base", "dialect", "patches", "expect", "prefix", "on", "selftest"}
_KEYS_OF_PREFIX = {"dialect", "like", "expect", "first_of"}
_KEYS_OF_BASE = {"expect", "series"}


@dataclass(frozen=True)
class PrefixTable:
    """One table ``[prefix.N]``: keys of the first N patches alone; None for an absent key.

    ``like`` and ``first_of`` name another series, which harness.series.prefix looks up.
    """

    dialect: str | None = None
    expect: Mapping[str, str] | None = None
    like: str | None = None
    first_of: str | None = None


@dataclass(frozen=True)
class BaseTable:
    """One table ``[on."RELEASE"]``: keys that hold on that base; None for an absent key.

    ``expect`` overrides the expected verdicts of the manifest.  ``series`` names the
    series that is tested on that base instead, which harness.series.series looks up.
    """

    expect: Mapping[str, str] | None = None
    series: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The checked content of one ``series.toml``; None for an absent ``title``, ``base`` or ``patches``.

    ``dialect`` is one of DIALECTS.  ``expect`` maps a requirement id, a group, a
    scenario id or "default" to a verdict word of EXPECTABLE.  ``prefixes`` has the
    tables ``[prefix.N]`` by N as the file spells it; only the number of patches
    shows which N are valid.  ``bases`` has the tables ``[on."RELEASE"]`` by release.
    ``selftest`` has the programs of the series' own tests.
    """

    path: Path
    title: str | None = None
    base: str | None = None
    dialect: str = "auto"
    patches: tuple[str, ...] | None = None
    expect: Mapping[str, str] = field(default_factory=dict)
    prefixes: Mapping[str, PrefixTable] = field(default_factory=dict)
    bases: Mapping[str, BaseTable] = field(default_factory=dict)
    selftest: selftest.Table = field(default_factory=selftest.Table)

    def on(self, release: str) -> Manifest:
        """Return the manifest with the expected verdicts of the base ``release``."""
        table = self.bases.get(release)
        if table is None or table.expect is None:
            return self
        return replace(self, expect=override(table.expect, self.expect))

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read and check the manifest ``path``; without such a file, return an empty manifest.

        Raises UsageError for a file that is not TOML, an unknown key, or a malformed value.
        """
        if not path.is_file():
            return cls(path)
        table = Table(path, content_of(path), _KEYS)
        return cls(
            path,
            title=table.text("title"),
            base=table.text("base"),
            dialect=table.dialect() or cls.dialect,
            patches=table.patches(),
            expect=table.expect() or {},
            prefixes=table.prefixes(),
            bases=table.bases(),
            selftest=table.selftest(),
        )


def group(requirement: str) -> str:
    """Return the group of a requirement id: ``REV`` of ``REV-01``."""
    return requirement.partition("-")[0]


def override(inner: Mapping[str, str], outer: Mapping[str, str]) -> dict[str, str]:
    """Return the expected verdicts ``outer``, overridden by ``inner``.

    A group in ``inner`` replaces the entries of its requirements; a default replaces everything.
    """
    if "default" in inner:
        return dict(inner)
    kept = {key: word for key, word in outer.items() if "::" in key or group(key) not in inner}
    return {**kept, **inner}


def content_of(path: Path) -> Mapping[str, Any]:
    """Return the content of a TOML file.  Raises UsageError if it is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a TOML file: {error}.") from error


class Table:
    """One TOML table of the manifest ``path``; each method returns a checked value, None for an absent key.

    Raises UsageError for a key that is not ``known``.
    """

    def __init__(self, path: Path, content: Mapping[str, Any], known: set[str]) -> None:
        self._path = path
        self._content = content
        unknown = sorted(set(content) - known)
        if unknown:
            raise UsageError(f"{path} has the key {printable(unknown[0])!r}, which is not known there.")

    def text(self, key: str) -> str | None:
        """Return the text of ``key`` without blanks around it."""
        if key not in self._content:
            return None
        value = self._content[key]
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"`{key}` in {self._path} must be a text.")
        return value.strip()

    def dialect(self) -> str | None:
        """Return one of DIALECTS."""
        dialect = self.text("dialect")
        if dialect is not None and dialect not in DIALECTS:
            raise UsageError(
                f"The dialect {printable(dialect)!r} in {self._path} is none of {', '.join(DIALECTS)}."
            )
        return dialect

    def patches(self) -> tuple[str, ...] | None:
        """Return the names of the listed patch files."""
        names = self._content.get("patches")
        if names is None:
            return None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UsageError(f"`patches` in {self._path} must be a list of file names.")
        return tuple(names)

    def expect(self) -> dict[str, str] | None:
        """Return the expected verdict words."""
        expect = self._content.get("expect")
        if expect is None:
            return None
        if not isinstance(expect, dict):
            raise UsageError(f"`expect` in {self._path} must be a table.")
        for key, word in expect.items():
            if word not in EXPECTABLE:
                raise UsageError(
                    f"{self._path} expects {printable(str(word))!r} of {printable(key)}; "
                    f"what can be expected is {', '.join(EXPECTABLE)}."
                )
        return expect

    def prefixes(self) -> dict[str, PrefixTable]:
        """Return the tables ``[prefix.N]`` by N; empty if there are none."""
        tables = self._tables("prefix", "number of patches", _KEYS_OF_PREFIX)
        return {
            key: PrefixTable(table.dialect(), table.expect(), table.text("like"), table.text("first_of"))
            for key, table in tables.items()
        }

    def bases(self) -> dict[str, BaseTable]:
        """Return the tables ``[on."RELEASE"]`` by release; empty if there are none."""
        tables = self._tables("on", "base", _KEYS_OF_BASE)
        return {key: BaseTable(table.expect(), table.text("series")) for key, table in tables.items()}

    def selftest(self) -> selftest.Table:
        """Return the table ``[selftest]``."""
        return selftest_table.read(self._path, self._content.get("selftest", {}))

    def _tables(self, key: str, what: str, known: set[str]) -> dict[str, Table]:
        """Return the tables in the table ``key``, of which there is one for each ``what``."""
        given = self._content.get(key, {})
        if not isinstance(given, dict) or not all(isinstance(entry, dict) for entry in given.values()):
            raise UsageError(f"`{key}` in {self._path} must hold a table for each {what}.")
        return {name: Table(self._path, entry, known) for name, entry in given.items()}
