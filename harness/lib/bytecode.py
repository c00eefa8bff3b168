"""The folder in which Python keeps the compiled modules of this program."""

from __future__ import annotations

import sys

from harness.lib.cache import default_root

FOLDER = "bytecode"


def keep() -> None:
    """Keep compiled modules in the cache if Python may not write them beside the sources.

    PYTHONDONTWRITEBYTECODE is usual in containers.  Without compiled modules each start takes a second
    more, and pytest rewrites the asserts of all scenarios anew.  Modules that are imported later
    are compiled once into the cache.
    """
    if not sys.dont_write_bytecode or sys.pycache_prefix:
        return
    try:
        sys.pycache_prefix = str(default_root() / FOLDER)
    except RuntimeError:  # no home folder: the command itself says so
        return
    sys.dont_write_bytecode = False
