"""The guest's root file system: a small Debian with sshd and Python, and an init of our own.

``vmimage/`` holds the recipe.  The result is cached under a digest of the recipe
and reproducible: the same packages give the same bytes.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.lib import apt, command, private
from harness.lib.cache import Store
from harness.lib.command import CommandError
from harness.lib.errors import HarnessError
from harness.lib.files import digest, file_digest
from harness.lib.paths import VMIMAGE
from harness.lib.progress import Progress, Stage

SUITE = "bookworm"
# The time stamp of all files in the image; a fixed one makes the image reproducible.
EPOCH = 1_700_000_000
# This hook comes with mmdebstrap; with it the essential packages are configured on a merged /usr.
_MERGED_USR = "/usr/share/mmdebstrap/hooks/merged-usr"
_APT_SETTINGS = (
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
)
# Files that no guest needs; some differ between two builds.
_EXCLUDED = (
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
)
_CUSTOMIZE = (
    # dash starts in a third of the time of bash, and every command over SSH waits for the shell.
    'chroot "$1" usermod --shell /bin/sh root',
    # Each run makes its own host key; the keys that the package made are not used.
    'rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/machine-id "$1"/etc/hostname "$1"/etc/resolv.conf',
    'rm -rf "$1"/var/log/* "$1"/var/cache/*',
    'mkdir -p "$1"/proc "$1"/sys "$1"/dev "$1"/run "$1"/tmp',
)
# lz4 halves the size; a guest starts as fast from it as from uncompressed files, even emulated.
_PACK = (
    *("-comp", "lz4", "-no-xattrs", "-no-progress", "-quiet"),
    # mmdebstrap's archive has no entry for the root folder; without this the caller would own it.
    *("-root-mode", "755", "-root-uid", "0", "-root-gid", "0"),
)
# The settings of apt depend on the host's mirror.
_LEFT_OUT = ("etc/apt",)
CFLAGS = ("-static", "-O2", "-Wall", "-Wextra", "-Werror")
_INSTALLED = ("agent", "files")  # by the init, below /run/patchproof
_PROGRAMS = ("init", *_INSTALLED)  # compiled from one file each


@dataclass(frozen=True)
class Image:
    """A root file system (squashfs) and the init that mounts it; ``identity`` is the digest of both."""

    rootfs: Path
    init: Path
    identity: str

    @property
    def programs(self) -> dict[str, Path]:
        """The programs that the init installs in the guest, by name."""
        return {name: self.init.with_name(name) for name in _INSTALLED}


def build(store: Store, progress: Progress, log: Path) -> Image:
    """Return the image of this recipe from the cache, or build it.

    Raises HarnessError if the packages cannot be downloaded or a host program fails.
    """

    def make_rootfs(folder: Path) -> None:
        with progress.stage("image") as stage:
            _make_rootfs(folder, stage, log)
        _write_digest(folder / "rootfs")

    def make_init(folder: Path) -> None:
        for name in _PROGRAMS:
            argv = ["gcc", *CFLAGS, "-o", str(folder / name), str(VMIMAGE / f"{name}.c")]
            command.run(argv, log=log)
        (folder / "digest").write_text(digest(*(file_digest(folder / name) for name in _PROGRAMS)))

    rootfs = store.entry("image", rootfs_recipe(), make_rootfs)
    init = store.entry("init", init_recipe(), make_init)
    identity = digest((rootfs / "digest").read_text(), (init / "digest").read_text())
    return Image(rootfs / "rootfs", init / "init", identity)


def rootfs_recipe() -> str:
    """Return the digest of all inputs of the root file system."""
    files = [(VMIMAGE / name).read_bytes() for name in ("packages", "sshd_config")]
    return digest(SUITE, str(EPOCH), *_EXCLUDED, *_CUSTOMIZE, *_PACK, *_LEFT_OUT, *files)


def init_recipe() -> str:
    """Return the digest of all inputs of the guest's init and of what it installs."""
    return digest(*CFLAGS, *((VMIMAGE / f"{name}.c").read_bytes() for name in _PROGRAMS))


