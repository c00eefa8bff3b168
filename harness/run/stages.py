"""The stages in order: fetch, apply, build, interface, image, probes, boot.

Each stage is an entry of the plan, so the journal and the JUnit file show where
a revision failed.  A stage that fails ends the run; its error type says whether
the series or the harness is at fault.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace

from harness.actor.build import build_actor
from harness.kernel import build, gcov, kconfig
from harness.kernel.apply import apply_series
from harness.kernel.build import Kernel, build_kernel
from harness.kernel.choice import choose as choose_dialect
from harness.kernel.dialect import Interfaces
from harness.kernel.fetch import fetch_base
from harness.kernel.module import build_early
from harness.kernel.tree import Tree
from harness.lib import sandbox
from harness.lib.cache import CACHE_VARIABLE
from harness.lib.errors import BootError, HarnessError, PatchproofError, UsageError
from harness.lib.files import digest
from harness.lib.host import host_errors
from harness.lib.paths import KCONFIG
from harness.run.base_alone import BaseAlone
from harness.run.importer_module import ImporterModule
from harness.run.line_coverage import STAGE
from harness.run.machines import Machines, TestedSoftware
from harness.run.mail_facts import mail_facts
from harness.run.parts import RunParts
from harness.run.request import FRAGMENTS, Request
from harness.series.posting import Posting
from harness.verdict.record import Entry
from harness.verdict.verdict import Kind
from harness.vm import image, qemu_program
from harness.vm.accelerator import Accelerator, choose
from harness.vm.pci_devices import Layout

# With less free space than this (bytes) at the cache, a failed stage is no evidence against the series.
SPACE_LEFT = 16 << 20

STAGES = (
    Entry("fetch", Kind.HARNESS, "The base source is at hand"),
    Entry("apply", Kind.STAGE, "The series applies to the base"),
    Entry("build", Kind.STAGE, "The patched kernel builds"),
    Entry("interface", Kind.STAGE, "The harness knows the interfaces of the kernel"),
    Entry("image", Kind.HARNESS, "The guest's root file system is at hand"),
    Entry("probes", Kind.STAGE, "The probes compile against the kernel's headers"),
    Entry("boot", Kind.STAGE, "The kernel boots to a shell"),
)
#: After the last scenario, with --coverage.
COVERAGE = Entry(STAGE, Kind.HARNESS, "The lines that the series adds were executed")
SKIPPED_WITH_KERNEL = ("fetch", "apply", "build")


def stages_of(request: Request) -> list[Entry]:
    """Return the plan's entries for the stages of ``request``, in order."""
    skipped = SKIPPED_WITH_KERNEL if request.kernel is not None else ()
    return [entry for entry in STAGES if entry.id not in skipped]


def check(request: Request) -> None:
    """Check now what would end the run late: a QEMU without a device, a file that is not a kernel.

    Raises HarnessError, UsageError.
    """
    qemu_program.probe(request.qemu).require()
    if request.kernel is not None and request.headers is not None:
        build.prebuilt(request.kernel, request.headers)


@contextlib.contextmanager
def _blaming_missing_options(tested: Kernel) -> Iterator[None]:
    """Raise HarnessError for a kernel that does not boot, if its base lacks options which the guest needs."""
    try:
        yield
    except BootError as error:
        needed = kconfig.requested([KCONFIG / FRAGMENTS[0]], tested.release) if tested.missing else {}
        reasons = [reason for name, reason in tested.missing.items() if name in needed]
        if not reasons:
            raise
        raise HarnessError.in_place_of(
            error,
            "The kernel does not boot, which is no evidence against the series: its base lacks options that "
            f"the guest needs ({'; '.join(reasons)}). Name their successors in {KCONFIG / FRAGMENTS[0]}. "
            f"What failed: {error.message}",
        ) from error


class UnknownInterfaceError(HarnessError):
    """The kernel may have an interface that the suites do not test."""


