"""Load the test importer into a guest, and see that nothing of it is in use."""

from __future__ import annotations

import time
from pathlib import Path

from harness.actor.start import REMOTE_ACTOR
from harness.guest.answers import is_count
from harness.guest.guest import Guest
from harness.lib.errors import HarnessError

_STATE = r"""
state=absent
if [ -e "/sys/module/$1" ]; then read -r state <"/sys/module/$1/refcnt"; fi
echo "$state"
"""
SETTLE_SECONDS = 2.0  # for the kernel to close the files of a process that has ended


def load(guest: Guest, actor: Path, module: Path) -> None:
    """Load ``module`` unless it is loaded.  Raises HarnessError, SshLostError, SshTimeoutError."""
    if _users(guest, module.stem) is None:
        remote = guest.push(module, f"/run/{module.name}", mode=0o644)
        _ask(guest, actor, f"loadmodule {remote}", "loaded")


def unload(guest: Guest, actor: Path, module: Path) -> None:
    """Unload ``module``, if it is loaded, which proves that nothing of it is held.  Raises as load() does."""
    if _users(guest, module.stem) is not None:
        _ask(guest, actor, f"unloadmodule {module.stem}", "unloaded")


def require_unused(guest: Guest, module: Path) -> None:
    """Wait until no file and no fence of ``module`` is left.  Raises HarnessError if one is."""
    deadline = time.monotonic() + SETTLE_SECONDS * guest.machine.accelerator.time_scale
    while users := _users(guest, module.stem):
        if time.monotonic() > deadline:
            raise HarnessError(
                f"The kernel still holds {users} files or fences of the test importer, although every actor "
                "has ended."
            )


def _users(guest: Guest, name: str) -> int | None:
    """Return the reference count of a module, None if it is not loaded."""
    said = guest.script(_STATE, name).stdout.decode(errors="replace").strip()
    if said != "absent" and not is_count(said):
        raise HarnessError(f"The state of the module {name} cannot be read: {said[:80]!r}.")
    return None if said == "absent" else int(said)


def _ask(guest: Guest, actor: Path, line: str, participle: str) -> None:
    remote = guest.push(actor, REMOTE_ACTOR)
    console = guest.machine.console
    mark = console.mark()
    done = guest.run([remote], f"{line}\n".encode())
    said = done.stdout.decode(errors="replace").strip()
    if said != "ok":
        raise HarnessError(
            f"The test importer could not be {participle}: {said[:200] or 'the actor said nothing'}.",
            log=console.log,
            tail=console.since(mark).strip()[-2000:],
        )
