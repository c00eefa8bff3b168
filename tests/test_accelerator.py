"""The choice of KVM or TCG: trials, what is remembered of them, and the error of a KVM that fails."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from harness.lib.cache import Store
from harness.lib.command import Captured
from harness.lib.errors import HarnessError
from harness.vm import accelerator, qemu_program

KERNEL = b"Linux version 6.19\n"


@pytest.mark.parametrize(
    ("ended", "works", "certain"),
    [
        (Captured(0, KERNEL + b"Kernel panic - not syncing: VFS: Unable to mount", b""), True, True),
        (Captured(-9, b"", b"", late=True), False, True),
        (Captured(-9, KERNEL, b"", late=True), False, False),
        (Captured(-6, b"", b"error: failed to set MSR 0x10a\nAssertion failed\n"), False, False),
        (Captured(0, KERNEL, b""), False, False),
    ],
)
def test_trial_is_certain_if_the_kernel_is_not_to_blame(ended: Captured, works: bool, certain: bool) -> None:
    trial = accelerator.judge_trial(ended, 6.0)
    assert (trial.works, trial.certain) == (works, certain)


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        (Captured(-6, b"", b"warning\nAssertion failed\n"), "QEMU crashed (SIGABRT): Assertion failed"),
        (Captured(-11, b"", b""), "QEMU crashed (SIGSEGV)"),
        (Captured(1, b"", b"no such machine\n"), "QEMU ended: no such machine"),
        (Captured(2, b"", b""), "QEMU ended: exit status 2"),
        (Captured(0, b"", b""), "a kernel resets under it"),
    ],
)
def test_trial_names_the_end_of_a_qemu_that_failed(ended: Captured, told: str) -> None:
    assert accelerator.judge_trial(ended, 6.0).reason == f"/dev/kvm is there, but {told}"


def fake_qemu(folder: Path, then: str) -> Path:
    """Write a program that answers as QEMU does, and runs ``then`` in place of a machine."""
    program = folder / "qemu"
    program.write_text(
        "#!/bin/sh\n"
        f'echo "$*" >>{folder}/calls\n'
        'case "$*" in\n'
        '-version) echo "QEMU emulator version 9.9.9"; exit;;\n'
        "*help) for d in " + " ".join(qemu_program.DEVICES) + '; do echo "name \\"$d\\""; done; exit;;\n'
        f"esac\n{then}\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


needs_kvm = pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="/dev/kvm cannot be opened here"
)


@needs_kvm
def test_choose_remembers_a_kvm_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "TRIAL_SECONDS", 0.5)
    program = fake_qemu(tmp_path, "exec sleep 60")
    store = Store(tmp_path / "cache")
    first = accelerator.choose(store, "auto", str(program), tmp_path)
    again = accelerator.choose(store, "auto", str(program), tmp_path)
    assert first.name == again.name == "tcg"
    assert "hangs under it before its first line" in first.reason
    assert again.reason == f"{first.reason}, as found before on this host"
    assert (tmp_path / "calls").read_text().count("-accel kvm") == 1
    assert again.time_scale > 1


@needs_kvm
def test_choose_takes_a_kvm_that_boots(tmp_path: Path) -> None:
    program = fake_qemu(tmp_path, "echo 'Linux version 6'; echo 'Kernel panic - not syncing: VFS'")
    chosen = accelerator.choose(Store(tmp_path / "cache"), "auto", str(program), tmp_path)
    assert (chosen.name, chosen.time_scale) == ("kvm", 1.0)


@needs_kvm
def test_choose_of_a_broken_kvm_is_an_error(tmp_path: Path) -> None:
    program = fake_qemu(tmp_path, "echo 'error: failed to set MSR 0x10a' >&2; exit 1")
    with pytest.raises(HarnessError, match=r"KVM was requested.*failed to set MSR 0x10a"):
        accelerator.choose(Store(tmp_path / "cache"), "kvm", str(program), tmp_path)


@pytest.mark.parametrize(
    ("note", "is_read"),
    [("", False), ("[]", False), ('{"works": true}', False), ('{"works": false, "reason": "x"}', True)],
)
def test_choose_ignores_a_damaged_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: str, is_read: bool
) -> None:
    def try_kvm(*_: object) -> accelerator.KvmTrial:
        return accelerator.KvmTrial(False, "it hangs")

    monkeypatch.setattr(accelerator, "try_kvm", try_kvm)
    program, store = str(fake_qemu(tmp_path, "exit 1")), Store(tmp_path / "cache")
    assert accelerator.choose(store, "auto", program, tmp_path).reason == "it hangs"
    (path,) = (tmp_path / "cache" / "accelerator").iterdir()
    path.write_text(note)
    expected = "x, as found before on this host" if is_read else "it hangs"
    assert accelerator.choose(store, "auto", program, tmp_path).reason == expected


def test_choose_of_tcg_asks_nothing_of_the_host(tmp_path: Path) -> None:
    chosen = accelerator.choose(Store(tmp_path), "tcg", "/nonexistent", tmp_path)
    assert (chosen.name, chosen.reason) == ("tcg", "as requested")
