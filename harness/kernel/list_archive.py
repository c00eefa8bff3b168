"""Fetch the thread of a mail from a mailing list archive, and keep it.

An archive of public-inbox, such as lore.kernel.org, has each thread as one compressed
mbox file, ``LIST/MESSAGE-ID/t.mbox.gz``.  A thread is kept below its digest, and an index
has the digest by message-id, so a thread is fetched once.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import urllib.parse
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from harness.kernel import download
from harness.lib import files
from harness.lib.cache import Store
from harness.lib.errors import HarnessError, PatchproofError, UnreachableError, UsageError
from harness.lib.text import printable, slug
from harness.series.series import MAX_BYTES
from harness.series.unpack import UnpackError, unpack

ARCHIVE_VARIABLE = "PATCHPROOF_ARCHIVE"
DEFAULT_ARCHIVE = "https://lore.kernel.org/all"
# Hosts of links that have no mails: they redirect to the default archive.
_REDIRECTING = ("lkml.kernel.org", "patch.msgid.link", "msgid.link")
_PATCHWORK = re.compile(r"/project/[^/]+/(?:patch|cover)$")  # before a message-id; it has no threads
_HYPERKITTY = re.compile(r"/list/[^/@]+@[^/@]+/(?:message|thread|latest|export|\d{4})(?:/|$)")
# The header's name, or the search word of mail programs, before a message-id.
_LABEL = re.compile(r"(?:message-id|msgid|mid|id):\s*", re.IGNORECASE)
KIND = "threads"  # of what the cache keeps

# Without the characters by which Python stands for bytes that are no UTF-8.
_ID = re.compile(r"[^\s<>@\ud800-\udfff]{1,400}@[^\s<>@\ud800-\udfff]{1,400}")


@dataclass(frozen=True)
class Address:
    """A mail in an archive: its message-id without angle brackets, and the archive's own address.

    ``archive`` is empty for a bare message-id.
    """

    message_id: str
    archive: str = ""

    @classmethod
    def parse(cls, argument: str) -> Address | None:
        """Return the mail that a message-id or a link names; None if ``argument`` is neither.

        Raises UsageError for a link that names no message-id.
        """
        if re.match(r"https?://", argument, re.IGNORECASE):
            return cls._of_link(argument)
        if re.match(rf"(?:lore\.kernel\.org|{'|'.join(map(re.escape, _REDIRECTING))})/", argument):
            return cls._of_link(f"https://{argument}")
        argument = _LABEL.sub("", argument, count=1) if _LABEL.match(argument) else argument
        bare = argument.removeprefix("<").removesuffix(">")
        if _ID.fullmatch(bare) and (bare != argument or "/" not in argument):
            return cls(bare)
        return None

    @classmethod
    def _of_link(cls, link: str) -> Address:
        """Parse ``https://HOST/LIST/MESSAGE-ID/``, with or without ``T/``, ``raw`` and the like after it."""
        try:
            parts = urllib.parse.urlsplit(link)
        except ValueError as error:
            raise UsageError(f"The link {printable(link)} cannot be read: {error}.") from None
        if _HYPERKITTY.search(parts.path):
            raise UsageError(
                f"The link {printable(link)} leads into an archive of Mailman 3, whose links have no "
                "message-id. Give the mail's Message-ID itself; or download the thread there as an mbox "
                "file, and name that."
            )
        segments = parts.path.split("/")
        for at, segment in enumerate(segments):
            found = urllib.parse.unquote(segment).removeprefix("<").removesuffix(">")
            if _ID.fullmatch(found):
                before = "/".join(segments[:at])
                if parts.hostname in _REDIRECTING or _PATCHWORK.search(before):
                    return cls(found)
                return cls(found, f"{parts.scheme}://{parts.netloc}{before}")
        raise UsageError(
            f"The link {printable(link)} names no message-id, as https://HOST/LIST/MESSAGE-ID/ does. Give "
            "the mail's Message-ID itself, or save the thread as an mbox file and name that."
        )

    @property
    def urls(self) -> list[str]:
        """The addresses of the thread, in the order to try them.

        $PATCHPROOF_ARCHIVE comes before the archive of a link, as a mirror of it.  A link
        with ``/r/`` is one for any list.
        """
        archive = os.environ.get(ARCHIVE_VARIABLE, "") or self.archive or DEFAULT_ARCHIVE
        archive = archive.rstrip("/")
        archives = [archive]
        if archive.endswith("/r"):
            archives.append(f"{archive.removesuffix('/r')}/all")
        name = urllib.parse.quote(self.message_id, safe="@")
        return [f"{one}/{name}/t.mbox.gz" for one in archives]


