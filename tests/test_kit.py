"""A kit: its script with a stand-in for QEMU, and its guest with a real one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import real

from harness.lib.cache import Store
from harness.lib.errors import HarnessError, UsageError
from harness.run import kit
from harness.run.claim import Claim, claim_of
from harness.run.kit import assembled, write_kit
from harness.verdict.deviation import Deviation
from harness.verdict.record import Entry, Result
from harness.verdict.verdict import Kind, Verdict
from harness.vm import kit_init, kit_machine
from harness.vm.pci_devices import Layout
from harness.vm.word_runs import told_bytes, told_words

SYSTEM = "/usr/bin:/bin"
# A stand-in for QEMU: $version and $devices are its answers, and it leaves what a guest would.
QEMU = """#!/bin/sh
case "$*" in
-version) echo "QEMU emulator version ${version-7.2.0}"; exit ;;
"-device help") printf '%s' "${devices-name \\"edu\\", bus PCI}"; exit ;;
esac
printf '%s\\n' "$@" >"$arguments"
[ -z "${console-booted}" ] || printf '%s\\r\\n' "${console-booted}" >console.log
[ -z "${log-}" ] || printf '%s\\n' "$log" >kit.log
echo "a message of QEMU"
exit "${status-0}"
"""
FILES = {
    "README": "Read this.",
    "about": "REV-01  It is promised.\n",
    "append": "console=ttyS0\n",
    "bzImage": "kernel",
    "complaints": "WARNING: .* at lib/refcount.c\n",
    "faults": "WARNING: .* at |BUG: \n",
    "initrd.cpio": "initramfs",
    "machine": "-m\n64M\n-device\nname with blanks,x='$HOME'\n",
    "settings": "kind reply\nseconds 60\ntcg lpj=1\ndevice edu\n",
}


class Kit:
    """A kit in an empty folder, run as a reviewer would, with nothing of this user's environment."""

    def __init__(self, folder: Path, **files: str) -> None:
        self.folder = folder
        self.file = folder / "the kit.sh"
        self.arguments = folder / "arguments"
        self.programs = folder / "bin"
        for empty in ("home", "tmp", "bin"):
            (folder / empty).mkdir()
        self.file.write_bytes(assembled({name: text.encode() for name, text in {**FILES, **files}.items()}))
        qemu = self.programs / "qemu-system-x86_64"
        qemu.write_text(QEMU)
        qemu.chmod(0o755)

    def run(self, *options: str, path: str | None = None, **environment: str) -> tuple[int, str]:
        """Run the kit; return its exit code, and its standard output and error."""
        known = {
            "PATH": path or f"{self.programs}:{SYSTEM}",
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "arguments": str(self.arguments),
        }
        done = subprocess.run(
            ["sh", str(self.file), *options],
            cwd=self.folder / "home",
            env={**known, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        return done.returncode, done.stdout

    def left(self) -> list[str]:
        """Return the names of the files that it left in the folder for temporary files."""
        return sorted(path.name.partition(".")[0] for path in (self.folder / "tmp").iterdir())


@pytest.fixture
def box(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


@pytest.mark.parametrize(
    ("log", "code", "words"),
    [
        ("> x\nok 1\nreport:\nline 3: > x\nverdict: shown: It is that of the run.", 1, "SHOWN AGAIN. It is"),
        ("> x\nreport:\nverdict: conforms: It is as expected.", 0, "CONFORMS. It is as expected."),
        ("> x\nreport:\nverdict: unsaid: No answer came.", 2, "Could not say. No answer came."),
        ("> x", 2, "Could not say. The guest ended before it came to a verdict."),
    ],
)
def test_verdict_of_the_guest_is_the_exit_code(box: Kit, log: str, code: int, words: str) -> None:
    status, output = box.run(log=log)
    assert status == code
    assert words in output
    assert output.startswith("REV-01  It is promised.\n")
    assert "> x\nok 1" not in output  # the operations are in the log, the report has the one that decided
    assert box.left() == ([] if code < 2 else ["kit-console"])


@pytest.mark.parametrize("kind", ["complaint", "death"])
@pytest.mark.parametrize(
    ("console", "log", "code"),
    [
        ("[ 1.0] WARNING: CPU: 1 at lib/refcount.c:28", "verdict: silent: All was done.", 1),
        ("[ 1.0] WARNING: CPU: 1 at lib/refcount.c:28", "> x", 1),
        ("[ 1.0] WARNING: CPU: 1 at lib/list.c:28", "verdict: silent: All was done.", 2),
        ("[ 1.0] all is well", "verdict: silent: All was done.", 0),
        ("[ 1.0] all is well", "verdict: unsaid: It could not be bound.", 2),
    ],
)
def test_complaint_is_searched_on_the_console(
    tmp_path: Path, kind: str, console: str, log: str, code: int
) -> None:
    box = Kit(tmp_path, settings=FILES["settings"].replace("reply", kind))
    status, output = box.run(console=console, log=log)
    assert status == code
    assert ("the kernel said: " in output) == ("WARNING" in console)


def test_kernel_that_dies_silently_shows_its_death(tmp_path: Path) -> None:
    box = Kit(tmp_path, settings=FILES["settings"].replace("reply", "death"), complaints="")
    assert box.run(log="> x")[0] == 1
    assert box.run(log="verdict: silent: All was done.")[0] == 0


def test_arguments_reach_qemu_unchanged(box: Kit) -> None:
    box.run(log="verdict: conforms: x", ACCEL="kvm")
    assert box.arguments.read_text().splitlines() == [
        *("-accel", "kvm", "-cpu", "max", "-m", "64M", "-device", "name with blanks,x='$HOME'"),
        *("-kernel", "bzImage", "-initrd", "initrd.cpio", "-append", "console=ttyS0"),
    ]
    kernel = box.folder / "another kernel"
    kernel.touch()
    _, output = box.run(log="verdict: conforms: x", KERNEL="../another kernel")
    assert f"Booting ../{kernel.name} under tcg" in output
    arguments = box.arguments.read_text().splitlines()
    assert arguments[arguments.index("-kernel") + 1] == str(kernel)
    assert arguments[-1] == "console=ttyS0 lpj=1"


def test_debugger_is_awaited_without_a_deadline(box: Kit) -> None:
    status, output = box.run("--gdb", "4321", log="verdict: conforms: x")
    assert status == 0
    assert 'gdb -ex "target remote 127.0.0.1:4321"' in output
    arguments = box.arguments.read_text().splitlines()
    assert arguments[arguments.index("-S") :][:3] == ["-S", "-gdb", "tcp:127.0.0.1:4321"]
    assert arguments[-1].endswith(" kit.patient")


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"version": "6.2.0"}, "is version 6 of QEMU. The kit needs version 7.0 or later."),
        ({"version": ""}, "does not answer as QEMU does."),
        ({"devices": 'name "other"'}, "is built without the device edu, which the kit needs."),
        ({"QEMU": "/nonexistent/qemu"}, "There is no /nonexistent/qemu here. Install QEMU"),
        ({"ACCEL": "fast"}, "ACCEL is tcg or kvm, not fast."),
        ({"KERNEL": "nothing"}, "The kernel nothing cannot be read."),
        ({"console": "", "status": "1"}, "QEMU did not boot the kernel (exit status 1):\na message of QEMU"),
    ],
)
def test_host_that_cannot_boot_is_told(box: Kit, environment: dict[str, str], sentence: str) -> None:
    status, output = box.run(**environment)
    assert status == 2
    assert sentence in output
    assert box.left() == []


