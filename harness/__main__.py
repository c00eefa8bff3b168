"""The entry point of ``python -m harness``."""

import errno
import os
import sys

from harness.cli.main import main
from harness.lib.errors import ExitCode


def _main() -> int:
    """Run main() and flush its output; return the exit code.

    Output that cannot be written (a full disk) is a fault of the host, except EPIPE:
    the reader of a pipe has gone (``| head``).  A stream that fails is replaced by
    /dev/null; otherwise the interpreter flushes it again at exit and exits with 120.
    """
    try:
        code = main()
    except OSError:  # main() reports every other one; this one comes from the report itself
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
