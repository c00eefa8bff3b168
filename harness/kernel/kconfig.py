"""Kernel configuration: the options that fragments ask for, and those that are missing in ``.config``.

``make allnoconfig`` silently drops an option whose dependencies are not met.  So
every option that was asked for is compared with the ``.config`` that make wrote;
kconfig_why names the unmet dependency of a dropped option.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.lib.errors import UsageError

_ASSIGNED = re.compile(r"CONFIG_(\w+)=(.*)")
_OFF = re.compile(r"# CONFIG_(\w+) is not set")


def values(text: str) -> dict[str, str]:
    """Return the options of a ``.config`` or a fragment by name without ``CONFIG_``; off is ``n``."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if match := _ASSIGNED.fullmatch(line.strip()):
            found[match[1]] = match[2]
        elif match := _OFF.fullmatch(line.strip()):
            found[match[1]] = "n"
    return found


def requested(fragments: Iterable[Path]) -> dict[str, str]:
    """Return the options that the fragments ask for together; where two differ, the later one wins.

    Raises UsageError for a fragment that cannot be read, and for a line that is
    neither an assignment nor a comment, because kconfig would only warn about it.
    """
    asked: dict[str, str] = {}
    for fragment in fragments:
        try:
            text = fragment.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"The kernel config fragment {fragment} cannot be read: {error}.") from error
        for number, line in enumerate(text.splitlines(), start=1):
            line = line.strip()
            if line and not line.startswith("#") and _ASSIGNED.fullmatch(line) is None:
                raise UsageError(
                    f"The kernel config fragment {fragment} has a line {number} that is neither "
                    f"CONFIG_NAME=value nor a comment: {line[:80]!r}."
                )
        asked |= values(text)
    return asked


def fragment_text(asked: Mapping[str, str]) -> str:
    """Return ``asked`` as the text of one fragment in a fixed order, for make and for the digest."""
    return "".join(f"CONFIG_{name}={value}\n" for name, value in sorted(asked.items()))


def dropped(asked: Mapping[str, str], got: Mapping[str, str]) -> list[str]:
    """Return the names of the options in ``asked`` whose value in ``got`` differs, in order."""
    return [name for name, value in sorted(asked.items()) if got.get(name, "n") != value]
