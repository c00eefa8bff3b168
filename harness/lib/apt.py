"""Ask apt which mirrors and which proxy this machine uses."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.lib import command
from harness.lib.command import CommandError
from harness.lib.errors import UnreachableError

#: Downloads a file with apt's own proxy settings (package apt).
HELPER = "/usr/lib/apt/apt-helper"

#: The archive's public keys (package debian-archive-keyring).
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def mirrors() -> list[str]:
    """Return the URLs of the Debian archives that apt uses on this machine, in apt's order.

    Without fetched package lists (``apt-get update`` never ran) apt does not know which
    source is Debian's.  Then all URLs are returned, and the archive's signature decides.

    Raises UnreachableError if apt or the Debian keyring is not installed, or if
    ``apt-get indextargets`` fails.
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
        raise UnreachableError(
            "The Debian mirrors of this machine are unknown: `apt-get indextargets` failed.", tail=error.tail
        ) from error
    return choose_mirrors(known.splitlines()) or choose_mirrors(unknown.splitlines(), anyone=True)


def choose_mirrors(lines: Sequence[str], *, anyone: bool = False) -> list[str]:
    """Return the distinct URLs in ``lines`` of ``ORIGIN|LABEL|URL``, in the same order.

    Only Debian's own archive counts, or, with ``anyone``, every origin.
    """
    found: dict[str, None] = {}
    for line in lines:
        origin, _, address = line.rpartition("|")
        if "://" in address and not re.search(r"\s", address) and (anyone or origin == "Debian|Debian"):
            found[address] = None
    return list(found)
