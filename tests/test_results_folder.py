"""The results folder: one per run, for any name of a series or a scenario."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from harness import __version__
from harness.journal.facts import read_facts
from harness.journal.results_folder import LIMIT, ResultsFolder, newest_run
from harness.lib.errors import HarnessError

NOW = datetime(2026, 2, 26, 20, 22, 11, tzinfo=UTC)


def test_folder_is_named_by_series_and_utc_time(tmp_path: Path) -> None:
    here = NOW.astimezone(timezone(timedelta(hours=9)))
    assert (
        ResultsFolder.create(tmp_path, "reference-feature", here).dir.name
        == "reference-feature-20260226T202211Z"
    )


def test_runs_in_one_second_get_two_folders(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: ResultsFolder.create(tmp_path / "new", "map", NOW).dir, range(16)))
    assert len(set(made)) == 16
    assert (tmp_path / "new" / "latest").resolve() in made
    assert not list((tmp_path / "new").glob(".latest*"))


def test_latest_points_to_the_newest(tmp_path: Path) -> None:
    ResultsFolder.create(tmp_path, "old", NOW)
    new = ResultsFolder.create(tmp_path, "new", NOW)
    latest = tmp_path / "latest"
    assert latest.resolve() == new.dir
    assert latest.readlink() == Path(new.dir.name)  # relative: the results may be moved as a whole


def test_relative_root_gives_an_absolute_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ResultsFolder.create(Path("results"), "map", NOW).dir.is_absolute()


@pytest.mark.parametrize("obstacle", ["folder", "file"])
def test_latest_that_is_no_link_stays(tmp_path: Path, obstacle: str) -> None:
    latest = tmp_path / "latest"
    if obstacle == "file":
        latest.write_text("kept")
    else:
        latest.mkdir()
        (latest / "plan.json").write_text("kept")
    before = [ResultsFolder.create(tmp_path, "map", NOW - timedelta(days=day)) for day in (2, 1)]
    results = ResultsFolder.create(tmp_path, "map", NOW)
    again = ResultsFolder.create(tmp_path, "map", NOW)
    assert f"{latest} is no link, so it was left as it is" in results.note
    assert str(results.dir) in results.note
    assert not latest.is_symlink()
    assert (latest if obstacle == "file" else latest / "plan.json").read_text() == "kept"
    assert newest_run(tmp_path) == again.dir
    assert again.dir not in (results.dir, *(one.dir for one in before))
    assert not list(tmp_path.glob(".latest*"))


@pytest.mark.parametrize("target", ["gone", "../elsewhere", "latest"])
def test_latest_that_is_another_link_is_replaced(tmp_path: Path, target: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    root = tmp_path / "results"
    root.mkdir()
    (root / "latest").symlink_to(target)
    results = ResultsFolder.create(root, "map", NOW)
    assert (root / "latest").readlink() == Path(results.dir.name)
    assert results.note == ""
    assert newest_run(root) == results.dir
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("target", [None, "gone"])
def test_root_without_a_run_has_no_newest(tmp_path: Path, target: str | None) -> None:
    (tmp_path / "not-20260226T202211Z").write_text("")
    if target is not None:
        (tmp_path / "latest").symlink_to(target)
    assert newest_run(tmp_path) is None


def test_root_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    root = tmp_path / "results"
    root.write_text("")
    with pytest.raises(HarnessError, match=r"results folder .* cannot be made.*--results DIR"):
        ResultsFolder.create(root, "map", NOW)
    assert not list(tmp_path.rglob(".latest*"))


@pytest.mark.parametrize(
    "name", ["../../etc", "/", "..", "-rf", "a" * 500, "\x1b[2J", "a\nb", "", "ü/\udcff"]
)
def test_hostile_series_name_stays_in_the_root(tmp_path: Path, name: str) -> None:
    folder = ResultsFolder.create(tmp_path, name, NOW).dir
    assert folder.parent == tmp_path
    assert folder.name.isascii()
    assert folder.name.isprintable()
    assert folder.name[0] not in ".-"


def test_transcript_paths_are_distinct(tmp_path: Path) -> None:
    results = ResultsFolder.create(tmp_path, "map", NOW)
    ids = ["suites/test_map.py::test_x[a]", "suites/test_map.py::test_x(a)", "suites/test_rng.py::test_x[a]"]
    ids += ["x::../../../etc/passwd", "x::", "", "\x00", "\udcff", "x" * 5000]
    paths = [results.transcript(scenario) for scenario in ids]
    assert len(set(paths)) == len(ids)
    for path in paths:
        path.write_text("> open\n")
        assert path.resolve().parent == results.dir / "transcripts"
    assert paths[0].name.startswith("test_x-a-")


def test_facts_are_added_as_they_come(tmp_path: Path) -> None:
    results = ResultsFolder.create(tmp_path, "map", NOW)
    results.write_run(base="6.19.6", accelerator="kvm")
    results.write_run(accelerator="tcg")
    assert read_facts(results.dir) == {
        "harness": __version__,
        "series": "map",
        "base": "6.19.6",
        "accelerator": "tcg",
    }


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_damaged_facts_are_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(HarnessError, match=r"run\.json"):
        read_facts(tmp_path)


def test_console_link_is_the_newest_machines(tmp_path: Path) -> None:
    results = ResultsFolder.create(tmp_path, "example")
    for name in ("machine-1", "machine-2"):
        folder = results.machine(name)
        folder.mkdir()
        for file in ("console.log", "qemu.txt"):
            (folder / file).write_text(name)
            assert (results.dir / file).read_text() == name


def test_reopened_folder_requires_the_same_base(tmp_path: Path) -> None:
    results = ResultsFolder.create(tmp_path, "example")
    results.write_run(base_wanted="7.3", digest="0")
    results.journal().plan([])
    again = ResultsFolder.reopen(results.dir)
    again.require(series="example", base_wanted="7.3", digest="0")
    with pytest.raises(HarnessError, match=r"because the base is 7\.2 now, and was 7\.3 then"):
        again.require(series="example", base_wanted="7.2", digest="1")


def test_results_beyond_the_limit_end_the_run(tmp_path: Path) -> None:
    results = ResultsFolder.create(tmp_path, "map", NOW)
    large = results.dir / "transcripts" / "large.txt"
    large.touch()
    os.truncate(large, LIMIT - (1 << 20))
    results.require_within_limit()
    os.truncate(large, LIMIT)
    with pytest.raises(HarnessError, match=r"have 1024 MiB, and 1024 MiB is the limit.*--resume"):
        results.require_within_limit()
