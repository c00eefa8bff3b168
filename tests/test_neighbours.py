"""Other users of the host: what of a machine they can reach and read, and what its QEMU may do and know."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import real
from small_run import Invocation, make_checkout, make_series

from harness.journal.copy_part import PartFiles
from harness.journal.results_folder import ResultsFolder
from harness.lib import private
from harness.lib.errors import ExitCode
from harness.vm import machine, qemu_program
from harness.vm.accelerator import Accelerator
from harness.vm.hardware import SystemCallFilter
from harness.vm.machine import Machine
from harness.vm.pci_devices import Layout
from harness.vm.process import BootImage, Wiring
from harness.vm.ssh import SshLostError

NOBODY = 65534
TRIES = """
import os, socket, sys
from pathlib import Path
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
folder, qemu = Path(sys.argv[1]), sys.argv[2]
def tries(what, act):
    try:
        act()
        print(what, "works")
    except OSError as error:
        print(what, type(error).__name__)
def connect():
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(os.path.relpath(folder / "debugger"))
os.chdir("/")
tries("list", lambda: os.listdir(folder))
for name in ("id_ed25519", "initrd.cpio", "known_hosts", "console.log"):
    tries(name, (folder / name).read_bytes)
tries("debugger", connect)
tries("environment", Path("/proc", qemu, "environ").read_bytes)
tries("memory", lambda: os.listdir(Path("/proc", qemu, "fd")))
"""
CANARY = "canary-a81f"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with a debugger's port, in a folder that other users could enter, started with a secret."""
    folder = tmp_path_factory.mktemp("run")
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.getuid() and parent.is_relative_to(
            tmp_path_factory.getbasetemp().parent
        ):
            parent.chmod(0o755)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CI_JOB_TOKEN", CANARY)
        booted = machine.boot(
            real.base_kernel().bzimage,
            real.guest_image(),
            run_dir=folder / "machine-1",
            accelerator=real.accelerator(),
            gdb=True,
        )
    with booted:
        yield booted


def descriptors(process: int) -> set[str]:
    """Return the inodes of the sockets that a process has open."""
    found = set()
    for path in Path(f"/proc/{process}/fd").iterdir():
        try:
            target = str(path.readlink())
        except FileNotFoundError:
            continue
        found |= set(re.findall(r"^socket:\[(\d+)\]$", target))
    return found


def listening(process: int) -> list[str]:
    """Return the addresses at which a process listens by TCP or UDP, in hex as in /proc/net."""
    inodes, found = descriptors(process), []
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{process}/net/{kind}").read_text().splitlines()[1:]:
            words = line.split()
            if words[9] in inodes and (words[3] == "0A" or kind.startswith("udp")):
                found.append(words[1].partition(":")[0])
    return found


def unix_names(process: int) -> list[str]:
    """Return the names of the UNIX sockets of a process; an abstract one begins with @."""
    inodes = descriptors(process)
    lines = [line.split() for line in Path(f"/proc/{process}/net/unix").read_text().splitlines()[1:]]
    return [words[7] for words in lines if words[6] in inodes and len(words) > 7]


def qemu_of(running: Machine) -> int:
    return running._qemu.pid


