"""A mutant: one fault on top of a whole series, and the requirements whose scenarios must catch it.

``patches/mutants/<series>/<name>.patch`` is a mail as git format-patch makes it.
Its subject names the fault, its message the damage to a user.  The last
paragraph of the message holds the trailers:

==============  ==================================================================
``Caught-by``   requirement ids, at least one of which must catch the mutant
``Shown-by``    one of SHOWN_BY, without which the fault does not show
``Equivalent``  why no user can notice; the mutant is neither run nor counted
==============  ==================================================================
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.lib.errors import UsageError
from harness.lib.text import printable, slug
from harness.series import mbox, series
from harness.series.manifest import MANIFEST
from harness.series.series import Patch, Series
from harness.verdict.requirements import Matrix

FOLDER = "mutants"  # below patches/
SUFFIX = ".patch"
_DEBUG_KERNEL = "debug kernel"
SHOWN_BY = ("second witness", "concurrent fault", _DEBUG_KERNEL)

_KEYS = ("Caught-by", "Shown-by", "Equivalent", "Signed-off-by")
_TRAILER = re.compile(r"([A-Z][A-Za-z-]*): (.*)")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Mutant:
    """A fault in the series named ``series``.

    ``message`` is the damage to a user, on one line; ``caught_by`` has requirement
    ids; ``shown_by`` and ``equivalent`` are empty without their trailers.
    """

    series: str
    name: str
    patch: Patch
    message: str
    caught_by: tuple[str, ...]
    shown_by: str = ""
    equivalent: str = ""

    @property
    def id(self) -> str:
        """Return ``SERIES/NAME``."""
        return f"{self.series}/{self.name}"

    @property
    def subject(self) -> str:
        """Return the subject of the patch, without [PATCH ...]: what is broken."""
        return mbox.without_tag(self.patch.subject)

    @property
    def needs_debug_kernel(self) -> bool:
        """Return whether only a debug kernel (KASAN, lockdep) shows the fault."""
        return self.shown_by == _DEBUG_KERNEL

    def of(self, whole: Series) -> Series:
        """Return the series ``whole`` with the fault on top; the expected verdicts stay the same."""
        return replace(
            whole,
            name=f"{whole.name}+{self.name}",
            title=f"{whole.title}, mutant {self.name}: {self.subject}",
            patches=(*whole.patches, self.patch),
            prefixes=(),
        )


def load(patches: Path, rules: Matrix, only: str | None = None) -> list[Mutant]:
    """Return the mutants below the folder ``patches``, sorted; ``only`` names a series, None takes all.

    Raises UsageError for a malformed mutant, and when there is none.
    """
    root = patches / FOLDER
    folders = sorted(path for path in root.glob("*/") if only in (None, path.name))
    for folder in folders:
        if not (patches / folder.name / MANIFEST).is_file():
            raise UsageError(f"The folder {folder} is named after no series below {patches}.")
    found = [_read(path, rules) for folder in folders for path in sorted(folder.glob("*.patch"))]
    if not found:
        known = ", ".join(sorted(path.name for path in root.glob("*/"))) or "none"
        of = f" of the series {printable(only)!r}" if only else ""
        raise UsageError(f"There are no mutants{of} in {root}. Series that have some: {known}.")
    return found


def find(patches: Path, rules: Matrix, whole: str, name: str) -> Mutant:
    """Return the mutant ``name`` of the series named ``whole``.  Raises UsageError."""
    folder = patches / FOLDER / whole
    path = folder / f"{name}.patch"
    if _NAME.fullmatch(name) and path.is_file() and path.resolve().is_relative_to(patches.resolve()):
        return _read(path, rules)
    near = difflib.get_close_matches(name, [path.stem for path in folder.glob("*.patch")], n=1)
    guess = f" Did you mean {near[0]}?" if near else ""
    raise UsageError(
        f"The series {printable(whole)} has no mutant {printable(name)!r}.{guess} "
        "`python -m harness mutants --list` shows all."
    )


def of_file(path: Path, whole: str) -> Mutant:
    """Return the fault in any file with a patch, for the series named ``whole``.

    Nobody has said which requirements must catch it.  Raises UsageError.
    """
    content = _content(path)
    subject = mbox.subject(content)
    if not subject:
        raise UsageError(f"The mutant {path} has no subject, which says what is broken.")
    patch = Patch(path.name, content, subject)
    return Mutant(whole, slug(path.stem), patch, " ".join(mbox.message(content).split()), ())


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"The mutant {path} cannot be read: {error.strerror}.") from error
    if len(content) > series.MAX_BYTES:
        raise UsageError(f"The mutant {path} is larger than {series.MAX_BYTES >> 20} MiB.")
    return content


def _read(path: Path, rules: Matrix) -> Mutant:
    content = _content(path)
    if not _NAME.fullmatch(path.stem):
        raise UsageError(f"The mutant {path} must be named by lower-case letters, digits and dashes.")
    patch = Patch(path.name, content, mbox.subject(content))
    if not patch.subject:
        raise UsageError(f"The mutant {path} has no subject, which says what is broken.")
    text, _, last = mbox.message(content).rpartition("\n\n")
    trailers = _trailers(path, last)
    message = " ".join(text.split())
    if not message:
        raise UsageError(f"The mutant {path} has no message, which says what a user would suffer.")
    ids = tuple(dict.fromkeys(trailers.get("Caught-by", "").replace(",", " ").split()))
    equivalent = trailers.get("Equivalent", "")
    if not ids and not equivalent:
        raise UsageError(
            f"The mutant {path} does not say which requirements must catch it: the last paragraph of its "
            "message needs a line such as `Caught-by: MAP-03, RNG-02`."
        )
    _check_ids(path, ids, rules)
    shown_by = trailers.get("Shown-by", "")
    if shown_by and shown_by not in SHOWN_BY:
        raise UsageError(
            f"The mutant {path} is said to be shown by {printable(shown_by)!r}; "
            f"one of these is meant: {', '.join(SHOWN_BY)}."
        )
    return Mutant(path.parent.name, path.stem, patch, message, ids, shown_by, equivalent)


def _trailers(path: Path, paragraph: str) -> Mapping[str, str]:
    """Return the values of a paragraph of trailers; those of a repeated trailer are joined."""
    found: dict[str, str] = {}
    # A line that begins with a blank continues the one before.
    for line in re.sub(r"\n[ \t]+", " ", paragraph.strip()).splitlines():
        trailer = _TRAILER.fullmatch(line.strip())
        if trailer is None or trailer[1] not in _KEYS:
            raise UsageError(
                f"The last paragraph of the message of the mutant {path} holds "
                f"{printable(line.strip(), 80)!r}; what may stand there is {', '.join(_KEYS)}, each "
                "with a colon and a value."
            )
        key, value = trailer[1], trailer[2].strip()
        found[key] = f"{found[key]} {value}" if key in found else value
    return found


def _check_ids(path: Path, ids: Iterable[str], rules: Matrix) -> None:
    for name in ids:
        if name not in rules.requirements:
            raise UsageError(
                f"The mutant {path} names the requirement {printable(name)!r}, which "
                "suites/requirements.toml does not have."
            )
