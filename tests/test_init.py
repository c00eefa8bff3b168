"""The first process of the guest on this host, with system calls that fail."""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness.lib.paths import VMIMAGE
from harness.vm.image import CFLAGS

# serve() gets these errors one after the other; a power-off ends the program by 7.
CALLS = """
#include <errno.h>
#include <stdlib.h>
int __wrap_accept4(int sock, void *address, void *length, int flags)
{
	static const int errors[] = { EINTR, ENOMEM, EMFILE, ENFILE, ENOBUFS, EPROTO, EBADF };
	static int calls;

	errno = errors[calls++];
	return -1;
}
int __wrap_reboot(int how) { exit(7); }
int __wrap_getpid(void) { serve(0); return 0; }
"""


def test_init_accepts_again_after_a_passing_error(tmp_path: Path) -> None:
    source = tmp_path / "init.c"
    source.write_text(f'#include "{VMIMAGE / "init.c"}"\n{CALLS}')
    flags = ["-w", "-Wl,--wrap=accept4,--wrap=reboot,--wrap=getpid"]
    subprocess.run(["gcc", *CFLAGS, *flags, "-o", tmp_path / "init", source], check=True)
    done = subprocess.run([tmp_path / "init"], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        *(
            f"patchproof-init: cannot accept a connection: {words}"
            for words in (
                "Cannot allocate memory",
                "Too many open files",
                "Too many open files in system",
                "No buffer space available",
                "Protocol error",
            )
        ),
        "patchproof-init: fatal: cannot accept a connection: Bad file descriptor",
    ]
    assert done.returncode == 7
