"""A worker: another process of a run, which runs the scenarios that it is given on machines of its own."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from harness.journal.results_folder import ResultsFolder
from harness.journal.writer import JournalWriter
from harness.lib import interruption
from harness.lib.cache import Store
from harness.lib.errors import HarnessError, PatchproofError
from harness.lib.progress import Progress
from harness.run.give_up import Cause, GiveUp
from harness.run.importer_module import ImporterModule
from harness.run.link import Begin, Do, Done, End, Failed, Over, Tally, ToRun
from harness.run.needs import Needs
from harness.run.request import Request
from harness.run.runner import Runner
from harness.verdict.record import Entry
from harness.vm.pci_devices import Layout


class Unsent:
    """The place of the test importer in a message: each process builds it, or finds it in the cache."""

    def path(self) -> Path:
        """Raise HarnessError."""
        raise HarnessError("A worker was to use the test importer of another process.")


class _Told(GiveUp):
    """What the run gives up: a worker tells of its machines, and follows what the run decides."""

    def __init__(self, link: ToRun) -> None:
        super().__init__(lambda _: None)
        self._link = link

    def lost(self, cause: Cause, layout: Layout, done: frozenset[str]) -> None:
        """Tell the run of a lost machine."""
        self._link.send(Tally("lost", (cause, layout, done)))

    def kept(self, done: frozenset[str]) -> None:
        """Tell the run of a machine that was left as it should."""
        self._link.send(Tally("kept", (done,)))

    def booted(self, layout: Layout) -> None:
        """Tell the run of a machine that came up."""
        self._link.send(Tally("booted", (layout,)))

    def not_booted(self, layout: Layout, error: PatchproofError) -> None:
        """Tell the run of a machine that did not come up."""
        self._link.send(Tally("not_booted", (layout, HarnessError(error.message))))


class Worker(Runner):
    """Runs scenarios in a process of its own, which was forked from the run, for orders from ``link``.

    An order to end at once is an interruption; the end of the run's process ends this one, too.
    """

    def __init__(
        self,
        request: Request,
        results: ResultsFolder,
        scenarios: Mapping[str, tuple[Entry, Needs]],
        store: Store | None,
        link: ToRun,
    ) -> None:
        self._give_up = _Told(link)
        self._link = link
        self._orders: queue.SimpleQueue[Begin | Do | None] = queue.SimpleQueue()
        request = replace(request, keep_vm=False)
        own = ResultsFolder(results.dir)
        entries = [entry for entry, _ in scenarios.values()]
        super().__init__(
            request, own, JournalWriter.beside(own.dir, entries), self._give_up, scenarios, store
        )
        threading.Thread(target=self._listen, name="orders", daemon=True).start()

    def orders(self) -> Iterator[str]:
        """Yield the ids of the scenarios to run, until the run has no more.  Raises Interruption."""
        while (order := interruption.until(self._next)) is not None and order != [None]:
            match order[0]:
                case Begin(software, machines, snapshots):
                    store = Store()
                    module = ImporterModule(
                        store, Progress(store), self.request, self.results, software.kernel, software.tree
                    )
                    self.machines.software = replace(software, importer=module)
                    self.machines.count = machines
                    self.machines.snapshots.adopt(snapshots)
                    self.machines.lines.prepare(software.kernel, software.tree, worker=True)
                case Do(entry_id, given_up):
                    self._give_up.follow(given_up)
                    yield entry_id
                    self._link.send(Done(entry_id, self.violated))

    def finish(self, interrupted: str) -> None:
        """End the machine, at once if ``interrupted`` says what ended the run early; tell the run."""
        try:
            self.end_machines(interrupted, "no scenario is left for it")
        except PatchproofError as error:
            self.failures.append(error)
        for one in self.failures:
            self._link.send(Failed(HarnessError.in_place_of(one, one.message)))
        self._link.send(Over())

    def _next(self, seconds: float) -> list[Begin | Do | None]:
        """Return the next order as a list, which is empty if there is none within ``seconds``."""
        with contextlib.suppress(queue.Empty):
            return [self._orders.get(timeout=seconds)]
        return []

    def _listen(self) -> None:
        """Take the orders of the run, in a thread of its own."""
        while True:
            try:
                order = self._link.recv()
            except (EOFError, OSError):
                interruption.end_at_once()  # the run is dead
            if isinstance(order, End):
                if order.interrupted:
                    interruption.request(order.interrupted)
                self._orders.put(None)
            else:
                self._orders.put(order)
