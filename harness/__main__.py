"""``python -m harness``."""

import errno
import os
import sys

from harness.cli import main
from harness.errors import ExitCode


def _told(code: int) -> int:
    """``code``, or that of a fault of the host if what was said could not be written: the disk may be full.

    Somebody who has read enough (``| head``) is no fault.  Left to itself, the
    interpreter tries once more at its end, and exits with 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if error.errno != errno.EPIPE:
                code = code or ExitCode.HARNESS
    return code


sys.exit(_told(main()))
