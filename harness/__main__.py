"""``python -m harness``."""

import errno
import os
import sys

from harness.cli.main import main
from harness.lib.errors import ExitCode


def _main() -> int:
    """main(); a fault of the host if it cannot say what it has to say, as to a full disk.

    Somebody who has read enough (``| head``) is no fault.  Left to itself, the
    interpreter tries once more to write at its end, and exits with 120.
    """
    try:
        code = main()
    except OSError:  # main() says all others; this one is from saying it
        code = ExitCode.HARNESS
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if error.errno != errno.EPIPE:
                code = code or ExitCode.HARNESS
    return int(code)


sys.exit(_main())