class Stages:
    """The stages of a request; ``run.json`` gets the facts that each one finds out."""

    def __init__(self, parts: RunParts, base: BaseAlone) -> None:
        self._request = parts.run_input.request
        self._series = parts.run_input.series
        self._base_reason = parts.run_input.base_reason
        self._given_base = parts.run_input.base
        self._base = base
        self._place: tuple[Machines, Layout] | None = None  # where the base would be booted
        self._store = parts.store
        self._progress = parts.progress
        self._results = parts.results
        self._journal = parts.journal

    def prepare(self, machines: Machines, layout: Layout) -> None:
        """Run every stage up to the first booted machine, which has this layout.

        If an earlier part of the run has passed the stage ``boot``, no machine is booted; the
        first scenario boots its own.

        Raises SeriesError or HarnessError, which the journal records as well.
        """
        with host_errors(self._store.root, self._results.dir):
            self._prepare(machines, layout)

    def _kernel(self) -> tuple[Kernel, Tree | None]:
        """Build the kernel under test, or take the prebuilt one.  Raises the errors of prepare()."""
        self._tell_sandbox()
        tested, tree = self._build()
        self._results.write_run(
            kernel_built=tested.contained,
            kernel_release=tested.release,
            kernel=tested.identity,
            compiler=tested.compiler,
            warnings=list(tested.warnings),
            missing_options=sorted(tested.missing),
        )
        for reason in tested.missing.values():
            self._journal.note(f"The kernel is built without {reason}.")
        if tested.config is not None:
            content = tested.config.read_bytes()
            (self._results.dir / ".config").write_bytes(content)
            self._results.write_run(config_digest=digest(content))
        return tested, tree

    def _tell_sandbox(self) -> None:
        """Say and record what contains the programs that the tree under test makes the host run."""
        used = sandbox.current()
        self._results.write_run(sandbox="on" if used.on else "off", sandbox_reason=used.reason)
        self._progress.say(f"sandbox: builds are {used.words}")
        if not used.on and self._series.untrusted:
            self._journal.note(
                f"The series came in a mail, and what it makes the host run was not contained: {used.reason}."
            )

    def _prepare(self, machines: Machines, layout: Layout) -> None:
        series = self._series
        self._results.write_run(
            title=series.title, origin=series.origin, dialect=series.dialect, digest=series.digest
        )
        self._results.write_run(identity=series.identity)
        self._results.write_run(mails=mail_facts(series))
        self._record_posting(series.posting)
        self._place = machines, layout
        tested, tree = self._kernel()
        chosen = self._interface(tested, tree)
        with self._stage("image"):
            rootfs = image.build(self._store, self._progress, self._results.log("image"))
            self._results.write_run(image=rootfs.identity)
        with self._stage("probes"):
            actor = build_actor(self._store, tested.headers, self._results.log("probes"))
        with self._stage("boot"):
            accelerator = self._accelerator(tested)
            module = ImporterModule(self._store, self._progress, self._request, self._results, tested, tree)
            machines.software = TestedSoftware(tested, rootfs, actor, *chosen, accelerator, module, tree)
            machines.lines.prepare(tested, tree)
            if not self._journal.passed("boot"):
                with _blaming_missing_options(tested):
                    machines.boot_first(layout)

    def _record_posting(self, posting: Posting) -> None:
        """Record what the mails state about themselves, and note what a reader has to know."""
        if replace(posting, notes=()) != Posting():
            self._results.write_run(
                message_id=posting.message_id,
                revision=posting.name,
                base_commit=posting.base_commit,
                prerequisites=list(posting.prerequisites),
                prerequisite_messages=list(posting.prerequisite_messages),
                change_id=posting.change_id,
                previous=list(posting.previous),
                manifest=posting.manifest,
            )
        for sentence in posting.sentences():
            self._journal.note(sentence)

    def _interface(self, tested: Kernel, tree: Tree | None) -> tuple[str, Interfaces]:
        """Find the interfaces of the kernel; return the dialect to test, and all of them.

        An interface that the harness does not know is a harness-error, and the run goes on: the
        scenarios that do without it have something to say.  Raises BuildError if the series
        promises another dialect.
        """
        interfaces = Interfaces.of(tested.headers)
        with contextlib.suppress(UnknownInterfaceError), self._stage("interface"):
            self._results.write_run(interfaces=str(interfaces))
            choice = choose_dialect(self._series.dialect, interfaces, tree)
            self._results.write_run(dialect=choice.dialect)
            self._progress.say(f"interfaces: {interfaces}; tested as the dialect {choice.dialect}")
            if choice.note:
                self._journal.note(choice.note)
            if choice.problem:
                raise UnknownInterfaceError(choice.problem)
        return choice.dialect, interfaces

    def _build(self) -> tuple[Kernel, Tree | None]:
        request, store, progress = self._request, self._store, self._progress
        if request.kernel is not None and request.headers is not None:
            return build.prebuilt(request.kernel, request.headers), None
        with self._stage("fetch"):
            base = self._given_base
            if base is None:
                base = fetch_base(store, progress, self._series.base, request.tree)
            self._results.write_run(
                base_wanted=base.wanted,
                base=base.version,
                base_source=base.source,
                base_reason=self._base_reason,
            )
            if self._base_reason:
                self._journal.note(f"The base is {base.wanted}: {self._base_reason}.")
            if request.tree is not None:
                self._results.write_run(checkout=base.tree_of(base.commit))
            if base.note:
                self._journal.note(base.note)
            self._base.remember(base)
        with self._stage("apply"):
            tree = apply_series(store, progress, base, self._series, self._results.log("apply"))
            self._results.write_run(tree=tree.tree_id)
        with self._stage("build"):
            if request.coverage:
                gcov.require_program()
            log, early = self._results.log("build"), self._results.log("module")
            beside = build_early(store, progress, tree, request.fragments, early)
            return build_kernel(store, progress, tree, request.fragments, log, beside), tree

    def _accelerator(self, tested: Kernel) -> Accelerator:
        program = qemu_program.probe(self._request.qemu)
        chosen = choose(self._store, self._request.accel, self._request.qemu, tested.bzimage)
        self._results.write_run(
            accelerator=chosen.name,
            accelerator_reason=chosen.reason,
            qemu=program.version,
        )
        if not program.can_filter:
            self._journal.note(
                f"QEMU {program.version} was built without a filter of its system calls, so none is used."
            )
        self._progress.say(f"accelerator: {chosen.name} ({chosen.reason})")
        return replace(chosen, time_scale=chosen.time_scale * tested.time_scale)

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        with self._journal.stage(name):
            try:
                with host_errors(self._store.root, self._results.dir):
                    yield
            except UsageError:
                raise
            except PatchproofError as error:
                free = shutil.disk_usage(self._store.root).free
                if free >= SPACE_LEFT:
                    assert self._place is not None
                    blamed = self._base.blame(error, name, *self._place)
                    if blamed is error:
                        raise
                    raise blamed from error
                # Not every program reports a failed write, and some then blame the patch.
                raise HarnessError.in_place_of(
                    error,
                    f"The stage {name} failed with only {free / 1e6:.1f} MB of space left at "
                    f"{self._store.root}, which is no evidence against the series. Free some (`python -m "
                    f"harness clean` empties the cache), or move the cache with {CACHE_VARIABLE}. What "
                    f"failed: {error.message}",
                ) from error
