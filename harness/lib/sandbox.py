"""Contain what a tree under test makes the host run: its makefiles, its scripts, compilers on its sources.

A makefile of a posted series is a stranger's program.  bubblewrap (bwrap(1)) gives it namespaces of
its own: it sees the system's programs, the folders that it is given, and nothing else of the host.
Every program that reads what a tree holds is started with the words of contained().  A process has one
sandbox: choose() decides on it, and without that call it is used wherever it works.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.lib import command
from harness.lib.command import SYSTEM_PATH
from harness.lib.errors import UsageError
from harness.lib.text import printable

AUTO, ON, OFF = "auto", "on", "off"
CHOICES = (AUTO, ON, OFF)
PROGRAM = "bwrap"

#: Bytes of the largest file that a contained program may write (RLIMIT_FSIZE); a vmlinux with all
#: debug information has 0.5 GiB.
FILE_BYTES = 4 << 30
#: Processes and threads that it may have at once (RLIMIT_NPROC).  The kernel exempts root from this limit
#: (kernel/fork.c, copy_process()), so harness/lib/build_limits.py counts them as well.
PROCESSES = 1024
#: Bytes of its /tmp and of its /dev/shm, which take memory.
TEMPORARY_BYTES = 1 << 30
_SHARED_MEMORY_BYTES = 64 << 20
# Preference of the kernel when memory is short: these programs before anything else of the user
# (/proc/PID/oom_score_adj, -1000 to 1000).
_OOM_SCORE_ADJ = "900"
_NICE = "10"
_TRIAL_SECONDS = 20.0

# A program of the user, a key or a token may be anywhere else, so folders are allowed and none is hidden.
_SYSTEM = ("/usr",)
_SYSTEM_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ALTERNATIVES = "/etc/alternatives"  # where the names of Debian's compilers lead


@dataclass(frozen=True)
class Sandbox:
    """The way contained programs run: in bubblewrap (``on``), or as the user; ``reason`` says why."""

    on: bool
    reason: str

    @property
    def words(self) -> str:
        """A clause for people: what contains the programs, or why nothing does."""
        return f"contained by {self.reason}" if self.on else f"without a sandbox: {self.reason}"


_asked: list[str] = [AUTO]  # the choice of this process
_found: list[Sandbox] = []  # its sandbox, once that is known


def choose(mode: str) -> None:
    """Choose the sandbox of this process: ``auto``, ``on`` or ``off``."""
    _asked[:] = [mode]
    _found.clear()


def current() -> Sandbox:
    """Return the sandbox of this process, which is tried in the first call.

    Raises UsageError where ``on`` was chosen and bubblewrap does not work.
    """
    if not _found:
        _found.append(_decided(_asked[0]))
    return _found[0]


def _decided(mode: str) -> Sandbox:
    if mode == OFF:
        result = Sandbox(False, "--sandbox off")
    else:
        result = tried()
        if mode == ON and not result.on:
            raise UsageError(
                f"--sandbox on needs bubblewrap, which does not work here: {result.reason}. Install "
                "its package bubblewrap, and allow user namespaces, or give --sandbox auto."
            )
    return result


def tried() -> Sandbox:
    """Start a program in bubblewrap; return whether that works, with its version or its words of refusal."""
    path = shutil.which(PROGRAM, path=SYSTEM_PATH)
    if path is None:
        return Sandbox(False, f"the program {PROGRAM} is not installed (Debian's package bubblewrap)")
    argv = _wrapped(["true"], read=(), write=(), folder=None)
    environment = {**dict.fromkeys(os.environ), "PATH": SYSTEM_PATH, "LC_ALL": "C"}
    try:
        done = command.capture(argv, env=environment, timeout=_TRIAL_SECONDS)
        version = command.capture([path, "--version"], timeout=_TRIAL_SECONDS)
    except OSError as error:
        return Sandbox(False, printable(str(error)))
    if done.late:
        return Sandbox(False, f"{PROGRAM} did not start a program within {_TRIAL_SECONDS:.0f} s")
    if done.status != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        words = lines[-1] if lines else f"{PROGRAM} exited with {done.status}"
        return Sandbox(False, printable(words))
    return Sandbox(True, printable(version.stdout.strip(), 60))


def contained(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    read: Sequence[Path] = (),
    write: Sequence[Path] = (),
    folder: Path | None = None,
) -> list[str]:
    """Return the command that runs ``argv`` contained, with ``environment`` and PATH alone.

    ``read`` are the files and folders that it sees, ``write`` those that it may also change; all exist,
    and have their own paths there.  ``folder`` is the working directory.  A sandbox has a HOME and a /tmp
    that are empty and end with it, no network, and no process but its own.  Without a sandbox only
    the environment is held back.
    """
    variables = {"PATH": SYSTEM_PATH, "LC_ALL": "C", **(environment or {})}
    # The program ends with the process that started it, and so do the compilers that make started.
    words = ["setpriv", "--pdeathsig", "TERM", *argv]
    if current().on:
        variables["HOME"] = "/tmp"  # noqa: S108  # that of the sandbox
        words = _wrapped(words, read=read, write=write, folder=folder)
    else:
        if "TMPDIR" in os.environ:
            variables["TMPDIR"] = os.environ["TMPDIR"]
        if folder is not None:
            words = ["env", f"--chdir={folder}", *words]
    # Of lower priority than the program that watches it, or that would come too late.
    before = ["nice", "-n", _NICE, "choom", "--adjust", _OOM_SCORE_ADJ, "--"]
    words = [*before, "prlimit", "--core=0", f"--fsize={FILE_BYTES}", *words]
    # Before bwrap, not by an option of it: its own environment can be read inside (/proc/1/environ).
    return ["env", "-i", *(f"{name}={value}" for name, value in variables.items()), *words]


def _wrapped(
    argv: Sequence[str], *, read: Sequence[Path], write: Sequence[Path], folder: Path | None
) -> list[str]:
    """Return ``argv`` in bubblewrap.  Each word is explained in docs/security.md."""
    # Inside, where the kernel counts the processes of this namespace and not all of the user.
    count = ["prlimit", f"--nproc={PROCESSES}"]
    identity = ["--uid", "1000", "--gid", "1000"] if os.geteuid() == 0 else []
    mounts: list[str] = []
    for path in _SYSTEM:
        mounts += ["--ro-bind", path, path]
    for path in _SYSTEM_LINKS:
        if Path(path).is_symlink():
            mounts += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).is_dir():
            mounts += ["--ro-bind", path, path]
    mounts += ["--ro-bind-try", _ALTERNATIVES, _ALTERNATIVES, "--proc", "/proc", "--dev", "/dev"]
    # With a root that has no capability left, files below /proc/sys are still the own ones of root.
    mounts += ["--remount-ro", "/proc"]
    mounts += ["--size", str(_SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm"]  # noqa: S108
    mounts += ["--remount-ro", "/dev", "--size", str(TEMPORARY_BYTES), "--tmpfs", "/tmp"]  # noqa: S108
    for seen in read:
        mounts += ["--ro-bind", str(seen), str(seen)]
    for changed in write:
        mounts += ["--bind", str(changed), str(changed)]
    where = ["--chdir", str(folder)] if folder is not None else ["--chdir", "/"]
    return [
        *(PROGRAM, "--unshare-all", "--unshare-user", "--disable-userns", *identity, "--cap-drop", "ALL"),
        *("--die-with-parent", "--new-session", *mounts, "--remount-ro", "/", *where, "--"),
        *(*count, *argv),
    ]
