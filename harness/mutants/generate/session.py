"""Generate mutants of any series, and try them: the command ``mutants --generate``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.kernel import apply, kconfig, module, one_object
from harness.kernel.build import Kernel, build_kernel, disk_errors
from harness.kernel.fetch import fetch_base
from harness.kernel.held import build_dir_of
from harness.kernel.one_object import OneObject
from harness.kernel.tree import Tree
from harness.kernel.workbench import FOLDER, workbench
from harness.lib import files, paths
from harness.lib.cache import Store
from harness.lib.errors import BuildError, UsageError
from harness.lib.host import host_errors
from harness.lib.progress import Progress
from harness.lib.shard import Shard
from harness.mutants.generate import combine
from harness.mutants.generate.check import Checked, Kept, kept
from harness.mutants.generate.coverage import Coverage
from harness.mutants.generate.fault import Fault
from harness.mutants.generate.mutant import GeneratedMutant, equivalence, patch_of, read_equivalent
from harness.mutants.generate.order import Order
from harness.mutants.generate.pool import Pool
from harness.mutants.generate.report import Tried
from harness.mutants.generate.trials import GeneratedTrials, Kernels
from harness.run.request import RunInput
from harness.series import mutant
from harness.series.series import DEFAULT_BASE, Patch, Series

COMBINED = "combined.patch"
_WORK = "work"


@dataclass(frozen=True)
class Wanted:
    """The mutants that a user asks for: at most ``count``, in the order of ``seed``, of one ``shard``."""

    count: int
    seed: str
    shard: Shard | None = None
    coverage: Coverage | None = None


class Session:
    """Mutants of one series in one results folder.

    ``scenarios`` are those of the whole suite, for a series without coverage; ``seconds`` are their
    durations.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        run_input: RunInput,
        wanted: Wanted,
        scenarios: Sequence[str],
        seconds: Mapping[str, float],
        say: Callable[[str], None],
    ) -> None:
        self._store = store
        self._folder = folder.absolute()
        self._request = run_input.request
        self._whole = run_input.series
        self._wanted = wanted
        self._scenarios = tuple(scenarios)
        self._order = Order(seconds)
        self._say = say
        self._progress = Progress(store)
        self._trials: GeneratedTrials | None = None
        self.mutants: tuple[GeneratedMutant, ...] = ()

    def run(self, budget: float | None) -> None:
        """Generate and try mutants, for ``budget`` seconds if that is given.  Raises PatchproofError."""
        deadline = None if budget is None else time.monotonic() + budget
        with host_errors(self._store.root, self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            tree, kernel = self._build(self._whole)
            pool = self._pool(tree, kernel)
            faults = list(self._kept(pool, tree, kernel))
            combined, numbers = self._combined(pool, faults)
            self.mutants = tuple(self._mutants(pool, faults, numbers))
        kernels = Kernels(combined, self._configuration)
        self._trials = GeneratedTrials(
            self._folder,
            self._request,
            self._whole,
            kernels,
            self._order,
            self._say,
            deadline,
            functions=self._wanted.coverage is None,
        )
        self._trials.run(self.mutants)

    def tried(self) -> list[Tried]:
        """Return the mutants with their trials."""
        if self._trials is None:
            return [Tried(one, None, False) for one in self.mutants]
        return self._trials.tried(self.mutants)

    @property
    def _configuration(self) -> str:
        asked = kconfig.requested(self._request.fragments, self._whole.base or DEFAULT_BASE)
        return files.digest(kconfig.fragment_text(asked))

    def _build(self, tested: Series) -> tuple[Tree, Kernel]:
        base = fetch_base(self._store, self._progress, tested.base or DEFAULT_BASE)
        logs, fragments = self._folder, self._request.fragments
        tree = apply.apply_series(self._store, self._progress, base, tested, logs / "apply.log")
        early = module.build_early(self._store, self._progress, tree, fragments, logs / "module.log")
        kernel = build_kernel(self._store, self._progress, tree, fragments, logs / "build.log", early)
        return tree, kernel

    def _pool(self, tree: Tree, kernel: Kernel) -> Pool:
        coverage = self._wanted.coverage
        pool = Pool(tree, kernel.options or {}, coverage, self._wanted.seed)
        if not pool.added:
            raise UsageError(f"The series {self._whole.name} adds no lines to C files: there are no mutants.")
        how = f"of which {pool.eligible} ran ({coverage.origin})" if coverage else "and no coverage is known"
        self._say(f"{self._whole.name} adds {pool.added} lines to C files, {how}: {len(pool.faults)} faults")
        if not pool.faults:
            raise UsageError(f"No fault can be made of the C lines of the series {self._whole.name}.")
        return pool

    def _kept(self, pool: Pool, tree: Tree, kernel: Kernel) -> Iterator[Fault]:
        """Yield the faults that change an object, as many as are wanted."""
        log, work = self._folder / "objects.log", self._folder / _WORK

        def compilers() -> dict[str, OneObject | None]:
            """Return what compiles each file, from the results folder or from the build folder."""
            places = {file: work / f"{files.digest(kernel.identity, file)[:16]}.one" for file in pool.sources}
            found = {file: OneObject.read(path) for file, path in places.items()}
            if None not in found.values():
                return found
            with workbench(self._store), disk_errors(self._store.root / FOLDER):
                fragments, again = self._request.fragments, self._folder / "build.log"
                held = build_dir_of(self._store, self._progress, tree, kernel, fragments, again)
                found = {file: one_object.prepare(held, file, work / "whole", log) for file in pool.sources}
            for file, one in found.items():
                if one is not None:
                    one.write(places[file])
            return found

        checked = Checked(self._folder, files.digest(tree.tree_id, kernel.identity, kernel.compiler))
        yield from kept(pool.faults, checked, compilers, work, self._wanted.count, self._say)
        names = [fault.name for fault in pool.faults]
        counts = [f"{number} {one}" for one in Kept if (number := checked.count(names, one))]
        left = sum(name not in checked.found for name in names)
        rest = f"; {left} more were not needed" if left else ""
        self._say(f"faults: {', '.join(counts)}{rest}")

    def _combined(self, pool: Pool, faults: Sequence[Fault]) -> tuple[Path | None, Mapping[str, int]]:
        """Write the patch with the faults that one kernel can have, and build it; return both.

        The patch is None if no fault can be combined, or the kernel does not build.
        """
        able = [one for one in faults if combine.can_combine(pool.sources[one.file], one)][: combine.MOST]
        if not able:
            return None, {}
        one = combine.combine(pool.sources, able)
        path = self._folder / COMBINED
        files.write_atomically(path, one.patch)
        try:
            self._build(mutant.of_file(path, self._whole.name).of(self._whole))
        except BuildError as error:
            self._say(f"! The kernel with all faults does not build, so each gets one of its own: {error}")
            return None, {}
        return path, one.numbers

    def _mutants(
        self, pool: Pool, faults: Sequence[Fault], numbers: Mapping[str, int]
    ) -> Iterator[GeneratedMutant]:
        """Yield the mutants of this shard."""
        known = read_equivalent(paths.PATCHES, self._whole.name)
        shard = self._wanted.shard or Shard(1, 1)
        covered = self._wanted.coverage is not None
        for fault in faults[shard.number - 1 :: shard.total]:
            reached = tuple(pool.scenarios(fault)) if covered else self._scenarios
            patch: Patch = patch_of(fault, pool.sources[fault.file])
            yield GeneratedMutant(
                self._whole.name,
                fault,
                patch,
                reached,
                numbers.get(fault.name, 0),
                equivalence(fault, known),
                pool.patch_of(fault),
            )
