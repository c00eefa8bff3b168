"""Select the scenarios of a run, repeat them, and order them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from harness.lib.errors import UsageError
from harness.plugin.items import requirement_ids
from harness.verdict.requirements import Matrix


def ids_of(words: Sequence[str], rules: Matrix) -> set[str]:
    """Return the ids of the requirements in ``words``, each an id or a group.

    Raises UsageError for an unknown one.
    """
    found: set[str] = set()
    for word in words:
        group = {name for name, row in rules.requirements.items() if row.group == word}
        if not group and word not in rules.requirements:
            raise UsageError(
                f"There is no requirement {word!r} (--requirement). `python -m harness matrix` lists them; "
                f"the groups are {', '.join(rules.groups)}."
            )
        found |= group or {word}
    return found


def split(items: Sequence[pytest.Item], ids: set[str]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the items that check one of these requirements, and the others."""
    chosen = [item for item in items if ids.intersection(requirement_ids(item))]
    return chosen, [item for item in items if item not in set(chosen)]


def one_of_each(items: Sequence[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return each scenario with one device, probe and way in, and the other variants.

    These come from parameters of fixtures.  The parameters of a scenario itself are the
    rows of a table, and every row is kept.
    """
    kept: dict[tuple[object, ...], pytest.Item] = {}
    for item in items:
        row = (item.nodeid.partition("[")[0], requirement_ids(item), *_row(item))
        kept.setdefault(row, item)
    chosen = dict.fromkeys(kept.values())
    return list(chosen), [item for item in items if item not in chosen]


def _row(item: pytest.Item) -> Iterator[tuple[str, int]]:
    """Return name and identity of each value that a scenario's own ``parametrize`` gives it."""
    call = getattr(item, "callspec", None)
    for mark in item.iter_markers("parametrize"):
        names = mark.args[0]
        for name in names.split(",") if isinstance(names, str) else names:
            yield name.strip(), id(call.params[name.strip()]) if call is not None else 0
