"""Check the patches of a series one by one: each prefix builds without new warnings, and boots.

Each patch is an entry of the plan (harness.verdict.patch).  A prefix that does not build is a violation
of its own, since nobody can bisect across it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from harness.journal.reader import read
from harness.kernel import kconfig, static_checks
from harness.kernel.apply import apply_series
from harness.kernel.base import Base
from harness.kernel.build import Kernel, build_kernel
from harness.kernel.builddir import BuildDir
from harness.kernel.make_output import without_position
from harness.kernel.module import build_early
from harness.kernel.static_checks import TOOLS, Tool, WarningCheck
from harness.kernel.tree import Tree
from harness.kernel.workbench import workbench
from harness.lib import interruption
from harness.lib.errors import BootError, BootTimeoutError, BuildError, PatchproofError
from harness.lib.text import counted
from harness.run.machines import Machines
from harness.run.parts import RunParts
from harness.verdict.patch import ADDS_WARNINGS, DOES_NOT_BOOT, DOES_NOT_COMPILE, count_of
from harness.verdict.record import Entry, Result
from harness.verdict.verdict import Verdict
from harness.vm import machine
from harness.vm.pci_devices import Layout

FOLDER = "patches"  # in the results folder
SHOWN = 3  # warnings that a sentence has


class PatchCheck:
    """The check of the patches of a series on ``base``, in order, on a machine of this ``layout``.

    Without a kernel of the whole series, ``machines`` have no software, and no patch is booted.
    """

    def __init__(self, parts: RunParts, base: Base, machines: Machines, layout: Layout) -> None:
        self._request = parts.run_input.request
        self._tested = parts.run_input.series
        self._base = base
        self._store = parts.store
        self._progress = parts.progress
        self._results = parts.results
        self._journal = parts.journal
        self._machines = machines
        self._layout = layout
        self._booted = False  # the whole series, in its stage
        self._known: set[str] = set()  # warnings of the patches so far, without their positions
        self._broken: list[Entry] = []  # patches that do not compile, and no later one does

    def run(self) -> None:
        """Check the patches that have no verdict: first build each, then look for warnings and boot it.

        Raises HarnessError if the journal cannot be written.
        """
        record = read(self._results.dir)
        stages = {one.entry.id: one.verdict for one in record.results}
        self._booted = stages.get("boot") is Verdict.CONFORMS
        built: list[tuple[Entry, Tree, Kernel]] = []
        for result in record.patches:
            interruption.check()
            # A fault of the harness is no verdict: that patch is checked again.
            if result.ended and result.verdict is not Verdict.HARNESS_ERROR:
                self._remember(result)
            else:
                built += self._build_first(result.entry)
        for entry, tree, kernel in built:
            interruption.check()
            self._journal.started(entry.id)
            self._check(entry, tree, kernel)

    def _remember(self, result: Result) -> None:
        """Take a verdict of an earlier part of the run into account."""
        if DOES_NOT_COMPILE not in result.reason:
            self._mend(count_of(result.entry))
        elif f"{DOES_NOT_COMPILE};" not in result.reason:
            self._broken.append(result.entry)
        if ADDS_WARNINGS in result.reason:
            self._known.update(map(without_position, result.details.splitlines()))

    def _build_first(self, entry: Entry) -> Sequence[tuple[Entry, Tree, Kernel]]:
        """Build a prefix and return its kernel; one that does not compile is recorded, and has none."""
        count = count_of(entry)
        try:
            tree, kernel = self._build(count, self._log(count, "build"))
        except BuildError as error:
            self._broken.append(entry)
            self._journal.started(entry.id)
            self._fail(entry, f"{self._name(count)} {DOES_NOT_COMPILE}. {_first_error(error)}", error)
            return ()
        except PatchproofError as error:
            self._journal.started(entry.id)
            self._fail(entry, f"{self._name(count)} could not be built: {error.message}", error)
            return ()
        self._mend(count)
        return ((entry, tree, kernel),)

    def _name(self, count: int) -> str:
        return f"Patch {count}/{len(self._tested.patches)}"

    def _check(self, entry: Entry, tree: Tree, kernel: Kernel) -> None:
        """Look for the warnings of a patch that builds, and boot it."""
        count = count_of(entry)
        name = self._name(count)
        try:
            fault = self._warnings(name, tree, count)
        except PatchproofError as error:
            blamed = isinstance(error, BuildError)
            words = "compiles with gcc, and not with every checker" if blamed else "could not be checked"
            self._fail(entry, f"{name} {words}: {error.message}", error)
            return
        if self._machines.software is None:
            self._journal.not_reached(
                entry.id, f"{name} builds. It was not booted, as the whole series does not."
            )
            return
        if not self._booted or count < len(self._tested.patches):
            try:
                self._boot_within_two_tries(kernel, count)
            except PatchproofError as error:
                blamed = isinstance(error, BootError)
                words = DOES_NOT_BOOT if blamed else "could not be booted"
                self._fail(entry, f"{name} {words}. {error.message}", error)
                return
        self._end(entry, fault)

    def _end(self, entry: Entry, fault: tuple[str, str]) -> None:
        """Record a patch that builds and boots; ``fault`` is the sentence and the lines of its warnings."""
        sentence, lines = fault
        verdict = Verdict.VIOLATES if sentence else Verdict.CONFORMS
        self._journal.ended(entry.id, verdict, reason=sentence, details=lines)
        if sentence:
            self._progress.say(sentence)

    def _fail(self, entry: Entry, sentence: str, error: PatchproofError) -> None:
        series = isinstance(error, (BuildError, BootError))
        verdict = Verdict.VIOLATES if series else Verdict.HARNESS_ERROR
        self._progress.say(sentence)
        self._journal.ended(
            entry.id, verdict, reason=sentence, details=error.tail, transcript=error.log, failure=sentence
        )

    def _mend(self, count: int) -> None:
        """Record for the patches that do not compile that this one does."""
        for entry in self._broken:
            self._journal.mended(entry.id, count)
        self._broken.clear()

    def _build(self, count: int, log: Path) -> tuple[Tree, Kernel]:
        tree = self._apply(count, log)
        early = build_early(self._store, self._progress, tree, self._request.uncounted_fragments, log)
        kernel = build_kernel(
            self._store, self._progress, tree, self._request.uncounted_fragments, log, early
        )
        return tree, kernel

    def _apply(self, count: int, log: Path) -> Tree:
        first = self._tested.first(count) if count else None
        return apply_series(self._store, self._progress, self._base, first, log)

    def _log(self, count: int, name: str) -> Path:
        log = self._results.dir / FOLDER / f"{count}-{name}.log"
        log.parent.mkdir(exist_ok=True)
        return log

    # -- warnings ------------------------------------------------------------------------

    @cached_property
    def _folders(self) -> Sequence[str]:
        """The source folders that the whole series changes, as make takes them."""
        base = self._apply(0, self._log(0, "check"))
        with workbench(self._store):
            builddir = BuildDir(self._store, self._base.version, self._fragments)
            builddir.check_out(base, self._progress)
            return static_checks.folders(self._tested, builddir.source)

    @cached_property
    def _fragments(self) -> str:
        wanted: Mapping[str, str] = kconfig.requested(self._request.uncounted_fragments, self._base.version)
        return kconfig.fragment_text(wanted)

    @cached_property
    def _tools(self) -> Sequence[Tool]:
        """The checkers that are installed, and get through the base; the journal has a note of each other."""
        log = self._log(0, "check")
        check = WarningCheck(self._store, self._progress, self._fragments, log)
        base = self._apply(0, log)
        found = []
        for tool in TOOLS if self._folders else ():
            if not tool.program():
                self._journal.note(f"The patches were not checked with {tool.name}, which is not installed.")
                continue
            if failure := check.failure_on_base(tool, base, self._folders):
                self._journal.note(
                    f"The patches were not checked with {tool.name}, as the base alone is not compiled: "
                    f"{failure}"
                )
                continue
            found.append(tool)
        return found

    def _warnings(self, name: str, tree: Tree, count: int) -> tuple[str, str]:
        """Return a sentence about the warnings that a patch adds, and their lines; both empty without any.

        A warning of an earlier patch is told there.  Raises BuildError if a checker does not get through.
        """
        log = self._log(count, "check")
        check = WarningCheck(self._store, self._progress, self._fragments, log)
        base = self._apply(0, log)
        found: list[str] = []
        for tool in self._tools:
            found += self._new_of(tool, check, tree, base)
        if not found:
            return "", ""
        shown = "; ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
        return f"{name} {ADDS_WARNINGS}, {counted(len(found), 'line')}: {shown}", "\n".join(found)

    def _new_of(self, tool: Tool, check: WarningCheck, tree: Tree, base: Tree) -> list[str]:
        lines = [f"{tool.name}: {line}" for line in check.new_warnings(tool, tree, base, self._folders)]
        new = [line for line in lines if without_position(line) not in self._known]
        self._known.update(map(without_position, new))
        return new

    # -- boot ----------------------------------------------------------------------------

    def _boot_within_two_tries(self, kernel: Kernel, count: int) -> None:
        """Boot a prefix, and once more after a timeout: this host may have been busy.

        Raises BootError, HarnessError.
        """
        try:
            self._boot(kernel, count)
        except BootTimeoutError:
            self._boot(kernel, count)

    def _boot(self, kernel: Kernel, count: int) -> None:
        """Boot a prefix, and end its machine.  Raises BootError, HarnessError."""
        folder = self._results.dir / FOLDER / f"{count}-machine"
        shutil.rmtree(folder, ignore_errors=True)
        with self._progress.stage("boot", "patch") as stage:
            stage.update(f"patch {count}/{len(self._tested.patches)}")
            machine.boot(
                kernel.bzimage,
                self._machines.ready.image,
                run_dir=folder,
                accelerator=self._machines.accelerator,
                qemu=self._request.qemu,
                layout=self._layout,
                arguments=self._request.kernel_argument,
            ).close()


def _first_error(error: BuildError) -> str:
    """Return the first line of a failed build that names an error, and its message without one."""
    lines = (line.strip() for line in error.tail.splitlines())
    return next((line for line in lines if "error:" in line), error.message)
