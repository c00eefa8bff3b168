"""The test importer of a run: a kernel module that is built when a scenario first needs it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from harness.journal.results_folder import ResultsFolder
from harness.kernel.build import Kernel, build_kernel
from harness.kernel.module import build_module, is_built
from harness.kernel.tree import Tree, without_series
from harness.lib.cache import Store
from harness.lib.errors import BuildError, HarnessError, PatchproofError
from harness.lib.progress import Progress
from harness.run.error_to_verdict import NotApplicableError
from harness.run.request import Request


class ImporterModule:
    """The module for the kernel under test; ``tree`` is None for a kernel that was built elsewhere."""

    def __init__(
        self,
        store: Store,
        progress: Progress,
        request: Request,
        results: ResultsFolder,
        kernel: Kernel,
        tree: Tree | None,
    ) -> None:
        self._store = store
        self._progress = progress
        self._request = request
        self._results = results
        self._kernel = kernel
        self._tree = tree

    def path(self) -> Path:
        """Return the file of the module; it is built by the first call, and an error is kept as well.

        Raises NotApplicableError if this kernel cannot have it; BuildError if it compiles for
        the base and not for the series; HarnessError if nothing is known about the series.
        """
        built = self._built
        if isinstance(built, PatchproofError):
            raise built
        return built

    @cached_property
    def _built(self) -> Path | PatchproofError:
        if self._tree is None:
            return NotApplicableError(
                "The scenario needs the test importer, a module, and modules are built in the build folder "
                "of their kernel. This kernel was built elsewhere (--kernel)."
            )
        for option in ("MODULES", "MODULE_UNLOAD"):
            if reason := self._kernel.absent(option):
                return NotApplicableError(f"The scenario needs the test importer, a module, and so {reason}.")
        try:
            return self._build(self._tree, self._kernel, "module")
        except BuildError as error:
            return self._blame(self._tree, error)
        except HarnessError as error:
            return error

    def _build(self, tree: Tree, kernel: Kernel, log: str) -> Path:
        if not is_built(self._store, kernel):
            self._progress.say("")  # pytest's line of dots is still open
        fragments = self._request.fragments
        return build_module(self._store, self._progress, tree, kernel, fragments, self._results.log(log))

    def _blame(self, tree: Tree, error: BuildError) -> PatchproofError:
        """Return the error for a module that does not compile: the series' fault if it does for the base."""
        if tree.series is None or not tree.series.patches:
            return HarnessError.in_place_of(
                error,
                f"The test importer does not compile for {tree.base.version}: {error.message}",
            )
        if self._request.no_base:
            return error
        base, log = without_series(tree), self._results.log("base-build")
        try:
            kernel = build_kernel(self._store, self._progress, base, self._request.fragments, log)
            self._build(base, kernel, "base-module")
        except (BuildError, HarnessError) as own:
            return HarnessError.in_place_of(
                own,
                f"The test importer compiles neither for the series nor for {tree.base.version} alone, which "
                f"is no evidence against the series: {own.message}",
            )
        return BuildError.in_place_of(
            error,
            f"The test importer compiles for {tree.base.version}, and not for the series: {error.message}",
        )
