"""Read the structure of a patch, and refuse anything but text changes to plain files of the tree.

The patch is hostile input and is checked twice.  Before git sees the patch, this
module reads it as git-apply does, and a refusal names patch, file and hunk.
After git am, ``kernel.apply.AmSession`` compares what git changed with what was
read here, so a patch that the two parsers read differently is refused too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from harness.lib.errors import ApplyError
from harness.lib.text import printable

# Git knows two kinds of plain files; a script that a series adds is executable, so
# both are ordinary, and so is the change from one to the other.
PLAIN_MODES = frozenset({"100644", "100755"})
NO_FILE = "/dev/null"

_HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_BLOBS = re.compile(rb"index ([0-9a-f]{7,64})\.\.[0-9a-f]{7,64}\b")
_MODE_LINES = (b"old mode ", b"new mode ", b"deleted file mode ", b"new file mode ")
_NAME_LINES = (b"rename from ", b"rename to ", b"copy from ", b"copy to ", b"rename old ", b"rename new ")
_ESCAPES = {b"a": 7, b"b": 8, b"t": 9, b"n": 10, b"v": 11, b"f": 12, b"r": 13, b'"': 34, b"\\": 92}
_KINDS = {"120000": "a symbolic link", "160000": "a submodule", "040000": "a folder"}


@dataclass
class FileDiff:
    """The changes of one patch to one file.

    ``paths`` are the touched names, relative to the top of the tree: two for a
    rename or copy.  ``hunks`` has the first line of each hunk in the old file, in order.
    ``old`` is the name before the change, and ``before`` the id, maybe abbreviated, of
    the file's blob then: zeros for a new file, empty if the patch does not say.
    """

    paths: set[str] = field(default_factory=set)
    hunks: list[int] = field(default_factory=list)
    old: str = ""
    before: str = ""

    @property
    def path(self) -> str:
        """Return one of the names, for messages; a rename has two."""
        return min(self.paths, default="")


MAX_DIGITS = 9  # of a line number
MAX_HEADER = 2 * 4 * 4096 + 8  # bytes of two quoted paths; each blank is one more way to split the line


class PatchRefusedError(Exception):
    """The reason why a patch is refused, without the patch's name."""


def read(name: str, patch: bytes) -> list[FileDiff]:
    """Return the files that ``patch`` (the output of git mailinfo for a mail) touches, in order.

    Raises ApplyError, with ``name``, for anything but text changes to plain files inside the tree.
    """
    reader = _Reader(patch.split(b"\n"))
    try:
        files = list(reader.files())
        if not files:
            raise PatchRefusedError("it changes no file")
    except PatchRefusedError as reason:
        path = reader.current.path if reader.current else ""
        location = f" at {printable(path)}" if path else ""
        raise ApplyError(f"The patch {printable(name)} is refused{location}: {reason}.") from None
    return files


