"""What each patch of a series brought and broke: prefixes.json, and the pages that show it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser import Document
from results import Run

from harness.cli import prefixes as command
from harness.cli.prefixes import PrefixResult
from harness.lib.errors import HarnessError
from harness.report import html, prefixes
from harness.series.series import Patch, Series
from harness.verdict.verdict import Verdict

SERIES = Series("mine", "Mine", "6.19", "auto", (Patch("1.patch", b"", "[PATCH] one"),), {}, "a test")
C, V, N = Verdict.CONFORMS, Verdict.VIOLATES, Verdict.NOT_APPLICABLE


def run_of(folder: Path, revoke: Verdict, mapped: Verdict, told: Verdict = C) -> Path:
    """Make the results folder of a run with these verdicts of its three scenarios."""
    folder.parent.mkdir(parents=True)
    run = Run(folder)
    run.results.write_run(series="mine", identity=f"of {folder.name}")
    run.begin()
    for entry, verdict in ((run.revoke, revoke), (run.map, mapped), (run.told, told)):
        run.end(entry, verdict, reason="It is." if verdict is not C else "")
    run.finish()
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> list[PrefixResult]:
    """Three prefixes: the second brings MAP-01, the third breaks it and fixes REV-01."""
    made = []
    for count, verdicts in ((1, (V, N, N)), (2, (V, C, N)), (3, (C, V, N))):
        folder = run_of(tmp_path / f"prefix-{count}" / f"mine-{count}", *verdicts)
        made.append(PrefixResult(count, f"vfio: patch {count}", {"gcc": []}, "told", folder=folder.resolve()))
    return made


def text_of(page: Path) -> str:
    return Document.of(page.read_text()).text


def test_rows_say_what_a_patch_brought_and_broke(rows: list[PrefixResult], tmp_path: Path) -> None:
    command.store(rows, SERIES, tmp_path)
    found = prefixes.load(tmp_path)
    assert found is not None
    revoke, mapped = "suites/test_revoke.py::test_zap[c]", "suites/test_map.py::test_map[c]"
    assert [(one.compared, one.brought, one.fixed, one.broke) for one in found.rows] == [
        (False, (), (), ()),
        (True, (mapped,), (), ()),
        (True, (), (revoke,), (mapped,)),
    ]
    assert found.rows[1].verdicts == {"violates": 1, "conforms": 1, "not-applicable": 1}
    assert found.since(mapped) == found.rows[2]
    assert found.since(revoke) is None


def test_patch_after_a_prefix_without_a_verdict_broke_nothing(tmp_path: Path) -> None:
    made = []
    for count, verdict in ((1, C), (2, Verdict.HARNESS_ERROR), (3, V)):
        folder = run_of(tmp_path / f"prefix-{count}" / f"mine-{count}", verdict, C)
        made.append(PrefixResult(count, "vfio", {"gcc": []}, "told", folder=folder.resolve()))
    command.store(made, SERIES, tmp_path)
    found = prefixes.load(tmp_path)
    assert found is not None
    assert found.since("suites/test_revoke.py::test_zap[c]") is None


def test_patch_that_changes_a_finding_breaks_nothing(tmp_path: Path) -> None:
    made = []
    for count, verdict in ((1, C), (2, V)):
        folder = run_of(tmp_path / f"prefix-{count}" / "run", C, C, told=verdict)
        made.append(PrefixResult(count, "vfio: it", folder=folder.resolve()))
    command.store(made, SERIES, tmp_path)
    found = prefixes.load(tmp_path)
    assert found is not None
    assert found.rows[1].verdicts == {"conforms": 2, "violates": 1}
    assert found.rows[1].broke == ()


def test_patch_that_brings_a_violation_breaks_nothing(tmp_path: Path) -> None:
    folders = [
        run_of(tmp_path / f"prefix-{n}" / "run", *verdicts) for n, verdicts in ((1, (N, C)), (2, (V, C)))
    ]
    rows = [PrefixResult(n, "vfio: it", folder=folder.resolve()) for n, folder in enumerate(folders, 1)]
    command.store(rows, SERIES, tmp_path)
    found = prefixes.load(tmp_path)
    assert found is not None
    assert (found.rows[1].faulty, found.rows[1].broke) == (("suites/test_revoke.py::test_zap[c]",), ())
    assert "What patch 2 brings violates requirements" in text_of(tmp_path / "report.html")


def test_page_of_prefixes_names_the_patch_that_breaks(rows: list[PrefixResult], tmp_path: Path) -> None:
    command.store(rows, SERIES, tmp_path)
    page = Document.of((tmp_path / "report.html").read_text())
    assert "Patch 3 breaks what worked before." in page.text
    links = [one for one in page.values("href") if not one.startswith("data:")]
    assert links == [f"prefix-{n}/mine-{n}/report.html" for n in (1, 2, 3)]
    assert all((tmp_path / one).is_file() for one in links)


def test_page_of_a_run_tells_since_which_patch(rows: list[PrefixResult], tmp_path: Path) -> None:
    command.store(rows, SERIES, tmp_path)
    text = text_of(tmp_path / "prefix-3" / "mine-3" / "report.html")
    assert "since patch 3, vfio: patch 3" in text
    assert "Patch by patch" in text


def test_page_of_another_series_has_no_prefixes(rows: list[PrefixResult], tmp_path: Path) -> None:
    command.store(rows, SERIES, tmp_path)
    other = run_of(tmp_path / "x" / "other", C, C)
    assert "Patch by patch" not in text_of(other / "report.html")


def test_page_of_the_whole_series_has_its_prefixes(rows: list[PrefixResult], tmp_path: Path) -> None:
    told = prefixes.Prefixes("mine", "Mine", "of whole", (prefixes.PrefixRow(1, "vfio: patch 1"),))
    prefixes.write(tmp_path, told)
    whole = run_of(tmp_path / "x" / "whole", C, C)
    assert "vfio: patch 1 the suites were not run" in text_of(whole / "report.html")


def test_prefixes_without_runs_are_open(tmp_path: Path) -> None:
    command.store([PrefixResult(1, "one", {"gcc": []}, "the run did not begin")], SERIES, tmp_path)
    text = text_of(tmp_path / "report.html")
    assert "The suites did not run on 1 of the 1 prefixes." in text
    assert "the run did not begin" in text


def test_damaged_prefixes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "prefixes.json").write_text('{"series": "x"}')
    with pytest.raises(HarnessError, match="is damaged"):
        html.render(tmp_path)


ROW = {
    "count": 1,
    "subject": "x",
    "outcome": "",
    "folder": "",
    "compared": False,
    "warnings": {},
    "verdicts": {},
    "brought": [],
    "faulty": [],
    "fixed": [],
    "broke": [],
}


def whole(**members: object) -> str:
    content = {"series": "x", "title": "x", "identity": "of run", "rows": [ROW | members]}
    return json.dumps(content).replace("Infinity", "1e999")


@pytest.mark.parametrize(
    "content",
    ["[]", "[" * 100_000, whole(count=float("inf")), whole(folder="\0"), None],
)
def test_damaged_prefixes_hide_no_run(tmp_path: Path, content: str | None) -> None:
    if content is None:
        (tmp_path / "prefixes.json").mkdir()
    else:
        (tmp_path / "prefixes.json").write_text(content)
    folder = run_of(tmp_path / "x" / "run", C, C)
    assert "Patch by patch" not in text_of(folder / "report.html")
