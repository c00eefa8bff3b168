"""Take the counts of executed lines out of a running kernel, and set them to zero.

A kernel with CONFIG_GCOV_KERNEL shows the counters of each instrumented object as a file in debugfs,
below the path at which the object was built (Documentation/dev-tools/gcov.rst).  The guest is not
trusted: what it answers is bounded here, and is read by gcov in the sandbox (harness/kernel/gcov.py).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from harness.guest.answers import understood
from harness.guest.guest import Guest
from harness.lib.errors import HarnessError

ROOT = "/sys/kernel/debug/gcov"
SUFFIX = ".gcda"
#: Bytes of the counters of all objects together; those of seven files of vfio-pci have 40 KB.
MAX_BYTES = 8 << 20
#: Paths of objects that are looked at; a kernel of ours has at most profile.MAX_OBJECTS of them.
MAX_LISTED = 1000
#: Seconds for taking them, which takes a fiftieth of one: a kernel that hangs does not answer at all.
PATIENCE = 20.0
MAGIC = 0x67636461  # "gcda", in the byte order of the machine (gcc/gcov-io.h, GCOV_DATA_MAGIC)

_LIST = f'find {ROOT} -name "*{SUFFIX}"'
_SIZES = 'for file; do wc -c <"$file"; done'
_TAKE = f'cat -- "$@" && echo 1 >{ROOT}/reset'


class Counters:
    """The counters of some objects in one running kernel, from a list of C files of its tree."""

    def __init__(self, guest: Guest, sources: Sequence[str]) -> None:
        """Find the objects of ``sources``; one that this kernel does not have is left out.

        Raises HarnessError if the kernel has no counters at all, SshTimeoutError, SshLostError.
        """
        self._guest = guest
        listed = guest.script(_LIST).stdout.decode(errors="replace").splitlines()[:MAX_LISTED]
        if not listed:
            raise HarnessError(f"The kernel has no counters of lines below {ROOT}.")
        wanted = {f"/{source.removesuffix('.c')}{SUFFIX}": source for source in sources}
        found = {source: path for end, source in wanted.items() for path in listed if path.endswith(end)}
        sizes = guest.script(_SIZES, *found.values()).stdout.decode(errors="replace").split()
        with understood("size of its counters"):
            self._sizes = {source: int(size) for source, size in zip(found, sizes, strict=True)}
        if not 0 <= sum(self._sizes.values()) <= MAX_BYTES or min(self._sizes.values(), default=0) < 0:
            raise HarnessError(f"The kernel's counters of lines have more than {MAX_BYTES >> 20} MiB.")
        self._paths = found

    def take(self) -> dict[str, bytes]:
        """Return the counters of each C file since the last call, and set them to zero.

        The files of one object have one size in one kernel.  Raises HarnessError, SshTimeoutError,
        SshLostError.
        """
        if not self._paths:
            return {}
        patience = min(self._guest.deadline, PATIENCE)
        done = self._guest.script(_TAKE, *self._paths.values(), seconds=patience)
        if done.status != 0 or len(done.stdout) != sum(self._sizes.values()):
            raise HarnessError(
                f"The kernel's counters of lines could not be taken: {len(done.stdout)} bytes instead of "
                f"{sum(self._sizes.values())} {done.stderr.decode(errors='replace').strip()}"
            )
        result, at = {}, 0
        for source, size in self._sizes.items():
            data = done.stdout[at : at + size]
            at += size
            if data[:4] != struct.pack("<I", MAGIC):
                raise HarnessError(f"The kernel's counters of {source} are not those of gcov.")
            result[source] = data
        return result
