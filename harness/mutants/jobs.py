"""The kernels that the trials of mutants need, and the thread that builds them."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType

from harness.kernel import kconfig
from harness.kernel.build import Kernel
from harness.lib import files, interruption, paths
from harness.lib.errors import PatchproofError
from harness.lib.interruption import Interruption
from harness.run.request import Request
from harness.series import series
from harness.series.mutant import Mutant
from harness.series.series import DEFAULT_BASE, Series

DEBUG = paths.KCONFIG / "debug.config"
BATCH = 20  # mutants, after which their killers run on the series without a fault


@dataclass(frozen=True)
class Job:
    """One kernel to build: that of a mutant, or the control.

    The control is the series ``whole`` without a fault.  ``debug`` adds debug.config.
    """

    whole: Series
    debug: bool
    mutant: Mutant | None = None

    @property
    def series(self) -> Series:
        """Return the series that is built."""
        return self.whole if self.mutant is None else self.mutant.of(self.whole)

    @property
    def fragments(self) -> tuple[Path, ...]:
        """Return the kernel config fragments."""
        return Request(kconfig=(DEBUG,) if self.debug else ()).fragments

    @property
    def key(self) -> str:
        """Return the digest of patches, base, dialect and configuration."""
        asked = kconfig.requested(self.fragments, self.whole.base or DEFAULT_BASE)
        return files.digest(self.series.digest, kconfig.fragment_text(asked))

    @property
    def control(self) -> Job:
        """Return the control of this job."""
        return replace(self, mutant=None)


def job_of(one: Mutant) -> Job:
    """Return the job that tries a mutant."""
    return Job(series.load(one.series, paths.PATCHES), one.needs_debug_kernel, one)


def jobs_of(wanted: Sequence[Mutant], unconfirmed: Sequence[Mutant] = ()) -> list[Job]:
    """Return the jobs of the wanted mutants, with the control after each batch of them.

    Mutants of one series and configuration must stand together.  The
    ``unconfirmed`` mutants were tried before, but their killers did not run on the
    control yet; they add only the control.
    """
    kinds: dict[tuple[str, bool], list[Job]] = {}
    for one in [*wanted, *unconfirmed]:
        same_kind = kinds.setdefault((one.series, one.needs_debug_kernel), [])
        if one in wanted or not same_kind:
            same_kind.append(job_of(one))
    jobs: list[Job] = []
    for same_kind in kinds.values():
        control = same_kind[0].control
        tried = [job for job in same_kind if job.mutant in wanted]
        for start in range(0, len(tried) or 1, BATCH):
            jobs += [*tried[start : start + BATCH], control]
    return jobs


Built = tuple[Job, Kernel | PatchproofError]  # a job, and its kernel or the error of its build


class Builder:
    """A thread that builds the kernels of jobs, one or two ahead of the caller.

    Iterate over it in a ``with`` block: each job comes with its kernel, or with the error of its
    build.  The iteration ends early after any other exception in the thread.  After an
    interruption the block waits until the thread has ended its build.
    """

    def __init__(self, jobs: Sequence[Job], build: Callable[[Job], Kernel]) -> None:
        self._jobs = jobs
        self._build = build
        self._ready: queue.Queue[Built | None] = queue.Queue(maxsize=1)
        # A daemon: after an error the program does not wait for a kernel that no trial will use.
        self._thread = threading.Thread(target=self._work, name="builder", daemon=True)

    def __enter__(self) -> Builder:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Interruption):
            self._thread.join()

    def _work(self) -> None:
        with interruption.worker():
            try:
                for job in self._jobs:
                    built: Kernel | PatchproofError
                    try:
                        built = self._build(job)
                    except PatchproofError as error:
                        built = error
                    interruption.until(partial(self._offer, (job, built)))
            finally:
                interruption.until(partial(self._offer, None))

    def _offer(self, one: Built | None, seconds: float) -> bool:
        """Give the caller its next job within ``seconds``; return whether it has taken the one before."""
        with contextlib.suppress(queue.Full):
            self._ready.put(one, timeout=seconds)
            return True
        return False

    def _next(self, seconds: float) -> tuple[Built | None, ...]:
        """Return what comes within ``seconds``, nothing if nothing does."""
        with contextlib.suppress(queue.Empty):
            return (self._ready.get(timeout=seconds),)
        return ()

    def __iter__(self) -> Iterator[Built]:
        while (one := interruption.until(self._next)[0]) is not None:
            yield one
