"""The kernels that the trials of mutants need, and the thread that builds them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.kernel import kconfig
from harness.kernel.build import Kernel
from harness.lib import files, paths
from harness.lib.errors import PatchproofError
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


class Builder:
    """A thread that builds the kernels of jobs, one or two ahead of the caller.

    Iterate over it: each job comes with its kernel, or with the error of its build.
    The iteration ends early after any other exception in the thread.
    """

    def __init__(self, jobs: Sequence[Job], build: Callable[[Job], Kernel]) -> None:
        self._jobs = jobs
        self._build = build
        self._ready: queue.Queue[tuple[Job, Kernel | PatchproofError] | None] = queue.Queue(maxsize=1)
        # A daemon: an interrupted program does not wait for a kernel that no trial will use.
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        try:
            for job in self._jobs:
                built: Kernel | PatchproofError
                try:
                    built = self._build(job)
                except PatchproofError as error:
                    built = error
                self._ready.put((job, built))
        finally:
            self._ready.put(None)

    def __iter__(self) -> Iterator[tuple[Job, Kernel | PatchproofError]]:
        while (one := self._ready.get()) is not None:
            yield one
