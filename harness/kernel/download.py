"""Fetch a file: a large one with a pinned digest into the cache, or a small one of an unknown digest."""

from __future__ import annotations

import errno
import http.client
import shutil
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import harness
from harness.lib import cache, files, interruption
from harness.lib.errors import HarnessError, UnreachableError, UsageError
from harness.lib.progress import Stage
from harness.lib.text import printable

TRIES = 6  # connections opened for one file; each continues where the last one broke off
TIMEOUT = 30.0  # seconds of silence after which a connection counts as broken
DEADLINE = 300.0  # seconds for a file without a pinned digest, with all tries
TRIES_FROM_START = 3  # of such a file
BLOCK = 1 << 18
_MIB = 1 << 20


def require_space(folder: Path, size: int) -> None:
    """Raise HarnessError unless the disk below ``folder`` has ``size`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise HarnessError(
            f"The disk below {folder} has {free // _MIB} MiB free, and {size // _MIB} MiB are needed. "
            f"Make room, or set {cache.CACHE_VARIABLE} to a folder on another disk."
        )


def text(url: str) -> str:
    """Return the content of a small text file, at most 1 MiB of it.  Raises UnreachableError."""

    def read() -> bytes:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:  # noqa: S310 - from bases.toml
            content: bytes = response.read(_MIB)
        return content

    try:
        content = interruption.call(read)
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(f"{url} could not be read ({_reason(error)}).") from error
    return content.decode(errors="replace")


def fetch(url: str, target: Path, sha256: str, stage: Stage) -> None:
    """Put the file at ``url`` at ``target``, once its SHA-256 is the one given.

    Bytes go to ``target``.part, which a later run continues.  Raises
    UnreachableError when the server cannot be reached, has no such file or
    breaks off too often.  Raises HarnessError when the file is not the expected
    one, and deletes it.
    """
    part = target.with_name(target.name + ".part")
    inherited = part.exists()
    failure = ""
    for _ in range(TRIES):
        try:
            whole = interruption.call(_continue, url, part, stage)
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and part.exists():
                part.unlink()  # it is longer than the file, so no part of it
                continue
            if error.code < 500:
                raise UnreachableError(f"{url} answers {error.code} {error.reason}.") from error
            failure = f"the server answers {error.code}"
            continue
        except (OSError, http.client.HTTPException) as error:
            failure = _reason(error)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise HarnessError(f"{part} could not be written: {failure}.") from error
            if isinstance(error, urllib.error.URLError) and not part.exists():
                break  # no name, no route or no valid certificate: a new try would fail, too
            continue
        if not whole:
            failure = f"the connection broke off at {part.stat().st_size} bytes"
            continue
        try:
            verify_and_rename(part, target, sha256, url)
        except HarnessError:
            if not inherited:
                raise
            inherited = False  # the inherited part may be of another file: fetch again from the start
            continue
        return
    raise UnreachableError(f"{url} could not be fetched: {failure}.")


def verify_and_rename(part: Path, target: Path, sha256: str, source: str) -> None:
    """Rename ``part`` to ``target`` if its digest is right; else delete it and raise HarnessError."""
    found = files.file_digest(part)
    if found != sha256:
        part.unlink()
        raise HarnessError(
            f"The file from {source} is not the one that is pinned: its SHA-256 is {found}, not {sha256}. "
            "It was deleted. Try again; if the digest is wrong again, do not trust the source."
        )
    part.replace(target)


def content(url: str, limit: int) -> bytes:
    """Return the file at ``url``, of at most ``limit`` bytes, whose digest nobody knows beforehand.

    So the server has to be the one that was named: only TLS is trusted, or a server on
    this machine, and a redirection is followed on the same server only.  Raises
    UsageError for another kind of URL, UnreachableError if the server cannot be reached or
    does not give the file, HarnessError for a larger file.
    """
    try:
        where = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise UsageError(f"The address {printable(url)} cannot be read: {error}.") from None
    if "@" in where.netloc:
        raise UsageError(
            f"The address of a file at {printable(str(where.hostname))} is not used: it has a user name or a "
            "password, which other users of this host could read from the command line. Leave that out."
        )
    local = where.scheme == "http" and where.hostname in ("127.0.0.1", "::1", "localhost")
    if not (where.scheme == "https" or local) or not where.hostname:
        raise UsageError(
            f"{printable(url)} is not fetched: it is not an https address, and anybody on the way could "
            "change what it sends. http is for a server on this machine only."
        )
    # A proxy does not reach this machine.
    proxies = [urllib.request.ProxyHandler({})] if local else []
    opener = urllib.request.build_opener(_SameServer, *proxies)
    # Some archives refuse Python's own name.
    opener.addheaders = [("User-Agent", f"patchproof/{harness.__version__}")]
    failure, ends = "", time.monotonic() + DEADLINE
    for _ in range(TRIES_FROM_START):
        try:
            return interruption.call(_whole, opener, url, limit, ends)
        except urllib.error.HTTPError as error:
            failure = f"the server answers {error.code} {printable(str(error.reason))}"
            if error.code < 500:
                break
        except (OSError, http.client.HTTPException, ValueError) as error:
            failure = printable(_reason(error))
            if isinstance(error, urllib.error.URLError):
                break  # no name, no route or no valid certificate: a new try would fail, too
    raise UnreachableError(f"{printable(url)} could not be fetched: {failure}.")


class _SameServer(urllib.request.HTTPRedirectHandler):
    """Follow a redirection to the same scheme, host and port, and no other."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if (old.scheme, old.netloc) != (new.scheme, new.netloc):
            raise UnreachableError(
                f"{printable(req.full_url)} redirects to {printable(newurl)}, another server, which is not "
                "asked."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _whole(opener: urllib.request.OpenerDirector, url: str, limit: int, ends: float) -> bytes:
    """Return the whole file at ``url``.

    Raises ConnectionError if it breaks off, UnreachableError if it is not there at ``ends``.
    """
    blocks: list[bytes] = []
    have = 0
    with opener.open(url, timeout=TIMEOUT) as response:
        length = response.headers.get("Content-Length")
        while block := response.read1(BLOCK):
            interruption.check()
            blocks.append(block)
            have += len(block)
            if have > limit:
                raise HarnessError(
                    f"{printable(url)} is larger than {limit / _MIB:.0f} MiB, which is the limit."
                )
            if time.monotonic() > ends:
                raise UnreachableError(
                    f"{printable(url)} could not be fetched: after {DEADLINE:.0f} s there were only {have} "
                    "bytes."
                )
    if length is not None and length.isdigit() and have != int(length):
        raise ConnectionError(f"the connection broke off at {have} of {length} bytes")
    return b"".join(blocks)


@contextmanager
def showing_progress(path: Path, size: int | None, stage: Stage) -> Iterator[None]:
    """Show the size of ``path``, of ``size`` bytes if known, while another program writes the file."""
    ended = threading.Event()

    def poll() -> None:
        while not ended.wait(0.25):
            try:
                _show(path.stat().st_size, size, stage)
            except FileNotFoundError:
                continue  # not begun, or renamed already

    thread = threading.Thread(target=poll, name="download-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _continue(url: str, part: Path, stage: Stage) -> bool:
    """Append the missing bytes to ``part``; return whether it now has the length that the server gives."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310 - from bases.toml
        resumed = (
            have > 0
            and response.status == http.HTTPStatus.PARTIAL_CONTENT
            and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        )
        if not resumed:
            have = 0  # a server without ranges sends the whole file
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None and length.isdigit() else None
        with part.open("ab" if resumed else "wb") as stream:
            while block := response.read1(BLOCK):
                interruption.check()  # no more is written once the lock of the file may be free
                stream.write(block)
                have += len(block)
                _show(have, total, stage)
    return total is None or have == total


def _show(have: int, total: int | None, stage: Stage) -> None:
    of = f" of {total / _MIB:.0f}" if total else ""
    stage.update(f"{have / _MIB:.0f}{of} MiB")


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return str(reason) or type(error).__name__
