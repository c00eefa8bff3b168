"""QEMU's command line, and the error of a QEMU that cannot be used."""

from __future__ import annotations

import contextlib
import itertools
import re
from pathlib import Path

import pytest
from small_run import make_qemu, run

from harness.lib.errors import ExitCode, HarnessError
from harness.vm import accelerator, hardware, machine, qemu_program
from harness.vm.hardware import MIB
from harness.vm.pci_devices import Layout
from harness.vm.process import BootImage, Wiring

TCG = accelerator.Accelerator("tcg", 4.0, "for this test")
MEMORY = {role: Path(f"/m/{role}") for role in ("ram", "ram2", "bigram", "pair")}


def line(layout: Layout, gdb: int | None = None) -> list[str]:
    software = BootImage(Path("/k"), Path("/i"), Path("/r,oot"), TCG)
    return software.command("qemu", layout, Wiring(3, 4, gdb, MEMORY))


def devices(argv: list[str]) -> list[str]:
    return [argument for option, argument in itertools.pairwise(argv) if option == "-device"]


def test_command_has_the_iommu_before_devices() -> None:
    assert devices(line(Layout()))[0].startswith("intel-iommu,caching-mode=on,intremap=on")


def test_command_has_a_root_port_for_each_device() -> None:
    named = devices(line(Layout(bigram=1024 * MIB, rng=True)))
    buses = [device.split("bus=")[1] for device in named if "bus=" in device and "-port," not in device]
    ports = [device.split("id=")[1].split(",")[0] for device in named if device.startswith("pcie-root-port")]
    assert buses == ports
    assert buses == [f"{role}-port" for role in ("edu", "ram", "edu2", "ram2", "bigram", "rng", "display")]


def test_layout_keeps_the_place_of_a_device() -> None:
    small = {slot.role: slot.port for slot in Layout().slots(MEMORY)}
    large = {slot.role: slot.port for slot in Layout(bigram=MIB, rng=True).slots(MEMORY)}
    assert small == {role: large[role] for role in small}
    assert small["edu"] == "0000:00:10.0"


def test_layout_pair_shares_a_port() -> None:
    (pair,) = [slot for slot in Layout(pair=MIB).slots(MEMORY) if slot.role == "pair"]
    devices = [word for word in pair.args() if "bus=pair-port" in word]
    assert [device.partition("id=")[2].partition(",")[0] for device in devices] == ["pair", "pair2"]
    assert [device.rpartition("addr=")[2] for device in devices] == ["0.0,multifunction=on", "0.1"]


def test_layout_with_ats_has_it_on_both_sides() -> None:
    found = devices(line(Layout(rng=True, ats=True)))
    assert "device-iotlb=on" in found[0]
    (rng,) = [device for device in found if device.startswith("virtio-rng-pci")]
    assert {"ats=on", "iommu_platform=on", "disable-legacy=on"} <= set(rng.split(","))
    assert not any("ats=on" in device or "iotlb" in device for device in devices(line(Layout(rng=True))))


def test_layout_arguments_end_the_kernel_command_line() -> None:
    argv = line(Layout(arguments=("nopat", "quiet")))
    words = argv[argv.index("-append") + 1].split()
    assert words[: len(hardware.KERNEL_ARGUMENTS)] == list(hardware.KERNEL_ARGUMENTS)
    assert words[-2:] == ["nopat", "quiet"]


def test_kernel_arguments_of_tcg_have_lpj() -> None:
    emulated, real = (accelerator.Accelerator(name, 1.0, "").kernel_arguments() for name in ("tcg", "kvm"))
    assert [word.partition("=")[0] for word in emulated] == ["lpj"]
    assert real == ()


def test_layout_text_says_what_is_unusual() -> None:
    assert str(Layout()) == "usual"
    assert str(Layout(bigram=1024 * MIB, arguments=("nopat",))) == "bigram=1073741824 arguments=('nopat',)"


def test_command_listens_on_loopback_only() -> None:
    argv = line(Layout(), gdb=5)
    (network,) = [argument for argument in argv if argument.startswith("user,")]
    assert "restrict=on" in network
    assert "hostfwd=tcp:127.0.0.1:0-:22" in network
    assert "socket,id=gdb,fd=5,server=on,wait=off" in argv


def test_layout_decides_the_number_of_processors() -> None:
    for layout, number in ((Layout(), "2"), (Layout(cpus=3), "3")):
        argv = line(layout)
        assert argv[argv.index("-smp") + 1] == number


