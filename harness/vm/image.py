"""The guest's root file system: a small Debian with sshd and Python, and an init of our own.

``vmimage/`` holds the recipe.  The result is cached under a digest of the recipe
and reproducible: the same packages give the same bytes.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from harness.lib import apt, command
from harness.lib.cache import Store
from harness.lib.command import CommandError
from harness.lib.errors import HarnessError
from harness.lib.files import digest, file_digest
from harness.lib.paths import VMIMAGE
from harness.lib.progress import Progress, Stage

SUITE = "bookworm"
# All times in the image: nothing in a guest that lives for minutes should depend on them.
EPOCH = 1_700_000_000
# Essential packages are configured with Debian's merged /usr from the start; this comes with mmdebstrap.
_MERGED_USR = "/usr/share/mmdebstrap/hooks/merged-usr"
_APT_SETTINGS = (
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
)
# What nobody reads in a guest, and what differs between two builds.
_EXCLUDED = (
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
)
_CUSTOMIZE = (
    # dash starts in a third of the time bash takes, and every command over SSH waits for it.
    'chroot "$1" usermod --shell /bin/sh root',
    # The keys of a run are made for it; those that the package made are nobody's.
    'rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/machine-id "$1"/etc/hostname "$1"/etc/resolv.conf',
    'rm -rf "$1"/var/log/* "$1"/var/cache/*',
    'mkdir -p "$1"/proc "$1"/sys "$1"/dev "$1"/run "$1"/tmp',
)
# lz4 halves the size; a guest starts as fast from it as from uncompressed files, even emulated.
_PACK = (
    *("-comp", "lz4", "-no-xattrs", "-no-progress", "-quiet"),
    # mmdebstrap's archive does not describe the root folder itself; without this it is the caller's.
    *("-root-mode", "755", "-root-uid", "0", "-root-gid", "0"),
)
# How packages were had is not part of what they are.
_LEFT_OUT = ("etc/apt",)
_CFLAGS = ("-static", "-O2", "-Wall", "-Wextra", "-Werror")


@dataclass(frozen=True)
class Image:
    """A root file system (squashfs) and the init that mounts it; ``identity`` is their digest."""

    rootfs: Path
    init: Path
    identity: str


def build(store: Store, progress: Progress, log: Path) -> Image:
    """The image of this recipe, made if the cache does not have it.

    Raises HarnessError when the packages cannot be had or a host program fails.
    """

    def make_rootfs(folder: Path) -> None:
        with progress.stage("image") as stage:
            _make_rootfs(folder, stage, log)
        _write_digest(folder / "rootfs")

    def make_init(folder: Path) -> None:
        command.run(["gcc", *_CFLAGS, "-o", str(folder / "init"), str(VMIMAGE / "init.c")], log=log)
        _write_digest(folder / "init")

    rootfs = store.entry("image", rootfs_recipe(), make_rootfs)
    init = store.entry("init", init_recipe(), make_init)
    identity = digest((rootfs / "digest").read_text(), (init / "digest").read_text())
    return Image(rootfs / "rootfs", init / "init", identity)


def rootfs_recipe() -> str:
    """Digest over everything that decides what the root file system becomes."""
    files = [(VMIMAGE / name).read_bytes() for name in ("packages", "sshd_config")]
    return digest(SUITE, str(EPOCH), *_EXCLUDED, *_CUSTOMIZE, *_PACK, *_LEFT_OUT, *files)


def init_recipe() -> str:
    """Digest over everything that decides what the guest's first process becomes."""
    return digest(*_CFLAGS, (VMIMAGE / "init.c").read_bytes())


def _write_digest(path: Path) -> None:
    """The name of an entry says what went in; this says what came out."""
    path.with_name("digest").write_text(file_digest(path))


def packages() -> list[str]:
    """The packages of the guest beside the essential ones."""
    lines = (VMIMAGE / "packages").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _make_rootfs(folder: Path, stage: Stage, log: Path) -> None:
    environment = {"SOURCE_DATE_EPOCH": str(EPOCH), "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    archive = folder / "root.tar"
    for mirror in (mirrors := apt.mirrors()):
        archive.unlink(missing_ok=True)
        try:
            command.run(
                debootstrap_argv(archive, mirror),
                log=log,
                env=environment,
                line=lambda line: _show(stage, line),
            )
            break
        except CommandError as error:
            if mirror == mirrors[-1]:
                raise HarnessError(
                    "The guest's root file system could not be made. If packages could not be had, "
                    "check that `apt-get update` works on this machine.",
                    log=log,
                    tail=error.tail,
                ) from error
    stage.update("packing")
    # sqfstar reads its archive from standard input only.
    pack = ["sh", "-c", 'exec sqfstar "$@" <"$0"', str(archive), *_PACK, str(folder / "rootfs"), *_LEFT_OUT]
    command.run(pack, log=log, env=environment)
    archive.unlink()


def debootstrap_argv(archive: Path, mirror: str) -> list[str]:
    """The mmdebstrap command that writes the root file system from ``mirror`` to the tar file ``archive``."""
    return [
        *("mmdebstrap", "--variant=essential", f"--include={','.join(packages())}"),
        f"--hook-directory={_MERGED_USR}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED),
        *(f"--aptopt={option}" for option in _apt_settings()),
        f"--customize-hook=copy-in {shlex.quote(str(VMIMAGE / 'sshd_config'))} /etc/ssh",
        *(f"--customize-hook={hook}" for hook in _CUSTOMIZE),
        *(SUITE, str(archive), f"deb [signed-by={apt.KEYRING}] {mirror} {SUITE} main"),
    ]


def _apt_settings() -> list[str]:
    """How this machine's apt reaches its mirror; mmdebstrap's apt does not read the host's settings."""
    dumped = command.run(["apt-config", "dump", *_APT_SETTINGS])
    return [line.rstrip(";") for line in dumped.splitlines() if not line.endswith('"";')]


def _show(stage: Stage, line: str) -> None:
    """mmdebstrap marks what it is about to do with ``I:``."""
    if line.startswith("I: "):
        stage.update(line[3:])
