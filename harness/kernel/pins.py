"""The pinned base sources of patches/bases.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from harness.lib.paths import PATCHES

PINNED = PATCHES / "bases.toml"


@dataclass(frozen=True)
class Pin:
    """One entry of bases.toml: a source of ``release``, at ``url`` or as ``file`` of an ``archive``'s suite.

    What does not apply is empty; ``sha256``, ``tree`` and ``commit`` may be.
    """

    release: str
    version: str
    url: str = ""
    archive: str = ""
    suite: str = ""
    file: str = ""
    sha256: str = ""
    tree: str = ""
    commit: str = ""

    @property
    def title(self) -> str:
        """Return the version, for people: a source package of Debian has Debian's patches."""
        return f"{self.version} with Debian's patches" if self.file.endswith(".deb") else self.version


def read_pins(path: Path = PINNED) -> list[Pin]:
    """Return the entries of bases.toml, in order."""
    return [Pin(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["tarball"]]


def releases(path: Path = PINNED) -> list[str]:
    """Return the releases of bases.toml, in the file's order."""
    return list(dict.fromkeys(pin.release for pin in read_pins(path)))
