"""The init of a kit's guest, compiled from vmimage/kit/ and the actor's comparison of replies."""

from __future__ import annotations

from pathlib import Path

from harness.lib import command
from harness.lib.cache import Store
from harness.lib.files import digest, file_digest
from harness.lib.paths import PROBES, VMIMAGE
from harness.vm.image import CFLAGS

SOURCES = VMIMAGE / "kit"
SCRIPT = SOURCES / "run.sh"  # the head of a kit


def build(store: Store, log: Path) -> Path:
    """Return the program, which is static; cached.  Raises HarnessError if it does not compile."""
    sources = [*sorted(SOURCES.glob("*.[ch]")), *sorted(PROBES.glob("pattern.[ch]"))]

    def make(folder: Path) -> None:
        files = [str(one) for one in sources if one.suffix == ".c"]
        command.run(["gcc", *CFLAGS, f"-I{PROBES}", "-s", "-o", str(folder / "init"), *files], log=log)

    key = digest(*CFLAGS, *(part for one in sources for part in (one.name, file_digest(one))))
    return store.entry("init", key, make) / "init"
