"""The project's own folders, and the digest of what tests a kernel."""

from __future__ import annotations

from pathlib import Path

from harness.lib.files import digest

PROJECT = Path(__file__).resolve().parent.parent.parent
PATCHES = PROJECT / "patches"
PROBES = PROJECT / "probes"
SUITES = PROJECT / "suites"
VMIMAGE = PROJECT / "vmimage"
KCONFIG = VMIMAGE / "kconfig"

# What decides a verdict, beside the kernel.
PROGRAM = ("suites", "probes", "harness")


def program_digest() -> str:
    """The digest of what tests a kernel: scenarios, probes, and this program."""
    files = [path for name in PROGRAM for path in sorted((PROJECT / name).rglob("*.*"))]
    wanted = [path for path in files if path.suffix in (".py", ".c", ".h", ".toml")]
    return digest(*(part for path in wanted for part in (path.name, path.read_bytes())))
