"""Splats in recorded consoles of real kernels, and their fingerprints."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.klog import splat
from harness.klog.lines import clean, message

DATA = Path(__file__).parent / "data" / "consoles"
RECORDED = sorted(path.stem for path in DATA.glob("*.log"))
STAMP = "[    1.000000] "


def found_in(raw: bytes) -> list[dict[str, object]]:
    return [
        {
            "kind": one.kind,
            "title": one.title,
            "lines": len(one.text.splitlines()),
            "last": message(one.text.splitlines()[-1]),
        }
        for one in splat.extract(clean(raw))
    ]


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_console_has_its_splats(name: str) -> None:
    expected = json.loads((DATA / f"{name}.json").read_text())
    assert found_in((DATA / f"{name}.log").read_bytes()) == expected


def test_recorded_consoles_cover_each_kind() -> None:
    kinds = {one["kind"] for name in RECORDED for one in json.loads((DATA / f"{name}.json").read_text())}
    fatal = {"panic", "oops", "bug", "warning", "refcount", "hung-task", "lockup", "rcu-stall"}
    assert fatal | {"kasan", "ubsan", "lockdep", "list", "dma-debug", "leak", "dmar-fault"} <= kinds
    assert json.loads((DATA / "clean.json").read_text()) == []


@pytest.mark.parametrize("name", RECORDED)
def test_splats_ignore_prefixes_escapes_and_nuls(name: str) -> None:
    raw = (DATA / f"{name}.log").read_bytes()
    noisy = re.sub(rb"(?m)^(\[ *\d+\.\d+\]) ", rb"\1[  T123] ", raw)
    noisy = noisy.replace(b"\n", b"\x1b[0m\x00\r\n")
    plain, changed = found_in(raw), found_in(noisy)
    assert [(one["kind"], one["title"]) for one in changed] == [(one["kind"], one["title"]) for one in plain]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("BUG: KASAN: slab-use-after-free in x+0x1/0x2", "kasan"),
        ("BUG: sleeping function called from invalid context at mm/x.c:1", "bug"),
        ("BUG: Bad page state in process sh  pfn:12345", "bad-page"),
        ("BUG: Bad rss-counter state mm:0000 type:MM_FILEPAGES val:1", "bad-page"),
        ("BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!", "lockup"),
        ("BUG kmalloc-64 (Not tainted): Poison overwritten", "slab"),
        ("WARNING: possible circular locking dependency detected", "lockdep"),
        ("WARNING: suspicious RCU usage", "lockdep"),
        ("WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2", "warning"),
        ("list_del corruption. next->prev should be ffff, but was 0000", "list"),
        ("kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)", "leak"),
        ("Oops: general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP", "oops"),
        ("DMAR: [DMA Write NO_PASID] Request device [03:00.0] fault addr 0x0", "dmar-fault"),
        ("DMA-API: debugging out of memory - disabling", "disabled"),
        ("ODEBUG: Out of memory. ODEBUG disabled", "disabled"),
        ("BUG: MAX_LOCKDEP_CHAINS too low!", "disabled"),
        ("Future hung task reports are suppressed, see sysctl kernel.hung_task_warnings", "disabled"),
        ("DMA-API: e1000 0000:00:03.0: device driver frees DMA memory with wrong function", "dma-debug"),
        ("DMA-API: x 0000:00:03.0: mapping sg segment longer than device claims to support", "dma-debug"),
        ("ODEBUG: free active (active state 0) object: 00000000 object type: timer_list", "debug-objects"),
        ("kernel BUG at mm/page_table_check.c:118!", "page-table"),
        ("mm/pgtable-generic.c:50: bad pmd 00000000ffffffff(8000000080000067)", "page-table"),
        ("watchdog: CPU1: Watchdog detected hard LOCKUP on cpu 0", "lockup"),
        ("x86/PAT: actor:54 freeing invalid memtype [mem 0xf8000000-0xf8000fff]", "memtype"),
        ("resource: Trying to free nonexistent resource <0x00000000f8000000-0x00000000f80fffff>", "resource"),
        ("iommufd: Time out waiting for iommufd object to become free", "iommufd"),
        ('irq 20: nobody cared (try booting with the "irqpoll" option)', "irq"),
        ("sysfs: cannot create duplicate filename '/class/vfio-dev/vfio0'", "sysfs"),
        ("reboot: Restarting system", "reboot"),
        ("sysrq: Resetting", "reboot"),
        ("Out of memory: Killed process 123 (actor) total-vm:1kB", "oom"),
        ("sysrq: Show Memory", None),
        ("DMA-API: preallocated 65536 debug entries", None),
        ("DMA-API: debugging enabled by kernel config", None),
        ("ODEBUG: selftest passed", None),
        ("kmemleak: 0 new suspected memory leaks", None),
        ("DMAR: Intel(R) Virtualization Technology for Directed I/O", None),
        ("rcu: srcu_init: Setting srcu_struct sizes based on contention.", None),
        ("sh: BUG: this is what a program says", None),
        ("x86/PAT: Configuration [0-7]: WB  WC  UC- UC  ", None),
    ],
)
def test_kind_of_a_line(line: str, kind: str | None) -> None:
    assert splat.kind_of(STAMP + line) == kind
    assert splat.kind_of(f"[    1.000000][ T1234] {line}") == kind
    assert splat.kind_of(f"[    1.000000] prefix {line}") is None


def test_message_inside_a_line_of_user_space_is_found() -> None:
    text = clean(b"patchproof-init: rea[    1.000000] WARNING: a/b.c:1 at f+0x1\ndy\n")
    assert [one.title for one in splat.extract(text)] == ["WARNING: a/b.c:1 at f+0x1"]


def test_panic_after_an_oops_is_a_second_splat() -> None:
    lines = ["BUG: unable to handle page fault for address: 1", "Oops: Oops: 0000 [#1] SMP"]
    lines += ["Call Trace:", " <TASK>", " f+0x1/0x2", " </TASK>", "---[ end trace 0000000000000000 ]---"]
    lines += ["Kernel panic - not syncing: Fatal exception"]
    splats = splat.extract("\n".join(STAMP + line for line in lines))
    assert [one.kind for one in splats] == ["oops", "panic"]
    assert splats[0].text.endswith("---[ end trace 0000000000000000 ]---")


def test_splat_without_a_trace_is_short() -> None:
    lines = ["refcount_t: underflow; use-after-free."] + [f"unrelated {number}" for number in range(100)]
    (one,) = splat.extract("\n".join(STAMP + line for line in lines))
    assert len(one.text.splitlines()) < 10


ONE = ["WARNING: a.c:1 at f+0x1/0x2", "Call Trace:", " f+0x1/0x2", " </TASK>", "---[ end trace 0 ]---"]
TWO = ["WARNING: b.c:2 at g+0x1/0x2", "Call Trace:", " g+0x1/0x2", " </TASK>", "---[ end trace 0 ]---"]


def shuffled(callers: tuple[str, str], seed: int) -> str:
    """Interleave the splats of two processors; each keeps the order of its own lines."""
    chance = random.Random(seed)
    left = [[f"[    1.000000]{callers[0]} {text}" for text in ONE]]
    left += [[f"[    1.000000]{callers[1]} {text}" for text in TWO]]
    lines = []
    while any(left):
        lines.append(chance.choice([one for one in left if one]).pop(0))
    return "\n".join(lines)


@pytest.mark.parametrize("seed", range(20))
def test_interleaved_splats_with_callers_are_separated(seed: int) -> None:
    splats = splat.extract(shuffled(("[    C0]", "[  T999]"), seed))
    assert sorted(one.title for one in splats) == [ONE[0], TWO[0]]
    assert {one.frames for one in splats} == {("f",), ("g",)}


@pytest.mark.parametrize("seed", range(20))
def test_interleaved_splats_without_callers_are_both_found(seed: int) -> None:
    splats = splat.extract(shuffled(("", ""), seed))
    assert sorted(one.title for one in splats) == [ONE[0], TWO[0]]


def test_warning_inside_an_oops_is_found() -> None:
    lines = ["BUG: unable to handle page fault for address: 1", ONE[0], "Oops: 0000 [#1] SMP", *ONE[1:]]
    splats = splat.extract("\n".join(STAMP + line for line in lines))
    assert [one.kind for one in splats] == ["oops", "warning"]


def test_warning_of_a_refcount_belongs_to_it() -> None:
    lines = ["------------[ cut here ]------------", "refcount_t: underflow; use-after-free.", *ONE]
    assert [one.kind for one in splat.extract("\n".join(STAMP + line for line in lines))] == ["refcount"]


def test_dropped_messages_inside_a_splat_are_blinding() -> None:
    lines = [STAMP + line for line in ONE]
    lines.insert(3, "** 12 printk messages dropped **")
    splats = splat.extract("\n".join(lines))
    assert [(one.kind, one.detector_lost, one.fault) for one in splats] == [
        ("warning", False, True),
        ("dropped", True, False),
    ]


class TestFingerprint:
    """Fingerprints, by which the splats of two runs are compared."""

    def of(self, name: str, change: Callable[[str], str] = str) -> list[str]:
        text = clean((DATA / f"{name}.log").read_bytes())
        return [one.fingerprint for one in splat.extract(change(text))]

    @pytest.mark.parametrize("name", RECORDED)
    def test_fingerprint_ignores_what_varies_between_runs(self, name: str) -> None:
        def another_run(text: str) -> str:
            text = re.sub(r"(?m)^\[ *(\d+)\.", lambda found: f"[{int(found[1]) + 100:5}.", text)
            text = re.sub(r"\bffff[0-9a-f]{12}\b", "ffff888012345678", text)
            text = re.sub(r"\.c:\d+", ".c:7", text)
            return re.sub(r"CPU#\d: \w+/\d+", "CPU#7: cat/4711", text)

        assert self.of(name, another_run) == self.of(name)

    def test_fingerprint_differs_for_different_splats(self) -> None:
        first = {name: self.of(name)[0] for name in RECORDED if self.of(name)}
        assert first["two-warnings"] == first["warning"]
        assert first["locks-held"] == first["names"] == first["names-7.2"]
        assert len(set(first.values())) == len(first) - 3

    @pytest.mark.parametrize("name", ["names", "names-7.2"])
    def test_fingerprint_ignores_name_and_release(self, name: str) -> None:
        warnings = [one for one in self.of(name) if one in self.of("warning")]
        assert len(warnings) == 2

    def test_place_ignores_who_called_the_innermost_three(self) -> None:
        text = clean((DATA / "warning.log").read_bytes())
        (warning,) = splat.extract(text)
        (inner,) = splat.extract(text.replace(f" {warning.frames[2]}+", " another+"))
        (outer,) = splat.extract(text.replace(f" {warning.frames[3]}+", " another+"))
        assert outer.fingerprint != warning.fingerprint
        assert (outer.place == warning.place, inner.place == warning.place) == (True, False)

    def test_frames_begin_at_the_fault(self) -> None:
        (warning,) = splat.extract(clean((DATA / "warning.log").read_bytes()))
        assert warning.frames[:3] == ("lkdtm_WARNING", "lkdtm_do_action", "direct_entry")
