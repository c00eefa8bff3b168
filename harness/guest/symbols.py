"""The functions of the running kernel and their addresses, from /proc/kallsyms."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence

from harness.lib.errors import HarnessError

KALLSYMS = "/proc/kallsyms"
_LINE = re.compile(r"^([0-9a-f]{16}) [tTwW] ([\w.$]+)(?:\t\[.*\])?$", re.MULTILINE)
# gcc renames a function of which it has changed the arguments.
_CHANGED = re.compile(r"\.(isra|constprop)\.\d+")


class Symbols:
    """The kernel's functions: name and address of each."""

    def __init__(self, functions: Sequence[tuple[str, int]]) -> None:
        self._addresses: dict[str, set[int]] = {}
        for name, address in functions:
            self._addresses.setdefault(_CHANGED.sub("", name), set()).add(address)
        self._sorted = sorted((address, name) for name, address in functions)

    @classmethod
    def parse(cls, text: str) -> Symbols:
        """Parse the content of /proc/kallsyms.  Raises HarnessError if it has no addresses."""
        found = [(name, int(address, 16)) for address, name in _LINE.findall(text)]
        if not any(address for _, address in found):
            raise HarnessError(
                f"The guest's {KALLSYMS} has no address of any function; the kernel needs CONFIG_KALLSYMS."
            )
        return cls(found)

    def has(self, name: str) -> bool:
        """Return whether the kernel has a function of this name."""
        return name in self._addresses

    def address(self, *names: str) -> int:
        """Return the address of the first of these functions that the kernel has.

        Raises HarnessError if it has none of them, or several functions of that name.
        """
        for name in names:
            if len(found := self._addresses.get(name, ())) == 1:
                return next(iter(found))
            if found:
                raise HarnessError(f"The kernel has {len(found)} functions with the name {name}.")
        raise HarnessError(
            f"The kernel has no function {' or '.join(names)}; perhaps it became a part of its callers."
        )

    def function_at(self, address: int) -> str:
        """Return the name of the last function that begins at or before an address; empty if none does."""
        index = bisect_right(self._sorted, (address, chr(0x10FFFF)))
        return self._sorted[index - 1][1] if index else ""
