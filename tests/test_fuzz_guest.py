"""Fuzz what reads a guest: whatever it says, only documented errors leave, and nothing turns good."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from fuzzing import LONGEST, attempt, corpus, examples, hostile
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.actor import importer, reply, steps
from harness.actor.actor import Actor
from harness.actor.footprint import Footprint
from harness.actor.handles import Buffer, Device, Mapping
from harness.actor.mm import Memory, shared_files
from harness.actor.reply import ActorDiedError, DeadlineError, Fault, Refused, Watched
from harness.actor.session import Wire
from harness.actor.transcript import Transcript
from harness.guest import kmemleak, pat
from harness.guest.health import KernelHealth
from harness.guest.slabs import Slabs
from harness.guest.symbols import Symbols
from harness.klog import lines, splat
from harness.lib.errors import HarnessError, PatchproofError
from harness.lib.page_table import MAX_SPANS, PageTable
from harness.verdict import ktap, selftest
from harness.verdict.verdict import Verdict
from harness.vm import diagnose

REPLIES = [
    b"ok",
    b"ok map1",
    b"ok dev1 bars=0:0x100000,2:0x1000",
    b"ok buf1 size=0x4000",
    b"ok 0x010000ed",
    b"ok 00000001 00000002 sigbus:adrerr:0x2000",
    b"sigbus code=adrerr offset=0x0",
    b"sigsegv code=maperr offset=outside",
    b"error EINVAL (Invalid argument)",
    b"error ENODEV x",
    b"timeout",
    b"died signal=9",
    b"ok 0x0-0x200000:pmd:USR,RW,PCD,PSE,NX 0x200000-0x203000:pte:USR,RW,PCD,NX",
    b"ok 0x0-0x4000,rw-s,0x0,/dmabuf:,rd+wr+sh",
    b"ok loads=12 sigbus=3 sigsegv=0 values=1,2,more",
    b"ok rss=12 locked=0",
    b"ok fds=4 dmabufs=1 log=0",
    b"ok minor=3 major=0",
    b"ok faults=4",
    b"ok size=0x1000 offset=0x0 flags=0x7",
    b"ok began=1 ended=2",
    b"ok export=11 revoke=12",
    b"ok is_attached=1 is_mapped=0 pins=0 fences=0 lost=0",
    b"ok 1,2,unmap,0,7,x,3,Rm,a+b",
]
WORDS = [
    b"ok ",
    b"error E",
    b"sigbus ",
    b"sigbus:",
    b":",
    b",",
    b"=",
    b" 0x",
    b"-",
    b"more",
    b"pte",
    b"faults=",
]


class Lying:
    """The channel of an actor that answers each line with the same ``answer``."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def write(self, data: bytes, timeout: float) -> None:
        pass

    def read_line(self, timeout: float, limit: int) -> bytes:
        return self._answer

    def read_errors(self) -> bytes:
        return b""

    def end_input(self) -> None:
        pass

    def wait(self, timeout: float) -> int:
        return 0

    def close(self) -> None:
        pass


def operations(actor: Actor) -> list[Callable[[], object]]:
    device, buffer = Device(actor, "dev1", "0000:01:00.0", {0: 4096}), Buffer(actor, "buf1", 4096, None)
    mapping = Mapping(actor, "map1", 4096)
    return [
        lambda: actor.open("0000:01:00.0"),
        lambda: device.region(0),
        lambda: device.read(0, 0, 4),
        buffer.seek,
        lambda: mapping.load32(0),
        mapping.pages,
        lambda: mapping.at([0, 4]),
        mapping.touch,
        lambda: actor.page_table(mapping),
        lambda: actor.vmas(mapping),
        actor.minor_faults,
        actor.exec,
        lambda: Footprint.of(actor),
        lambda: Memory.of(actor),
        lambda: shared_files(actor),
        lambda: importer.Span.of_last(actor),
        lambda: actor.read(Watched.parse, "watched"),
        lambda: actor.read(importer.Counts.parse, "impcounts"),
        lambda: actor.read(importer.Event.parse, "imprecords"),
    ]


@examples(60)
@given(hostile(REPLIES, WORDS))
def test_reply_of_an_actor_raises_documented_errors(answer: bytes) -> None:
    line = answer.partition(b"\n")[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "transcript.txt")
        transcript = Transcript(path)
        actor = Actor(Wire(Lying(line), transcript))
        for operation in operations(actor):
            with contextlib.suppress(Refused, PatchproofError):
                operation()
        transcript.close()
        # An answer takes its own line, and cannot pose as an operation of the harness.
        written = path.read_text(encoding="utf-8").split("\n")
        assert sum(one.startswith("> ") for one in written) <= len(operations(actor)) + 20
        with contextlib.suppress(PatchproofError):
            steps.parse("\n".join(written))


@examples(300)
@given(hostile(REPLIES, WORDS))
def test_reply_without_ok_is_never_a_success(answer: bytes) -> None:
    line = answer.decode(errors="backslashreplace")
    assume(line.partition(" ")[0] != "ok")
    documented = (Refused, DeadlineError, ActorDiedError, HarnessError)
    answered, error = attempt(lambda: reply.judge("load32 map1 0x0", line, 10.0), *documented)
    assert isinstance(answered, Fault) or 0 < len(error) < 1000


@examples(200)
@given(hostile([one.removeprefix(b"ok ") for one in REPLIES], WORDS))
def test_page_table_of_any_words_is_parsed_or_refused(answer: bytes) -> None:
    table, error = attempt(lambda: PageTable.parse(answer.decode(errors="replace")), ValueError)
    assert len(error) < 1000
    if table is not None:
        assert len(table.spans) <= min(MAX_SPANS, len(answer))
        assert table.mapped() == sum(one.end - one.start for one in table.spans)
        assert len(str(table)) <= 10 * len(answer) + 100


