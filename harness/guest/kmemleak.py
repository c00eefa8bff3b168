"""Memory that the kernel has lost: kmemleak (mm/kmemleak.c), asked by hand.

It calls an object lost that no memory points to, twice in a row and unchanged
(kmemleak_scan()), once it is five seconds old (MSECS_MIN_AGE).
"""

from __future__ import annotations

import re

from harness.guest.guest import Guest
from harness.lib.errors import HarnessError

# One look notes what each unreferenced object holds, the next one reports it if it is the same;
# and what a stale pointer hid from the first has two more.  No more of the report is kept than
# anybody would read.
_FILE = "/sys/kernel/debug/kmemleak"
_LOOK = f"echo scan >{_FILE}"
_ASK = (_LOOK, "sleep 6", _LOOK, _LOOK, f"head -c 65536 {_FILE}")
_OBJECT = re.compile(
    r"^unreferenced object(?: \(\w+\))? 0x[0-9a-f]+ \(size (\d+)\):\n"
    r' +comm "(.*)", pid (\d+),.*\n'
    r"(?:  hex dump.*\n(?: {4}.*\n)*)?  backtrace.*\n((?: {4}.*\n)*)",
    re.MULTILINE,
)
_FRAME = re.compile(r"^ +(\w+)", re.MULTILINE)
_ALLOCATORS = re.compile(r"_*(k|kv|v|p|kmem_cache_|devm_k)(malloc|zalloc|calloc|alloc|realloc|memdup|strdup)")


def ask(guest: Guest) -> str:
    """What the kernel has lost since it booted, as kmemleak tells it; empty if nothing.

    Takes some seconds of the guest's time.  Raises HarnessError if kmemleak does not
    look, as after it has switched itself off; SshTimeoutError, SshLostError.
    """
    said = ""
    for step in _ASK:
        done = guest.script(step)
        if done.status != 0:
            raise HarnessError(
                "kmemleak does not look for what the kernel has lost; has it switched itself off? "
                f"{done.stderr.decode(errors='replace').strip()}"
            )
        said += done.stdout.decode(errors="replace")
    return said


def first(report: str) -> str:
    """Which object stands first in what ask() returned, as a phrase."""
    found = _OBJECT.search(report)
    if found is None:
        return "one that cannot be told"
    size, command, process, trace = found.groups()
    names = [name for name in _FRAME.findall(trace) if not _ALLOCATORS.match(name)]
    where = f", in {names[0]}()" if names else ""
    return f"{size} bytes that {command} (process {process}) had asked for{where}"
