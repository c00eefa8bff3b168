"""report.html: the answer, the evidence, the links, and hostile text, in a real browser."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from browser import Document, measure, open_page
from results import Run

from harness.journal.reader import read
from harness.lib.cache import Store
from harness.lib.errors import ExitCode, HarnessError
from harness.lib.progress import Progress
from harness.lib.shard import Shard
from harness.lib.text import visible
from harness.report import html, junit, ktap, patchwork, terminal
from harness.report.causes import causes
from harness.report.html.answer import answer
from harness.report.html.violation import File, link
from harness.run.run import write_page
from harness.verdict.comparison import BaseAnswer
from harness.verdict.detector import Detector, State
from harness.verdict.deviation import Deviation
from harness.verdict.record import ConsoleRange, Entry, Record, Result
from harness.verdict.verdict import Kind, Verdict

REPORTS = Path(__file__).parent / "data" / "reports"
CONSOLES = Path(__file__).parent / "data" / "consoles"
MARKUP = "</pre></style><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7919*7907 }}"
HOSTILE = f"{MARKUP}\"'\u202e\x00\x1b[31m\udcff"
LENGTH = 0x400000

ZAP = f"""# transcript 2
> map buf1 length={LENGTH:#x} prot=rw
ok map1
> pagetable map1
ok 0x0-0x200000:pmd:USR,RW,PSE,NX 0x200000-0x201000:pte:USR,RW,NX
> revoke dev1 buf1
ok
! host word ram 0x0
ok 0x5a5a5a5a
> pagetable map1
ok 0x200000-0x201000:pte:USR,RW,NX
= ok
> close buf1
ok
"""
C, V = Verdict.CONFORMS, Verdict.VIOLATES
SEEN = "4 KiB of the mapping in its page table"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "example-20260226T202211Z")


def conforming(run: Run) -> Path:
    run.begin()
    for entry in (run.revoke, run.map, run.told):
        run.end(entry, Verdict.CONFORMS)
    return run.finish()


def violating(run: Run, **members: object) -> Path:
    """Write a run in which the revoke leaves a page, as its transcript ZAP shows."""
    run.begin()
    line = 1 + ZAP.splitlines().index("> pagetable map1", 5)
    deviation = Deviation("an empty page table", SEEN, "pagetable map1", line, "ok")
    run.end(run.revoke, Verdict.VIOLATES, ZAP, reason="It left a page.", deviation=deviation, **members)
    for entry in (run.map, run.told):
        run.end(entry, Verdict.CONFORMS)
    return run.finish()


def tone(page: Path) -> str:
    """Return the class of the answer: good, bad or open."""
    found = [one.split() for one in Document.of(page.read_text()).values("class")]
    (answer,) = (one for one in found if one[0] == "answer")
    return answer[1]


def text_of(page: Path) -> str:
    return Document.of(page.read_text()).text


# The answer


def test_page_of_a_conforming_run_is_good(run: Run) -> None:
    page = conforming(run)
    assert tone(page) == "good"
    assert "Conforms. All 3 selected and applicable scenarios" in text_of(page)


def test_page_says_what_was_not_looked_at(run: Run) -> None:
    assert "Not looked at: 245 of 248 requirements (" in text_of(conforming(run))


def test_page_of_a_violation_is_bad(run: Run) -> None:
    page = violating(run)
    assert tone(page) == "bad"
    assert "1 scenario violates what the series promises." in text_of(page)


def test_page_of_an_inherited_violation_is_good(run: Run) -> None:
    run.begin()
    run.end(run.revoke, Verdict.VIOLATES, reason="It left a page.", failure="a page")
    run.journal.compared(run.revoke.id, BaseAnswer(Verdict.VIOLATES, "It left a page.", "a page"))
    run.end(run.map, Verdict.CONFORMS)
    run.end(run.told, Verdict.CONFORMS)
    page = run.finish()
    assert tone(page) == "good"
    assert "Conforms, but for 1 violation that the base has, too." in text_of(page)


def test_page_of_an_unfinished_run_is_open(run: Run) -> None:
    run.begin()
    run.end(run.revoke, Verdict.CONFORMS)
    page = html.write(run.folder)
    assert tone(page) == "open"
    assert "Never reached: 2 of 3 scenarios." in text_of(page)


def test_page_of_a_harness_error_is_open(run: Run) -> None:
    run.begin()
    run.end(run.revoke, Verdict.HARNESS_ERROR, reason="The connection was lost.")
    run.end(run.map, Verdict.CONFORMS)
    run.end(run.told, Verdict.CONFORMS)
    page = run.finish()
    assert tone(page) == "open"
    assert "1 fault of the harness or the machine" in text_of(page)


def recorded(run: Run, **verdicts: Verdict) -> Record:
    """Record a run with these scenarios; the others are not applicable."""
    run.begin()
    for name in ("revoke", "map", "told"):
        run.end(getattr(run, name), verdicts.get(name, Verdict.NOT_APPLICABLE), reason=f"about {name}")
    run.finish()
    return read(run.folder)


def test_answer_without_any_verdict_is_open_everywhere(run: Run) -> None:
    record = recorded(run, told=Verdict.HARNESS_ERROR)
    said = "No verdict: each applicable scenario ended in a fault of the harness."
    told = answer(record, causes(record))
    assert (told.tone, told.sentence, told.reason) == ("open", said, "about told")
    assert record.exit_code is ExitCode.HARNESS
    assert patchwork.state_of(record) is patchwork.State.WARNING
    assert b"No scenario gave a verdict on the kernel." in junit.render(run.folder)
    assert "not ok 1 complete # ERROR no scenario gave a verdict on the kernel" in ktap.render(run.folder)


def test_answer_of_findings_alone_counts_no_conforming(run: Run) -> None:
    record = recorded(run, told=Verdict.VIOLATES)
    told = answer(record, causes(record))
    assert (told.tone, told.sentence) == ("open", "Nothing was judged: 1 scenario gave a finding.")


def result_of(kind: Kind, verdict: Verdict, *, ended: bool = True, expected: Verdict = C) -> Result:
    return Result(Entry(f"{kind} {verdict}", kind, "", expected=expected), verdict, "why", ended=ended)


@pytest.mark.parametrize(
    ("results", "sentence", "screen"),
    [
        (
            [result_of(Kind.SCENARIO, C), result_of(Kind.SELFTEST, V), result_of(Kind.MACHINE, V)],
            "1 test program of the kernel itself failed.",
            "Not as promised: 1 test program and 1 machine between scenarios, by ",
        ),
        (
            [result_of(Kind.SCENARIO, C), result_of(Kind.PATCH, V), result_of(Kind.MACHINE, V)],
            "1 of 1 patches is no step to bisect by.",
            "Not as promised: 1 machine between scenarios and 1 patch, by ",
        ),
        (
            [result_of(Kind.SCENARIO, Verdict.UNEXPECTEDLY_CONFORMS, expected=V)],
            "1 scenario conforms, although the manifest expects otherwise.",
            "Not as promised: 1 scenario that unexpectedly conforms, by 1 cause.",
        ),
        (
            [
                result_of(Kind.SCENARIO, Verdict.UNEXPECTEDLY_CONFORMS, expected=V),
                result_of(Kind.SCENARIO, V),
            ],
            "1 scenario violates what the series promises.",
            "Not as promised: 1 of 2 applicable scenarios and 1 scenario that unexpectedly conforms, by ",
        ),
        (
            [result_of(Kind.SCENARIO, C), result_of(Kind.SCENARIO, Verdict.KERNEL_DIED, ended=False)],
            "No verdict on the whole: 1 test began and never ended.",
            "",
        ),
    ],
)
def test_answer_counts_results_of_the_kind_it_names(
    results: list[Result], sentence: str, screen: str
) -> None:
    record = Record("run", tuple(results), complete=True)
    found = causes(record)
    assert answer(record, found).sentence == sentence
    assert not screen or terminal._answer(record, found).startswith(screen)


def test_page_of_a_run_that_gave_up_is_open(run: Run) -> None:
    run.begin()
    run.end(run.revoke, Verdict.CONFORMS)
    for entry in (run.map, run.told):
        run.journal.started(entry.id)
        run.journal.not_reached(entry.id, "Given up, as machines were lost.")
    page = run.finish()
    assert tone(page) == "open"
    said = "No verdict on the whole: the run did not reach 2 tests. Given up, as machines were lost."
    assert said in text_of(page)


def test_page_of_a_run_without_verdict_is_open(run: Run) -> None:
    run.begin()
    for entry in (run.revoke, run.map, run.told):
        run.end(entry, Verdict.NOT_APPLICABLE, reason="another interface")
    page = run.finish()
    assert tone(page) == "open"
    assert "Nothing was tested" in text_of(page)


def test_page_of_a_failed_stage_shows_its_reason() -> None:
    page = html.render(REPORTS / "apply-failed")
    text = Document.of(page).text
    assert "The series does not apply." in text
    assert "error: patch failed: drivers/vfio/pci/vfio_pci_dmabuf.c:40" in text


# The evidence


def test_wrong_answer_is_marked(run: Run) -> None:
    page = Document.of(violating(run).read_text())
    wrong = [one for one in page.values("class") if one.split()[-1] == "wrong"]
    assert wrong == ["ask wrong", "reply wrong"]
    assert f"expected an empty page table saw {SEEN} asked pagetable map1" in page.text


def test_host_has_its_own_view(run: Run) -> None:
    page = Document.of(violating(run).read_text())
    assert page.values("class").count("host") == 2
    assert "The host's view of the BAR 8 ! host word ram 0x0 9 ok 0x5a5a5a5a" in page.text


def test_expected_reply_is_told_apart(run: Run) -> None:
    assert "= ok ← what was expected" in text_of(violating(run))


def test_page_table_is_shown_before_and_after(run: Run) -> None:
    page = Document.of(violating(run).read_text())
    labels = [one for one in page.values("aria-label") if one.startswith(("pte", "pmd"))]
    assert labels == ["pte 4 KiB, pmd 2 MiB, nothing 2044 KiB", "pte 4 KiB, nothing 4092 KiB"]
    bars = [one.attributes for one in page.elements if one.tag == "rect" and "x" in one.attributes]
    assert [(one["x"], one["width"], one["class"]) for one in bars] == [
        ("0.0", "300.0", "pmd"),
        ("300.0", "1.0", "pte"),
        ("300.0", "1.0", "pte"),
    ]


def test_page_table_is_that_of_the_mapping_asked(run: Run) -> None:
    run.begin()
    other = ZAP.replace(
        "> close", "> map buf2 length=0x1000\nok map2\n> pagetable map2\nok\n> load32 map1 0\nok 1\n> close"
    )
    line = 1 + other.splitlines().index("> load32 map1 0")
    deviation = Deviation("SIGBUS", "1", "load32 map1 0", line)
    run.end(run.revoke, Verdict.VIOLATES, other, deviation=deviation)
    assert "Page table of map1 , 4 MiB." in text_of(run.finish())


def test_complaint_is_shown_with_its_stack(run: Run) -> None:
    splat = (CONSOLES / "bug.log").read_bytes()
    (run.folder / "machine-1").mkdir()
    (run.folder / "machine-1" / "console.log").write_bytes(splat)
    page = violating(run, console=ConsoleRange("machine-1/console.log", 0, len(splat)))
    assert "The kernel said" in text_of(page)
    assert "Call Trace" in text_of(page)


def test_page_names_the_commands_that_show_it_again(run: Run) -> None:
    run.results.write_run(selection=["--series", "v4.mbox", "--results", "/home/me/out", "-k", "REV"])
    text = text_of(violating(run))
    assert "python -m harness reproduce results/example-20260226T202211Z 'suites/test_revoke.py" in text
    assert "tox -e vm -- --series v4.mbox 'suites/test_revoke.py::test_zap[c]'" in text
    assert "/home/me" not in text


def test_paths_of_the_host_are_left_out(run: Run) -> None:
    run.results.write_run(origin="/home/me/v4.mbox", directory="/home/me")
    run.journal.plan([run.boot])
    run.journal.run_started()
    run.journal.started("boot")
    run.journal.ended("boot", Verdict.HARNESS_ERROR, reason="/var/tmp/kernel/log is full", details="/a/b/c")
    text = text_of(run.finish())
    assert ".../log is full" in text
    assert "/home" not in text
    assert "/a/b" not in text


def test_page_of_a_shard_says_so(run: Run) -> None:
    run.journal.plan([run.boot, replace(run.map, shard=2)], Shard(2, 4))
    assert "This is part 2 of 4 of a run" in text_of(html.write(run.folder))


def test_page_lists_the_patches_without_tags(run: Run) -> None:
    facts = {"mails": [_mail(0, "[PATCH 0/1] all"), _mail(1, "[list] [PATCH 1/1] vfio: mmap() [x]")]}
    (run.folder / "run.json").write_text(json.dumps(facts))
    assert "1 patch vfio: mmap() [x]" in text_of(conforming(run))


def test_not_applicable_is_grouped_by_reason(run: Run) -> None:
    run.begin()
    for entry in (run.revoke, run.map):
        run.end(entry, Verdict.NOT_APPLICABLE, reason="another interface")
    run.end(run.told, Verdict.CONFORMS)
    assert "another interface 2 scenarios" in text_of(run.finish())


def test_many_violations_stay_below_the_limit(run: Run) -> None:
    entries = [
        Entry(f"suites/test_map.py::test_map[{n}]", Kind.SCENARIO, "Mapped.", ("MAP-01",)) for n in range(749)
    ]
    run.begin(*entries)
    transcript = run.results.transcript("any")
    transcript.parent.mkdir()
    transcript.write_text("> x\n" + "ok '<&>'\n" * 4000)
    events: list[dict[str, object]] = []
    for number, entry in enumerate(entries):  # written at once: the journal's writer syncs each event
        verb = str(number).translate(str.maketrans("0123456789", "abcdefghij"))  # each is another cause
        deviation = Deviation(f"it {verb}", "<" * 3000, f"{verb} map1", 1)
        events.append({"event": "started", "id": entry.id, "verdict": "kernel-died"})
        where = str(transcript.relative_to(run.folder))
        ended = {"id": entry.id, "verdict": "violates", "duration": 1.0, "transcript": where}
        events.append({"event": "ended", **ended, "deviation": deviation.members()})
    with (run.folder / "events.jsonl").open("a") as stream:
        stream.writelines(json.dumps(event) + "\n" for event in events)
    page = run.finish()
    assert "749 scenarios violate" in text_of(page)
    assert page.stat().st_size < 2_000_000


def test_page_that_cannot_be_written_is_only_told(run: Run, tmp_path: Path) -> None:
    run.begin()
    (run.folder / "report.html").mkdir()
    said = io.StringIO()
    write_page(run.folder, Progress(Store(tmp_path / "cache"), said))
    assert "report.html was not written (IsADirectoryError" in said.getvalue()


def test_page_needs_a_plan(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="holds no plan"):
        html.render(tmp_path)


# In a browser


@pytest.fixture
def hostile(run: Run) -> Path:
    """The page of a run whose every text is HOSTILE."""
    entry = Entry(f"suites/test_map.py::test_x[{HOSTILE}]", Kind.SCENARIO, HOSTILE, ("MAP-02",))
    died = Entry(f"suites/test_map.py::test_y[{HOSTILE}]", Kind.SCENARIO, HOSTILE, ("MAP-03", HOSTILE))
    facts = dict.fromkeys(("title", "series", "kernel_release", "accelerator", "interfaces", "odd"), HOSTILE)
    lists = {"warnings": [HOSTILE], "selection": ["--series", HOSTILE], "mails": [_mail(1, HOSTILE)]}
    (run.folder / "run.json").write_text(json.dumps({**facts, **lists}))
    (run.folder / "machine-1").mkdir()
    console = b"[    1.0] BUG: </pre><script>alert(3)</script>\xff\x00\n[    1.0] Oops: 0000 [#1] <b>\n"
    (run.folder / "machine-1" / "console.log").write_bytes(console)
    run.begin(entry, died)
    run.journal.note(HOSTILE)
    run.journal.machine_up("machine-1", 1.0)
    run.journal.detectors("machine-1", [Detector(HOSTILE, State.PROVEN, HOSTILE)])
    transcript = f"> map {HOSTILE}\nerrno {HOSTILE}\n> pagetable {HOSTILE}\nok 0x0-0x1000:{HOSTILE}:RW\n"
    deviation = Deviation(HOSTILE, HOSTILE, HOSTILE, 1, HOSTILE)
    span = ConsoleRange("machine-1/console.log", 0, len(console))
    members = {"reason": HOSTILE, "details": HOSTILE, "deviation": deviation, "console": span}
    run.end(entry, Verdict.VIOLATES, transcript.replace("\x00", ""), **members)
    run.end(died, Verdict.KERNEL_DIED, transcript.replace("\x00", ""), reason=HOSTILE, console=span)
    run.journal.started(run.told.id)
    run.journal.finding(run.told.id, HOSTILE)
    run.journal.ended(run.told.id, Verdict.NOT_APPLICABLE, reason=HOSTILE)
    return run.finish()


def test_hostile_text_stays_text(hostile: Path, tmp_path: Path) -> None:
    shown = open_page(hostile, tmp_path / "profile")
    page = Document.of(shown.document)
    assert shown.console == ()
    assert {one.tag for one in page.elements} & {"script", "img", "iframe", "object", "form", "base"} == set()
    assert [name for one in page.elements for name in one.attributes if name.startswith("on")] == []
    assert page.text.count(" ".join(visible(HOSTILE).split())) > 20
    assert "62615533" not in page.text
    assert not any((ord(c) < 32 and c not in "\n\t") or c in "\u202e\udcff" for c in "".join(page.texts))


def test_page_forbids_scripts_and_loads_nothing(hostile: Path) -> None:
    page = Document.of(hostile.read_text())
    (policy,) = (one.attributes["content"] for one in page.elements if "http-equiv" in one.attributes)
    assert policy.startswith("default-src 'none'")
    assert page.values("src") == []
    assert [one.tag for one in page.elements if one.tag in ("link", "script")] == ["link"]


def test_script_in_a_page_would_be_seen(run: Run, tmp_path: Path) -> None:
    page = conforming(run)
    page.write_text(page.read_text().replace("<h1>", "<script>alert(1)</script><h1>"))
    shown = open_page(page, tmp_path / "profile")
    assert "script" in {one.tag for one in Document.of(shown.document).elements}
    assert "Content Security Policy" in shown.console[0]


@pytest.mark.parametrize("made", [conforming, violating])
def test_links_resolve(run: Run, made: Callable[[Run], Path]) -> None:
    assert_links(made(run))


@pytest.mark.parametrize("name", ["mixed", "killed", "apply-failed"])
def test_links_of_recorded_runs_resolve(tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(REPORTS / name, tmp_path / name)
    assert_links(html.write(folder))


def test_links_of_hostile_names_resolve(hostile: Path) -> None:
    assert_links(hostile)


def test_link_to_a_file_is_quoted_and_stays_inside(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "outside").write_text("")
    (folder / "a #?%41:.txt").write_text("")
    assert link(folder, "a #?%41:.txt") == File("a%20%23%3F%2541%3A.txt", "a #?%41:.txt")
    assert [link(folder, name) for name in ("../outside", "/etc/passwd", "", "\0", "none", ".")] == [None] * 6


def assert_links(page: Path) -> None:
    """Each link leads to an element of the page, or to a file beside it; each id is there once."""
    document = Document.of(page.read_text())
    ids = document.values("id")
    assert len(ids) == len(set(ids))
    links = [one.attributes["href"] for one in document.elements if one.tag == "a"]
    assert [one for one in links if one.startswith("#") and one[1:] not in ids] == []
    files = [unquote(one, errors="surrogateescape") for one in links if not one.startswith("#")]
    assert [one for one in files if one.startswith("/") or not (page.parent / one).is_file()] == []
    assert len(links) > len(files)


def test_page_fits_a_phone(hostile: Path, tmp_path: Path) -> None:
    width = measure(hostile, tmp_path / "profile", 375, "frame.documentElement.scrollWidth")
    assert 300 < int(width) <= 375


def test_first_screen_has_answer_and_causes(run: Run, tmp_path: Path) -> None:
    page = violating(run)
    bottom = "frame.querySelector('.causes li').getBoundingClientRect().bottom"
    assert float(measure(page, tmp_path / "profile", 1280, bottom)) < 1000
    color = "getComputedStyle(frame.querySelector('.answer .sentence')).color"
    assert measure(page, tmp_path / "again", 1280, color) == "rgb(180, 35, 24)"


def _mail(number: int, subject: str) -> dict[str, object]:
    return {
        "number": number,
        "subject": subject,
        "message_id": "",
        "sender": "",
        "recipients": [],
        "sha256": "",
    }
