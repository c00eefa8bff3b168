"""Errors of the host, as a message to the user."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from harness.lib.cache import CACHE_VARIABLE
from harness.lib.errors import HarnessError

#: The host lacks something, whatever was asked of it: memory, open files, processes, ports, disk.
_OF_A_FOLDER = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO))
OUT_OF_RESOURCES = _OF_A_FOLDER | {
    *(errno.ENOMEM, errno.ENOBUFS, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EADDRNOTAVAIL)
}
_NO_THREAD = "can't start new thread"  # the words of Python's RuntimeError


def out_of_resources(error: BaseException) -> HarnessError | None:
    """Return the error to raise for ``error`` if it says that the host lacks something; else None."""
    match error:
        case OSError() if error.errno in OUT_OF_RESOURCES:
            what = error.strerror or str(error)
        case MemoryError():
            what = os.strerror(errno.ENOMEM)
        case RuntimeError() if str(error) == _NO_THREAD:
            what = "no thread could be started"
        case _:
            return None
    return HarnessError(
        f"This host refused something that the run needs: {what}. "
        "`python -m harness doctor` shows what a run needs and what there is."
    )


@contextlib.contextmanager
def host_errors(*places: Path) -> Iterator[None]:
    """Turn an OSError of the body, or a lack of memory or threads, into a HarnessError.

    ``places`` are the folders that the body writes to, for the message.
    """
    try:
        yield
    except OSError as error:
        if error.errno in OUT_OF_RESOURCES - _OF_A_FOLDER and (lacking := out_of_resources(error)):
            raise lacking from error
        file = f" ({error.filename})" if error.filename is not None else ""
        folders = " and ".join(map(str, places)) or "the folder"
        raise HarnessError(
            f"This host refused something that the run needs: {error.strerror or error}{file}. Check that "
            f"{folders} can be written to and has space left; {CACHE_VARIABLE} moves the cache, "
            "--results the results."
        ) from error
    except (MemoryError, RuntimeError) as error:
        lacking = out_of_resources(error)
        if lacking is None:
            raise
        raise lacking from error