def test_host_without_qemu_is_told(box: Kit) -> None:
    for name in ("sh", "tail", "gzip", "tar", "sed", "grep", "mktemp", "timeout", "rm", "cat"):
        (box.programs / name).symlink_to(shutil.which(name) or name)
    (box.programs / "qemu-system-x86_64").unlink()
    status, output = box.run(path=str(box.programs))
    assert status == 2
    assert "There is no qemu-system-x86_64 here. Install QEMU (Debian: qemu-system-x86)" in output


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damaged_kit_is_told(box: Kit, damage: str) -> None:
    content = bytearray(box.file.read_bytes())
    if damage == "cut":
        del content[-100:]
    else:
        content[-100] ^= 0xFF
    box.file.write_bytes(content)
    status, output = box.run()
    assert status == 2
    assert "is damaged: the files in it cannot be unpacked" in output
    assert box.left() == []


def test_kit_unpacks_only_when_asked(box: Kit) -> None:
    status, output = box.run("--unpack", "files")
    assert status == 0
    files = box.folder / "home" / "files"
    assert {path.name: path.read_text() for path in files.iterdir()} == FILES
    assert output == "Unpacked. Read files/README.\n"
    assert not box.arguments.exists()


def test_help_names_the_exit_codes(box: Kit) -> None:
    status, output = box.run("--help")
    assert status == 0
    assert "Exit code 0: the kernel conforms.  1: the fault was shown again.  2: it could not be" in output
    assert box.run("--unknown") == (2, output)


def test_script_has_no_fault_that_shellcheck_knows() -> None:
    subprocess.run(["shellcheck", "--shell=sh", str(kit_init.SCRIPT)], check=True)


# -- the program of the guest ----------------------------------------------------------------------


