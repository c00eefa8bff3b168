"""The workers of a run: forked before any machine is started, given scenarios, and ended.

A thread for each worker gives it the next scenario as soon as it has done one.  All else that it tells is
taken in by the main thread, between two scenarios of its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, NoReturn

from harness.journal.reader import read
from harness.journal.writer import JournalWriter
from harness.lib import interruption
from harness.lib.errors import PatchproofError
from harness.lib.interruption import Interruption
from harness.run.give_up import GiveUp
from harness.run.link import Begin, Do, Done, End, Failed, News, Order, Over, Report, Tally, ToRun, ToWorker
from harness.run.machines import TestedSoftware
from harness.run.schedule import Schedule
from harness.run.snapshots import Shared
from harness.run.worker import Unsent
from harness.verdict.verdict import Verdict

#: Seconds in which a worker ends after an interruption.
END_SECONDS = 20.0
OUTPUT_SHOWN = 4096  # bytes of the output of a worker that has died


@dataclass(frozen=True)
class Death:
    """A worker has ended early, for this ``reason``; ``scenario`` is the one that it ran, or empty.

    ``killed`` is true if the run itself has killed it, as it did not end.
    """

    scenario: str
    reason: str
    output: str
    killed: bool = False


class _Worker:
    """The worker with this ``number``, from 1; ``scenario`` is the id of the one that it runs, or empty."""

    def __init__(self, number: int, process: int, link: ToWorker, output: IO[bytes]) -> None:
        self.number = number
        self.scenario = ""
        self.killed = False
        self.thread: threading.Thread | None = None  # that serves it
        self._process = process
        self._link = link
        self._output = output
        self._sending = threading.Lock()

    def send(self, order: Order) -> None:
        """Send an order; one that has ended gets none."""
        with self._sending, contextlib.suppress(OSError):
            self._link.send(order)

    def receive(self) -> News:
        """Return what it tells next.  Raises EOFError or OSError if it has ended."""
        return self._link.recv()

    def death(self) -> Death:
        """Wait for its end, and return what is known of that."""
        code = os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])
        how = f"by the signal {signal.Signals(-code).name}" if code < 0 else f"with the exit code {code}"
        self._output.seek(max(0, self._output.seek(0, os.SEEK_END) - OUTPUT_SHOWN))
        output = self._output.read().decode(errors="replace")
        return Death(self.scenario, f"The process that ran it ended {how}.", output, self.killed)

    def cut(self) -> None:
        """Close the link.  When nobody has it open any more, a worker that still runs ends at once."""
        self._link.close()

    def kill(self) -> None:
        """Kill it; its thread waits for the end."""
        self.killed = True
        os.kill(self._process, signal.SIGKILL)


class Workers:
    """The workers of a run, ``count`` of them, each of which does ``serve`` with its link.

    ``violated`` is true after a scenario of a worker showed an unexpected fault of the kernel.
    ``failures`` are the errors by which workers could not go on.  ``died`` is true if one ended by itself.

    The processes are forked here, so no machine may have been started before.
    """

    def __init__(
        self,
        count: int,
        serve: Callable[[ToRun], None],
        schedule: Schedule,
        give_up: GiveUp,
        journal: JournalWriter,
    ) -> None:
        self.schedule = schedule
        self.violated = False
        self.died = False
        self.failures: list[PatchproofError] = []
        self._give_up = give_up
        self._given_up = give_up.given_up()
        self._journal = journal
        self._news: queue.SimpleQueue[News | Death] = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        for number in range(1, count + 1):
            self._workers.append(self._fork(number, serve))

    def begin(self, software: TestedSoftware, machines: int, snapshots: Sequence[Shared]) -> None:
        """Let the workers begin; the arguments are those of Begin."""
        self._journal.share()
        for worker in self._workers:
            worker.send(Begin(replace(software, importer=Unsent()), machines, snapshots))
            worker.thread = threading.Thread(target=self._serve, args=(worker,), name="worker", daemon=True)
            worker.thread.start()

    def reports(self) -> Iterator[Report | Death]:
        """Take in what the workers have told; yield what pytest has to know.  Call it in the main thread.

        Raises HarnessError if the journal cannot be written.
        """
        with contextlib.suppress(queue.Empty):
            while True:
                match news := self._news.get_nowait():
                    case Report():
                        yield news
                    case Done():
                        self.violated = self.violated or news.violated
                    case Tally(method, arguments):
                        getattr(self._give_up, method)(*arguments)
                        self._given_up = self._give_up.given_up()
                    case Failed(error):
                        self.failures.append(error)
                    case Death():
                        self.died = True
                        self._record(news)
                        yield news

    def ended(self, seconds: float) -> bool:
        """Return whether all workers have ended, or end within ``seconds``."""
        for thread in [one.thread for one in self._workers if one.thread is not None]:
            thread.join(seconds)
            if thread.is_alive():
                return False
        return True

    def end(self, interrupted: str = "") -> None:
        """End all workers: after their scenarios, or at once if ``interrupted`` says what ended the run.

        Raises Interruption, after all have ended.
        """
        self.schedule.close()
        try:
            if not interrupted:
                interruption.until(self.ended)
        except Interruption as end:
            interrupted = end.reason
            raise
        finally:
            if interrupted:
                self._interrupt(interrupted)
            for worker in self._workers:
                worker.cut()
                if worker.thread is None:  # the stages have failed, so it has not begun
                    worker.death()

    def _interrupt(self, reason: str) -> None:
        """End all workers at once, and kill those that have not ended after END_SECONDS."""
        for worker in self._workers:
            worker.send(End(reason))
        if not self.ended(END_SECONDS):
            for worker in self._workers:
                if worker.thread is not None and worker.thread.is_alive():
                    worker.kill()
            self.ended(END_SECONDS)

    def _serve(self, worker: _Worker) -> None:
        """Give a worker one scenario after the other, until it has ended."""
        try:
            self._give(worker)
            while not isinstance(news := worker.receive(), Over):
                if isinstance(news, Done):
                    self._give(worker)
                self._news.put(news)
        except (EOFError, OSError):
            self._news.put(worker.death())
        else:
            worker.death()
        self.schedule.leave(worker.number)

    def _give(self, worker: _Worker) -> None:
        """Give a worker its next scenario, or end it."""
        worker.scenario = self.schedule.next(worker.number) or ""
        worker.send(Do(worker.scenario, self._given_up) if worker.scenario else End())

    def _record(self, death: Death) -> None:
        """Record the death of a worker: a scenario that it ran is a harness-error, unless that had ended.

        The scenario of one that the run has killed stays open: the interruption has cut it off.
        """
        if death.killed:
            self._journal.note(
                f"A worker did not end within {END_SECONDS:.0f} s of the interruption, so it was killed. "
                f"It ran {death.scenario or 'no scenario'}."
            )
            return
        if not death.scenario:
            self._journal.note(f"A worker of the run has died between two scenarios. {death.reason}")
            return
        known = {one.entry.id: one for one in read(self._journal.directory).scenarios}
        found = known[death.scenario]
        if found.ended:
            return
        if found.verdict is Verdict.NOT_REACHED:
            self._journal.started(death.scenario)
        else:
            self._journal.take_over(death.scenario)
        self._journal.ended(death.scenario, Verdict.HARNESS_ERROR, reason=death.reason, details=death.output)

    def _fork(self, number: int, serve: Callable[[ToRun], None]) -> _Worker:
        here, there = multiprocessing.Pipe()
        output = tempfile.TemporaryFile()  # noqa: SIM115 - of the worker
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # The threads of this program that run now wait for signals and the time limit; they hold no lock.
            warnings.simplefilter("ignore", DeprecationWarning)
            process = os.fork()
        if process == 0:
            here.close()
            for other in self._workers:
                other.cut()
            _become_worker(output, lambda: serve(there))
        there.close()
        return _Worker(number, process, here, output)


def _become_worker(output: IO[bytes], serve: Callable[[], None]) -> NoReturn:
    """Do the work of a worker in a process that was just forked, and end it."""
    code = 1
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        for ours, theirs in ((null, 0), (output.fileno(), 1), (output.fileno(), 2)):
            os.dup2(ours, theirs)
        interruption.begin_anew()
        serve()
        code = 0
    except BaseException:  # noqa: BLE001 - the run shows it
        os.write(2, traceback.format_exc().encode(errors="replace"))
    finally:
        os._exit(code)
