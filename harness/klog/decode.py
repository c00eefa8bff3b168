"""Add source lines to call traces, with the scripts of the kernel that printed them.

Without line numbers in vmlinux the scripts add nothing to the trace.  Then they are
not run, and the first line of the result gives the reason.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from harness.lib import contained
from harness.lib.errors import PatchproofError

# decode_stacktrace.sh, and the script that it calls for the line `Code:`.
SCRIPTS = ("scripts/decode_stacktrace.sh", "scripts/decodecode")
NO_LINES = (
    "the kernel was built without line numbers (`--kconfig vmimage/kconfig/lines.config` asks for them)"
)


def add_source_lines(text: str, vmlinux: Path | None, content: Callable[[str], bytes] | None) -> str:
    """Return ``text`` with the source lines of its frames.

    If that is impossible, return ``text`` unchanged below a line ``# not decoded: REASON``.

    ``content`` returns a file of the kernel's tree by its path in the tree.  ``content``
    and ``vmlinux`` are None for a kernel that was built elsewhere.  The scripts come from
    the tree under test, so they run contained, as its makefiles do.
    """
    if vmlinux is None or content is None:
        return _not_decoded(text, "the kernel was built elsewhere, and its vmlinux is not known")
    try:
        if ".debug_line" not in contained.run(["readelf", "-WS", str(vmlinux)], read=[vmlinux]):
            return _not_decoded(text, NO_LINES)
        with tempfile.TemporaryDirectory(prefix="patchproof-stack-") as folder:
            for name in SCRIPTS:
                path = Path(folder, name)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content(name))
                path.chmod(0o755)
            program = ["bash", str(Path(folder, SCRIPTS[0])), str(vmlinux), "auto"]
            seen = [vmlinux, Path(folder)]
            lines = contained.run(program, read=seen, stdin=f"{text}\n".encode(errors="replace"))
    except PatchproofError as error:
        return _not_decoded(text, error.message)
    return f"# decoded by {SCRIPTS[0]} of the tree under test\n{lines.rstrip()}\n"


def _not_decoded(text: str, reason: str) -> str:
    return f"# not decoded: {reason}\n{text}\n"
