"""The project's own folders, and the digest of the files that decide a verdict."""

from __future__ import annotations

from pathlib import Path

from harness.lib.files import digest

PROJECT = Path(__file__).resolve().parent.parent.parent
PATCHES = PROJECT / "patches"
PROBES = PROJECT / "probes"
SUITES = PROJECT / "suites"
VMIMAGE = PROJECT / "vmimage"
KCONFIG = VMIMAGE / "kconfig"

# The folders whose content decides a verdict, apart from the kernel.
PROGRAM = ("suites", "probes", "harness")


def program_digest() -> str:
    """Return the digest (64 hex digits) of the scenarios, the probes and this program.

    The digest covers the names and contents of .py, .c, .h and .toml files.
    """
    files = [path for name in PROGRAM for path in sorted((PROJECT / name).rglob("*.*"))]
    wanted = [path for path in files if path.suffix in (".py", ".c", ".h", ".toml")]
    return digest(*(part for path in wanted for part in (path.name, path.read_bytes())))
