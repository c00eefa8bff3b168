"""Live progress on a terminal, plain lines in a log.

A stage is a piece of work that a user waits for: fetch, apply, build, image, boot.
The cache keeps the duration of each, so that the next run can show an estimate.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TextIO

from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner

from harness.lib.cache import Store
from harness.lib.console import Console
from harness.lib.files import write_atomically
from harness.lib.locks import Wait
from harness.lib.text import visible, without_credentials

REMIND_SECONDS = 60  # after which a log has another line about a wait that lasts
BRIEF_SECONDS = 10  # a stage that is over sooner has no line, unless it is the first of its kind


class Stage:
    """One stage in progress.

    ``estimate`` is in seconds; ``detail`` is the current step, for example a file name.
    """

    def __init__(self, name: str, estimate: float | None, log: TextIO | None) -> None:
        self.name = name
        self.estimate = estimate
        self.detail = ""
        self.started = time.monotonic()
        self._log = log

    @property
    def elapsed(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self.started

    def update(self, detail: str) -> None:
        """Show ``detail`` (a file being compiled, bytes downloaded) on the live line."""
        self.detail = detail

    def note(self, line: str) -> None:
        """Print ``line`` below the name of the stage; it stays on the screen and in the log."""
        if self._log is not None:
            print(f"{self.name}: {visible(without_credentials(line))}", file=self._log, flush=True)

    def __rich__(self) -> Spinner:
        expected = f" of about {self.estimate:.0f} s" if self.estimate else ""
        text = f"[bold]{self.name}[/] {self.elapsed:.0f} s{expected}  {escape(visible(self.detail))}"
        return Spinner("line", text=text)


class Progress:
    """Reports stages to the user's terminal, or as plain lines when there is none."""

    def __init__(self, store: Store | None = None, stream: TextIO | None = None) -> None:
        self.stream = stream if stream is not None else sys.stderr
        self._history = store.path("durations.json") if store is not None else None
        self._console = Console(file=self.stream, highlight=False, soft_wrap=True)
        self._running: list[Stage] = []
        if store is not None:
            store.report = self.waiting

    @contextmanager
    def stage(self, name: str, key: str | None = None) -> Iterator[Stage]:
        """Run the body as stage ``name``.

        ``key`` separates durations that are not comparable, such as those of a cold and
        a warm build.  The duration of a stage that raises is not kept.
        """
        remembered = f"{name}/{key}" if key else name
        estimate = self._durations().get(remembered)
        stage = Stage(name, estimate, self.stream)
        live: AbstractContextManager[object] = nullcontext()
        announced = False
        if self._console.is_terminal:
            live = Live(stage, console=self._console, transient=True, refresh_per_second=8)
        elif announced := estimate is None or estimate > BRIEF_SECONDS:
            expected = f" (last time {estimate:.0f} s)" if estimate else ""
            stage.note(f"started{expected}")
        self._running.append(stage)
        try:
            with live:
                yield stage
        finally:
            self._running.remove(stage)
        if announced or stage.elapsed > BRIEF_SECONDS:
            stage.note(f"done in {stage.elapsed:.1f} s")
        self._remember(remembered, stage.elapsed)

    @contextmanager
    def waiting(self, wait: Wait) -> Iterator[Callable[[], None]]:
        """Tell of a wait for another run; no stage counts its time (see locks.Reporter)."""
        self.say(f"waiting for {wait}")
        stage = self._running[-1] if self._running else Stage("wait", None, None)
        live: AbstractContextManager[object] = nullcontext()
        if self._console.is_terminal and not self._running:
            live = Live(stage, console=self._console, transient=True, refresh_per_second=8)
        told = 0

        def again() -> None:
            nonlocal told
            stage.update(f"waiting for {wait}: {wait.seconds:.0f} s")
            if not self._console.is_terminal and wait.seconds // REMIND_SECONDS > told:
                told += 1
                self.say(f"still waiting, for {wait.seconds:.0f} s, for {wait}")

        try:
            with live:
                yield again
        finally:
            for one in self._running:
                one.started += wait.seconds
            stage.update("")
        self.say(f"waited {wait.seconds:.0f} s for {wait.what}")

    def say(self, line: str) -> None:
        """Print one line that belongs to no stage."""
        self._console.print(escape(visible(without_credentials(line))))

    def _durations(self) -> dict[str, float]:
        if self._history is None or not self._history.exists():
            return {}
        try:
            loaded = json.loads(self._history.read_text())
            return {str(k): float(v) for k, v in loaded.items()} if isinstance(loaded, dict) else {}
        except (OSError, ValueError, TypeError):
            return {}

    def _remember(self, name: str, seconds: float) -> None:
        if self._history is not None:
            durations = self._durations() | {name: round(seconds, 2)}
            write_atomically(self._history, json.dumps(durations, indent=1, sort_keys=True))
