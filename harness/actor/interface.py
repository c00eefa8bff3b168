"""Operations that use the interface of the series under test, as opposed to that of its base.

A base without the series refuses them.  A scenario that failed after such a refusal
proves nothing about the base: it asked for something that the base does not offer.
"""

from __future__ import annotations

import re

# Each operation uses the interface; a word or option after it restricts that to some uses.
_OPERATIONS = (
    re.compile(r"map (buf|imp)\d+ "),
    re.compile(r"(mapover|mapat|reclaim|revoke|memattr|cycle|outlive|probe) "),
    re.compile(r"together \S+ revoke "),
    re.compile(r"export .*\bflags=(?!0x0\b|0\b)"),
)
# Any raw ioctl: this errno means that the kernel does not know its number.
_RAW = re.compile(r"ioctl ")
_UNKNOWN = "ENOTTY"
_CHILDREN = re.compile(r"([@&]\S+ )*")


def refusal(line: str, reply: str) -> str:
    """Return ``OPERATION: ERRNO`` if the kernel refused an operation of the series' interface, else ''."""
    status, _, rest = reply.partition(" ")
    if status != "error":
        return ""
    errno = rest.partition(" ")[0]
    operation = line[_CHILDREN.match(line).end() :]  # type: ignore[union-attr]
    uses = any(one.match(f"{operation} ") for one in _OPERATIONS)
    if uses or (_RAW.match(operation) and errno == _UNKNOWN):
        return f"{operation[:80]}: {errno}"
    return ""
