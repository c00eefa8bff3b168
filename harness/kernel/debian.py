"""The Debian archive as a source of kernel tarballs.

Debian ships the upstream source of each of its kernels as an ``orig`` tarball.
The archive's index lists the tarballs, and apt checks the archive's signature on
the index.  apt knows the mirror and the proxy of this machine.  It runs here with
separate folders, so no system list is touched and root is not needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.kernel import download
from harness.lib import command
from harness.lib.apt import HELPER, KEYRING
from harness.lib.command import CommandError
from harness.lib.errors import UnreachableError
from harness.lib.progress import Stage

SUITE = "trixie-backports"  # the suite whose index still lists the 6.19.y source


@dataclass(frozen=True)
class Tarball:
    """One ``orig`` tarball of the archive: size in bytes, SHA-256 from the signed index."""

    url: str
    sha256: str
    size: int


class Archive:
    """The archive at one mirror; apt's files are below ``state``."""

    def __init__(self, mirror: str, state: Path, log: Path, keyring: Path = KEYRING) -> None:
        self.mirror = mirror
        self.log = log
        self._options = _private(state)
        sources = state / "sources.list"
        sources.write_text(f"deb-src [signed-by={keyring}] {mirror} {SUITE} main\n")
        self._options += ["-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=/dev/null"]

    def tarballs(self) -> dict[str, Tarball]:
        """Return the tarballs of the signed index by kernel version.  Raises UnreachableError."""
        try:
            # Without this option, an index that apt cannot fetch is only a warning.
            strict = ["-o", "APT::Update::Error-Mode=any"]
            command.run(["apt-get", *self._options, *strict, "update"], log=self.log)
            listed = command.run(
                ["apt-get", *self._options, "indextargets", "--format", "$(FILENAME)", "Created-By: Sources"]
            )
            text = "".join(
                command.run([HELPER, "cat-file", name]) + "\n" for name in listed.split("\n") if name
            )
        except CommandError as error:
            raise UnreachableError(
                f"The signed source index of {SUITE} at {self.mirror} could not be read.",
                log=self.log,
                tail=error.tail,
            ) from error
        return parse_index(text, self.mirror)

    def download(self, tarball: Tarball, target: Path, sha256: str, stage: Stage) -> None:
        """Put ``tarball`` at ``target`` with apt's own transport, which resumes a broken download.

        Raises UnreachableError, or HarnessError if the file does not have the digest ``sha256``.
        """
        part = target.with_name(target.name + ".part")
        refused = part.with_name(part.name + ".FAILED")  # where apt moves a file whose digest is wrong
        # A helper that outlived a killed run would write the same file as that of the next run.
        helper = ["setpriv", "--pdeathsig", "KILL", HELPER]
        fetch = [*helper, *self._options, "download-file", tarball.url, str(part), f"SHA256:{sha256}"]
        try:
            with download.showing_progress(part, tarball.size, stage):
                command.run(fetch, log=self.log)
        except CommandError as error:
            if refused.exists():
                download.verify_and_rename(refused, target, sha256, tarball.url)
                return
            raise UnreachableError(
                f"{tarball.url} could not be fetched.", log=self.log, tail=error.tail
            ) from error
        download.verify_and_rename(part, target, sha256, tarball.url)


def parse_index(text: str, mirror: str) -> dict[str, Tarball]:
    """Return the ``orig`` tarballs in the text of a Sources index, by kernel version."""
    found: dict[str, Tarball] = {}
    for stanza in text.split("\n\n"):
        folder = re.search(r"^Directory: ([\w./+-]+)$", stanza, re.MULTILINE)
        tarball = re.search(
            r"^ ([0-9a-f]{64}) (\d+) linux_(\d+(?:\.\d+)+)\.orig\.tar\.xz$", stanza, re.MULTILINE
        )
        if folder and tarball:
            sha256, size, version = tarball.groups()
            url = f"{mirror.rstrip('/')}/{folder[1]}/linux_{version}.orig.tar.xz"
            found[version] = Tarball(url, sha256, int(size))
    return found


def _private(state: Path) -> list[str]:
    """Return the apt options that keep all files which apt writes below ``state``."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    return ["-o", f"Dir::State::Lists={state}/lists", "-o", f"Dir::Cache={state}/cache"]
