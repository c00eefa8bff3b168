"""The Debian archive as a source of kernel sources.

Debian ships the upstream source of each of its kernels as an ``orig`` tarball, and
the patched source as a package ``linux-source-VERSION``.  The archive's indexes list
both, and apt checks the archive's signature on the indexes.  apt knows the mirror
and the proxy of this machine.  It runs here with separate folders, so no system list
is touched and root is not needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.kernel import download
from harness.lib import command, private
from harness.lib.apt import HELPER, KEYRING
from harness.lib.command import CommandError
from harness.lib.errors import UnreachableError
from harness.lib.progress import Stage

_ORIGINAL = re.compile(r"^ ([0-9a-f]{64}) (\d+) (linux_\d+(?:\.\d+)+\.orig\.tar\.xz)$", re.MULTILINE)
_PACKAGE = re.compile(r"^Package: linux-source-[\d.]+$", re.MULTILINE)
_FIELDS = ("Filename", "SHA256", "Size")


@dataclass(frozen=True)
class ArchiveFile:
    """A kernel source in the archive: size in bytes, SHA-256 from the signed index."""

    url: str
    sha256: str
    size: int


class Archive:
    """One suite of the archive at one mirror; apt's files are below ``state``."""

    def __init__(self, mirror: str, suite: str, state: Path, log: Path, keyring: Path = KEYRING) -> None:
        self.mirror = mirror
        self.suite = suite
        self.log = log
        self._options = _private(state)
        sources = state / "sources.list"
        # Only these two indexes, and not those that other packages of the host (apt-file) ask for.
        listed = "".join(
            f"{kind} [signed-by={keyring} target={index}] {mirror} {suite} main\n"
            for kind, index in (("deb-src", "Sources"), ("deb", "Packages"))
        )
        private.write(sources, listed.encode())  # the mirror may have a password
        self._options += ["-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null"]

    def files(self) -> dict[str, ArchiveFile]:
        """Return the kernel sources of the signed indexes by file name.  Raises UnreachableError."""
        try:
            # Without this option, an index that apt cannot fetch is only a warning.
            strict = ["-o", "APT::Update::Error-Mode=any"]
            command.run(["apt-get", *self._options, *strict, "update"], log=self.log)
            listed = command.run(["apt-get", *self._options, "indextargets", "--format", "$(FILENAME)"])
            text = "".join(
                command.run([HELPER, "cat-file", name]) + "\n" for name in listed.split("\n") if name
            )
        except CommandError as error:
            raise UnreachableError(
                f"The signed indexes of {self.suite} at {self.mirror} could not be read.",
                log=self.log,
                tail=error.tail,
            ) from error
        return parse_index(text, self.mirror)

    def download(self, file: ArchiveFile, target: Path, sha256: str, stage: Stage) -> None:
        """Put ``file`` at ``target`` with apt's own transport, which resumes a broken download.

        Raises UnreachableError, or HarnessError if the file does not have the digest ``sha256``.
        """
        part = target.with_name(target.name + ".part")
        refused = part.with_name(part.name + ".FAILED")  # where apt moves a file whose digest is wrong
        # A helper that outlived a killed run would write the same file as that of the next run.
        helper = ["setpriv", "--pdeathsig", "KILL", HELPER]
        fetch = [*helper, *self._options, "download-file", file.url, str(part), f"SHA256:{sha256}"]
        try:
            with download.showing_progress(part, file.size, stage):
                command.run(fetch, log=self.log)
        except CommandError as error:
            if refused.exists():
                download.verify_and_rename(refused, target, sha256, file.url)
                return
            raise UnreachableError(
                f"{file.url} could not be fetched.", log=self.log, tail=error.tail
            ) from error
        download.verify_and_rename(part, target, sha256, file.url)


def parse_index(text: str, mirror: str) -> dict[str, ArchiveFile]:
    """Return the ``orig`` tarballs and ``linux-source`` packages in the text of the indexes, by file name."""
    found: dict[str, ArchiveFile] = {}
    top = mirror.rstrip("/")
    for stanza in text.split("\n\n"):
        if "linux" not in stanza:
            continue
        if _PACKAGE.search(stanza):
            name, sha256, size = (_field(stanza, field) for field in _FIELDS)
            if re.fullmatch(r"[0-9a-f]{64}", sha256) and size.isdigit() and re.fullmatch(r"[\w./+~-]+", name):
                found[name.rpartition("/")[2]] = ArchiveFile(f"{top}/{name}", sha256, int(size))
        folder = re.search(r"^Directory: ([\w./+-]+)$", stanza, re.MULTILINE)
        tarball = _ORIGINAL.search(stanza)
        if folder and tarball:
            sha256, size, name = tarball.groups()
            found[name] = ArchiveFile(f"{top}/{folder[1]}/{name}", sha256, int(size))
    return found


def _field(stanza: str, name: str) -> str:
    """Return the value of a field of one line; empty if there is none."""
    line = re.search(rf"^{name}: (.*)$", stanza, re.MULTILINE)
    return line[1] if line else ""


def _private(state: Path) -> list[str]:
    """Return the apt options that keep all files which apt writes below ``state``."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    return ["-o", f"Dir::State::Lists={state}/lists", "-o", f"Dir::Cache={state}/cache"]
