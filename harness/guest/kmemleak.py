"""Memory leaks of the kernel, found by scans of kmemleak (mm/kmemleak.c).

kmemleak reports an object if no memory points to it in two scans in a row, if it
did not change between them (kmemleak_scan()), and if it is at least five seconds
old (MSECS_MIN_AGE).
"""

from __future__ import annotations

import re

from harness.guest.guest import Guest
from harness.lib.errors import HarnessError

# One scan records the checksum of each unreferenced object, the next one reports the object if it is
# unchanged.  The third scan is for an object that a stale pointer hid from the first.  The report is
# cut at 64 KiB, more than anybody reads.
_FILE = "/sys/kernel/debug/kmemleak"
_SCAN = f"echo scan >{_FILE}"
_STEPS = (_SCAN, "sleep 6", _SCAN, _SCAN, f"head -c 65536 {_FILE}")
_OBJECT = re.compile(
    r"^unreferenced object(?: \(\w+\))? 0x[0-9a-f]+ \(size (\d+)\):\n"
    r' +comm "(.*)", pid (\d+),.*\n'
    r"(?:  hex dump.*\n(?: {4}.*\n)*)?  backtrace.*\n((?: {4}.*\n)*)",
    re.MULTILINE,
)
_FRAME = re.compile(r"^ +(\w+)", re.MULTILINE)
_ALLOCATORS = re.compile(r"_*(k|kv|v|p|kmem_cache_|devm_k)(malloc|zalloc|calloc|alloc|realloc|memdup|strdup)")


def scan(guest: Guest) -> str:
    """Scan and return kmemleak's report of all leaks since boot, at most 64 KiB; empty if there are none.

    Takes more than six seconds.  Raises HarnessError if kmemleak does not scan,
    for example after it has disabled itself; SshTimeoutError, SshLostError.
    """
    report = ""
    for step in _STEPS:
        done = guest.script(step)
        if done.status != 0:
            raise HarnessError(
                "kmemleak does not scan for leaks; has it switched itself off? "
                f"{done.stderr.decode(errors='replace').strip()}"
            )
        report += done.stdout.decode(errors="replace")
    return report


def describe_first(report: str) -> str:
    """Describe the first object in a report of scan(), as a noun phrase."""
    found = _OBJECT.search(report)
    if found is None:
        return "an object that cannot be parsed"
    size, command, process, trace = found.groups()
    names = [name for name in _FRAME.findall(trace) if not _ALLOCATORS.match(name)]
    caller = f", in {names[0]}()" if names else ""
    return f"{size} bytes that {command} (process {process}) had allocated{caller}"