def _write_digest(path: Path) -> None:
    """Write the digest of a file next to it; the name of a cache entry is the digest of its inputs only."""
    path.with_name("digest").write_text(file_digest(path))


def packages() -> list[str]:
    """Return the packages of the guest in addition to the essential ones."""
    lines = (VMIMAGE / "packages").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _make_rootfs(folder: Path, stage: Stage, log: Path) -> None:
    environment = {"SOURCE_DATE_EPOCH": str(EPOCH), "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    archive, settings = folder / "root.tar", folder / "apt.conf"
    # A proxy and a mirror may have a password, and all users can read a command line.
    private.write(settings, "".join(f"{one};\n" for one in _apt_settings()).encode())
    for mirror in (mirrors := apt.mirrors()):
        archive.unlink(missing_ok=True)
        try:
            with _scratch() as scratch:
                command.run(
                    [*_own_mounts(), *debootstrap_argv(archive, settings)],
                    stdin=f"deb [signed-by={apt.KEYRING}] {mirror} {SUITE} main\n".encode(),
                    log=log,
                    env={**environment, "TMPDIR": str(scratch)},
                    line=lambda line: _show(stage, line),
                )
            break
        except CommandError as error:
            if mirror == mirrors[-1]:
                raise HarnessError(
                    "The guest's root file system could not be made. If a package could not be downloaded, "
                    "check that `apt-get update` works on this machine.",
                    log=log,
                    tail=error.tail,
                ) from error
    stage.update("packing")
    # sqfstar reads its archive from standard input only.
    pack = ["sh", "-c", 'exec sqfstar "$@" <"$0"', str(archive), *_PACK, str(folder / "rootfs"), *_LEFT_OUT]
    command.run(pack, log=log, env=environment)
    archive.unlink()
    settings.unlink()


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Make a folder for the tree that mmdebstrap builds, which it leaves behind when it is killed."""
    with tempfile.TemporaryDirectory(prefix="patchproof-image-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)  # apt downloads as another user
        yield Path(name)


def _own_mounts() -> list[str]:
    """Return the words before a command by which its mounts end with it.

    As root mmdebstrap mounts /proc, /sys and parts of /dev for the packages' scripts.  Killed, it
    would leave them mounted.
    """
    prefix = ["unshare", "--mount"]
    return prefix if os.geteuid() == 0 and command.capture([*prefix, "true"]).status == 0 else []


def debootstrap_argv(archive: Path, settings: Path) -> list[str]:
    """Return the mmdebstrap command that makes the tar file ``archive``, with the ``settings`` of apt.

    It reads the mirror from its standard input, in the form of sources.list.
    """
    return [
        # The modes of the files in the image do not depend on the user.
        *(
            "sh",
            "-c",
            'umask 022; exec "$@"',
            "sh",
            "mmdebstrap",
            "--variant=essential",
            f"--include={','.join(packages())}",
        ),
        f"--hook-directory={_MERGED_USR}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED),
        f"--aptopt={settings}",
        f"--customize-hook=copy-in {shlex.quote(str(VMIMAGE / 'sshd_config'))} /etc/ssh",
        *(f"--customize-hook={hook}" for hook in _CUSTOMIZE),
        *(SUITE, str(archive), "-"),
    ]


def _apt_settings() -> list[str]:
    """Return the host's apt settings for its mirror, which mmdebstrap's apt does not read by itself."""
    dumped = command.run(["apt-config", "dump", *_APT_SETTINGS])
    return [line.rstrip(";") for line in dumped.splitlines() if not line.endswith('"";')]


def _show(stage: Stage, line: str) -> None:
    """Show a line in which mmdebstrap announces a step: it begins with ``I:``."""
    if line.startswith("I: "):
        stage.update(line[3:])
