"""The positive control of the detectors: each is shown something, and a blind one is found."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import real

from harness.actor.actor import Actor
from harness.actor.build import build_actor
from harness.guest import kmemleak
from harness.guest.guest import Guest
from harness.guest.health import KernelHealth
from harness.kernel import kconfig
from harness.lib.cache import Store
from harness.lib.errors import BootError, HarnessError
from harness.run import positive_control, provoke
from harness.verdict.detector import Detector, State, has_kmemleak
from harness.vm import machine
from harness.vm.pci_devices import Layout

# The guest has no mount(8).
LIBC = "import ctypes, sys; libc, path = ctypes.CDLL(None), sys.argv[1].encode(); "
MOUNT = shlex.quote(LIBC + "sys.exit(libc.mount(b'/run/instead', path, None, 4096, None))")  # MS_BIND
UNMOUNT = shlex.quote(LIBC + "sys.exit(libc.umount2(path, 0))")
PROVEN = {"console", "taint", "warn_count", "refcount", "kernel log", "dmabufs", "page tables"}


@dataclass
class UnpatchedMachine:
    """A machine with the unpatched kernel."""

    guest: Guest
    folder: Path
    proofs: int = 0

    def prove(self) -> dict[str, Detector]:
        proof = self.proof()
        assert proof.complaint == ""
        return {one.name: one for one in proof.detectors}

    def proof(self) -> positive_control.Proof:
        built = real.base_kernel()
        assert built.options
        actor = build_actor(Store(), built.headers, self.folder / "actor.log")
        self.proofs += 1
        transcript = self.folder / f"control-{self.proofs}.txt"
        return positive_control.prove(self.guest, actor, transcript, built.options)

    def script(self, text: str) -> None:
        done = self.guest.script(f"set -e\n{text}")
        assert done.status == 0, done.stderr.decode()

    @contextmanager
    def sysctl(self, name: str, value: int, usual: int) -> Iterator[None]:
        """Set a value below /proc/sys/kernel for the block."""
        self.script(f"echo {value} >/proc/sys/kernel/{name}")
        try:
            yield
        finally:
            self.script(f"echo {usual} >/proc/sys/kernel/{name}")

    @contextmanager
    def instead(self, path: str, content: str) -> Iterator[None]:
        """Mount a file with this content over ``path`` for the block."""
        self.script(f"printf %s {shlex.quote(content)} >/run/instead; python3 -c {MOUNT} {path}")
        try:
            yield
        finally:
            self.script(f"python3 -c {UNMOUNT} {path}")


@contextmanager
def started(folder: Path, *arguments: str, qemu: str = "qemu-system-x86_64") -> Iterator[UnpatchedMachine]:
    with machine.boot(
        real.base_kernel().bzimage,
        real.guest_image(),
        run_dir=folder / "machine",
        accelerator=real.accelerator(),
        qemu=qemu,
        layout=Layout(arguments=arguments),
    ) as booted:
        yield UnpatchedMachine(Guest(booted), folder)


@dataclass(frozen=True)
class FirstProof:
    """The detectors of a new machine, and the state of its kernel before they were shown anything."""

    unpatched: UnpatchedMachine
    before: KernelHealth
    found: dict[str, Detector]


@pytest.fixture(scope="module")
def first_proof(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirstProof]:
    with started(tmp_path_factory.mktemp("unpatched")) as unpatched:
        before = KernelHealth.of(unpatched.guest)
        yield FirstProof(unpatched, before, unpatched.prove())


@pytest.fixture
def unpatched(first_proof: FirstProof) -> UnpatchedMachine:
    """The machine that the tests share, after its first proof."""
    return first_proof.unpatched


def blind(found: dict[str, Detector]) -> set[str]:
    return {name for name, one in found.items() if one.state is State.BLIND}


@pytest.mark.vm
class TestSharedMachine:
    def test_new_machine_proves_what_can_be_provoked(self, first_proof: FirstProof) -> None:
        before, found = first_proof.before, first_proof.found
        assert {name for name, one in found.items() if one.state is State.PROVEN} == PROVEN
        assert blind(found) == set()
        assert found["console"].words == "a provoked WARN is on it, with its call trace"
        assert {found[name].state for name in ("lockdep", "kmemleak", "kasan")} == {State.NOT_BUILT}
        assert (before.taint, before.warnings) == (0, 0)

    def test_proof_leaves_the_next_scenario_undisturbed(self, unpatched: UnpatchedMachine) -> None:
        unpatched.prove()
        mark = unpatched.guest.machine.console.mark()
        before = KernelHealth.of(unpatched.guest)
        assert unpatched.guest.machine.console.splats(mark) == []
        unpatched.script("echo WARNING >/sys/kernel/debug/provoke-crash/DIRECT")
        assert [one.text for one in KernelHealth.of(unpatched.guest).worse_than(before)] == [
            "warn_count has gone up by 1"
        ]

    def test_proof_rearms_warnings_that_come_once(self, unpatched: UnpatchedMachine) -> None:
        unpatched.prove()
        mark = unpatched.guest.machine.console.mark()
        unpatched.script("echo REFCOUNT_INC_ZERO >/sys/kernel/debug/provoke-crash/DIRECT")
        assert unpatched.guest.machine.console.wait_for("refcount_t: addition on 0", 10, mark)

    def test_taint_set_before_is_not_proven(self, unpatched: UnpatchedMachine) -> None:
        """The first proof has set it."""
        taint = unpatched.prove()["taint"]
        assert (taint.state, taint.words) == (
            State.NOT_PROVEN,
            "bit 9 (WARN) was set before one was provoked",
        )

    @pytest.mark.parametrize(
        ("path", "content", "name"),
        [
            ("/proc/sys/kernel/tainted", "0\n", "taint"),
            ("/sys/kernel/warn_count", "7\n", "warn_count"),
            ("/sys/kernel/debug/dma_buf/bufinfo", "Total 0 objects, 0 bytes\n", "dmabufs"),
            ("/sys/kernel/debug/page_tables/current_kernel", "", "page tables"),
        ],
    )
    def test_detector_that_never_changes_is_blind(
        self, unpatched: UnpatchedMachine, path: str, content: str, name: str
    ) -> None:
        with unpatched.instead(path, content):
            assert blind(unpatched.prove()) == {name}

    def test_kernel_without_kmemleak_cannot_be_asked_for_leaks(self, unpatched: UnpatchedMachine) -> None:
        with pytest.raises(HarnessError, match=r"kmemleak does not scan.*kmemleak"):
            kmemleak.scan(unpatched.guest)

    def test_warning_during_the_proof_is_a_complaint(
        self, unpatched: UnpatchedMachine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The kernel warns before the page table is read, which is after the last provocation."""
        read = positive_control._page_table

        def warn_and_read(observer: Actor) -> Detector:
            unpatched.script("echo WARNING >/sys/kernel/debug/provoke-crash/DIRECT")
            return read(observer)

        monkeypatch.setattr(positive_control, "_page_table", warn_and_read)
        proof = unpatched.proof()
        assert "the kernel said: WARNING: drivers/misc/lkdtm/bugs.c" in proof.complaint
        assert "warn_count has gone up by 1" in proof.complaint
        assert len(proof.splats) == 1

    def test_kernel_with_panic_on_warn_is_not_provoked(self, unpatched: UnpatchedMachine) -> None:
        with unpatched.sysctl("panic_on_warn", 1, 0):
            found = unpatched.prove()
        assert found["console"].state is State.NOT_PROVEN
        assert "would panic" in found["console"].words
        assert blind(found) == set()

    def test_console_without_warnings_is_blind(self, unpatched: UnpatchedMachine) -> None:
        with unpatched.sysctl("printk", 4, 7):
            found = unpatched.prove()
        assert blind(found) == {"console", "refcount"}
        assert "a WARN was provoked and is not on it" in found["console"].words


