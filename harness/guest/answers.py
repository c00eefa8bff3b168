"""Read the answers of a guest, which may be anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from harness.lib.errors import HarnessError
from harness.lib.text import printable

_COUNT = re.compile(r"[0-9]{1,18}")


@contextmanager
def understood(what: str) -> Iterator[None]:
    """Raise HarnessError for the ValueError or LookupError of a body that parses ``what``, a noun."""
    try:
        yield
    except (ValueError, LookupError) as error:
        raise HarnessError(f"The guest's {what} cannot be understood: {printable(str(error))}.") from error


def is_count(text: str) -> bool:
    """Return whether ``text`` is a number in decimal that a counter of the kernel can have."""
    return _COUNT.fullmatch(text) is not None
