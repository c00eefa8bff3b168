"""Run git so that only what is said here decides what it does.

The configuration, the hooks and the filters of the user or of a repository
under test would make the same series give different trees on two machines, or
run a program that a patch brought along.  So every call names its repository,
reads no configuration but that repository's own, runs no hook, and has one
identity and one date: the same patches on the same base are the same commit
everywhere.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.lib.command import CommandError

IDENTITY = "patchproof <patchproof@localhost>"
DATE = "0 +0000"  # of every commit made here; a clock would make two runs differ

# Given in the environment, where no configuration file can override them.
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",  # else ~/.config/git/attributes, whatever the configuration says
    "gc.auto=0",
    # A checkout that belongs to another user is only read, and nothing of its
    # configuration is run (see tree.checkout).
    "safe.directory=*",
)


def environment(
    repository: Path | None = None,
    *,
    work_tree: Path | None = None,
    index: Path | None = None,
    more: Mapping[str, str] | None = None,
) -> dict[str, str | None]:
    """What to add to the environment of git; None means: take it out.

    Git variables that we inherit (we may run below ``git rebase --exec`` or a
    hook) name the caller's repository, so all of them go.
    """
    result: dict[str, str | None] = dict.fromkeys(name for name in os.environ if name.startswith("GIT_"))
    name, _, mail = IDENTITY.partition(" <")
    for who in ("AUTHOR", "COMMITTER"):
        result |= {
            f"GIT_{who}_NAME": name,
            f"GIT_{who}_EMAIL": mail.rstrip(">"),
            f"GIT_{who}_DATE": f"@{DATE}",
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
    """Standard output of a git call that takes no time to speak of.

    Raises CommandError with git's own words when it fails.
    """
    argv = ["git", *arguments]
    whole = {name: value for name, value in {**os.environ, **env}.items() if value is not None}
    done = subprocess.run(argv, cwd=cwd, env=whole, input=stdin, capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise CommandError(argv, done.returncode, None, said)
    return done.stdout


def resolve(repository: Path, name: str) -> str | None:
    """The object id that ``name`` stands for in ``repository``, or None."""
    try:
        found = query(
            ["rev-parse", "--quiet", "--verify", "--end-of-options", name], env=environment(repository)
        )
    except CommandError:
        return None
    return found.decode().strip()
