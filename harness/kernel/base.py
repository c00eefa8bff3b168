"""The base: the kernel source that a series is applied to.

It comes from the cache, else from kernel.org, else from the Debian archive,
which has later versions of each release when kernel.org cannot be reached.  A
version other than the wanted one is always reported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.kernel import download, tarball
from harness.kernel.debian import Archive, ArchiveFile
from harness.kernel.pins import PINNED, Pin, read_pins, releases
from harness.lib import apt, git
from harness.lib.cache import Store
from harness.lib.errors import HarnessError, UnreachableError, UsageError
from harness.lib.files import digest, file_digest, write_atomically
from harness.lib.progress import Progress, Stage
from harness.lib.text import printable
from harness.series.series import DEFAULT_BASE

# Bytes for one base: tarball 160 MB, repository 190 MB, and git's temporary files.
SPACE_NEEDED = 600 << 20
_RECORD = "base.json"  # beside the files of the bare repository; git ignores it


@dataclass(frozen=True)
class Base:
    """A kernel source in git.

    ``version`` is its version ("6.19.6"), ``wanted`` the release that the series
    asks for ("6.19"), ``source`` its origin, for people.  ``commit`` is in the bare
    repository ``repository``.  ``title`` is the version for people, if it is more.
    """

    version: str
    wanted: str
    source: str
    commit: str
    repository: Path
    title: str = ""

    @property
    def note(self) -> str:
        """Return "6.19.6 instead of 6.19" for a version other than the wanted one, else nothing."""
        title = self.title or self.version
        return f"{title} instead of {self.wanted}" if title != self.wanted else ""

    def tree_of(self, commit: str) -> str:
        """Return the git tree of a ``commit`` in the repository.  Raises HarnessError if it is missing."""
        found = git.resolve(self.repository, f"{commit}^{{tree}}")
        if found is None:
            raise HarnessError(
                f"The cached repository {self.repository} lacks {commit}. Delete it and try again."
            )
        return found


def fetch(store: Store, progress: Progress, wanted: str = DEFAULT_BASE, pinned: Path = PINNED) -> Base:
    """Return the base for ``wanted``, from the cache or from the first source that has it.

    Raises UsageError for a release that ``pinned`` does not know, HarnessError
    when no source gives it or a source gives something else.
    """
    pins = [pin for pin in read_pins(pinned) if pin.release == wanted]
    if not pins:
        known = ", ".join(releases(pinned))
        raise UsageError(
            f"The base {printable(wanted)!r} is not known here. Choose one of {known} with --base, or give a "
            "git checkout of the kernel with --tree DIR."
        )
    base = _cached(store, pins)
    if base is None:
        with progress.stage("fetch") as stage, store.lock("fetch"):
            base = _cached(store, pins) or _fetch(store, pins, stage)
    if base.note:
        progress.say(f"base: {base.note}, from {base.source}")
    return base


def is_cached(store: Store, wanted: str, pinned: Path = PINNED) -> bool:
    """Return whether the cache has the base for ``wanted``."""
    return _cached(store, [pin for pin in read_pins(pinned) if pin.release == wanted]) is not None


def _cached(store: Store, pins: Sequence[Pin]) -> Base | None:
    for pin in pins:
        for record in sorted(store.root.glob(f"base/{pin.version}-{pin.sha256[:16] or '*'}/{_RECORD}")):
            known = json.loads(record.read_text(encoding="utf-8"))
            commit, source = known["commit"], known["source"]
            return Base(pin.version, pin.release, source, commit, record.parent, pin.title)
    return None


def _fetch(store: Store, pins: Sequence[Pin], stage: Stage) -> Base:
    """Try one source after another; a source that does not have the base is reported and skipped."""
    download.require_space(store.root, SPACE_NEEDED)
    log = store.path("logs", "fetch.log")
    log.unlink(missing_ok=True)
    archives = _Archives(store, log, stage)
    failures: list[str] = []
    for pin in pins:
        try:
            return _from_url(store, pin, stage) if pin.url else _from_debian(store, pin, archives, stage)
        except UnreachableError as error:
            failure = f"{error.message}\n{error.tail}".strip()
            if failure not in failures:  # one index serves several pins
                stage.note(error.message)
                failures.append(failure)
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


class _Archives:
    """The suites of the Debian archive at the host's mirrors, each index read once and only when needed."""

    def __init__(self, store: Store, log: Path, stage: Stage) -> None:
        self._store = store
        self._log = log
        self._stage = stage
        self._mirrors: list[str] | UnreachableError | None = None
        self._known: dict[tuple[str, str], dict[str, ArchiveFile] | UnreachableError] = {}

    def mirrors(self) -> list[str]:
        """Return the URLs of the mirrors.  Raises UnreachableError."""
        if self._mirrors is None:
            try:
                self._mirrors = apt.mirrors()
            except UnreachableError as error:
                self._mirrors = error
        if isinstance(self._mirrors, UnreachableError):
            raise self._mirrors
        return self._mirrors

    def archive(self, mirror: str, suite: str) -> Archive:
        """Return the suite at one mirror."""
        state = self._store.path("apt", digest(mirror, suite)[:16])
        return Archive(mirror, suite, state, self._log)

    def files(self, archive: Archive) -> dict[str, ArchiveFile]:
        """Return what the signed indexes of ``archive`` list.  Raises UnreachableError."""
        key = (archive.mirror, archive.suite)
        if key not in self._known:
            self._stage.update(f"reading the Debian archive's indexes of {archive.suite}")
            try:
                self._known[key] = archive.files()
            except UnreachableError as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, UnreachableError):
            raise found
        return found


def _from_debian(store: Store, pin: Pin, archives: _Archives, stage: Stage) -> Base:
    failure = UnreachableError("apt names no mirror of the Debian archive on this machine.")
    for mirror in archives.mirrors():
        archive = archives.archive(mirror, pin.suite)
        path = store.path("downloads", pin.file)
        try:
            entry = archives.files(archive).get(pin.file)
            if entry is None:
                raise UnreachableError(f"The indexes of {pin.suite} at {mirror} do not list {pin.file}.")
            if entry.sha256 != pin.sha256:
                raise HarnessError(
                    f"The Debian archive's index gives {entry.sha256} as the digest of {pin.file}; "
                    f"pinned is {pin.sha256}. Nothing was fetched."
                )
            if not path.exists():
                archive.download(entry, path, pin.sha256, stage)
        except UnreachableError as error:
            failure = error
            continue
        source = f"{pin.file} of the Debian archive ({pin.suite})"
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
