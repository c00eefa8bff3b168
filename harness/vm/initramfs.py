"""The initramfs: a cpio archive with the guest's init and the SSH keys of one run."""

from __future__ import annotations

import stat
from collections.abc import Mapping

# Documentation/driver-api/early-userspace/buffer-format.rst: "newc" archives.
_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"


def archive(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """Return a "newc" cpio archive of regular files: name to content and permission bits.

    The folders of each name are included.  Owners are root and times are 0, so that
    equal files give equal bytes.
    """
    folders = sorted(
        {"/".join(parts[:n]) for name in files for parts in [name.split("/")] for n in range(1, len(parts))}
    )
    entries = [(name, b"", stat.S_IFDIR | 0o700) for name in folders]
    entries += [(name, content, stat.S_IFREG | mode) for name, (content, mode) in files.items()]
    entries_data = b"".join(_entry(number, *entry) for number, entry in enumerate(entries, 1))
    return entries_data + _entry(0, _TRAILER, b"", 0)


def _entry(number: int, name: str, content: bytes, mode: int) -> bytes:
    path = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    # inode, mode, uid, gid, links, mtime, size, device (4 numbers), length of the name, checksum
    fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(path), 0)
    header = _MAGIC + b"".join(b"%08X" % field for field in fields)
    return _padded(header + path) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
