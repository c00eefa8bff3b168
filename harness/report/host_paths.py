"""Leave the host's paths out of a report that others read: a CI server, a list, a reviewer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from harness.journal.facts import read_facts
from harness.journal.reader import read
from harness.verdict.record import Record

#: An absolute path with at least two parts.  Those of the kernel's own file systems, and of its modules,
#: are the same on every host; a URL is no path.
_PATH = re.compile(
    r"""(?<![\w/.~-])(?!/(?:dev/(?!shm/)|proc/|sys/|lib/))(?:/[^\s/'"`<>|:;,()\[\]{}\\=]+){2,}/?"""
)

#: The facts that are about the host alone.
HOST_FACTS = ("directory",)
#: The facts that are of the mails alone, in which a path would be somebody else's.
_OF_MAILS = ("mails", "message_id", "previous", "prerequisite_messages")


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


def read_shortened(directory: Path) -> tuple[Record, dict[str, object]]:
    """Return the record and the facts of a run with the host's paths shortened in every text.

    Raises HarnessError if ``directory`` holds no run.
    """
    record, facts = read(directory), read_facts(directory)
    hide = hider(record, facts)
    shown = {
        name: value if name in _OF_MAILS else _shortened(value, hide)
        for name, value in facts.items()
        if name not in HOST_FACTS
    }
    return _shortened(record, hide), shown


def _shortened(value: Any, hide: Callable[[str], str]) -> Any:
    """Return ``value``, of dataclasses, collections and texts, with ``hide`` applied to each text."""
    if type(value) is str:
        return hide(value)
    if isinstance(value, (tuple, list, frozenset)):
        return type(value)(_shortened(one, hide) for one in value)
    if isinstance(value, dict):
        return {name: _shortened(one, hide) for name, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        members = {one.name: _shortened(getattr(value, one.name), hide) for one in fields(value) if one.init}
        return replace(value, **members)
    return value
