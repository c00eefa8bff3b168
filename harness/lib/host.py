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
OUT_OF_RESOURCES = frozenset(
    (
        *(errno.ENOMEM, errno.ENOBUFS, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EADDRNOTAVAIL),
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO),
    )
)
_NO_THREAD = "can't start new thread"  # the words of Python's RuntimeError


def out_of_resources(error: OSError) -> HarnessError:
    """Return the error to raise for an OSError that has a number of OUT_OF_RESOURCES."""
    return HarnessError(
        f"This host refused something that the run needs: {error.strerror or error}. "
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
        file = f" ({error.filename})" if error.filename is not None else ""
        folders = " and ".join(map(str, places)) or "the folder"
        raise HarnessError(
            f"This host refused something that the run needs: {error.strerror or error}{file}. Check that "
            f"{folders} can be written to and has space left; {CACHE_VARIABLE} moves the cache, "
            "--results the results."
        ) from error
    except MemoryError as error:
        raise out_of_resources(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))) from error
    except RuntimeError as error:
        if str(error) != _NO_THREAD:
            raise
        raise out_of_resources(OSError(errno.EAGAIN, "no thread could be started")) from error
