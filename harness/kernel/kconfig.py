"""Kernel configuration: the options that fragments ask for, and those that are missing in ``.config``.

``make allnoconfig`` silently drops an option whose dependencies are not met.  So
every option that was asked for is compared with the ``.config`` that make wrote;
kconfig_why names the unmet dependency of a dropped option.

An option that only some kernel releases have is preceded by a comment line that
names them: ``# releases: 7.3..`` (from 7.3 on), ``# releases: ..6.19`` (up to
6.19) or ``# releases: 6.19..7.2``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.lib.errors import UsageError
from harness.lib.text import printable

_ASSIGNED = re.compile(r"CONFIG_(\w+)=(.*)")
_OFF = re.compile(r"# CONFIG_(\w+) is not set")
_RELEASES = re.compile(r"#\s*releases:(.*)")
_RANGE = re.compile(r"(\d+\.\d+)?\.\.(\d+\.\d+)?")


def values(text: str) -> dict[str, str]:
    """Return the options of a ``.config`` or a fragment by name without ``CONFIG_``; off is ``n``."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if match := _ASSIGNED.fullmatch(line.strip()):
            found[match[1]] = match[2]
        elif match := _OFF.fullmatch(line.strip()):
            found[match[1]] = "n"
    return found


def release(version: str) -> tuple[int, int]:
    """Return the release of a kernel version, comparable: (7, 3) for ``7.3.4`` and ``7.3-rc1``.

    Raises UsageError for a text that is not a kernel's version.
    """
    found = re.match(r"(\d+)\.(\d+)(?![\d])", version)
    if found is None:
        raise UsageError(f"{printable(version)!r} is not the version of a kernel, such as 7.3.4.")
    return int(found[1]), int(found[2])


def release_name(version: str) -> str:
    """Return the release of a kernel version: ``7.3`` for ``7.3.4``.  Raises UsageError as release() does."""
    return "{}.{}".format(*release(version))


def requested(fragments: Iterable[Path], version: str) -> dict[str, str]:
    """Return the options that the fragments ask for in a kernel of ``version``; a later fragment wins.

    Raises UsageError for a fragment that cannot be read, and for a line that is
    neither an assignment nor a comment, because kconfig would only warn about it.
    """
    this = release(version)
    asked: dict[str, str] = {}
    for fragment in fragments:
        try:
            text = fragment.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"The kernel config fragment {fragment} cannot be read: {error}.") from error
        condition: re.Match[str] | None = None
        for number, line in enumerate(text.splitlines(), start=1):
            line = line.strip()
            if option := values(line):
                if condition is None or _within(condition, this, fragment, number - 1):
                    asked |= option
                condition = None
            elif condition is not None:
                raise UsageError(
                    f"The kernel config fragment {fragment} has no option right after line {number - 1}, "
                    f"which names releases: {condition[0][:80]!r}."
                )
            elif line and not line.startswith("#"):
                raise UsageError(
                    f"The kernel config fragment {fragment} has a line {number} that is neither "
                    f"CONFIG_NAME=value nor a comment: {line[:80]!r}."
                )
            else:
                condition = _RELEASES.fullmatch(line)
        if condition is not None:
            raise UsageError(
                f"The kernel config fragment {fragment} ends after a line that names releases: "
                f"{condition[0][:80]!r}."
            )
    return asked


def _within(condition: re.Match[str], this: tuple[int, int], fragment: Path, number: int) -> bool:
    """Return whether ``this`` release is in the range of a ``# releases:`` line."""
    span = _RANGE.fullmatch(condition[1].strip())
    if span is None or span[0] == "..":
        raise UsageError(
            f"The kernel config fragment {fragment} has a line {number} that names no range of releases: "
            f"{condition[0][:80]!r}. Write `# releases: ..6.19`, `# releases: 7.3..` or both ends."
        )
    first, last = span.groups()
    return (first is None or release(first) <= this) and (last is None or this <= release(last))


def fragment_text(asked: Mapping[str, str]) -> str:
    """Return ``asked`` as the text of one fragment in a fixed order, for make and for the digest."""
    return "".join(f"CONFIG_{name}={value}\n" for name, value in sorted(asked.items()))


def dropped(asked: Mapping[str, str], got: Mapping[str, str]) -> list[str]:
    """Return the names of the options in ``asked`` whose value in ``got`` differs, in order."""
    return [name for name, value in sorted(asked.items()) if got.get(name, "n") != value]
