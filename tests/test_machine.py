"""Real machines: devices and services of one that came up, and the error of one that did not."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import real
from small_run import make_qemu

from harness.klog import lines
from harness.klog.splat import Splat
from harness.lib import private
from harness.lib.errors import BootError, HarnessError
from harness.vm import diagnose, machine
from harness.vm import process as launch
from harness.vm.accelerator import Accelerator
from harness.vm.diagnose import MOMENTS, QemuCrashedError, QemuDefectError
from harness.vm.hardware import MIB, Network
from harness.vm.image import Image
from harness.vm.machine import Machine
from harness.vm.pci_devices import Layout
from harness.vm.qemu_program import DEVICES
from harness.vm.ssh import SshLostError

pytestmark = pytest.mark.vm

PATIENCE = 60.0
NO_WAIT = Accelerator("tcg", 1 / machine.BOOT_SECONDS, "a second is enough for what never comes")


def boot(run_dir: Path, **changes: object) -> Machine:
    arguments = {
        "bzimage": real.base_kernel().bzimage,
        "image": real.guest_image(),
        "run_dir": run_dir,
        "accelerator": real.accelerator(),
    }
    return machine.boot(**(arguments | changes))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Booted:
    """A machine, and the splats on its console when it had come up."""

    machine: Machine
    splats: list[Splat]


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    layout = Layout(ram=4 * MIB, bigram=1024 * MIB, rng=True)
    with boot(tmp_path_factory.mktemp("run"), layout=layout, gdb=True) as guest:
        yield Booted(guest, guest.console.splats())


@pytest.fixture
def guest(booted: Booted) -> Machine:
    return booted.machine


def ask(guest: Machine, script: str) -> str:
    done = guest.ssh.run(["sh", "-c", script], PATIENCE)
    assert done.status == 0, done.stderr.decode()
    return done.stdout.decode()


def compiled(source: Path) -> Path:
    """Compile a static program for the guest, which has no shared libraries when init starts."""
    program = source.with_suffix("")
    subprocess.run(["gcc", "-static", "-o", program, source], check=True)
    return program


def no_programs(folder: Path) -> None:
    """Write what an init would install, for one that does not."""
    for name in ("agent", "files"):
        (folder / name).write_text("no program")


def script(folder: Path, text: str) -> str:
    program = folder / "qemu"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return str(program)


def test_console_shows_every_kernel_message(guest: Machine) -> None:
    """Compare up to a message of the test: later ones may be in dmesg and not yet on the console."""
    records, *_ = ask(guest, "echo '<1>up to here' >/dev/kmsg; dmesg -r").partition(" up to here\n")
    assert guest.console.wait_for("up to here$", PATIENCE)
    console = {lines.message(line) for line in guest.console.since().splitlines()}
    messages = [
        re.sub(r"^<(\d+)>\[.*?\] ", r"\1 ", record)
        for record in records.splitlines()[:-1]
        if record.startswith("<")
    ]
    shown = [text for level, _, text in (one.partition(" ") for one in messages) if int(level) % 8 < 7]
    assert len(shown) > 200
    assert [text for text in shown if text not in console] == []


def test_clean_boot_has_no_splats(booted: Booted) -> None:
    assert booted.splats == []
    assert booted.machine.alive()
    assert booted.machine.note == ""


def test_devices_are_where_the_layout_says(guest: Machine) -> None:
    for role, expected in {
        "edu": "0x1234:0x11e8",
        "ram": "0x1af4:0x1110",
        "edu2": "0x1234:0x11e8",
        "ram2": "0x1af4:0x1110",
        "bigram": "0x1af4:0x1110",
        "rng": "0x1af4:0x1005",
    }.items():
        (slot,) = [slot for slot in guest.layout.slots(guest.ram_bars) if slot.role == role]
        found = ask(
            guest, f"cd /sys/bus/pci/devices/{slot.port}/0000:??:??.?/ && echo $(cat vendor):$(cat device)"
        )
        assert found.strip() == expected, role


def test_every_device_has_an_iommu_group_of_its_own(guest: Machine) -> None:
    """The functions of one device share a group, because the root port cannot tell them apart."""
    said = ask(
        guest, "cd /sys/bus/pci/devices; for d in 0000:0[1-9]:*; do echo $d $(readlink $d/iommu_group); done"
    )
    buses = defaultdict(set)
    for line in said.splitlines():
        address, group = line.split()
        buses[address[:7]].add(group)
    groups = [group for bus in buses.values() for group in bus]
    assert len(groups) == len(set(groups)) == len(buses) == len(guest.layout.slots(guest.ram_bars))


def test_host_sees_the_guests_stores_in_the_ram_bar(guest: Machine) -> None:
    (slot,) = [slot for slot in guest.layout.slots(guest.ram_bars) if slot.role == "ram"]
    program = f"""
        import glob, mmap, os
        device, = glob.glob("/sys/bus/pci/devices/{slot.port}/0000:??:??.?")
        open(device + "/enable", "w").write("1")
        bar = mmap.mmap(os.open(device + "/resource2", os.O_RDWR), 0)
        print(len(bar))
        bar[0x1000:0x1004] = b"dear"
    """
    done = guest.ssh.run(["python3", "-"], PATIENCE, textwrap.dedent(program).encode())
    assert done.stdout == b"%d\n" % (4 * MIB), done.stderr
    with guest.ram_bar.open("rb") as host:
        host.seek(0x1000)
        assert host.read(4) == b"dear"


def test_guest_has_what_the_probes_need(guest: Machine) -> None:
    assert ask(guest, "ulimit -n").strip() == "65536"
    assert ask(guest, "hostname").strip() == "patchproof"
    assert "current_kernel" in ask(guest, "ls /sys/kernel/debug/page_tables")
    ask(guest, "echo kept >/etc/motd; test -w /dev/shm; test -c /dev/vfio/vfio; test -c /dev/iommu")
    ask(guest, "python3 -c 'import mmap, ctypes, fcntl, socket, json, struct, select, signal'")


def test_guest_reaches_no_other_host(guest: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        program = f"import socket; socket.create_connection(('10.0.2.2', {port}), 3)"
        assert guest.ssh.run(["python3", "-c", program], PATIENCE).status != 0


def test_init_reaps_orphans(guest: Machine) -> None:
    ask(guest, "for i in 1 2 3; do (sleep 0.1 &) ; done; sleep 1")
    assert ask(guest, "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z' || true").strip() == "0"


def test_dump_processors_writes_registers(guest: Machine) -> None:
    path, fault = guest.dump_processors()
    assert fault == ""
    said = path.read_text()
    assert len(re.findall(r"^dumping local APIC state for CPU \d", said, re.MULTILINE)) == 2 * MOMENTS
    assert re.findall(r"^CPU#(\d)", said, re.MULTILINE) == ["0", "1"] * MOMENTS
    assert len(re.findall(r"\bRIP=[0-9a-f]{16}\b", said)) == 2 * MOMENTS
    queues = [f"virtio-net queue {number}" for number in (0, 1, 2)] + ["virtio-blk queue 0"]
    assert all(said.count(f"\n{queue}: ") == MOMENTS for queue in queues)


def test_debugger_can_connect(guest: Machine) -> None:
    found = re.fullmatch(r"gdb vmlinux -ex 'target remote (/.*)'", guest.gdb_line)
    assert found
    with private.connect(Path(found[1]), 5) as stub:
        stub.settimeout(PATIENCE)
        stub.sendall(b"+$D#44")  # detach at once, or the guest stays stopped
        received = b""
        while b"$OK#9a" not in received:
            received += stub.recv(4096)
    ask(guest, "true")


def test_warning_is_one_splat_after_the_mark(guest: Machine) -> None:
    mark = guest.console.mark()
    ask(guest, "echo WARNING >/sys/kernel/debug/provoke-crash/DIRECT")
    assert guest.console.wait_for("end trace", PATIENCE, mark)
    (one,) = guest.console.splats(mark)
    assert (one.kind, "lkdtm_WARNING" in one.title) == ("warning", True)
    assert guest.console.splats(guest.console.mark()) == []
    assert guest.alive()


def test_panic_ends_machine_and_connection(tmp_path: Path) -> None:
    with boot(tmp_path) as guest:
        with pytest.raises(SshLostError):
            guest.ssh.run(["sh", "-c", "echo PANIC >/sys/kernel/debug/provoke-crash/DIRECT"], PATIENCE)
        assert guest.wait_ended(PATIENCE)
        assert not guest.alive()
        assert guest.exit_status() == 0
        assert [one.title for one in guest.console.splats()] == ["Kernel panic - not syncing: dumptest"]
        assert "GUEST_PANICKED" in [name for name, _ in guest.events]


def test_panic_during_boot_is_a_boot_error(tmp_path: Path) -> None:
    not_a_program = tmp_path / "init"
    not_a_program.write_text("no program")
    no_programs(tmp_path)
    image = Image(real.guest_image().rootfs, not_a_program, "")
    with pytest.raises(BootError, match=r"panicked while it booted: .*No working init found") as caught:
        boot(tmp_path / "run", image=image)
    assert "Call Trace:" in caught.value.tail
    assert caught.value.log == tmp_path / "run" / "console.log"


def test_rootfs_that_cannot_be_mounted_is_a_boot_error(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(bytes(MIB))
    image = Image(empty, real.guest_image().init, "")
    with pytest.raises(BootError, match=r"init gave up: cannot mount /dev/vda \(squashfs\)"):
        boot(tmp_path / "run", image=image)


def test_power_off_during_boot_is_a_boot_error(tmp_path: Path) -> None:
    source = tmp_path / "init.c"
    source.write_text("#include <sys/reboot.h>\nint main(void) { return reboot(RB_POWER_OFF); }\n")
    program = compiled(source)
    no_programs(tmp_path)
    image = Image(real.guest_image().rootfs, program, "")
    with pytest.raises(BootError, match="powered off before it came up"):
        boot(tmp_path / "run", image=image)


def test_silent_guest_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(BootError, match="did not come up within 1 s"):
        boot(tmp_path, accelerator=NO_WAIT)


def test_missing_kernel_is_a_harness_error(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="QEMU exited with 1 before") as caught:
        boot(tmp_path, bzimage=tmp_path / "nonexistent")
    assert "nonexistent" in caught.value.tail
    assert not isinstance(caught.value, QemuDefectError)


ANSWERS = (
    'case "$*" in -version) echo "QEMU emulator version 9.9.9"; exit;; *help) '
    + "".join(f"echo 'name \"{device}\"'; " for device in DEVICES)
    + "exit;; esac\n"
)


def test_crashed_qemu_is_started_again_and_noted(tmp_path: Path) -> None:
    crash_once = f"test -e {tmp_path}/crashed || {{ touch {tmp_path}/crashed; kill -SEGV $$; }}\n"
    program = script(tmp_path, ANSWERS + crash_once + 'exec qemu-system-x86_64 "$@"')
    with boot(tmp_path / "run", qemu=program) as guest:
        assert guest.note == "QEMU crashed before the guest came up (SIGSEGV). It was started again."
    assert (tmp_path / "run" / "crashed-console.log").exists()


def test_qemu_that_crashes_twice_is_a_harness_error(tmp_path: Path) -> None:
    with pytest.raises(QemuCrashedError, match="SIGABRT"):
        boot(tmp_path / "run", qemu=script(tmp_path, ANSWERS + "kill -ABRT $$"))


#: The registers of processors of which one has lost the end of an interrupt, recorded by dump_processors().
DEAF = Path(__file__).parent / "data" / "processors" / "deaf.txt"


def test_boot_with_a_lost_interrupt_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = machine.BOOT_SECONDS

    def dump_once(late: Machine) -> tuple[Path, str]:
        monkeypatch.setattr(machine, "BOOT_SECONDS", allowed)
        return DEAF, diagnose.lost_interrupt(DEAF.read_text())

    monkeypatch.setattr(machine, "BOOT_SECONDS", 0.01)
    monkeypatch.setattr(Machine, "dump_processors", dump_once)
    with boot(tmp_path / "run") as guest:
        assert guest.note.startswith("The guest did not come up within ")
        assert "because QEMU has lost the end of interrupt " in guest.note
        assert guest.note.endswith("It was started again.")


def test_taken_port_is_an_error_with_qemus_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(launch, "Network", functools.partial(Network, ssh_port=port))
        with pytest.raises(HarnessError, match="QEMU exited with 1") as caught:
            boot(tmp_path)
    assert "host forwarding rule" in caught.value.tail


def test_two_machines_run_at_once(tmp_path: Path) -> None:
    with boot(tmp_path / "one") as one, boot(tmp_path / "two") as two:
        assert one.ssh.port != two.ssh.port
        ask(one, "echo 1 >/tmp/here")
        assert ask(two, "ls /tmp").strip() == ""


def test_close_leaves_no_process_or_descriptor(tmp_path: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    guest = boot(tmp_path, gdb=True)
    running = named_in_a_command_line(str(tmp_path))
    assert running
    guest.close()
    guest.close()
    assert [process for process in running if process.exists()] == []
    assert set(Path("/proc/self/fd").iterdir()) == before


def named_in_a_command_line(marker: str) -> list[Path]:
    """Return the folders in /proc of the processes, zombies excepted, whose command line holds ``marker``."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # the process has just ended
            if marker.encode() in place.read_bytes():
                found.append(place.parent)
    return found


