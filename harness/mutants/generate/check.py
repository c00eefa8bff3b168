"""Compile each fault's object alone, and keep the faults that change it.

A fault whose object is that of the series changes nothing that a computer could notice; one whose object is
that of another fault is the same fault ("trivial compiler equivalence": Papadakis and others, ICSE 2015).
``checked.jsonl`` in the results folder has each result before the next batch begins.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from harness.kernel import one_object
from harness.kernel.one_object import Change, OneObject
from harness.lib import interruption, jsonl
from harness.lib.errors import HarnessError
from harness.mutants.generate.fault import Fault

CHECKED = "checked.jsonl"
#: Faults whose sources are written at once, 4 MB each.
BATCH = 24
_LEAST = 4
_UNCHANGED = "unchanged"


class Kept(StrEnum):
    """The result of the check of a fault's object."""

    KEPT = "kept"
    SAME = "same object"
    TWIN = "same object as another fault"
    FAILED = "does not compile"
    UNSEEN = "not compiled in this configuration"


class Checked:
    """The results of the check, by the name of the fault; read from ``folder``, and added to it.

    ``key`` is the digest of all that the objects depend on; results of another key are forgotten.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._path = folder / CHECKED
        self._key = key
        self.found: dict[str, Kept] = {}
        self.objects: dict[str, str] = {}  # name of the first fault by the digest of its object
        try:
            jsonl.remove_unfinished_line(self._path)
            for raw in jsonl.whole_lines(self._path):
                event = json.loads(raw)
                if event["key"] == key:
                    self._apply(event["id"], Kept(event["result"]), event["object"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HarnessError(
                f"{self._path} cannot be read ({error!r}). Delete it to begin anew."
            ) from error

    def add(self, name: str, result: Kept, digest: str = "") -> None:
        """Record the result of a fault."""
        jsonl.append(self._path, "checked", id=name, result=result, object=digest, key=self._key)
        self._apply(name, result, digest)

    def count(self, names: Sequence[str], result: Kept) -> int:
        """Return how many of these faults have a result."""
        return sum(self.found.get(name) is result for name in names)

    def _apply(self, name: str, result: Kept, digest: str) -> None:
        self.found[name] = result
        if result is Kept.KEPT:
            self.objects[digest] = name


def kept(
    faults: Sequence[Fault],
    checked: Checked,
    compilers: Callable[[], Mapping[str, OneObject | None]],
    work: Path,
    most: int,
    say: Callable[[str], None],
) -> Iterator[Fault]:
    """Yield up to ``most`` of the faults that change an object, in their order.

    ``compilers`` returns by file what compiles it, and is only called if something is left to check.
    Objects are compiled below ``work``.  Raises the errors of one_object.objects().
    """
    found: Mapping[str, OneObject | None] | None = None
    originals: dict[str, str] = {}
    yielded = 0
    left_over = list(faults)
    while left_over and yielded < most:
        # Not many more than are wanted: a compilation takes a second.
        size = min(BATCH, max(_LEAST, most - yielded))
        batch, left_over = left_over[:size], left_over[size:]
        left = [fault for fault in batch if fault.name not in checked.found]
        if left and found is None:
            found = compilers()
        for file in dict.fromkeys(fault.file for fault in left):
            interruption.check()
            assert found is not None
            here = [fault for fault in left if fault.file == file]
            _check(here, found[file], checked, originals, work)
        if left:
            say(f"compiled {len(checked.found)} of at most {len(faults)} faults: {_counts(checked)}")
        for fault in batch:
            if checked.found[fault.name] is Kept.KEPT and yielded < most:
                yielded += 1
                yield fault


def _check(
    faults: Sequence[Fault],
    one: OneObject | None,
    checked: Checked,
    originals: dict[str, str],
    work: Path,
) -> None:
    """Check faults of one file; ``originals`` has the digests of the unchanged objects by file."""
    if one is None:
        for fault in faults:
            checked.add(fault.name, Kept.UNSEEN)
        return
    file = faults[0].file
    changes: dict[str, Change | None] = {
        fault.name: Change(fault.first, fault.last, fault.old, fault.new) for fault in faults
    }
    unseen = {name for name, change in changes.items() if change is None or one.changed(change) is None}
    if file not in originals:
        changes[_UNCHANGED] = None
    digests = one_object.objects(one, changes, work / "objects", work / "objects.log")
    if file not in originals:
        if _UNCHANGED not in digests:
            raise HarnessError(
                f"{file} was built with the kernel, and does not compile alone. The compiler's messages are "
                "not kept: compile it by hand with the command of its .cmd file.",
                log=work / "objects.log",
            )
        originals[file] = digests[_UNCHANGED]
    for fault in faults:
        digest = digests.get(fault.name, "")
        if fault.name in unseen:
            checked.add(fault.name, Kept.UNSEEN)
        elif not digest:
            checked.add(fault.name, Kept.FAILED)
        elif digest == originals[file]:
            checked.add(fault.name, Kept.SAME, digest)
        elif digest in checked.objects:
            checked.add(fault.name, Kept.TWIN, digest)
        else:
            checked.add(fault.name, Kept.KEPT, digest)


def _counts(checked: Checked) -> str:
    values = list(checked.found.values())
    return ", ".join(f"{values.count(one)} {one}" for one in Kept if one in values)
