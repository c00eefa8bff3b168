"""The manifests of revisions that were posted in public, ``patches/public/*.toml``.

The mails themselves are not in the repository.  A manifest is found by the begin of
their Message-IDs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.lib.errors import UsageError
from harness.lib.text import printable
from harness.series import selftest
from harness.series.manifest import Table, content_of

FOLDER = "public"  # below patches/
_KEYS = {"title", "date", "message-id-prefix", "base", "dialect", "expect", "selftest"}
_RELEASE = re.compile(r"v?(\d{1,2}\.\d{1,3})(-rc\d{1,2})?(?:\.\d{1,3})?")


@dataclass(frozen=True)
class PublicManifest:
    """The facts of one posted revision.

    ``name`` is that of the file, empty for a revision without a manifest.  ``base`` is a
    release ("7.1"), empty if the revision was made for none.  ``notes`` are for the user:
    the use of the manifest, and what of its facts cannot be used as it is.
    """

    name: str = ""
    base: str = ""
    dialect: str = "auto"
    expect: Mapping[str, str] = field(default_factory=dict)
    selftest: selftest.Table = field(default_factory=selftest.Table)
    notes: tuple[str, ...] = ()


def find(patches_dir: Path, message_ids: Iterable[str]) -> PublicManifest:
    """Return the manifest below ``patches_dir`` whose prefix one of ``message_ids`` has, or an empty one.

    Raises UsageError for a malformed manifest, and if there are two.
    """
    ids = [one for one in message_ids if one]
    found = []
    for path in sorted((patches_dir / FOLDER).glob("*.toml")) if ids else ():
        table = Table(path, content_of(path), _KEYS)
        prefix = table.text("message-id-prefix")
        if prefix is not None and any(_begins(one, prefix) for one in ids):
            found.append((path, table))
    if len(found) > 1:
        both = " and ".join(str(path) for path, _ in found)
        raise UsageError(
            f"The mails have the message-id-prefix of several manifests, {both}. Keep one of them."
        )
    if not found:
        return PublicManifest()
    path, table = found[0]
    name = f"patches/{FOLDER}/{path.name}"
    base, notes = _release(name, table.text("base") or "")
    said = f"Base, dialect and expected verdicts are those of the manifest {name}, found by the Message-ID."
    return PublicManifest(
        name, base, table.dialect() or "auto", table.expect() or {}, table.selftest(), (said, *notes)
    )


def _begins(message_id: str, prefix: str) -> bool:
    """Return whether a Message-ID begins with ``prefix`` and goes on with something else than its number."""
    return message_id.startswith(prefix) and not message_id[len(prefix) : len(prefix) + 1].isalnum()


def _release(name: str, base: str) -> tuple[str, tuple[str, ...]]:
    """Return the release in the words of a manifest, and a note if it is not quite that."""
    release = _RELEASE.fullmatch(base)
    if release is not None:
        candidate = release[2] is not None
        note = f"{name} has the base {base}; {release[1]} is taken for it." if candidate else ""
        return release[1], (note,) if note else ()
    if not base:
        return "", ()
    return "", (f"{name} has the base {printable(base)!r}, which is no release.",)
