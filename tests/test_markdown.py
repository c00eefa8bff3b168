"""The report as Markdown, read back by GitHub's own parser of it."""

from __future__ import annotations

import html.parser
from pathlib import Path

import cmarkgfm
import pytest
from cmarkgfm.cmark import Options
from hypothesis import given, settings
from hypothesis import strategies as st
from reported_run import BAD, OLD, posted, record

from harness.report import markdown
from harness.verdict.comparison import BaseAnswer
from harness.verdict.deviation import Deviation
from harness.verdict.record import Entry
from harness.verdict.verdict import Kind, Verdict

REPORTS = Path(__file__).parent / "data" / "reports"
MAX_SUMMARY = 1 << 20  # bytes that GitHub takes
HOSTILE = (
    "| \x1b[2J\x00\udcff\u202e `code` <b>bold</b> <script>x</script> @someone #12 !3 www.evil.example "
    "[link](https://evil.example) https://evil.example eve@evil.example **strong** ~~gone~~ ![image](x) "
    "</pre></details> \\ &amp; ``` ~~~ - item\n# heading\n* item\n1. item\n> quote\n| cell |\n```\n<!-- "
)
GAP = "\u200b"


class Page(html.parser.HTMLParser):
    """The elements of a page, and its text outside of <pre> and <code>."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.feed(markup)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("br", "hr", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        self.elements.append("comment")

    def handle_data(self, data: str) -> None:
        if not {"pre", "code"} & set(self.open):
            self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def page(text: str) -> Page:
    return Page(cmarkgfm.github_flavored_markdown_to_html(text, Options.CMARK_OPT_UNSAFE))


ALLOWED = {
    *("h2", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"),
    *("details", "summary", "pre", "code"),
}


@pytest.mark.parametrize("name", ["mixed", "killed", "apply-failed"])
def test_github_reads_a_recorded_run(name: str) -> None:
    found = page(markdown.render(REPORTS / name))
    assert set(found.elements) <= ALLOWED
    assert found.elements.count("h2") == 1
    assert found.elements[0] == "h2"


def test_summary_begins_with_the_answer(tmp_path: Path) -> None:
    text = markdown.render(record(posted(tmp_path)))
    found = page(text)
    assert found.text.split("\n")[0].startswith("❌ 1 scenario violates")
    head, *rows = (row for row in found.rows if len(row) == 7)
    assert head[1:] == ["requirement", "promised", "expected", "seen", "scenarios", "origin"]
    assert [(row[1], *row[3:]) for row in rows] == [
        ("MAP-01", "success", "EINVAL", "1", "new"),
        ("LIFE-11", "", "It does not count.", "1", "inherited"),
    ]
    assert f"` {BAD.id} `" in text
    assert "-&gt; errno EINVAL" in text


def test_summary_of_a_run_that_conforms(tmp_path: Path) -> None:
    found = page(markdown.render(record(posted(tmp_path), Verdict.CONFORMS)))
    assert found.text.startswith("✅ Conforms")
    assert "The map below" not in found.text  # there is none


def test_summary_of_a_failed_stage_has_its_reason() -> None:
    text = markdown.render(REPORTS / "apply-failed")
    assert "does not apply" in page(text).text
    assert "error: patch failed: drivers/vfio/pci/vfio_pci_dmabuf.c:40" in text


def test_summary_has_the_splat(tmp_path: Path) -> None:
    directory = record(posted(tmp_path), console="list-add", deviation=None, reason="The kernel complained.")
    assert "list_add corruption" in markdown.render(directory)


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    entry = Entry(f"suites/test_{HOSTILE}.py::x[{HOSTILE}]", Kind.SCENARIO, HOSTILE, (HOSTILE,))
    directory = record(
        posted(tmp_path, title=HOSTILE, base_reason=HOSTILE, compiler=HOSTILE),
        entry=entry,
        base=BaseAnswer(Verdict.HARNESS_ERROR, HOSTILE),
        reason=HOSTILE,
        deviation=Deviation(HOSTILE, HOSTILE, HOSTILE),
        transcript=f"> map buf1\n{HOSTILE}\n",
    )
    text = markdown.render(directory)
    found = page(text)
    assert set(found.elements) <= ALLOWED
    assert {len(row) for row in found.rows if row[1:2] == ["requirement"] or len(row) == 7} == {7}
    for shown in ("<b>bold</b>", "**strong**", "`code`", r"\x1b[2J\x00\xff\u202e"):
        assert shown in found.text.replace(GAP, "")
    for reference in ("@someone", "#12", "!3", "eve@evil", "https://evil"):
        assert reference not in found.text


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec=None, categories=None)))
def test_any_text_is_shown_as_it_is(text: str) -> None:
    found = page(f"before {markdown.escaped(text, 10**9)} after")
    assert found.elements == ["p"]
    assert found.text.replace(GAP, "") == page(f"before {markdown.escaped(text, 10**9)} after").text.replace(
        GAP, ""
    )


@settings(max_examples=300, deadline=None)
@given(st.text("|`<>&*_@#[]()!\\~:/.-+ ax1\n", min_size=1))
def test_any_punctuation_fits_into_a_cell(text: str) -> None:
    found = page(f"| a | b |\n|---|---|\n| {markdown.escaped(text)} | x |\n")
    assert [len(row) for row in found.rows] == [2, 2]
    assert found.rows[1][0].replace(GAP, "") == " ".join(text.split())


def test_summary_of_many_faults_is_small_enough(tmp_path: Path) -> None:
    results = posted(tmp_path)
    journal = results.journal()
    entries = [
        Entry(f"suites/test_a.py::test_{n}", Kind.SCENARIO, "&" * 900, (f"A-{n}",)) for n in range(400)
    ]
    journal.plan([*entries, OLD])
    journal.run_started()
    for number, entry in enumerate(entries):
        path = results.transcript(entry.id)
        path.write_text(f"> map {'&' * 400}\n{'&' * 400}\n" * markdown.STEPS)
        journal.started(entry.id)
        deviation = Deviation("&" * 2000, f"kind{'x' * number}", f"verb{number}", 2 * markdown.STEPS - 1)
        journal.ended(entry.id, Verdict.VIOLATES, transcript=path, deviation=deviation)
    journal.run_ended()
    text = markdown.render(results.dir)
    assert text.count("| A&#45;") == markdown.ROWS
    assert "and 360 other causes" in text
    assert 0 < text.count("<pre>") < markdown.CAUSES
    assert len(text.encode()) < MAX_SUMMARY
