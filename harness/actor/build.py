"""Compile the C actor against the headers of the kernel under test."""

from __future__ import annotations

import re
from pathlib import Path

from harness.lib import command
from harness.lib.cache import Store
from harness.lib.command import TAIL_LINES, CommandError
from harness.lib.errors import BuildError, HarnessError
from harness.lib.files import digest
from harness.lib.paths import PROBES


def build_actor(store: Store, headers: Path, log: Path) -> Path:
    """The actor, compiled against a kernel's installed headers, from the cache if it is there.

    Raises BuildError if those headers do not compile, HarnessError if the
    compiler itself fails.
    """
    sources = sorted(PROBES.glob("*.[ch]"))
    key = digest(
        command.run(["gcc", "--version"]),
        (PROBES / "Makefile").read_bytes(),
        *(source.read_bytes() for source in sources),
        headers_digest(headers),
    )

    blamed: list[str] = []

    def look(line: str) -> None:
        if re.match(r"(In file included from )?" + re.escape(f"{headers.absolute()}/"), line):
            blamed.append(line)

    def make(folder: Path) -> None:
        settings = ["CC=gcc", f"HEADERS={headers.absolute()}", f"OUT={folder / 'actor'}"]
        command.run(["make", "-C", str(PROBES), *settings], log=log, line=look)

    try:
        return store.entry("probe", key, make) / "actor"
    except CommandError as error:
        if blamed:
            message = "The actor does not compile against the installed headers of this kernel."
            raise BuildError(message, log=log, tail="\n".join(blamed[:TAIL_LINES])) from error
        message = f"The actor does not compile. Are the headers in {headers} those of a Linux 6.19 or later?"
        raise HarnessError(message, log=log, tail=error.tail) from error


def headers_digest(headers: Path) -> str:
    """A digest of all headers below a folder, names and contents.  HarnessError if there are none."""
    files = sorted(headers.rglob("*.h"))
    if not (headers / "linux/vfio.h").is_file():
        raise HarnessError(
            f"The folder {headers} holds no linux/vfio.h. It should be the `include` folder that "
            "`make headers_install` makes."
        )
    return digest(*(part for file in files for part in (str(file.relative_to(headers)), file.read_bytes())))
