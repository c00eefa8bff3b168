"""Locks between runs: their order, their holders, and the words for a run that waits."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from harness.kernel import workbench
from harness.lib import locks, progress
from harness.lib.cache import Store
from harness.lib.errors import HarnessError
from harness.lib.locks import LockOrderError
from harness.lib.paths import PROJECT
from harness.lib.progress import Progress

HOLD = """
import sys
from pathlib import Path
from harness.lib import locks
from harness.lib.cache import Store
locks.introduce("the run of v4")
with Store(Path(sys.argv[1])).lock(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(cache: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    """Hold a lock in another process, until its standard input is closed or it is killed."""
    argv = [sys.executable, "-c", HOLD, str(cache), name]
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.stdin.close()


class Said(io.StringIO):
    """A stream that calls ``then`` once it was written a text."""

    def __init__(self, text: str, then: threading.Event) -> None:
        super().__init__()
        self.text, self.then = text, then

    def write(self, content: str) -> int:
        written = super().write(content)
        if self.text in self.getvalue():
            self.then.set()
        return written


def wait_for(cache: Path, name: str, holder: subprocess.Popen[str], end: signal.Signals | None = None) -> str:
    """Take a lock that ``holder`` has, and end the holder once a word about it was said; return all words."""
    told = threading.Event()
    said = Said("waiting for", told)
    store = Store(cache)
    Progress(store, said)

    def end_holder() -> None:
        assert told.wait(20)
        if end is not None:
            holder.send_signal(end)
        elif holder.stdin is not None:
            holder.stdin.close()

    ending = threading.Thread(target=end_holder)
    ending.start()
    with store.lock(name) as killed:
        said.write(f"killed: {killed}")
    ending.join()
    return said.getvalue()


class TestWait:
    def test_wait_names_the_holder_and_the_time(self, tmp_path: Path) -> None:
        with held_by_another(tmp_path, "workbench") as holder:
            said = wait_for(tmp_path, "workbench", holder)
        first, last, killed = said.splitlines()
        pattern = (
            r"waiting for the build folders, held by the run of v4 \(process (\d+), since [\d:]{8} UTC\)"
        )
        assert (found := re.fullmatch(pattern, first)) is not None
        assert int(found[1]) == holder.pid
        assert re.fullmatch(r"waited \d+ s for the build folders", last)
        assert killed == "killed: False"

    def test_killed_holder_is_known_to_the_next(self, tmp_path: Path) -> None:
        with held_by_another(tmp_path, "workbench") as holder:
            said = wait_for(tmp_path, "workbench", holder, signal.SIGKILL)
        assert said.endswith("killed: True")
        with Store(tmp_path).lock("workbench") as killed:
            assert not killed

    def test_long_wait_is_told_again_in_a_log(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(progress, "REMIND_SECONDS", 0.001)
        told = threading.Event()
        said = Said("still waiting", told)
        store = Store(tmp_path)
        Progress(store, said)
        with held_by_another(tmp_path, "fetch") as holder:
            assert holder.stdin is not None
            ending = threading.Thread(target=lambda: (told.wait(20), holder.stdin and holder.stdin.close()))
            ending.start()
            with store.lock("fetch"):
                pass
            ending.join()
        assert re.search(
            r"still waiting, for \d+ s, for the fetch of a base, held by the run", said.getvalue()
        )

    def test_wait_is_live_on_a_terminal(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        said = io.StringIO()
        shown = Progress(None, said)
        monkeypatch.setattr(shown, "_console", Console(file=said, force_terminal=True, width=200))
        with held_by_another(tmp_path, "fetch"):
            path = tmp_path / "locks" / "fetch.lock"
            with shown.stage("fetch"), shown.waiting(locks.Wait(path, "fetch")) as again:
                again()
                shown._running[-1].__rich__()
                assert re.search(r"held by the run of v4 .*: \d+ s", shown._running[-1].detail)
        assert "waiting for the fetch of a base, held by the run of v4" in said.getvalue()

    def test_wait_is_no_part_of_a_stage(self, tmp_path: Path) -> None:
        shown = Progress(None, io.StringIO())
        with shown.stage("fetch") as stage:
            before = stage.started
            wait = locks.Wait(tmp_path / "no.lock", "fetch")
            wait.began -= 1000
            with shown.waiting(wait):
                pass
            assert stage.started - before >= 1000
            assert stage.elapsed < 1000

    def test_wait_without_progress_goes_to_standard_error(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with locks.plainly(locks.Wait(tmp_path / "no.lock", "threads")):
            pass
        assert capsys.readouterr().err.splitlines() == [
            "waiting for the fetch of the same thread of mails, held by another run",
            "waited 0 s for the fetch of the same thread of mails",
        ]


class TestOrder:
    def test_lock_out_of_order_is_refused(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        refused = pytest.raises(LockOrderError, match="kernel-1 was to be taken under workbench, against")
        with store.lock("workbench"), refused, store.lock("kernel-1"):
            pass
        with store.lock("kernel-1"), store.lock("workbench"), store.lock("module-1"):
            pass  # and in order it is not

    def test_second_lock_of_a_kind_is_refused(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        with store.lock("base-1"), pytest.raises(LockOrderError), store.lock("base-2"):
            pass

    def test_lock_without_a_place_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(LockOrderError, match="no place in the order"), Store(tmp_path).lock("other"):
            pass

    def test_lock_is_taken_again_by_its_thread(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        with store.lock("workbench"), store.lock("module-1"):
            with store.lock("workbench") as killed:
                assert not killed
            with locks.try_hold(tmp_path / "locks" / "workbench.lock") as free:
                assert not free  # the inner end released nothing

    def test_lock_of_another_thread_is_waited_for(self, tmp_path: Path) -> None:
        store, order = Store(tmp_path), list[str]()
        waits = threading.Event()

        @contextmanager
        def report(_wait: locks.Wait) -> Iterator[object]:
            waits.set()
            yield lambda: None

        store.report = report  # type: ignore[assignment]

        def second() -> None:
            with store.lock("fetch"):
                order.append("second")

        thread = threading.Thread(target=second)
        with store.lock("fetch"):
            thread.start()
            assert waits.wait(20)
            order.append("first")
        thread.join()
        assert order == ["first", "second"]

    def test_order_is_documented(self) -> None:
        text = (PROJECT / "docs" / "architecture.md").read_text()
        table = text[text.index("## Two runs at once") :]
        rows = [row for row in re.findall(r"^\| `([a-z]+)` \|", table, re.MULTILINE) if row in locks.ORDER]
        assert rows == list(locks.ORDER)


def test_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    store = Store(tmp_path)
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(HarnessError, match="its file system has no locks"), store.lock("fetch"):
        pass


def test_claim_that_ends_by_an_error_leaves_no_record(tmp_path: Path) -> None:
    def fail() -> None:
        with locks.claim(tmp_path, ".lock", "runs"):
            assert locks.holder_of(tmp_path / ".lock") is not None
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert locks.holder_of(tmp_path / ".lock") is None


def test_damaged_record_names_nobody(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    for content in (b"", b"{", b"[1]", b'{"process": "x"}', b'{"process": 1e999}', b"\xff"):
        path.write_bytes(content)
        assert locks.holder_of(path) is None


def test_record_is_shown_without_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.write_text('{"process": 1, "host": "h\\u001b[1m", "run": "\\u001b]0;x", "since": 0}')
    shown = str(locks.holder_of(path))
    assert shown.isprintable()
    assert shown.endswith("since 00:00:00 UTC)")


class TestOrphans:
    """Programs that a killed run has left in the build folders."""

    def test_builder_waits_for_programs_of_a_killed_run(self, tmp_path: Path) -> None:
        build = tmp_path / "workbench" / "6.19" / "build-1"
        build.mkdir(parents=True)
        with held_by_another(tmp_path, "workbench") as holder:
            holder.kill()
        orphan = subprocess.Popen(["sleep", "300"], cwd=build)
        ending = threading.Timer(0.5, orphan.kill)
        ending.start()
        with workbench.workbench(Store(tmp_path)):
            assert orphan.wait(0) == -signal.SIGKILL
        ending.join()

    def test_orphan_that_does_not_end_is_named(self, tmp_path: Path) -> None:
        orphan = subprocess.Popen(["sleep", "300"], cwd=tmp_path)
        try:
            with pytest.raises(HarnessError, match=rf"still run there: process {orphan.pid}\. End them"):
                workbench.wait_for_orphans(tmp_path, 0)
        finally:
            orphan.kill()
            orphan.wait()
        workbench.wait_for_orphans(tmp_path, 0)