@pytest.mark.vm
def test_kernel_that_dies_of_the_proof_is_a_boot_error(tmp_path: Path) -> None:
    with started(tmp_path) as unpatched:
        unpatched.script("echo 1 >/proc/sys/kernel/warn_limit")
        with pytest.raises(BootError, match=r"died when its detectors.*system warned too often"):
            unpatched.prove()
        assert not unpatched.guest.machine.alive()


@pytest.mark.vm
def test_quiet_console_without_lkdtm_is_blind(tmp_path: Path) -> None:
    with started(tmp_path, "initcall_blacklist=lkdtm_module_init") as unpatched:
        found = unpatched.prove()
        assert blind(found) == set()
        for name in ("console", "taint", "warn_count"):
            assert found[name].state is State.NOT_PROVEN
            assert "the kernel has no lkdtm (CONFIG_LKDTM)" in found[name].words
        unpatched.script("echo 4 >/proc/sys/kernel/printk")
        assert blind(unpatched.prove()) == {"console"}


# A QEMU whose console loses each line with a warning.
LOSSY = """#!/bin/bash
for word; do
    case $word in file,id=console,path=/proc/self/fd/*) fd=${word#*fd/} fd=${fd%%,*} ;; esac
done
if [ -n "$fd" ]; then
    exec {out}>&$fd
    eval "exec $fd> >(exec grep --text --line-buffered -v 'WARNING:' >&$out)"
fi
exec qemu-system-x86_64 "$@"
"""


