"""Copy the files of one part of a run into the results folder of the whole, under names that do not clash."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.journal.facts import RUN
from harness.journal.plan_file import PLAN
from harness.journal.results_folder import STACKS
from harness.journal.writer import EVENTS
from harness.lib import private

SHARED = ("transcripts", STACKS)  # their files are named by scenario and by fingerprint
#: Files that are written anew.
WRITTEN = (PLAN, EVENTS, RUN, "junit.xml", "report.html")
_MACHINE = re.compile(r"\bmachine-(\d{1,6})\b")


def last_machine(folder: Path, started: Iterable[str]) -> int:
    """Return the largest number of a machine that was started, or has a file in a results folder; else 0."""
    found = map(_MACHINE.fullmatch, (*started, *(one.name for one in folder.iterdir())))
    return max((int(one[1]) for one in found if one), default=0)


@dataclass(frozen=True)
class PartFiles:
    """The names of a part's files in the whole.

    Its machines are numbered on from ``machines``.  Files that are neither of a machine nor
    in SHARED get the folder ``own``; it is empty for the part that keeps its names.
    """

    machines: int
    own: str

    def name(self, path: str) -> str:
        """Return the name in the whole of a file of the part; both are relative to the results folder."""
        first = path.partition("/")[0]
        if _MACHINE.fullmatch(first):
            return self.renumbered(first) + path[len(first) :]
        return path if first in SHARED or not self.own else f"{self.own}/{path}"

    def event(self, event: dict[str, Any]) -> dict[str, Any]:
        """Return an event of the part with the names of the whole.

        The texts of the guest (``details``, ``failure``) are evidence, and stay as they are.
        """
        changed = dict(event)
        for member in ("machine", "snapshot", "reason", "text"):
            if isinstance(event.get(member), str):
                changed[member] = self.renumbered(event[member])
        if event.get("transcript"):
            changed["transcript"] = self.name(str(event["transcript"]))
        if event.get("console"):
            file, *span = event["console"]
            changed["console"] = [self.name(str(file)), *span]
        return changed

    def renumbered(self, text: str) -> str:
        """Return a text of the part with the names that its machines have in the whole."""
        return _MACHINE.sub(lambda found: f"machine-{int(found[1]) + self.machines}", text)

    def copy(self, source: Path, target: Path) -> None:
        """Copy the files of the results folder ``source`` below ``target``.

        Only regular files are copied: the folder may come from another machine, and a link could
        lead anywhere.
        """
        for path in _files(source):
            name = path.relative_to(source)
            if name.as_posix() in WRITTEN:
                continue
            copied = target / self.name(name.as_posix())
            if os.path.lexists(copied):
                continue  # the same complaint in two parts
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copied, follow_symlinks=False)


def _files(source: Path) -> Iterator[Path]:
    """Yield the regular files below ``source``, without the keys of a killed run."""
    for folder, _, names in os.walk(source):
        for name in names:
            path = Path(folder, name)
            if name not in private.FILES and stat.S_ISREG(path.lstat().st_mode):
                yield path
