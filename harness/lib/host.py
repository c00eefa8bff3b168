"""Errors of the host, as a message to the user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from harness.lib.cache import CACHE_VARIABLE
from harness.lib.errors import HarnessError


@contextlib.contextmanager
def host_errors(*places: Path) -> Iterator[None]:
    """Turn an OSError of the body into a HarnessError.

    ``places`` are the folders that the body writes to, for the message.
    """
    try:
        yield
    except OSError as error:
        file = f" ({error.filename})" if error.filename is not None else ""
        folders = " and ".join(map(str, places)) or "the folder"
        raise HarnessError(
            f"This host refused something that the run needs: {error.strerror or error}{file}. Check that "
            f"{folders} can be written to and has space left; {CACHE_VARIABLE} moves the cache, "
            "--results the results."
        ) from error
