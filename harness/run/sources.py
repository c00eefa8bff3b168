"""Find out where the mails of a series come from: a file, standard input, or a list's archive."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from harness.kernel import list_archive
from harness.kernel.list_archive import Address
from harness.lib import files, paths, standard_input
from harness.lib.cache import Store
from harness.lib.errors import UsageError
from harness.lib.progress import Progress
from harness.series.series import MAX_BYTES

STANDARD_INPUT = "-"
KIND = "input"  # of what the cache keeps


@dataclass(frozen=True)
class Source:
    """The place of a series.

    ``path`` is the argument of series.load(), and ``message_id`` the mail that chooses one
    of several revisions.  ``argument`` names the series in another process: standard input
    can be read only once.  ``origin`` and ``note`` are for people; empty for a file.
    """

    path: str
    argument: str
    message_id: str = ""
    origin: str = ""
    note: str = ""


def find(argument: str, *, refresh: bool = False) -> Source:
    """Return the place of the series ``argument``; fetch its thread, or read standard input.

    Only what is neither a name nor a file is taken for a message-id.  With ``refresh``
    the thread is fetched even if the cache has it.  Raises UsageError, HarnessError.
    """
    if argument == STANDARD_INPUT:
        path = _kept_input(Store())
        return Source(
            str(path), str(path), origin="standard input", note=f"Standard input is kept as {path}."
        )
    try:
        exists = bool(argument) and ((paths.PATCHES / argument).exists() or Path(argument).exists())
    except OSError:
        exists = False  # a name that no file can have
    address = None if exists else Address.parse(argument)
    if address is None:
        if refresh:
            raise UsageError("--refresh fetches a thread again, and --series names no message-id or link.")
        return Source(argument, argument)
    store = Store()
    thread = None if refresh else list_archive.kept(store, address)
    if thread is None:
        with Progress(store).stage("fetch", "thread") as stage:
            stage.update(f"<{address.message_id}>")
            thread = list_archive.thread(store, address, refresh=refresh)
    return Source(str(thread.path), argument, address.message_id, thread.url, thread.note)


def _kept_input(store: Store) -> Path:
    """Write standard input to a file below its digest, and return the file."""
    stream = standard_input.stream()
    if stream.isatty():
        raise UsageError(
            "--series - reads the mails of a series from standard input, which is a terminal here. Pipe them "
            "in (`b4 am -o - MESSAGE-ID | ...`), or name a file."
        )
    content = standard_input.read(stream, MAX_BYTES + 1)
    if not content:
        raise UsageError("Standard input is empty: the program before the pipe has written no mails.")
    if len(content) > MAX_BYTES:
        raise UsageError(f"Standard input holds more than {MAX_BYTES >> 20} MiB, which is the limit.")
    # The name of the file becomes the name of the series.
    path = store.path(KIND, sha256(content).hexdigest()[:32], "stdin.mbox")
    files.write_atomically(path, content)
    return path
