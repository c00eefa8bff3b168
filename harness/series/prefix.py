"""The prefixes of a series: dialect and expected verdicts of its first patches alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.lib.errors import UsageError
from harness.lib.text import printable
from harness.series.manifest import MANIFEST, Manifest, PrefixTable, override


@dataclass(frozen=True)
class Prefix:
    """The dialect and the expected verdicts of the first ``limit`` patches of a series, and of fewer."""

    limit: int
    dialect: str
    expect: Mapping[str, str]


def resolve(manifest: Manifest, whole: Prefix, others: Path, release: str) -> tuple[Prefix, ...]:
    """Return the prefixes of the series that ``whole`` describes, in ascending order of their limits.

    A key that is absent from a table ``[prefix.N]`` has the value of the next
    longer prefix.  With ``like``, the expected verdicts come from that series
    below ``others`` instead.  A table with ``first_of`` stands alone and has the
    smallest N: its patches are also the first N of that series, whose prefixes
    then hold.  Other manifests are taken as they are on the base ``release``.  Raises UsageError.
    """
    wrong = sorted(set(manifest.prefixes) - {str(number) for number in range(whole.limit)})
    if wrong:
        raise UsageError(
            f"{manifest.path} has a table [prefix.{printable(wrong[0])}]; of {whole.limit} patches "
            f"there are the first 0 to {whole.limit - 1}."
        )
    tables = {int(key): table for key, table in manifest.prefixes.items()}
    result = [whole]
    for limit in sorted(tables, reverse=True):
        table = tables[limit]
        if table.first_of is not None:
            if table != PrefixTable(first_of=table.first_of) or limit > min(tables):
                raise UsageError(
                    f"{manifest.path} says `first_of` of {limit} patches: nothing else can be said of them, "
                    "nor of fewer."
                )
            result.extend(_first_of(manifest, table.first_of, limit, others, release))
            break
        longer = result[-1]
        outer = longer.expect
        if table.like is not None:
            outer = _other(manifest, "like", table.like, others).on(release).expect
        result.append(Prefix(limit, table.dialect or longer.dialect, override(table.expect or {}, outer)))
    return tuple(reversed(result[1:]))


def releases(manifest: Manifest, others: Path) -> set[str]:
    """Return the bases for which ``manifest`` has a table, or a manifest that its prefixes refer to.

    Raises UsageError.
    """
    known, left = {manifest.path: manifest}, [manifest]
    while left:
        one = left.pop()
        for table in one.prefixes.values():
            for key, name in (("like", table.like), ("first_of", table.first_of)):
                if name is None:
                    continue
                other = _other(one, key, name, others)
                if other.path not in known:
                    known[other.path] = other
                    left.append(other)
    return {release for one in known.values() for release in one.bases}


def _first_of(manifest: Manifest, name: str, limit: int, others: Path, release: str) -> list[Prefix]:
    """Return the prefixes of the series ``name`` up to ``limit`` patches, in descending order."""
    other = _other(manifest, "first_of", name, others).on(release)
    if any(table.first_of is not None for table in other.prefixes.values()):
        raise UsageError(
            f"{manifest.path} names in `first_of` a series that has `first_of` itself: {other.path}."
        )
    # The patches of the other series are not read: take the smallest count that its tables allow.
    count = max([limit, *(int(key) + 1 for key in other.prefixes if key.isdecimal())])
    whole = Prefix(count, other.dialect, other.expect)
    prefixes = (*resolve(other, whole, others, release), whole)
    first = next(prefix for prefix in prefixes if prefix.limit >= limit)
    fewer = [prefix for prefix in prefixes if prefix.limit < limit]
    return [replace(first, limit=limit), *reversed(fewer)]


def _other(manifest: Manifest, key: str, name: str, others: Path) -> Manifest:
    """Read the manifest of the series ``name`` below ``others``, which the key ``key`` refers to."""
    path = others / name / MANIFEST
    if not (path.is_file() and path.resolve().is_relative_to(others.resolve())):
        raise UsageError(f"{manifest.path} says `{key}` of a series that is not there: {path}.")
    return Manifest.read(path)
