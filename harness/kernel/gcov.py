"""Read counters of executed lines with gcov, in the sandbox.

The counters come from a guest, and the notes from the build of a stranger's tree, so neither is
trusted: gcov runs contained, and its answers are bounded and checked.
"""

from __future__ import annotations

import gzip
import json
import re
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from harness.lib import command, contained
from harness.lib.command import SYSTEM_PATH, CommandError
from harness.lib.errors import BuildError, HarnessError
from harness.lib.untrusted_files import read_file

PROGRAM = "gcov"
#: Counters that one gcov reads; more would only make its command line longer.
AT_ONCE = 100
#: Bytes of one answer of gcov, packed and unpacked; that for a file of 2,500 lines has 0.4 MB.
MAX_PACKED = 16 << 20
MAX_ANSWER = 64 << 20
# gcc/gcov-io.h: a file begins with the magic, the version and the stamp of the build, each 32 bits.
_HEADER = struct.Struct("<III")


@dataclass
class Line:
    """What gcov says of one line: how often it was executed, and how often each branch was taken."""

    count: int = 0
    branches: list[int] = field(default_factory=list)

    def add(self, other: Line) -> None:
        """Add another count of the same line.  Branches are added where both have the same number."""
        self.count += other.count
        if not self.branches:
            self.branches = list(other.branches)
        elif len(self.branches) == len(other.branches):
            self.branches = [one + two for one, two in zip(self.branches, other.branches, strict=True)]


#: The lines of each source file, by path in the tree and by number.
Lines = dict[str, dict[int, Line]]


def require_program() -> None:
    """Raise HarnessError unless the host has a gcov of the same version as its compiler."""
    try:
        versions = [
            command.run([tool, "--version"], env={"PATH": SYSTEM_PATH}).splitlines()[0]
            for tool in (PROGRAM, "gcc")
        ]
    except (HarnessError, CommandError) as error:
        raise HarnessError(
            "--coverage needs gcov, which belongs to the compiler, and it does not run here. Install "
            f"Debian's package gcc, or leave --coverage out. What was tried: {error}"
        ) from error
    majors = [found[0] if (found := re.findall(r"(\d+)\.\d+", text)) else "" for text in versions]
    if majors[0] != majors[1]:
        raise HarnessError(
            f"--coverage needs a gcov of the compiler's version, and there are {versions[0]!r} and "
            f"{versions[1]!r}. Install the gcov of that gcc, or leave --coverage out."
        )


def stamp(content: bytes) -> bytes:
    """Return the version and the stamp of a file of gcov, which counters and notes of one build share."""
    return content[4 : _HEADER.size]


def require_same_build(source: str, notes: bytes, counters: bytes) -> None:
    """Raise HarnessError if the counters of a C file are not of the build that left the notes."""
    if stamp(notes) != stamp(counters):
        raise HarnessError(
            f"The counters of {source} are of another build than the notes that gcov needs to read them "
            "(their stamps differ), so they say nothing about these lines. Start a new run."
        )


def read(notes: Path, wanted: Sequence[tuple[str, bytes]], paths: Iterable[str]) -> Iterator[Lines]:
    """Yield the lines of each of the ``wanted`` counters: the C file, and its counters as taken.

    Empty counters give the executable lines with a count of 0.  ``notes`` is the folder of the notes
    files.  Only lines of the files ``paths`` of the tree are in the result.

    Raises HarnessError for counters of another build, and if gcov fails.
    """
    known = tuple(paths)
    for first in range(0, len(wanted), AT_ONCE):
        with tempfile.TemporaryDirectory(prefix="patchproof-gcov-") as work:
            yield from _read(notes, wanted[first : first + AT_ONCE], known, Path(work))


def _read(
    notes: Path, wanted: Sequence[tuple[str, bytes]], paths: Sequence[str], work: Path
) -> Iterator[Lines]:
    names = []
    for number, (source, counters) in enumerate(wanted):
        content = (notes / source).with_suffix(".gcno").read_bytes()
        (work / f"{number}.gcno").write_bytes(content)
        if counters:
            require_same_build(source, content, counters)
            (work / f"{number}.gcda").write_bytes(counters)
        names.append(f"{number}.gcno")
    work.chmod(0o777)  # the sandbox has a user of its own
    try:
        contained.run([PROGRAM, "--json-format", "--branch-probabilities", *names], write=[work], folder=work)
    except (CommandError, BuildError) as error:
        said = error.tail if isinstance(error, CommandError) else error.message
        raise HarnessError(
            "gcov could not read the counters of executed lines, which the kernel under test has made: "
            f"{said[-500:]}"
        ) from error
    for name in names:
        yield _lines(_answer(work, name.replace(".gcno", ".gcov.json.gz")), paths)


def _answer(folder: Path, name: str) -> dict[str, Any]:
    try:
        packed = read_file(folder, name, MAX_PACKED)
        (folder / name).unlink()
        with gzip.open(BytesIO(packed)) as stream:
            text = stream.read(MAX_ANSWER)
        content = json.loads(text)
    except (BuildError, OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise HarnessError(f"gcov's answer about the executed lines cannot be read ({error!r}).") from error
    if not isinstance(content, dict):
        raise HarnessError("gcov's answer about the executed lines is not an object.")
    return content


def _lines(content: Mapping[str, Any], paths: Sequence[str]) -> Lines:
    """Return the lines of ``paths`` in an answer of gcov.  Raises HarnessError for another form."""
    result: Lines = {}
    try:
        for file in content["files"]:
            name = f"/{str(file['file']).removeprefix('./')}"
            path = next((one for one in paths if name.endswith(f"/{one}")), None)
            if path is None:
                continue
            lines = result.setdefault(path, {})
            for one in file["lines"]:
                branches = [int(branch["count"]) for branch in one.get("branches", ())]
                new = Line(max(0, int(one["count"])), branches)
                lines.setdefault(int(one["line_number"]), Line()).add(new)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise HarnessError(
            f"gcov's answer about the executed lines is not known here ({error!r})."
        ) from error
    return result
