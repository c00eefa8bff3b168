"""Which scenarios run, and which of them first, by the requirements that they check."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.errors import UsageError
from harness.matrix import Matrix
from harness.needs import needs_of
from harness.run import requirement_ids


def ids_of(words: Sequence[str], rules: Matrix) -> set[str]:
    """The requirements that ``words`` mean, each an id or a group.  Raises UsageError for an unknown one."""
    found: set[str] = set()
    for word in words:
        of_group = {name for name, row in rules.requirements.items() if row.group == word}
        if not of_group and word not in rules.requirements:
            raise UsageError(
                f"There is no requirement {word!r} (--requirement). `python -m harness matrix` lists them; "
                f"the groups are {', '.join(rules.groups)}."
            )
        found |= of_group or {word}
    return found


def split(items: Sequence[pytest.Item], ids: set[str]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """The items that check one of these requirements, and the others."""
    chosen = [item for item in items if ids.intersection(requirement_ids(item))]
    return chosen, [item for item in items if item not in set(chosen)]


def one_of_each(items: Sequence[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Of each scenario with parameters the first variant, and the others.

    Variants that check different requirements are scenarios of their own.
    """
    kept: dict[tuple[str, tuple[str, ...]], pytest.Item] = {}
    for item in items:
        kept.setdefault((item.nodeid.partition("[")[0], requirement_ids(item)), item)
    chosen = dict.fromkeys(kept.values())
    return list(chosen), [item for item in items if item not in chosen]


def first(items: Sequence[pytest.Item], ids: Sequence[str]) -> list[pytest.Item]:
    """The items that check these requirements before all others, in the order of the ids.

    ``items`` are in the order that asks for the fewest machines, which still goes before that of the ids.
    """
    chosen, others = split(items, set(ids))
    machines = list(dict.fromkeys(_machine(item) for item in chosen))

    def rank(item: pytest.Item) -> tuple[int, int]:
        return machines.index(_machine(item)), min(
            ids.index(name) for name in requirement_ids(item) if name in ids
        )

    return [*sorted(chosen, key=rank), *others]


def _machine(item: pytest.Item) -> tuple[object, bool]:
    needs = needs_of(item)
    return needs.layout, needs.alone
