"""Downloads: broken connections, partial files, wrong files, full disks."""

from __future__ import annotations

import hashlib
import io
import threading
from pathlib import Path

import pytest
from local_server import Site, serving

from harness.kernel import download
from harness.lib.errors import HarnessError, UnreachableError
from harness.lib.progress import Stage

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def stage() -> Stage:
    return Stage("fetch", None, io.StringIO())


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_fetch_writes_the_whole_file(tmp_path: Path, stage: Stage) -> None:
    with serving(Site({"/f": CONTENT})) as site:
        download.fetch(f"{site.address}/f", tmp_path / "f", SHA256, stage)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert left_in(tmp_path) == ["f"]
    assert stage.detail == "1 of 1 MiB"


@pytest.mark.parametrize("ranges", [True, False])
def test_fetch_resumes_or_restarts_a_broken_connection(tmp_path: Path, stage: Stage, ranges: bool) -> None:
    with serving(Site({"/f": CONTENT}, ranges=ranges, break_after=[1000, 50_000])) as site:
        download.fetch(f"{site.address}/f", tmp_path / "f", SHA256, stage)
    assert (tmp_path / "f").read_bytes() == CONTENT
    second = 51_000 if ranges else 50_000
    assert site.requests == ["/f", "/f bytes=1000-", f"/f bytes={second}-"]


def test_fetch_gives_up_after_its_tries(tmp_path: Path, stage: Stage) -> None:
    with (
        serving(Site({"/f": CONTENT}, break_after=[10] * 99)) as site,
        pytest.raises(UnreachableError, match="broke off at 60 bytes"),
    ):
        download.fetch(f"{site.address}/f", tmp_path / "f", SHA256, stage)
    assert len(site.requests) == download.TRIES
    assert left_in(tmp_path) == ["f.part"]


def test_fetch_continues_a_partial_file(tmp_path: Path, stage: Stage) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT[:12345])
    with serving(Site({"/f": CONTENT})) as site:
        download.fetch(f"{site.address}/f", tmp_path / "f", SHA256, stage)
    assert site.requests == ["/f bytes=12345-"]
    assert left_in(tmp_path) == ["f"]


@pytest.mark.parametrize("left", [b"of another file", CONTENT + b"too long"])
def test_fetch_restarts_after_a_foreign_partial_file(tmp_path: Path, stage: Stage, left: bytes) -> None:
    (tmp_path / "f.part").write_bytes(left)
    with serving(Site({"/f": CONTENT})) as site:
        download.fetch(f"{site.address}/f", tmp_path / "f", SHA256, stage)
    assert site.requests == [f"/f bytes={len(left)}-", "/f"]
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_fetch_deletes_a_file_of_another_digest(tmp_path: Path, stage: Stage) -> None:
    with (
        serving(Site({"/f": b"trojan"})) as site,
        pytest.raises(HarnessError, match="not the one that is pinned") as refusal,
    ):
        download.fetch(f"{site.address}/f", tmp_path / "f", SHA256, stage)
    assert not isinstance(
        refusal.value, UnreachableError
    )  # after an UnreachableError the next source would be asked
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (503, download.TRIES)])
def test_fetch_asks_only_a_busy_server_again(tmp_path: Path, stage: Stage, status: int, tries: int) -> None:
    with (
        serving(Site({"/f": CONTENT}, status=status)) as site,
        pytest.raises(UnreachableError, match=str(status)),
    ):
        download.fetch(f"{site.address}/f", tmp_path / "f", SHA256, stage)
    assert len(site.requests) == tries


def test_fetch_on_a_full_disk_is_not_unreachable(tmp_path: Path, stage: Stage) -> None:
    (tmp_path / "f.part").symlink_to("/dev/full")
    with (
        serving(Site({"/f": CONTENT})) as site,
        pytest.raises(HarnessError, match="No space left") as failure,
    ):
        download.fetch(f"{site.address}/f", tmp_path / "f", SHA256, stage)
    assert not isinstance(failure.value, UnreachableError)


def test_demand_room_refuses_a_small_disk(tmp_path: Path) -> None:
    download.require_space(tmp_path, 1)
    with pytest.raises(HarnessError, match="MiB free, and 1099511627776 MiB are needed"):
        download.require_space(tmp_path, 1 << 60)


def test_fetch_from_an_absent_server_is_unreachable(tmp_path: Path, stage: Stage) -> None:
    with serving(Site({})) as site:
        pass
    with pytest.raises(UnreachableError, match="refused"):
        download.fetch(f"{site.address}/f", tmp_path / "f", SHA256, stage)
    with pytest.raises(UnreachableError, match="refused"):
        download.text(f"{site.address}/sums")


class WatchedStage(Stage):
    """A stage that tells when its detail was set."""

    def __init__(self) -> None:
        super().__init__("fetch", None, io.StringIO())
        self.shown = threading.Event()

    def update(self, detail: str) -> None:
        super().update(detail)
        self.shown.set()


def test_watched_shows_the_size_of_a_growing_file(tmp_path: Path) -> None:
    stage = WatchedStage()
    with download.showing_progress(tmp_path / "f", 3 << 20, stage):
        (tmp_path / "f").write_bytes(CONTENT)
        assert stage.shown.wait(60)
    assert stage.detail.endswith("of 3 MiB")
