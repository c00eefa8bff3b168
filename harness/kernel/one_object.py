"""Compile changed versions of one C file of a kernel that was built, without make and without its headers.

The compiler's command is the one that the kernel's makefiles have stored.  The headers of the file are
put into it once, with all macros as they are (``-fdirectives-only``, gcc(1)).  So a version of the file
compiles in any folder, whatever the build folder holds meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from harness.kernel.builddir import BuildDir
from harness.lib import contained
from harness.lib.command import CommandError
from harness.lib.errors import BuildError
from harness.lib.files import digest, write_atomically
from harness.lib.untrusted_files import read_file, remove_folder

#: The largest files that are read, in bytes: a stored command, a C file with all its headers, an object.
COMMAND_BYTES = 1 << 20
PREPROCESSED_BYTES = 64 << 20
OBJECT_BYTES = 64 << 20

_SAVED = re.compile(r"^savedcmd_\S+ := (?P<words>.*?)(?: ; .*)?$", re.MULTILINE)
# Written beside the object, or only about debug information.
_LEFT_OUT = re.compile(r"-Wp,-MM?D,.*|-c|-g\w*")
_PREPROCESSOR = ("-I", "-D", "-U", "-include", "-isystem", "-iquote", "-nostdinc")
_WITH_VALUE = ("-I", "-D", "-U", "-include", "-isystem", "-iquote")
_MARKER = re.compile(rb'# (\d+) "([^"]*)"')
_AT_ONCE = len(os.sched_getaffinity(0))
# One version: an object without debug information, or none.
_RULES = """\
all: {objects}
%.o: %.i
\t-@{compiler} -c -o $@ $< >$*.err 2>&1 && objcopy --strip-debug $@ || rm -f $@
"""


@dataclass(frozen=True)
class Change:
    """The lines ``first`` to ``last`` (from 1) of a file are ``old`` and become ``new``."""

    first: int
    last: int
    old: str
    new: str


@dataclass(frozen=True)
class OneObject:
    """A C file with all that it includes.

    ``flags`` are the compiler's options.  ``whole`` is the text with line markers; ``path`` is the name
    of the C file in them.
    """

    compiler: str
    flags: tuple[str, ...]
    whole: bytes
    path: str

    def write(self, path: Path) -> None:
        """Write all of this to a file, for read()."""
        head = json.dumps({"compiler": self.compiler, "flags": self.flags, "path": self.path})
        write_atomically(path, head.encode() + b"\n" + self.whole)

    @classmethod
    def read(cls, path: Path) -> OneObject | None:
        """Return what write() wrote; None if there is no such file."""
        try:
            head, _, whole = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        known = json.loads(head)
        return cls(known["compiler"], tuple(known["flags"]), whole, known["path"])

    @cached_property
    def _lines(self) -> list[bytes]:
        return self.whole.splitlines(keepends=True)

    @cached_property
    def _places(self) -> dict[int, int]:
        """The index in _lines by the line number in the C file."""
        found: dict[int, int] = {}
        number = 0  # of the next line, 0 outside of the file
        for index, line in enumerate(self._lines):
            marker = _MARKER.match(line)
            if marker:
                number = int(marker[1]) if marker[2].decode(errors="replace") == self.path else 0
            elif number:
                found[number] = index
                number += 1
        return found

    def changed(self, change: Change) -> bytes | None:
        """Return the whole text with a change; None if the compiler does not see these lines."""
        numbers = range(change.first, change.last + 1)
        places = [self._places.get(number, -1) for number in numbers]
        first, last = places[0], places[-1]
        if -1 in places or last - first != change.last - change.first:
            return None
        if b"".join(self._lines[first : last + 1]) != change.old.encode(errors="surrogateescape"):
            return None
        new = change.new.encode(errors="surrogateescape")
        return b"".join([*self._lines[:first], new, *self._lines[last + 1 :]])


def prepare(build_dir: BuildDir, file: str, work: Path, log: Path) -> OneObject | None:
    """Return what compiles versions of ``file`` alone; None if the configuration does not compile it.

    ``build_dir`` holds the kernel, and the caller holds its lock.  Raises BuildError for a stored
    command that is none of a compiler.
    """
    path = PurePosixPath(file)
    try:
        stored = read_file(build_dir.build, path.with_name(f".{path.stem}.o.cmd"), COMMAND_BYTES)
    except BuildError:
        return None
    found = _SAVED.search(stored.decode(errors="replace"))
    try:
        words = shlex.split(found["words"]) if found else []
    except ValueError:  # a quotation without an end
        words = []
    source = str(build_dir.source / file)
    if "-o" not in words or source not in words:
        raise BuildError(f"The stored command for {file} is not that of a compiler.")
    at = words.index("-o")
    kept = [
        word for word in [*words[1:at], *words[at + 2 :]] if word != source and not _LEFT_OUT.fullmatch(word)
    ]
    remove_folder(work)
    work.mkdir(parents=True)
    argv = [build_dir.compiler, *kept, "-E", "-fdirectives-only", "-o", str(work / "whole.i"), source]
    seen = [build_dir.source, build_dir.build]
    contained.run(argv, read=seen, write=[work], folder=build_dir.build, log=log)
    whole = read_file(work, "whole.i", PREPROCESSED_BYTES)
    remove_folder(work)
    return OneObject(build_dir.compiler, _without_preprocessor(kept), whole, source)


def _without_preprocessor(words: Sequence[str]) -> tuple[str, ...]:
    """Return the compiler's options without those that only tell what is included and defined."""
    kept: list[str] = []
    skip = False  # the value of the option before
    for word in words:
        if not skip and not word.startswith(_PREPROCESSOR):
            kept.append(word)
        skip = not skip and word in _WITH_VALUE
    return tuple(kept)


def objects(one: OneObject, changes: Mapping[str, Change | None], work: Path, log: Path) -> dict[str, str]:
    """Compile a version for each of ``changes``, and return the digests of the objects by name.

    None is the unchanged file.  A version that does not compile has no digest.  Debug information does
    not count.  Raises the errors of contained.run() for a compiler that takes too much of the host.
    """
    remove_folder(work)
    work.mkdir(parents=True)
    for name, change in changes.items():
        text = one.whole if change is None else one.changed(change)
        if text is not None:
            (work / f"{name}.i").write_bytes(text)
    written = [name for name in changes if (work / f"{name}.i").exists()]
    compiler = shlex.join([one.compiler, *one.flags, "-fpreprocessed", "-fdirectives-only", "-g0"])
    names = " ".join(f"{name}.o" for name in written)
    rules = _RULES.format(objects=names, compiler=compiler.replace("$", "$$"))
    (work / "Makefile").write_text(rules)
    with suppress(CommandError):  # a missing object tells
        contained.run(["make", "-k", f"-j{_AT_ONCE}"], write=[work], folder=work, log=log)
    digests = {}
    for name in written:
        with suppress(BuildError):
            digests[name] = digest(read_file(work, f"{name}.o", OBJECT_BYTES))
    remove_folder(work)
    return digests
