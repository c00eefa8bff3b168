"""The base: the kernel source that a series is applied to.

It comes from the cache, else from kernel.org, else from the Debian archive,
which has 6.19.y when kernel.org cannot be reached.  A version other than the
wanted one is always reported.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.kernel import debian, download, tarball
from harness.lib import apt, git
from harness.lib.cache import Store
from harness.lib.errors import HarnessError, UnreachableError, UsageError
from harness.lib.files import digest, file_digest, write_atomically
from harness.lib.paths import PATCHES
from harness.lib.progress import Progress, Stage
from harness.series.series import DEFAULT_BASE

PINNED = PATCHES / "bases.toml"
# Bytes for one base: tarball 160 MB, repository 190 MB, and git's temporary files.
SPACE_NEEDED = 600 << 20
_RECORD = "base.json"  # beside the files of the bare repository; git ignores it


@dataclass(frozen=True)
class Base:
    """A kernel source in git.

    ``version`` is its version ("6.19.6"), ``wanted`` the release that the series
    asks for ("6.19"), ``source`` its origin, for people.  ``commit`` is in the bare
    repository ``repository``.
    """

    version: str
    wanted: str
    source: str
    commit: str
    repository: Path

    @property
    def note(self) -> str:
        """Return "6.19.6 instead of 6.19" for a version other than the wanted one, else nothing."""
        return f"{self.version} instead of {self.wanted}" if self.version != self.wanted else ""


@dataclass(frozen=True)
class Pin:
    """One entry of bases.toml: either ``url`` or ``archive`` is empty; ``sha256`` and ``tree`` may be."""

    release: str
    version: str
    url: str = ""
    archive: str = ""
    sha256: str = ""
    tree: str = ""


def fetch(store: Store, progress: Progress, wanted: str = DEFAULT_BASE, pinned: Path = PINNED) -> Base:
    """Return the base for ``wanted``, from the cache or from the first source that has it.

    Raises UsageError for a release that ``pinned`` does not know, HarnessError
    when no source gives it or a source gives something else.
    """
    pins = [pin for pin in read_pins(pinned) if pin.release == wanted]
    if not pins:
        known = ", ".join(sorted({pin.release for pin in read_pins(pinned)}))
        raise UsageError(f"The base {wanted!r} is not known here ({known}). Use --tree DIR for another.")
    base = _cached(store, pins)
    if base is None:
        with progress.stage("fetch") as stage:
            waiting = "another run is fetching the base; this one waits for it"
            with store.lock("base", waiting=lambda: stage.note(waiting)):
                base = _cached(store, pins) or _fetch(store, pins, stage)
    if base.note:
        progress.say(f"base: {base.note}, from {base.source}")
    return base


def read_pins(path: Path) -> list[Pin]:
    """Return the entries of bases.toml, in order."""
    return [Pin(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["tarball"]]


def _cached(store: Store, pins: Iterable[Pin]) -> Base | None:
    for pin in pins:
        for record in sorted(store.root.glob(f"base/{pin.version}-{pin.sha256[:16] or '*'}/{_RECORD}")):
            known = json.loads(record.read_text(encoding="utf-8"))
            return Base(pin.version, pin.release, known["source"], known["commit"], record.parent)
    return None


def _fetch(store: Store, pins: Iterable[Pin], stage: Stage) -> Base:
    """Try one source after another; a source that cannot be reached is reported and skipped."""
    download.require_space(store.root, SPACE_NEEDED)
    log = store.path("logs", "fetch.log")
    log.unlink(missing_ok=True)
    pins = list(pins)
    failures: list[str] = []
    for pin in (pin for pin in pins if pin.url):
        try:
            return _from_url(store, pin, stage)
        except UnreachableError as error:
            stage.note(error.message)
            failures.append(error.message)
    try:
        mirrors = apt.mirrors() if any(pin.archive == "debian" for pin in pins) else []
    except UnreachableError as error:
        mirrors = []
        failures.append(error.message)
    for mirror in mirrors:
        try:
            return _from_debian(store, [pin for pin in pins if pin.archive == "debian"], mirror, log, stage)
        except UnreachableError as error:
            stage.note(error.message)
            failures.append(f"{error.message}\n{error.tail}".strip())
    raise HarnessError(
        f"No source has the base {pins[0].release}. Connect this machine to the network or name a kernel "
        "checkout with --tree DIR.",
        log=log if log.exists() else None,
        tail="\n".join(failures),
    )


def _from_url(store: Store, pin: Pin, stage: Stage) -> Base:
    folder, _, name = pin.url.rpartition("/")
    sha256, source = pin.sha256, pin.url
    if not sha256:
        if not pin.url.startswith("https://"):
            raise HarnessError(f"{pin.url} has no pinned digest, so it is only fetched over TLS.")
        stage.update(f"asking {folder}")
        sha256 = published_digest(download.text(f"{folder}/sha256sums.asc"), name)
        source = f"{pin.url} (digest as published there over TLS, not pinned here)"
        stage.note(f"the digest of {name} is not pinned; the one that its server publishes over TLS is used")
    path = store.path("downloads", name)
    if not path.exists():
        download.fetch(pin.url, path, sha256, stage)
    return _import(store, pin, path, sha256, source, stage)


def published_digest(listing: str, name: str) -> str:
    """Return the SHA-256 of ``name`` in the text of a sha256sums file.  Raises UnreachableError."""
    found = re.findall(rf"^([0-9a-f]{{64}}) [ *]{re.escape(name)}$", listing, re.MULTILINE)
    if len(found) != 1:
        raise UnreachableError(f"The list of digests beside {name} has {len(found)} entries for it.")
    return str(found[0])


def _from_debian(store: Store, pins: Iterable[Pin], mirror: str, log: Path, stage: Stage) -> Base:
    stage.update("reading the Debian archive's index")
    archive = debian.Archive(mirror, store.path("apt", digest(mirror)[:16]), log)
    tarballs = archive.tarballs()
    failure = UnreachableError(
        f"The index of {debian.SUITE} lists none of the pinned kernel tarballs.", log=log
    )
    for pin in pins:
        entry = tarballs.get(pin.version)
        if entry is None:
            continue
        if entry.sha256 != pin.sha256:
            raise HarnessError(
                f"The Debian archive's index gives {entry.sha256} as the digest of Linux {pin.version}; "
                f"pinned is {pin.sha256}. Nothing was fetched."
            )
        path = store.path("downloads", entry.url.rpartition("/")[2])
        try:
            if not path.exists():
                archive.download(entry, path, pin.sha256, stage)
        except UnreachableError as error:
            stage.note(error.message)
            failure = error
            continue
        source = f"{path.name} of the Debian archive ({debian.SUITE})"
        return _import(store, pin, path, pin.sha256, source, stage)
    raise failure


def _import(store: Store, pin: Pin, path: Path, sha256: str, source: str, stage: Stage) -> Base:
    """Import the tarball at ``path`` into git, and delete it."""

    def make(folder: Path) -> None:
        if file_digest(path) != sha256:
            path.unlink()
            raise HarnessError(
                f"The downloaded {path.name} has changed on the disk and was deleted. Try again."
            )
        commit = tarball.import_tarball(path, folder, f"Linux {pin.version}\n\nsha256: {sha256}\n", stage)
        tree = git.resolve(folder, f"{commit}^{{tree}}")
        if pin.tree and tree != pin.tree:
            raise HarnessError(
                f"Linux {pin.version} was imported as the git tree {tree}; pinned is {pin.tree}."
            )
        record = {"version": pin.version, "source": source, "sha256": sha256, "commit": commit}
        write_atomically(folder / _RECORD, json.dumps(record, indent=1) + "\n")

    repository = store.entry("base", f"{pin.version}-{sha256[:16]}", make)
    path.unlink(missing_ok=True)
    base = _cached(store, [pin])
    assert base is not None, repository
    return base
