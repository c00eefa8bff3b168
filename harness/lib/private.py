"""The files of a machine that only their owner may use: its keys, and the socket of its debugger.

The folder of a machine is closed to other users while they exist.  They are removed when the
machine ends, so that the folder can be published.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEY = "id_ed25519"  # which the guest accepts
KNOWN_HOSTS = "known_hosts"
INITRD = "initrd.cpio"  # with the guest's host key
DEBUGGER = "debugger"  # a UNIX socket
FILES = (KEY, KNOWN_HOSTS, INITRD, DEBUGGER)
#: The longest path of a socket (sun_path in linux/un.h), with its last zero byte.
SOCKET_PATH = 108


def close_folder(folder: Path) -> None:
    """Make ``folder``, which other users cannot enter."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def remove(folder: Path) -> None:
    """Remove FILES from ``folder``, and let other users read the rest, as far as the umask does."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    folder.chmod(0o755 & ~_umask())


def write(path: Path, content: bytes) -> None:
    """Write a file with mode 0600 from its creation on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)


def listen(path: Path) -> socket.socket:
    """Return a socket that listens at ``path``, to which only its owner can connect."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as short:
            listening.bind(short)
        path.chmod(0o600)  # before listen(), until which nobody can connect
        listening.listen()
    except BaseException:
        listening.close()
        raise
    return listening


def connect(path: Path, timeout: float) -> socket.socket:
    """Return a connection to the socket at ``path``.  Raises OSError."""
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.settimeout(timeout)
        with _short(path) as short:
            connected.connect(short)
    except BaseException:
        connected.close()
        raise
    return connected


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield another path of ``path``, which is short enough for a socket."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _umask() -> int:
    """Return the umask of this process; umask() itself would change it for a moment."""
    found = re.search(r"^Umask:\s*([0-7]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1], 8) if found else 0o077
