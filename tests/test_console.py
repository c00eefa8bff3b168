"""Splats are found in what real kernels printed, and the console loses nothing."""

from __future__ import annotations

import json
import os
import random
import re
import threading
from pathlib import Path

import pytest

from harness import splat
from harness.console import Console, pipe

DATA = Path(__file__).parent / "data" / "consoles"
RECORDED = sorted(path.stem for path in DATA.glob("*.log"))
STAMP = "[    1.000000] "


def found_in(raw: bytes) -> list[dict[str, object]]:
    return [
        {
            "kind": one.kind,
            "title": one.title,
            "lines": len(one.text.splitlines()),
            "last": splat.message(one.text.splitlines()[-1]),
        }
        for one in splat.extract(splat.clean(raw))
    ]


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_console_shows_what_its_kernel_was_made_to_do(name: str) -> None:
    expected = json.loads((DATA / f"{name}.json").read_text())
    assert found_in((DATA / f"{name}.log").read_bytes()) == expected


def test_the_corpus_has_a_console_of_each_fatal_kind_and_a_clean_one() -> None:
    kinds = {one["kind"] for name in RECORDED for one in json.loads((DATA / f"{name}.json").read_text())}
    fatal = {"panic", "oops", "bug", "warning", "refcount", "hung-task", "lockup", "rcu-stall"}
    assert fatal | {"kasan", "ubsan", "lockdep", "list", "dmar-fault"} <= kinds
    assert json.loads((DATA / "clean.json").read_text()) == []


@pytest.mark.parametrize("name", RECORDED)
def test_thread_prefixes_escapes_and_nuls_change_nothing(name: str) -> None:
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
        ("kmemleak: 0 new suspected memory leaks", None),
        ("DMAR: Intel(R) Virtualization Technology for Directed I/O", None),
        ("rcu: srcu_init: Setting srcu_struct sizes based on contention.", None),
        ("sh: BUG: this is what a program says", None),
        ("x86/PAT: Configuration [0-7]: WB  WC  UC- UC  ", None),
    ],
)
def test_kinds(line: str, kind: str | None) -> None:
    assert splat.kind_of(line) == kind
    assert splat.kind_of(STAMP + line) == kind
    assert splat.kind_of(f"[    1.000000][ T1234] {line}") == kind
    assert splat.kind_of(f"[    1.000000] prefix {line}") is None


def test_a_message_torn_into_a_line_of_user_space_is_found() -> None:
    text = splat.clean(b"patchproof-init: rea[    1.000000] WARNING: a/b.c:1 at f+0x1\ndy\n")
    assert [one.title for one in splat.extract(text)] == ["WARNING: a/b.c:1 at f+0x1"]


def test_a_panic_after_an_oops_is_a_splat_of_its_own() -> None:
    lines = ["BUG: unable to handle page fault for address: 1", "Oops: Oops: 0000 [#1] SMP"]
    lines += ["Call Trace:", " <TASK>", " f+0x1/0x2", " </TASK>", "---[ end trace 0000000000000000 ]---"]
    lines += ["Kernel panic - not syncing: Fatal exception"]
    splats = splat.extract("\n".join(STAMP + line for line in lines))
    assert [one.kind for one in splats] == ["oops", "panic"]
    assert splats[0].text.endswith("---[ end trace 0000000000000000 ]---")


def test_a_splat_without_trace_or_end_takes_only_a_few_lines() -> None:
    lines = ["refcount_t: underflow; use-after-free."] + [f"unrelated {number}" for number in range(100)]
    (one,) = splat.extract("\n".join(STAMP + line for line in lines))
    assert len(one.text.splitlines()) < 10


class Fed:
    """A console at one end of a pipe, and the test at the other."""

    def __init__(self, folder: Path) -> None:
        reading, self.fd = pipe()
        self.lines: list[str] = []
        self.console = Console(reading, folder / "console.log", self.lines.append)

    def end(self) -> None:
        os.close(self.fd)
        self.console.close()


@pytest.fixture
def fed(tmp_path: Path) -> Fed:
    return Fed(tmp_path)


@pytest.mark.parametrize("seed", range(5))
def test_reads_split_anywhere_lose_nothing(fed: Fed, seed: int) -> None:
    chance = random.Random(seed)
    raw = (DATA / "warning.log").read_bytes() + "Ä\N{SNOWMAN}".encode() * 100 + b"\xff\xfe\n"
    position = 0
    while position < len(raw):
        step = chance.choice([1, 2, 3, 50, 5000])
        os.write(fed.fd, raw[position : position + step])
        position += step
    fed.end()
    assert fed.console.log.read_bytes() == raw
    assert fed.lines == [line for line in splat.clean(raw).splitlines() if line]
    assert [one.kind for one in fed.console.splats()] == ["warning"]


def test_a_mark_separates_what_was_before(fed: Fed) -> None:
    raw = (DATA / "warning.log").read_bytes()
    os.write(fed.fd, raw)
    assert fed.console.wait_for("end trace", 10)
    mark = fed.console.mark()
    assert fed.console.splats(mark) == []
    os.write(fed.fd, raw)
    assert fed.console.wait_for("end trace", 10, mark)
    assert len(fed.console.splats(mark)) == 1
    assert len(fed.console.splats()) == 2
    fed.end()


def test_waiting_ends_when_the_console_ends(fed: Fed) -> None:
    threading.Timer(0.1, fed.end).start()
    assert fed.console.wait_for("never", 60) is None


def test_a_line_without_end_is_handed_on_in_pieces(fed: Fed) -> None:
    os.write(fed.fd, b"x" * 100_000)
    os.write(fed.fd, b"y" * 100_000 + b"\n")
    fed.end()
    assert sum(map(len, fed.lines)) == 200_000
    assert len(fed.lines) > 1


def test_closing_does_not_wait_for_someone_else_who_holds_the_pipe(fed: Fed) -> None:
    os.write(fed.fd, b"last\n")
    fed.console.close(timeout=0.1)
    assert fed.lines == ["last"]
    os.close(fed.fd)