@pytest.mark.vm
class TestMachine:
    def test_nothing_listens_but_on_loopback(self, running: Machine) -> None:
        assert listening(qemu_of(running)) == ["0100007F"] * 2, "of 127.0.0.1, for SSH and the agent"
        assert [name for name in listening(os.getpid()) if name != "0100007F"] == []

    def test_sockets_have_names_in_a_closed_folder_only(self, running: Machine) -> None:
        assert running.debugger is not None
        assert {Path(name).name for name in unix_names(qemu_of(running))} == {"debugger"}
        assert running.debugger.is_socket()
        assert stat.S_IMODE(running.debugger.stat().st_mode) == 0o600

    def test_keys_and_folder_are_their_owners_alone(self, running: Machine) -> None:
        modes = {name: stat.S_IMODE((running.run_dir / name).stat().st_mode) for name in private.FILES}
        assert modes == dict.fromkeys(private.FILES, 0o600)
        assert stat.S_IMODE(running.run_dir.stat().st_mode) == 0o700

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
    def test_other_user_reaches_nothing(self, running: Machine) -> None:
        argv = [sys.executable, "-c", TRIES, str(running.run_dir), str(qemu_of(running))]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        tried = dict(line.split() for line in done.stdout.splitlines())
        assert len(tried) == 8, done.stderr
        assert set(tried.values()) == {"PermissionError"}, tried

    def test_other_user_without_key_cannot_log_in(self, running: Machine) -> None:
        port = running.ssh_line.split()[2]
        options = [
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ]
        argv = ["ssh", "-F", "/dev/null", "-i", "/dev/null", *options, "-p", port, "root@127.0.0.1", "true"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 255
        assert "Permission denied (publickey)" in done.stderr

    def test_qemu_does_not_know_the_environment(self, running: Machine) -> None:
        environment = Path(f"/proc/{qemu_of(running)}/environ").read_bytes()
        names = {entry.partition(b"=")[0].decode() for entry in environment.split(b"\0") if entry}
        assert CANARY.encode() not in environment
        assert names <= {"PATH", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH"}

    def test_qemu_runs_under_a_filter(self, running: Machine) -> None:
        status = Path(f"/proc/{qemu_of(running)}/status").read_text()
        assert "\nSeccomp:\t2\n" in status
        assert "\nNoNewPrivs:\t1\n" in status

    def test_memory_has_no_name(self, running: Machine) -> None:
        for path in running.ram_bars.values():
            assert path.readlink().name.startswith("memfd:")
        assert not [one for one in Path("/dev/shm").iterdir() if "patchproof" in one.name]

    def test_kernel_resets_under_the_filter(self, running: Machine) -> None:
        """Last: a reset ends the machine, and so do its keys."""
        with contextlib.suppress(SshLostError):  # the reset can come before the command's exit status
            running.ssh.run(["sh", "-c", "echo b >/proc/sysrq-trigger &"], 20)
        assert running.wait_ended(60)
        running.close()
        assert not [name for name in private.FILES if (running.run_dir / name).exists()]
        assert (running.run_dir / "console.log").exists()
        assert stat.S_IMODE(running.run_dir.stat().st_mode) == 0o755 & ~private._umask()


def test_keys_of_a_killed_run_are_swept(tmp_path: Path) -> None:
    results = ResultsFolder.create(tmp_path, "x")
    folder = results.dir / "machine-1"
    private.close_folder(folder)
    for name in (*private.FILES, "console.log"):
        private.write(folder / name, b"secret")
    results.sweep()
    assert [path.name for path in folder.iterdir()] == ["console.log"]


def test_keys_of_a_part_are_not_copied(tmp_path: Path) -> None:
    for name in (*private.FILES, "console.log"):
        path = tmp_path / "part" / "machine-1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    PartFiles(3, "").copy(tmp_path / "part", tmp_path / "whole")
    assert [path.name for path in (tmp_path / "whole" / "machine-4").iterdir()] == ["console.log"]


def test_socket_with_a_long_path_is_reached(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    path = folder / private.DEBUGGER
    with private.listen(path) as server, private.connect(path, 5) as one:
        one.sendall(b"x")
        accepted, _ = server.accept()
        with accepted:
            assert accepted.recv(1) == b"x"
    assert machine._gdb_line(path) == f"cd {folder} && gdb -ex 'target remote debugger'"


def test_qemu_without_a_filter_is_found_out(tmp_path: Path) -> None:
    fake = tmp_path / "qemu"
    fake.write_text(
        '#!/bin/sh\ncase "$*" in *-sandbox*) echo "not enabled in this QEMU binary" >&2; exit 1 ;; esac\n'
        'exec qemu-system-x86_64 "$@"\n'
    )
    fake.chmod(0o755)
    info = qemu_program.probe(str(fake))
    assert not info.can_filter
    assert "edu" in info.devices
    accelerator, layout = Accelerator("tcg", 1.0, ""), Layout()
    wiring = Wiring(3, 4, None, dict.fromkeys(layout.memories(), fake))
    for can_filter in (True, False):
        command = BootImage(fake, fake, fake, accelerator, can_filter).command("qemu", layout, wiring)
        assert (SystemCallFilter().args()[1] in command) is can_filter
    assert qemu_program.probe("qemu-system-x86_64").can_filter


# --- the umask


def others_may(folder: Path, bits: int) -> list[Path]:
    """Return the files below ``folder`` with one of these bits of their mode, apart from links."""
    listed = [folder, *folder.rglob("*")]
    return [path for path in listed if not path.is_symlink() and path.lstat().st_mode & bits]


@pytest.mark.parametrize("umask", ["000", "077"])
def test_results_and_cache_follow_the_umask(tmp_path: Path, umask: str) -> None:
    tree = make_checkout(tmp_path / "linux")
    series = make_series(tmp_path / "series", "int line_10;", "int line_10")
    results, cache, mark = tmp_path / "results", tmp_path / "cache", tmp_path / "mark"
    mark.mkdir()
    asked = ("run", "--tree", tree, "--series", series, "--results", results, "-k", "a_dmabuf_reaches")
    under = ("sh", "-c", f'umask {umask}; exec "$@"', "sh")
    with Invocation(*asked, mark=mark, cache=cache, under=under) as one:
        assert one.end() == ExitCode.SERIES, one.output
    assert others_may(results, stat.S_IWGRP | stat.S_IWOTH) == []
    assert others_may(cache, stat.S_IWGRP | stat.S_IWOTH) == []
    if umask == "077":
        assert stat.S_IMODE(results.stat().st_mode) == stat.S_IMODE(cache.stat().st_mode) == 0o700