def test_qemu_that_dies_before_its_monitor_is_told(tmp_path: Path) -> None:
    """The real one, which may not have as much memory as its guest."""
    few = 'case "$1" in -accel) ulimit -v 900000 ;; esac'
    qemu = make_qemu(tmp_path / "qemu", f'{few}\nexec $qemu "$@"')
    with pytest.raises(HarnessError, match=r"QEMU exited with 1 before the guest came up") as caught:
        boot(tmp_path / "run", qemu=str(qemu))
    assert "guest RAM: Cannot allocate memory" in caught.value.tail
    assert not isinstance(caught.value, BootError)


def test_ctrl_c_during_boot_ends_qemu(tmp_path: Path) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def interrupt_at_the_first_words() -> None:
        log = tmp_path / "console.log"
        while not (log.exists() and log.stat().st_size):
            time.sleep(0.01)
        seen.extend(named_in_a_command_line(str(tmp_path)))
        os.kill(os.getpid(), signal.SIGALRM)

    seen: list[Path] = []
    source = tmp_path / "init.c"
    source.write_text("#include <unistd.h>\nint main(void) { for (;;) pause(); }\n")
    no_programs(tmp_path)
    image = Image(real.guest_image().rootfs, compiled(source), "")  # never says that it is ready
    real.base_kernel(), real.accelerator()  # not to be interrupted in these
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        threading.Thread(target=interrupt_at_the_first_words, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            boot(tmp_path, image=image)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert seen
    assert named_in_a_command_line(str(tmp_path)) == []


def test_qemu_dies_with_a_killed_harness(tmp_path: Path) -> None:
    kernel, image = real.base_kernel().bzimage, real.guest_image()
    program = f"""
        import time
        from pathlib import Path
        from harness.vm import diagnose, machine
        from harness.vm.image import Image
        from harness.vm.accelerator import Accelerator
        guest = machine.boot(
            Path({str(kernel)!r}),
            Image(Path({str(image.rootfs)!r}), Path({str(image.init)!r}), ""),
            run_dir=Path({str(tmp_path)!r}),
            accelerator={real.accelerator()!r},
        )
        print("up", flush=True)
        time.sleep(600)
    """
    harness = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.PIPE,
    )
    assert harness.stdout is not None
    assert harness.stdout.readline() == b"up\n"
    running = [int(place.name) for place in named_in_a_command_line(str(tmp_path))]
    watches = [os.pidfd_open(pid) for pid in running if pid != harness.pid]
    assert watches
    harness.send_signal(signal.SIGKILL)
    harness.wait()
    harness.stdout.close()
    for watch in watches:
        end = select.poll()
        end.register(watch, select.POLLIN)
        assert end.poll(PATIENCE * 1000) != []
        os.close(watch)
