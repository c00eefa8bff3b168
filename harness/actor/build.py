"""Compile the C actor against the headers of the kernel under test."""

from __future__ import annotations

import re
from pathlib import Path

from harness.lib import command, contained
from harness.lib.cache import Store
from harness.lib.command import TAIL_LINES, CommandError
from harness.lib.errors import BuildError, HarnessError
from harness.lib.files import digest
from harness.lib.paths import PROBES
from harness.lib.untrusted_files import copy_file, remove_folder

_ACTOR_BYTES = 64 << 20


def build_actor(store: Store, headers: Path, log: Path) -> Path:
    """Return the path of the C actor, compiled against a kernel's installed headers; cached.

    Raises BuildError if those headers do not compile, HarnessError if the
    compiler itself fails.
    """
    sources = sorted(PROBES.glob("*.[ch]"))
    key = digest(
        command.run(["gcc", "--version"], env={"PATH": command.SYSTEM_PATH}),
        (PROBES / "Makefile").read_bytes(),
        *(source.read_bytes() for source in sources),
        headers_digest(headers),
    )

    header_errors: list[str] = []

    def collect(line: str) -> None:
        if re.match(r"(In file included from )?" + re.escape(f"{headers.absolute()}/"), line):
            header_errors.append(line)

    def make(folder: Path) -> None:
        # A header may name any file of the host: asm(".incbin \"/etc/passwd\"").
        made = folder / "made"
        made.mkdir()
        settings = ["CC=gcc", f"HEADERS={headers.absolute()}", f"OUT={made / 'actor'}"]
        argv = ["make", "-C", str(PROBES), *settings]
        contained.run(argv, read=[PROBES, headers.absolute()], write=[made], log=log, line=collect)
        copy_file(made, "actor", folder / "actor", _ACTOR_BYTES)
        (folder / "actor").chmod(0o755)
        remove_folder(made)

    try:
        return store.entry("probe", key, make) / "actor"
    except CommandError as error:
        if header_errors:
            message = "The actor does not compile against the installed headers of this kernel."
            raise BuildError(message, log=log, tail="\n".join(header_errors[:TAIL_LINES])) from error
        message = f"The actor does not compile. Are the headers in {headers} those of a Linux 6.19 or later?"
        raise HarnessError(message, log=log, tail=error.tail) from error


def headers_digest(headers: Path) -> str:
    """Return the digest of all headers below a folder, names and contents.

    Raises HarnessError if the folder holds no linux/vfio.h.
    """
    files = sorted(headers.rglob("*.h"))
    if not (headers / "linux/vfio.h").is_file():
        raise HarnessError(
            f"The folder {headers} holds no linux/vfio.h. It should be the `include` folder that "
            "`make headers_install` makes."
        )
    return digest(*(part for file in files for part in (str(file.relative_to(headers)), file.read_bytes())))