@pytest.mark.vm
def test_console_that_loses_one_line_is_blind(tmp_path: Path) -> None:
    qemu = tmp_path / "qemu"
    qemu.write_text(LOSSY)
    qemu.chmod(0o755)
    with started(tmp_path, qemu=str(qemu)) as unpatched:
        found = unpatched.prove()
        assert blind(found) == {"console"}
        assert "lkdtm_WARNING" in unpatched.guest.machine.console.since()
        assert found["taint"].state is found["warn_count"].state is State.PROVEN


def provoked(**changes: object) -> provoke.Provoked:
    health = KernelHealth(0, None, 0, 0, 0)
    usual: dict[str, object] = {
        "crash_points": ("ARRAY_BOUNDS", "REFCOUNT_INC_ZERO", "WARNING"),
        "why_not": "",
        "before": health,
        "after": health,
        "watchers": ("-", "1", "0", "-", "0"),
        "earlier_kinds": frozenset(),
        "mark": 0,
        "message_seen": True,
        "kinds": frozenset({"ubsan", "warning"}),
        "traced": True,
    }
    return provoke.Provoked(**(usual | changes))  # type: ignore[arg-type]


def states(found: Iterator[Detector]) -> dict[str, State]:
    return {one.name: one.state for one in found}


def test_detector_of_an_absent_option_is_not_built() -> None:
    options = kconfig.values("CONFIG_KASAN=y\nCONFIG_UBSAN_BOUNDS=y\n")
    found = states(positive_control.by_option(provoked(), options))
    assert found["ubsan"] is State.PROVEN
    assert found["kasan"] is State.NOT_PROVEN
    assert found["list"] is found["page-table-check"] is found["dma-debug"] is State.NOT_BUILT


def test_detector_without_its_report_is_blind() -> None:
    options = kconfig.values("CONFIG_UBSAN_BOUNDS=y\n")
    without = provoked(kinds=frozenset({"warning"}))
    assert states(positive_control.by_option(without, options))["ubsan"] is State.BLIND


def test_detectors_of_an_unknown_config_are_not_proven() -> None:
    assert set(states(positive_control.by_option(provoked(crash_points=("WARNING",)), None)).values()) == {
        State.NOT_PROVEN
    }


def test_kernel_log_without_a_new_record_is_blind() -> None:
    assert positive_control.kernel_log(0).state is State.BLIND


def test_watchdogs_are_on_off_or_not_built() -> None:
    found = {one.name: one.words for one in positive_control.by_files(provoked())}
    assert found["hung task"].startswith("it is on")
    assert found["soft lockup"] == "it is off"
    assert found["rcu stall"].startswith("it is on")
    stalled = {
        one.name: one.words for one in positive_control.by_files(provoked(watchers=("1", "1", "1", "1", "1")))
    }
    assert stalled["rcu stall"] == "it is off"  # suppressed
    assert stalled["kmemleak"].startswith("no leak can be provoked")
    assert {
        name
        for name, state in states(positive_control.by_files(provoked())).items()
        if state is State.NOT_BUILT
    } == {
        "kmemleak",
        "hard lockup",
    }


def test_refcount_without_its_warning_is_blind() -> None:
    assert positive_control.refcount(provoked()).state is State.BLIND
    assert positive_control.refcount(provoked(kinds=frozenset({"refcount", "warning"}))).state is State.PROVEN
    assert positive_control.refcount(provoked(crash_points=("WARNING",))).state is State.NOT_PROVEN


@pytest.mark.parametrize(("value", "asked"), [("-", False), ("1", True)])
def test_kmemleak_is_asked_where_it_is_built(value: str, asked: bool) -> None:
    found = positive_control.by_files(provoked(watchers=(value, "-", "-", "-", "0")))
    assert has_kmemleak(found) is asked
