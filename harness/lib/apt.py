"""Ask apt which mirrors and which proxy this machine uses."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.lib import command
from harness.lib.command import CommandError
from harness.lib.errors import UnreachableError

HELPER = "/usr/lib/apt/apt-helper"

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def mirrors() -> list[str]:
    """The addresses of archives that apt uses on this machine, the likeliest first.

    A machine whose lists were never fetched cannot say which of them is
    Debian's; then all are named, and the archive's signature tells.
    """
    if shutil.which("apt-get") is None or not Path(HELPER).exists():
        raise UnreachableError("This machine has no apt, so the Debian archive cannot be asked.")
    if not KEYRING.exists():
        raise UnreachableError(
            f"The Debian archive's keys are not at {KEYRING}. Install debian-archive-keyring."
        )
    query = ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"]
    try:
        known = command.run(query)
        unknown = command.run([*query[:2], "--no-release-info", *query[2:]])
    except CommandError as error:
        raise UnreachableError("apt does not say which mirror it uses.", tail=error.tail) from error
    return choose_mirrors(known.splitlines()) or choose_mirrors(unknown.splitlines(), anyone=True)


def choose_mirrors(lines: Sequence[str], *, anyone: bool = False) -> list[str]:
    """The distinct addresses in lines of ``ORIGIN|LABEL|ADDRESS``; of Debian's own archive, or of anyone."""
    found: dict[str, None] = {}
    for line in lines:
        who, _, address = line.rpartition("|")
        if "://" in address and not re.search(r"\s", address) and (anyone or who == "Debian|Debian"):
            found[address] = None
    return list(found)