class _Reader:
    """A line-by-line parser of one patch; the counts of a hunk alone decide where the hunk ends."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self.lines = lines
        self.at = 0
        self.current: FileDiff | None = None

    def files(self) -> Iterator[FileDiff]:
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.startswith(b"diff --git "):
                self.current = FileDiff()
                self._read_git_header()
            elif self._is_traditional():
                self.current = FileDiff()
                self._read_sides(None)
            elif _HUNK.match(line):
                raise PatchRefusedError("a hunk stands before any file header")
            elif line.startswith(b"GIT binary patch"):
                raise PatchRefusedError("it holds binary data")
            else:
                self.at += 1  # the diffstat and whatever else a person wrote between two files
                continue
            while self.at < len(self.lines) and _HUNK.match(self.lines[self.at]):
                self._read_hunk()
            yield self.current

    def _is_traditional(self) -> bool:
        """Return whether a diff without a ``diff --git`` line begins here, which git accepts too.

        Three lines in a row distinguish such a diff from text.
        """
        return (
            self.at + 2 < len(self.lines)
            and self.lines[self.at].startswith(b"--- ")
            and self.lines[self.at + 1].startswith(b"+++ ")
            and self.lines[self.at + 2].startswith(b"@@ -")
        )

    def _read_git_header(self) -> None:
        assert self.current is not None
        in_header = _header_names(self.lines[self.at][len(b"diff --git ") :])
        self.current.paths |= in_header
        renamed: set[str] = set()
        binary = False
        self.at += 1
        while self.at < len(self.lines) and not binary:
            line = self.lines[self.at]
            if line.startswith((b"GIT binary patch", b"Binary files ")):
                binary = True
            elif line.startswith(_MODE_LINES):
                self._check_mode(line.rsplit(b" ", 1)[1])
            elif line.startswith(b"index "):
                if len(parts := line.split(b" ")) > 2:
                    self._check_mode(parts[2])
                if blobs := _BLOBS.match(line):
                    self.current.before = blobs[1].decode()
            elif line.startswith(_NAME_LINES):
                name = _checked(_unquote(line.split(b" ", 2)[2]))
                renamed.add(name)
                if line.startswith((b"rename from ", b"copy from ", b"rename old ")):
                    self.current.old = name
            elif not line.startswith((b"similarity index ", b"dissimilarity index ")):
                break
            self.at += 1
        self.current.paths |= renamed
        self.current.old = self.current.old or self.current.path
        if binary:
            raise PatchRefusedError("it holds binary data")
        if renamed and in_header and renamed != in_header:
            raise PatchRefusedError("its header and its rename or copy lines name different files")
        if not renamed and len(in_header) != 1:
            raise PatchRefusedError("its header does not name one file")
        if self.at < len(self.lines) and self.lines[self.at].startswith(b"--- "):
            self._read_sides(renamed or in_header)

    def _check_mode(self, raw: bytes) -> None:
        mode = printable(raw.rstrip(b"\r"))
        if mode not in PLAIN_MODES:
            kind = _KINDS.get(mode, "not a plain file's (100644 or 100755)")
            raise PatchRefusedError(f"the mode {mode} is {kind}")

    def _read_sides(self, expected: set[str] | None) -> None:
        assert self.current is not None
        old, new = self.lines[self.at][4:], b""
        self.at += 1
        if self.at < len(self.lines) and self.lines[self.at].startswith(b"+++ "):
            new = self.lines[self.at][4:]
            self.at += 1
        else:
            raise PatchRefusedError("a --- line has no +++ line after it")
        names = {name for side in (old, new) if (name := _side(side)) is not None}
        if not names:
            raise PatchRefusedError("both its sides are /dev/null")
        if expected is not None and not names <= expected:
            # A person would read one file name in the mail, and git would change another file.
            raise PatchRefusedError("its header and its --- and +++ lines name different files")
        self.current.paths |= names
        if expected is None and len(names) != 1:
            raise PatchRefusedError("its --- and +++ lines name different files")

    def _read_hunk(self) -> None:
        assert self.current is not None
        found = _HUNK.match(self.lines[self.at])
        assert found is not None
        if any(len(text or b"") > MAX_DIGITS for text in found.groups()):
            raise PatchRefusedError(f"hunk {len(self.current.hunks) + 1} has a number of no file")
        first, old, _, new = (int(text) if text is not None else 1 for text in found.groups())
        self.current.hunks.append(first)
        self.at += 1
        while old > 0 or new > 0:
            line = self.lines[self.at] if self.at < len(self.lines) else None
            # An empty line is an empty context line whose blank a mail program removed.
            kind = None if line is None else (line[:1] if line.rstrip(b"\r") else b" ")
            if kind == b" ":
                old, new = old - 1, new - 1
            elif kind == b"-":
                old -= 1
            elif kind == b"+":
                new -= 1
            elif kind != b"\\":
                old = -1
            if old < 0 or new < 0:
                raise PatchRefusedError(
                    f"hunk {len(self.current.hunks)} is damaged: its length is not that of its header"
                )
            self.at += 1
        if self.at < len(self.lines) and self.lines[self.at].startswith(b"\\"):
            self.at += 1  # "No newline at end of file"


def _header_names(header: bytes) -> set[str]:
    """Return the names in ``a/NAME b/NAME``; none if a rename with blanks leaves open where one ends."""
    header = header.rstrip(b"\r")
    if len(header) > MAX_HEADER:
        raise PatchRefusedError("its header line is longer than two paths can be")
    if header.startswith(b'"'):
        end = re.match(rb'"(?:[^"\\]|\\.)*"', header)
        if end is None or header[end.end() : end.end() + 1] != b" ":
            raise PatchRefusedError("its header line is not one that git writes")
        sides = [(header[: end.end()], header[end.end() + 1 :])]
    elif header.endswith(b'"'):
        left, _, right = header.partition(b' "')
        sides = [(left, b'"' + right)]
    else:
        blanks = [at for at, byte in enumerate(header) if byte == ord(" ")]
        every = ((header[:at], header[at + 1 :]) for at in blanks)
        equal = [(a, b) for a, b in every if a.partition(b"/")[2] == b.partition(b"/")[2] != b""]
        sides = equal or [(header[:at], header[at + 1 :]) for at in blanks if len(blanks) == 1]
    if len(sides) != 1:
        return set()
    return {_checked(_stripped(_unquote(side))) for side in sides[0]}


def _side(raw: bytes) -> str | None:
    """Return the name on a ``---`` or ``+++`` line; None for /dev/null."""
    raw = raw.rstrip(b"\r")
    name = _unquote(raw if raw.startswith(b'"') else raw.partition(b"\t")[0])
    return None if name == NO_FILE.encode() else _checked(_stripped(name))


def _unquote(raw: bytes) -> bytes:
    """Undo the C-style quoting that git gives to a path with special characters."""
    raw = raw.rstrip(b"\r")
    if not raw.startswith(b'"'):
        return raw
    if len(raw) < 2 or not raw.endswith(b'"'):
        raise PatchRefusedError("a quoted file name has no end")

    def unescape(match: re.Match[bytes]) -> bytes:
        escape = match[1]
        if escape in _ESCAPES:
            return bytes([_ESCAPES[escape]])
        if len(escape) == 3 and int(escape, 8) < 256:
            return bytes([int(escape, 8)])
        raise PatchRefusedError("a quoted file name has an escape that git does not know")

    return re.sub(rb"\\([0-7]{3}|.|$)", unescape, raw[1:-1], flags=re.DOTALL)


def _stripped(name: bytes) -> bytes:
    """Return ``name`` without its ``a/`` or ``b/``.  Raises PatchRefusedError if there is none."""
    if name.startswith(b"/"):
        raise PatchRefusedError(f"the path {printable(name)} is absolute")
    prefix, slash, rest = name.partition(b"/")
    if not slash or prefix in (b"", b".", b".."):
        raise PatchRefusedError(f"the path {printable(name)} leads out of the tree")
    return rest


def _checked(name: bytes) -> str:
    """Return the path as text.  Raises PatchRefusedError for a path that no patch may touch."""
    shown = printable(name)
    try:
        path = name.decode()
    except UnicodeDecodeError:
        raise PatchRefusedError(f"the path {shown} is not UTF-8") from None
    if not path.isprintable():
        raise PatchRefusedError(f"the path {shown} holds control characters")
    if path.startswith("/"):
        raise PatchRefusedError(f"the path {shown} is absolute")
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise PatchRefusedError(f"the path {shown} leads out of the tree")
        # Names that some file systems take for .git: other case, a blank or dot at the end, the 8.3 name.
        if part.casefold().rstrip(" .") in (".git", "git~1", ".gitmodules"):
            raise PatchRefusedError(f"the path {shown} belongs to git itself")
    return path
