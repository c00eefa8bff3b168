"""Leave the host's paths out of a report that others read: a CI server, a list, a reviewer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from harness.verdict.record import Record

#: An absolute path with at least two parts.  Those of the kernel's own file systems, and of its modules,
#: are the same on every host; a URL is no path.
_PATH = re.compile(
    r"""(?<![\w/.~-])(?!/(?:dev/(?!shm/)|proc/|sys/|lib/))(?:/[^\s/'"`<>|:;,()\[\]{}\\=]+){2,}/?"""
)

#: The facts that are about the host alone.
HOST_FACTS = ("directory",)


def hider(record: Record, facts: Mapping[str, object]) -> Callable[[str], str]:
    """Return a function that shortens the host's paths in a text.

    A path in the run's results folder becomes relative to it; one below the directory that the run
    was started in becomes relative to that.  Of any other ``.../NAME`` is left.
    """
    run = re.escape(record.run) or "(?!)"  # which matches nothing
    inside = re.compile(rf"""(?<![\w/.~-])/[^\s'"`<>|;,()\[\]{{}}\\]{{0,400}}?/{run}/""")
    started = str(facts.get("directory", "")).rstrip("/")
    below = re.compile(rf"{re.escape(started)}(/|(?![\w.-]))") if started.count("/") > 1 else None

    def hide(text: str) -> str:
        if "/" not in text:
            return text
        text = inside.sub("", text)
        if below is not None:
            text = below.sub(lambda path: "" if path[1] else ".", text)
        return _PATH.sub(lambda path: f".../{path[0].rstrip('/').rpartition('/')[2]}", text)

    return hide
