"""A mutant: one fault put on top of a whole series, and the requirements whose scenarios must see it.

``patches/mutants/<series>/<name>.patch`` is a mail as git format-patch makes it.
Its subject says what is broken, its message what a user would suffer.  The last
paragraph of the message holds the trailers:

==============  ==================================================================
``Caught-by``   requirement ids, of which one at least must catch it
``Shown-by``    one of SHOWN_BY, for a fault that a plain look does not show
``Equivalent``  why no user could ever tell; then it is neither run nor counted
==============  ==================================================================
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.lib.errors import UsageError
from harness.lib.text import printable
from harness.series import mbox, series
from harness.series.manifest import MANIFEST
from harness.series.series import Patch, Series
from harness.verdict.requirements import Matrix

FOLDER = "mutants"  # below patches/
SHOWN_BY = ("second witness", "concurrent fault", "debug kernel")

_KEYS = ("Caught-by", "Shown-by", "Equivalent", "Signed-off-by")
_TRAILER = re.compile(r"([A-Z][A-Za-z-]*): (.*)")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Mutant:
    """A fault in the series named ``series``; ``message`` is what a user would suffer, on one line."""

    series: str
    name: str
    patch: Patch
    message: str
    caught_by: tuple[str, ...]
    shown_by: str = ""
    equivalent: str = ""

    @property
    def id(self) -> str:
        """Its name with that of its series."""
        return f"{self.series}/{self.name}"

    @property
    def subject(self) -> str:
        """What is broken."""
        return mbox.bare(self.patch.subject)

    @property
    def needs_debug_kernel(self) -> bool:
        """Whether only a kernel that watches itself shows the fault."""
        return self.shown_by == "debug kernel"

    def of(self, whole: Series) -> Series:
        """The series with the fault, of which the same is expected."""
        return replace(
            whole,
            name=f"{whole.name}+{self.name}",
            title=f"{whole.title}, mutant {self.name}: {self.subject}",
            patches=(*whole.patches, self.patch),
            prefixes=(),
        )


def load(patches: Path, rules: Matrix, only: str | None = None) -> list[Mutant]:
    """The mutants below the folder ``patches``, sorted; ``only`` names the one series that is wanted.

    Raises UsageError for a mutant that is malformed, or none at all.
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
    """The mutant ``name`` of the series named ``whole``.  Raises UsageError."""
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


def _read(path: Path, rules: Matrix) -> Mutant:
    content = path.read_bytes()
    if len(content) > series.MAX_BYTES:
        raise UsageError(f"The mutant {path} is larger than {series.MAX_BYTES >> 20} MiB.")
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
    """The values of a paragraph of trailers; one that stands there twice has both."""
    found: dict[str, str] = {}
    # A line that begins with a blank goes on where the last one ended.
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