def test_command_of_parallel_processors_has_more_threads() -> None:
    for layout, threads in ((Layout(), "single"), (Layout(parallel=True), "multi")):
        argv = line(layout)
        assert argv[argv.index("-accel") + 1].split(",")[1] == f"thread={threads}"


@pytest.mark.parametrize(("name", "model"), [("tcg", "max,-erms"), ("kvm", "max")])
def test_command_leaves_erms_to_a_real_processor(name: str, model: str) -> None:
    argv = accelerator.Accelerator(name, 1.0, "for this test").args()
    assert argv[argv.index("-cpu") + 1] == model


def test_command_escapes_a_comma_in_a_path() -> None:
    (drive,) = [argument for argument in line(Layout()) if argument.startswith("if=none")]
    assert drive.endswith("file=/r,,oot")


def test_readable_is_the_same_command() -> None:
    argv = machine.dry_run(Path("/k"), Path("/r"), Path("/run"), TCG, "qemu")
    text = hardware.readable(argv)
    assert "\n    -accel tcg,thread=single,tb-size=256 \\\n" in text
    words = text.replace("\\\n", " ").replace("'", "").split()
    assert words == " ".join(argv).split()


def test_probe_of_an_absent_qemu_is_an_error() -> None:
    with pytest.raises(HarnessError, match=r"no QEMU at `/nonexistent/qemu`.*--qemu"):
        qemu_program.probe("/nonexistent/qemu")


def test_probe_of_another_program_is_refused() -> None:
    with pytest.raises(HarnessError, match="does not answer as QEMU does"):
        qemu_program.probe("/usr/bin/env")


def test_require_names_an_absent_device() -> None:
    info = qemu_program.QemuInfo("/opt/qemu", "8.2.0", frozenset(qemu_program.DEVICES) - {"edu"})
    with pytest.raises(HarnessError, match=r"does not have the device edu\..*qemu-system-x86") as caught:
        info.require()
    assert caught.value.exit_code == 2


def test_qemu_of_this_host_has_all_devices() -> None:
    info = qemu_program.probe("qemu-system-x86_64")
    info.require()
    assert info.version[0].isdigit()


# --- a QEMU that fails when it is asked for its devices


def qemu_that_fails(folder: Path, how: str) -> str:
    """Return the real QEMU, which ``how`` (sh) brings to fail when it is asked for its devices."""
    script = f'case "$*" in *"-device help") {how} ;; esac\nexec $qemu "$@"'
    return str(make_qemu(folder / "qemu", script))


@pytest.mark.parametrize(
    ("how", "end", "said"),
    [
        ("ulimit -v 60000", "crashed (SIGABRT)", "Cannot allocate memory"),
        ("ulimit -v 20000", "exited with 127", "cannot open|failed to map segment|error while loading"),
        ("kill -SEGV $$", "crashed (SIGSEGV)", ""),
    ],
    ids=["aborts", "does-not-load", "crashes"],
)
def test_probe_tells_how_a_qemu_failed(tmp_path: Path, how: str, end: str, said: str) -> None:
    with pytest.raises(HarnessError) as caught:
        qemu_program.probe(qemu_that_fails(tmp_path, how))
    assert f"{end}, so it is not known which devices this QEMU has" in caught.value.message
    assert "does not have the device" not in str(caught.value)
    assert re.search(said, caught.value.tail)


def test_probe_ends_a_qemu_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_program, "ANSWER_SECONDS", 5.0)
    qemu = qemu_that_fails(tmp_path, "echo the last words; kill -STOP $$")
    with pytest.raises(HarnessError, match="did not answer within 5 s, and was killed") as caught:
        qemu_program.probe(qemu)
    assert caught.value.tail == "the last words"
    assert processes(str(tmp_path)) == []


def processes(word: str) -> list[bytes]:
    """Return the command lines of the processes that have ``word`` in them."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word.encode() in (line := place.read_bytes()):
                found.append(line)
    return found


def test_run_with_a_qemu_that_aborts_says_so(tmp_path: Path) -> None:
    qemu = qemu_that_fails(tmp_path, "ulimit -v 60000")
    asked = ("--series", "baseline", "--qemu", qemu, "--results", tmp_path / "results")
    code, output = run("run", *asked, mark=tmp_path, cache=tmp_path / "cache")
    assert code == ExitCode.HARNESS
    assert "crashed (SIGABRT), so it is not known which devices this QEMU has" in output
    assert "Cannot allocate memory" in output
    assert "edu" not in output
