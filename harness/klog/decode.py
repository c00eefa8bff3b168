"""Call traces with source lines, by the scripts of the kernel that printed them.

Without line numbers in vmlinux the scripts know no more than the trace says
itself, so then nothing is run, and the reason stands where the lines would.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from harness.lib import command
from harness.lib.errors import PatchproofError

# What decode_stacktrace.sh needs of its tree; decodecode is for the line `Code:`.
SCRIPTS = ("scripts/decode_stacktrace.sh", "scripts/decodecode")
NO_LINES = (
    "the kernel was built without line numbers (`--kconfig vmimage/kconfig/lines.config` asks for them)"
)


def decoded(text: str, vmlinux: Path | None, content: Callable[[str], bytes] | None) -> str:
    """``text`` with the source lines of its frames, or as it is below a line that says why not.

    ``content`` gives a file of the kernel's tree by its path there; it and ``vmlinux``
    are None for a kernel that was built elsewhere.  The scripts are programs of that
    tree, as its makefiles are.
    """
    if vmlinux is None or content is None:
        return _as_it_is(text, "the kernel was built elsewhere, and its vmlinux is not known")
    try:
        if ".debug_line" not in command.run(["readelf", "-WS", str(vmlinux)]):
            return _as_it_is(text, NO_LINES)
        with tempfile.TemporaryDirectory(prefix="patchproof-stack-") as folder:
            for name in SCRIPTS:
                path = Path(folder, name)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content(name))
                path.chmod(0o755)
            program = ["bash", str(Path(folder, SCRIPTS[0])), str(vmlinux), "auto"]
            lines = command.run(program, stdin=f"{text}\n".encode(errors="replace"))
    except PatchproofError as error:
        return _as_it_is(text, error.message)
    return f"# decoded by {SCRIPTS[0]} of the tree under test\n{lines.rstrip()}\n"


def _as_it_is(text: str, why: str) -> str:
    return f"# not decoded: {why}\n{text}\n"
