"""The page of a comparison: the answer, regressions first, hostile text, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browser import Document, measure, open_page
from two_runs import Told, make_run

from harness.lib.text import visible
from harness.report.comparison_of_runs import as_html
from harness.report.comparison_of_runs.comparison import compare_runs
from harness.verdict.verdict import Verdict

MARKUP = "</pre></style><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7919*7907 }}"
HOSTILE = f"{MARKUP}\"'\u202e\x00\x1b[31m\udcff"
GOOD = Told(transcript="> map buf1\nok map1\n> load32 map1 0x0\nsigbus code=adrerr offset=0x0\n")
BAD = Told(
    Verdict.VIOLATES,
    seen="success",
    transcript="> map buf1\nok map1\n> load32 map1 0x0\nok 0x1\n",
    oops="vfio_pci_dma_buf_fault",
)


def page(root: Path, before: dict[str, Told], after: dict[str, Told], **facts: Any) -> Path:
    """Compare two runs, and write the page."""
    comparison = compare_runs(make_run(root / "a", before, **facts), make_run(root / "b", after, **facts))
    path = root / "page.html"
    path.write_text(as_html.render(comparison))
    return path


@pytest.fixture
def regression(tmp_path: Path) -> Path:
    """The page of two runs of which the newer breaks a scenario, fixes one, and lacks one."""
    return page(tmp_path, {"x": GOOD, "y": BAD, "z": GOOD}, {"x": BAD, "y": GOOD})


def test_page_shows_the_regression_first_and_open(regression: Path) -> None:
    found = Document.of(regression.read_text())
    assert found.values("class").count("answer bad") == 1
    assert "B fixes 1, breaks 1, inherits 0, keeps 0 of A's violations." in found.text
    titles = ["Newly violated 1", "Conforms in B, violates in A 1", "Only in A 1", "The kernel's complaints"]
    places = [found.text.index(title) for title in titles]
    assert places == sorted(places)
    opened = [one for one in found.elements if one.tag == "details" and "open" in one.attributes]
    assert len(opened) == 1
    assert "SIGBUS → ok at `load32 map1 0x0`" in found.text
    assert str(regression.parent) not in found.text  # the page may be read on another host
    assert "reply wrong" not in found.values("class")  # these runs do not know the line


def test_page_links_to_its_own_sections(regression: Path) -> None:
    found = Document.of(regression.read_text())
    links = found.values("href")
    assert {link.removeprefix("#") for link in links if link.startswith("#")} <= set(found.values("id"))
    assert [link for link in links if not link.startswith("#")] == ["data:,"]


@pytest.mark.parametrize("width", [390, 1200])
def test_page_is_no_wider_than_the_screen(regression: Path, tmp_path: Path, width: int) -> None:
    wide = measure(regression, tmp_path / "profile", width, "frame.documentElement.scrollWidth")
    assert int(wide) <= width


def test_page_of_hostile_text_is_text(tmp_path: Path) -> None:
    odd = Told(
        Verdict.VIOLATES,
        seen=HOSTILE,
        operation=HOSTILE,
        reason=HOSTILE,
        requirement=HOSTILE,
        findings=[HOSTILE],
        transcript=f"> {MARKUP}\nok\n",
    )
    lost = Told(Verdict.HARNESS_ERROR, reason=HOSTILE)
    good = Told(transcript=f"> {MARKUP}\nerror EIO x\n")
    facts = dict.fromkeys(("base", "series", "revision", "accelerator"), HOSTILE)
    before = {HOSTILE: good, "x[1]": good, "y": good, "z": odd}
    after = {HOSTILE: odd, "x[1]": odd, "y": lost, "w": odd}
    shown = open_page(page(tmp_path, before, after, **facts), tmp_path / "profile")
    found = Document.of(shown.document)
    assert shown.console == ()
    assert {one.tag for one in found.elements} & {
        "script",
        "img",
        "iframe",
        "object",
        "form",
        "base",
    } == set()
    assert [name for one in found.elements for name in one.attributes if name.startswith("on")] == []
    assert found.text.count(" ".join(visible(HOSTILE).split())) > 10
    assert "62615533" not in found.text
    assert not any((ord(c) < 32 and c not in "\n\t") or c in "\u202e\udcff" for c in "".join(found.texts))