@dataclass(frozen=True)
class Thread:
    """A thread in the cache: its mbox file, where it came from, and when (UTC).

    ``again`` is true if it was there already.
    """

    path: Path
    url: str
    fetched: str
    again: bool

    @property
    def note(self) -> str:
        """A sentence on where the thread is from."""
        if self.again:
            return f"The thread is as {self.url} had it on {self.fetched}; --refresh fetches it again."
        return f"The thread was fetched from {self.url} on {self.fetched}."


def thread(store: Store, address: Address, *, refresh: bool = False) -> Thread:
    """Return the thread of a mail, from the cache or, else or with ``refresh``, from the archive.

    Raises HarnessError if no archive gives it, UsageError for an archive that is no https address.
    """
    index = _index(store, address)
    with store.lock(f"{KIND}-{index.stem}"):
        found = None if refresh else kept(store, address)
        return found or _fetched(store, index, address)


def kept(store: Store, address: Address) -> Thread | None:
    """Return the thread in the cache, None if it is missing or damaged."""
    index = _index(store, address)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        entry = json.loads(index.read_bytes())
        path = _place(store, str(entry["sha256"]), address)
        if entry["message_id"] == address.message_id and files.file_digest(path) == entry["sha256"]:
            return Thread(path, str(entry["url"]), str(entry["fetched"]), again=True)
    return None


def _index(store: Store, address: Address) -> Path:
    return store.path(KIND, "index", f"{files.digest(address.message_id)[:32]}.json")


def _fetched(store: Store, index: Path, address: Address) -> Thread:
    failures: list[PatchproofError] = []
    for url in address.urls:
        try:
            content = _mails(url, address)
        except UnreachableError as error:
            failures.append(error)
            continue
        digest = sha256(content).hexdigest()
        path = _place(store, digest, address)
        files.write_atomically(path, content)
        fetched = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        entry = {"message_id": address.message_id, "sha256": digest, "url": url, "fetched": fetched}
        files.write_atomically(index, json.dumps(entry, indent=1) + "\n")
        return Thread(path, url, fetched, again=False)
    raise HarnessError(
        f"No archive gives the thread of <{printable(address.message_id)}>: {failures[-1].message} Save "
        f"it as an mbox file where there is network, and name that; or set {ARCHIVE_VARIABLE} to the address "
        f"of an archive that has it (default: {DEFAULT_ARCHIVE})."
    )


def _mails(url: str, address: Address) -> bytes:
    """Return the mails at ``url``.  Raises UnreachableError unless they are a thread with the mail."""
    packed = download.content(url, MAX_BYTES)
    if not packed.startswith(b"\x1f\x8b"):
        words = "a web page" if b"<html" in packed[:2000].lower() else "no compressed mbox file"
        raise UnreachableError(f"{printable(url)} is {words}, so this is no archive of public-inbox.")
    try:
        content = unpack(packed, MAX_BYTES)
    except UnpackError as reason:
        raise UnreachableError(f"{printable(url)} cannot be read: {reason}.") from None
    if address.message_id.encode() not in content:
        raise UnreachableError(f"{printable(url)} does not hold the mail.")
    return content


def _place(store: Store, digest: str, address: Address) -> Path:
    """Return the file of a thread; its name becomes the name of the series."""
    return store.path(KIND, digest[:32], f"{slug(address.message_id, empty='thread')}.mbox")
