"""The recipe of the guest's image, and the initramfs that carries its keys."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import real

from harness.lib import apt, paths
from harness.lib.cache import Store
from harness.lib.errors import HarnessError
from harness.lib.progress import Progress
from harness.vm import image, initramfs


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the recipe that a test may change."""
    copy = tmp_path / "vmimage"
    shutil.copytree(paths.VMIMAGE, copy)
    monkeypatch.setattr(image, "VMIMAGE", copy)
    return copy


@pytest.mark.parametrize("name", ["packages", "sshd_config"])
def test_recipe_change_gives_another_rootfs(recipe: Path, name: str) -> None:
    rootfs, init = image.rootfs_recipe(), image.init_recipe()
    with (recipe / name).open("a") as stream:
        stream.write("# more\n")
    assert image.rootfs_recipe() != rootfs
    assert image.init_recipe() == init


def test_init_change_keeps_the_rootfs(recipe: Path) -> None:
    rootfs, init = image.rootfs_recipe(), image.init_recipe()
    with (recipe / "init.c").open("a") as stream:
        stream.write("/* more */\n")
    assert image.rootfs_recipe() == rootfs
    assert image.init_recipe() != init


def test_packages_are_read_without_comments() -> None:
    assert "openssh-server" in image.packages()
    assert "python3" in image.packages()
    assert not any(line.startswith("#") or not line for line in image.packages())


def test_absent_mirror_is_an_error_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "mirrors", lambda: ["http://127.0.0.1:9/first", "http://127.0.0.1:9/last"])
    store = Store(tmp_path / "cache")
    log = tmp_path / "image.log"
    with pytest.raises(HarnessError, match=r"apt-get update") as caught:
        image.build(store, Progress(store), log)
    assert caught.value.log == log
    assert log.read_text().count(" mmdebstrap --variant=") == 2
    assert list((store.root / "image").iterdir()) == []


def test_init_started_by_a_user_explains_itself(tmp_path: Path) -> None:
    def make_rootfs(folder: Path) -> None:
        for name in ("rootfs", "digest"):
            (folder / name).write_text(name)

    store = Store(tmp_path / "cache")
    store.entry("image", image.rootfs_recipe(), make_rootfs)  # no packages are needed to build init
    built = image.build(store, Progress(store), tmp_path / "image.log")
    done = subprocess.run([built.init], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"first process" in done.stderr


@pytest.mark.skipif(
    shutil.which("cpio") is None, reason="cpio is not installed; the guests read the archive too"
)
def test_initramfs_is_read_by_cpio(tmp_path: Path) -> None:
    files = {"init": (b"program", 0o755), "keys/host": (b"secret\n", 0o600), "keys/empty": (b"", 0o644)}
    archive = initramfs.archive(files)
    assert archive == initramfs.archive(files)
    subprocess.run(["cpio", "-id", "--quiet"], input=archive, cwd=tmp_path, check=True)
    for name, (content, mode) in files.items():
        assert (tmp_path / name).read_bytes() == content
        assert (tmp_path / name).stat().st_mode & 0o777 == mode
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


@pytest.mark.vm
def test_rootfs_holds_no_key_and_belongs_to_root() -> None:
    listing = subprocess.run(
        ["unsquashfs", "-lln", real.guest_image().rootfs], capture_output=True, check=True, text=True
    ).stdout
    assert "/usr/sbin/sshd" in listing
    assert "ssh_host_" not in listing
    assert "/etc/apt" not in listing
    root = next(line for line in listing.splitlines() if line.endswith(" squashfs-root"))
    assert root.startswith("drwxr-xr-x 0/0 ")