def test_init_started_by_a_user_explains_itself(tmp_path: Path) -> None:
    init = kit_init.build(Store(tmp_path), tmp_path / "log")
    done = subprocess.run([init], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"runs only as process 1" in done.stderr


# -- packing, and a real guest ---------------------------------------------------------------------

TRANSCRIPT = """\
# transcript 2
# suites/test_x.py::test_x
! machine ram=0x4000000 ram2=0x4000000 cpus=0x2
! device ram 0000:02:00.0
! guest bind 0000:02:00.0 vfio-pci
! host stamp ram 0x10
! actor 1 c
> open vfio 0000:02:00.0
ok dev1 bars=0:0x100,2:0x4000000
> map dev1 bar=2 length=0x2000
ok map1
> store32 map1 4 0x12345678
ok
! host words ram 0x0 0x2000 0x4
{words}
! host read ram 0x0 0x100
{data}
! actor 2 python
> fds
ok 4
! actor 1 c
> loadpages map1
ok 0x00000010 0x00000099
{expected}
! guest begin-unbind 0000:02:00.0
! end 1
! guest restore 0000:02:00.0 -
"""
MEMORY = [0x10, 0x12345678, *[0] * 1022, 0x11, *[0] * 1023]
DECISIVE = 22


def run_of(folder: Path, expected: str = "", verdict: Verdict = Verdict.VIOLATES) -> Result:
    """Write the transcript of a scenario; return its result."""
    data = b"".join(word.to_bytes(4, "little") for word in MEMORY[:64])
    words, told = f"ok {told_words(MEMORY)}", f"ok {told_bytes(data)}"
    text = TRANSCRIPT.format(words=words, data=told, expected=expected).replace("\n\n", "\n")
    (folder / "t.txt").write_text(text)
    deviation = Deviation("the stamps", "others", "loadpages map1", DECISIVE) if expected else None
    entry = Entry("suites/test_x.py::test_x", Kind.SCENARIO, "x", ("MAP-01",))
    return Result(entry, verdict, "Others.", transcript="t.txt", ended=True, deviation=deviation)


def claimed(folder: Path, expected: str = "") -> tuple[Result, Claim]:
    result = run_of(folder, expected, Verdict.VIOLATES if expected else Verdict.CONFORMS)
    return result, claim_of(result, folder)


FACTS: Mapping[str, object] = {"base": "6.19.6", "series": "x", "title": "\x1b[31mred"}


@pytest.mark.vm
@pytest.mark.parametrize(
    ("expected", "code", "words"),
    [
        ("= ok 0x00000010 0x00000012", 1, "SHOWN AGAIN. The answer is neither"),
        ("= ok 0x00000010 0x00000011", 0, "CONFORMS. The answer is the expected one."),
    ],
)
def test_kit_shows_its_claim_on_a_real_kernel(tmp_path: Path, expected: str, code: int, words: str) -> None:
    result, claim = claimed(tmp_path, expected)
    box = Kit(tmp_path)
    write_kit(Store(), result, claim, real.base_kernel(), FACTS, box.file)
    assert box.file.stat().st_size < kit.MOST_BYTES
    status, output = box.run(path=SYSTEM)
    assert status == code, output
    assert words in output
    assert "  now       ok 0x00000010 0x00000011\n" in output
    assert output.count("\nline ") == 1  # all that the host and the other actor did was the same
    assert r"\x1b[31mred" in output
    assert box.left() == []


@pytest.mark.vm
def test_kit_tells_another_answer_of_a_good_run(tmp_path: Path) -> None:
    result, claim = claimed(tmp_path)
    box = Kit(tmp_path)
    write_kit(Store(), result, claim, real.base_kernel(), FACTS, box.file)
    status, output = box.run(path=SYSTEM)
    assert status == 2
    assert f"line {DECISIVE}: > loadpages map1\n" in output
    assert "Could not say. 1 answers are not those of the run." in output
    assert box.left() == ["kit-console"]


@pytest.mark.vm
def test_kit_above_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, claim = claimed(tmp_path)
    monkeypatch.setattr(kit, "MOST_BYTES", 3 << 20)
    with pytest.raises(UsageError, match="3 MiB is the limit: the kernel alone has"):
        write_kit(Store(), result, claim, real.base_kernel(), FACTS, tmp_path / "kit")
    assert not (tmp_path / "kit").exists()


@pytest.mark.vm
def test_kit_needs_an_importer_that_was_built(tmp_path: Path) -> None:
    result = run_of(tmp_path, verdict=Verdict.CONFORMS)
    path = tmp_path / "t.txt"
    path.write_text(path.read_text().replace("! end 1\n", "! end 1\n! guest load-importer\n"))
    store, claim, kernel = Store(tmp_path / "cache"), claim_of(result, tmp_path), real.base_kernel()
    with pytest.raises(HarnessError, match="The test importer for the kernel of this run is not in the"):
        write_kit(store, result, claim, kernel, FACTS, tmp_path / "kit")


def test_witness_is_a_second_device_for_the_memory() -> None:
    layout = Layout()
    added = kit_machine.witnesses(layout, {"ram2"})
    arguments = kit_machine.arguments(layout, added)
    backends = [one for one in arguments if one.endswith("mem-path=ram2.memory")]
    assert len(backends) == 2
    assert [one.address for one in added] == ["0000:00:19.0"]
    assert not any("mem-path=/" in one or "fd=" in one for one in arguments)
    assert kit_machine.models(layout) == [
        "bochs-display",
        "edu",
        "intel-iommu",
        "ivshmem-plain",
        "pcie-root-port",
    ]
