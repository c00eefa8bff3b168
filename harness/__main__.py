"""The entry point of ``python -m harness``."""

import errno
import os
import sys
import traceback

from harness.lib import interruption

interruption.install()  # before the imports that take time: a signal would leave their traceback

# No other user can write into what this program makes, nor into the modules that it compiles.
os.umask(os.umask(0o022) | 0o022)

from harness.lib import bytecode  # noqa: E402

bytecode.keep()

from harness.cli.main import main  # noqa: E402
from harness.lib.errors import ExitCode  # noqa: E402


def _main() -> int:
    """Run main() and flush its output; return the exit code.

    Output that cannot be written (a full disk) is a fault of the host, except EPIPE:
    the reader of a pipe has gone (``| head``).  A stream that fails is replaced by
    /dev/null; otherwise the interpreter flushes it again at exit and exits with 120.
    """
    _open_closed_streams()
    try:
        code = main()
    except OSError:  # main() reports every other one; this one comes from the report itself
        code = ExitCode.HARNESS
    except Exception:  # noqa: BLE001 - Python's own exit code would blame the series
        traceback.print_exc()
        print("patchproof: a defect of patchproof itself, which says nothing of the series", file=sys.stderr)
        code = ExitCode.HARNESS
    interruption.close()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if error.errno != errno.EPIPE:
                code = code or ExitCode.HARNESS
    return int(code)


def _open_closed_streams() -> None:
    """Open /dev/null for each standard stream that the caller has closed (``>&-``).

    Python sets such a stream to None.  Its descriptor would go to the next file that is
    opened, and the output of a child would go into that file.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, descriptor)
        if null != descriptor:
            os.close(null)
        os.set_inheritable(descriptor, True)  # as a shell's redirection is
        stream = open(descriptor, mode)  # noqa: SIM115, PTH123 - open as long as the program runs
        for attribute in (name, f"__{name}__"):  # pytest uses the second one
            setattr(sys, attribute, stream)


sys.exit(_main())
