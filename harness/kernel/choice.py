"""Which dialect of a kernel a run tests, and which interfaces it leaves out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.kernel.added_names import AddedNames
from harness.kernel.dialect import CALL, CONSTANTS, KNOWN_CALLS, REVOKING, Constant, Interfaces, resolve
from harness.kernel.tree import Tree
from harness.lib.text import printable

NAMED = 8  # names in a message; the others are counted
# Headers whose other new constants are noted: any of them may be an interface that no scenario uses.
_HEADER = re.compile(r"include/uapi/linux/(?:vfio|dma-buf|dma-heap|udmabuf|iommufd)[\w-]*\.h", re.ASCII)
_GUARD = re.compile(r"\w+_H_*", re.ASCII)


@dataclass(frozen=True)
class Choice:
    """The dialect that is tested.

    ``problem`` says which interface of the series is not tested, because it is unknown or
    one of several; it is empty if there is none.  ``note`` names known interfaces that the
    run leaves out on purpose, or new constants that no scenario uses.
    """

    dialect: str
    problem: str = ""
    note: str = ""


def choose(promised: str, interfaces: Interfaces, tree: Tree | None) -> Choice:
    """Return the dialect to test on a kernel with these interfaces.

    ``promised`` is that of the series' manifest, or ``auto``.  ``tree`` is None for a
    kernel that was built elsewhere; the headers alone then show what is unknown.

    Raises BuildError for a promise that the headers do not keep, HarnessError if git
    cannot read the tree.
    """
    dialect = resolve(promised, interfaces)
    added = AddedNames.of(tree) if tree is not None else AddedNames({}, {})
    unknown = _unknown_constants(interfaces, added)
    if promised != "auto":
        note = _left_out(dialect, interfaces, unknown)
        return Choice(dialect, note=note or _unused(dialect, interfaces, added))
    new = [one for one in interfaces.revoke if one.name in added.constants]
    if len(new) == 1:
        return Choice(new[0].kind, note=_left_out(new[0].kind, interfaces, unknown))
    if len(interfaces.revoke) > 1:
        return Choice(dialect, _several(interfaces.revoke, dialect))
    if interfaces.revoke:
        return Choice(dialect, _unknown(unknown, {}, dialect) if unknown else "")
    unknown |= interfaces.unknown
    names = dict(interfaces.names)
    if tree is not None:
        names |= added.like(REVOKING, tree)
    names = {name: path for name, path in names.items() if name not in added.constants}
    if unknown or names:
        return Choice(dialect, _unknown(unknown, names, dialect))
    return Choice(dialect, note=_unused(dialect, interfaces, added))


def _unknown_constants(interfaces: Interfaces, added: AddedNames) -> dict[str, str]:
    """Return the constants that a series adds, that may be an interface, and that no dialect has."""
    known = {*KNOWN_CALLS, *(constant for _, _, constant in CONSTANTS)}
    told = {name.partition(" ")[0]: name for name in interfaces.unknown}
    return {
        told.get(name, name): interfaces.unknown.get(told.get(name, name), path)
        for name, path in added.constants.items()
        if name not in known and (name in told or ("uapi/" in path and CALL.fullmatch(name)))
    }


def _unknown(constants: dict[str, str], names: dict[str, str], dialect: str) -> str:
    parts = []
    if constants:
        parts.append(f"the constants {_listed(constants)} are of no interface that the harness knows")
    if names:
        parts.append(f"the names {_listed(names)} are in its code")
    known = ", ".join(f"{constant} in {header}" for _, header, constant in CONSTANTS)
    return (
        f"This kernel may have an interface that the suites do not test: {', and '.join(parts)}. Known are "
        f"{known}. The scenarios run as for the dialect {dialect}. If there is no other interface, say so in "
        f'a series.toml with dialect = "{dialect}"; otherwise the harness has to learn it '
        "(harness/kernel/dialect.py)."
    )


def _several(found: Iterable[Constant], dialect: str) -> str:
    listed = ", ".join(map(str, found))
    return (
        f"This kernel has several interfaces of the same purpose, and a run tests one of them: {listed}. The "
        f"scenarios run as for the dialect {dialect}. Choose one in a series.toml, with a line such as "
        f'dialect = "{dialect}".'
    )


def _left_out(dialect: str, interfaces: Interfaces, unknown: Mapping[str, str]) -> str:
    """Return a sentence on the interfaces that a run of a dialect does not test; empty if there are none."""
    others = {one.name: one.header for one in interfaces.revoke if one.kind != dialect} | dict(unknown)
    return f"The dialect {dialect} is tested, but not {_listed(others)}." if others else ""


def _unused(dialect: str, interfaces: Interfaces, added: AddedNames) -> str:
    """Return a sentence on constants of a kernel in which nothing is known to revoke; empty without any.

    They are those that the series adds, and calls on DMABUFs that no base has.  Constants of a
    memory attribute are left out if there is an interface for it.
    """
    if interfaces.revoke:
        return ""
    names = {
        name: path
        for name, path in added.constants.items()
        if _HEADER.fullmatch(path)
        and name not in KNOWN_CALLS
        and not _GUARD.fullmatch(name)
        and not (interfaces.attributes and "ATTR" in name)
    }
    names |= {name: header for name, header in interfaces.calls.items() if name not in names}
    if not names:
        return ""
    return (
        f"Nothing that revokes is tested, because the dialect is {dialect}. The kernel has constants that "
        f"no scenario uses: {_listed(names)}. If one of them revokes, the harness has to learn it "
        "(harness/kernel/dialect.py)."
    )


def _listed(names: Mapping[str, str]) -> str:
    shown = [f"{printable(name)} ({printable(path)})" for name, path in list(names.items())[:NAMED]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
