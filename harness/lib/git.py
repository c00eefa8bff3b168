"""Run git independently of the configuration, hooks and filters on this machine.

Those of the user or of a repository under test could make one series give
different trees on two machines, or run a program that a patch brought along.  So
every call names its repository, reads no configuration but that repository's own,
and runs no hook.  All commits have one identity and one date, so the same patches
on the same base are the same commit everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.lib import command
from harness.lib.command import CommandError

IDENTITY = "patchproof <patchproof@localhost>"
DATE = "0 +0000"  # of every commit made here; the real time would make two runs differ
#: The ``repository`` of commands that need none.  Otherwise git looks for one, with its
#: configuration, in the folders above the working directory.
NO_REPOSITORY = Path("/nonexistent/patchproof.git")

# They are passed in the environment, where no configuration file can override them.
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",  # else ~/.config/git/attributes, whatever the configuration says
    "gc.auto=0",
    # A checkout that belongs to another user is only read, and no program that its
    # configuration names is run (see harness/kernel/checkout.py).
    "safe.directory=*",
)


def environment(
    repository: Path | None = None,
    *,
    work_tree: Path | None = None,
    index: Path | None = None,
    more: Mapping[str, str] | None = None,
) -> dict[str, str | None]:
    """Return the variables to set for git; None removes a variable.

    ``repository``, ``work_tree`` and ``index`` become GIT_DIR, GIT_WORK_TREE and
    GIT_INDEX_FILE; ``more`` is added last.  Inherited GIT_ variables name the caller's
    repository (under ``git rebase --exec`` or in a hook), so all of them are removed.
    """
    result: dict[str, str | None] = dict.fromkeys(name for name in os.environ if name.startswith("GIT_"))
    name, _, mail = IDENTITY.partition(" <")
    for role in ("AUTHOR", "COMMITTER"):
        result |= {
            f"GIT_{role}_NAME": name,
            f"GIT_{role}_EMAIL": mail.rstrip(">"),
            f"GIT_{role}_DATE": f"@{DATE}",
        }
    result |= {
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CONFIG_COUNT": str(len(_SETTINGS)),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "LC_ALL": "C",
    }
    for number, setting in enumerate(_SETTINGS):
        key, _, value = setting.partition("=")
        result |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    for variable, path in (("GIT_DIR", repository), ("GIT_WORK_TREE", work_tree), ("GIT_INDEX_FILE", index)):
        if path is not None:
            result[variable] = str(path)
    return result | dict(more or {})


def query(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str | None],
    cwd: Path | None = None,
    stdin: bytes = b"",
) -> bytes:
    """Run a short git command and return its standard output.

    Raises CommandError, with git's standard error as its tail, if git fails.
    """
    argv = ["git", *arguments]
    done = command.capture(argv, cwd=cwd, env=env, stdin=stdin)
    if done.status != 0:
        raise CommandError(argv, done.status, None, done.stderr.decode(errors="replace").strip())
    return done.stdout


def resolve(repository: Path, name: str) -> str | None:
    """Return the object id of ``name`` in ``repository``, or None if there is no such object."""
    try:
        found = query(
            ["rev-parse", "--quiet", "--verify", "--end-of-options", name], env=environment(repository)
        )
    except CommandError:
        return None
    return found.decode().strip()