CONSOLES = corpus("consoles/*.log")
MESSAGES = [
    b"[    1.000000] ",
    b"[    1.000000][   T12] ",
    b"BUG: KASAN: ",
    b"Call Trace:\n",
    b" f+0x1/0x2\n",
    b"------------[ cut here ]------------\n",
    b"---[ end trace 0 ]---\n",
    b"** 9 printk messages dropped **\n",
    b"Kernel panic - not syncing: x\n",
    b"sysrq: x\n",
    b"task:x state:\n",
    b"DMAR: [DMA Write] x\n",
    b"traps: ",
    b"Linux version 6",
    b"patchproof-init: ready for ssh\n",
]


@examples(100)
@given(hostile(CONSOLES, MESSAGES))
def test_console_of_any_bytes_has_bounded_splats(raw: bytes) -> None:
    text = lines.clean(raw)
    found = splat.extract(text)
    assert len(found) <= 3 * splat.MAX_SPLATS
    for one in found:
        assert one.fault + one.informational + one.detector_lost == 1
        assert len(one.text) <= splat.TEXT_LIMIT
        assert len(one.title) <= 5000
        assert "\x1b" not in one.title + one.text
        assert len(one.fingerprint) == 12


FAULTY = [one for one in CONSOLES if any(found.fault for found in splat.extract(lines.clean(one), up=True))]


@examples(100)
@given(st.sampled_from(FAULTY), hostile(CONSOLES, MESSAGES), hostile(CONSOLES, MESSAGES))
def test_noise_of_a_program_hides_no_fault(log: bytes, before: bytes, after: bytes) -> None:
    """Put what is no message of the kernel before a log with a fault, without a newline, and after it."""
    noise = [one.replace(b"]", b"").replace(b"printk messages", b"") for one in (before, after)]
    assert any(one.fault for one in splat.extract(lines.clean(noise[0] + log + noise[1]), up=True))


KTAP = corpus("ktap/*.txt")
RESULTS = [
    b"ok 1 x\n",
    b"not ok 2 x\n",
    b"1..3\n",
    b"1..0 # SKIP x\n",
    b"TAP version 13\n",
    b"Bail out! x\n",
    b"    ok 1 - y\n",
    b"    KTAP version 1\n",
    b"# Subtest: z\n",
    b" # SKIP why",
    b" # TODO",
    b"\\#",
    b" " * 60 + b"ok 1\n",
]


def judged(output: bytes, status: int) -> selftest.Outcome:
    return selftest.judge(output, status, limit=LONGEST, seconds=10)


@examples(150)
@given(hostile(KTAP, RESULTS), st.sampled_from((0, 1, 2, 4, 126, 127, 137, 139, 255, 0xFFFFFFFF)))
def test_output_of_a_test_program_is_bounded(output: bytes, status: int) -> None:
    outcome = judged(output, status)
    assert len(outcome.cases) <= 2 * ktap.MAX_CASES
    assert all(len(one.name) <= 4 * ktap.NAME_LIMIT for one in outcome.cases)
    assert len(outcome.reason) <= (ktap.MAX_FAULTS + 5) * 6 * ktap.LINE_LIMIT
    assert outcome.reason.isprintable()
    if outcome.verdict is Verdict.CONFORMS:
        assert status == 0
        assert not any(one.verdict is Verdict.VIOLATES for one in outcome.cases)


FAILED = [one for one in KTAP if judged(one, 1).verdict is Verdict.VIOLATES and b"not ok" in one]


@examples(150)
@given(st.sampled_from(FAILED), st.data())
def test_lines_in_a_failed_test_never_make_it_pass(output: bytes, data: st.DataObject) -> None:
    """Insert whole lines anywhere: the result that failed is still in the output."""
    written = output.split(b"\n")
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(written)))
        written[place:place] = data.draw(hostile(RESULTS, RESULTS)).split(b"\n")
    outcome = judged(b"\n".join(written), 0)
    assert outcome.verdict is not Verdict.CONFORMS


REPORTS = [
    b"0\n-\n0\n0\n0\n",
    b"slabinfo - version: 2.1\n# name\nkmalloc-8 12 14\n",
    b"PAT memtype list:\nPAT: [mem 0x0-0x1000] write-back\n",
    b"ffffffff81000000 T _stext\n",
    (corpus("leaks.txt")[0]),
    b"CPU#0\nRFL=00000246 HLT=1\ndumping local APIC state for CPU 0\nISR 12\n",
]


@examples(150)
@given(
    hostile(
        REPORTS,
        [
            b"unreferenced object 0x1 (size 1):\n",
            b"  backtrace\n",
            b"    f\n",
            b"CPU#1\n",
            b"\nx queue 1: 2 offered, 1 taken\n",
        ],
    )
)
def test_reports_of_the_kernel_raise_documented_errors(content: bytes) -> None:
    text = content.decode(errors="replace")
    with contextlib.suppress(ValueError):
        assert len(KernelHealth.parse(text).worse_than(KernelHealth(0, None, None, None, 0))) < 100
    for parse in (Slabs.parse, pat.parse, Symbols.parse):
        with contextlib.suppress(HarnessError):
            parse(text)
    assert len(kmemleak.describe_first(text)) <= 2 * LONGEST
    assert len(diagnose.lost_write(text)) < 2 * LONGEST
