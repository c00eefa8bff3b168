"""The stages in order: fetch, apply, build, image, probes, boot.

Each stage is an entry of the plan, so the journal and the JUnit file show where
a revision failed.  A stage that fails ends the run; what it raised says whose
fault it was.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from harness.actor.build import build_actor
from harness.guest import kmemleak
from harness.guest.guest import Guest
from harness.journal.folder import CONTROL, LEAKS, QEMU, ResultsFolder
from harness.journal.writer import JournalWriter
from harness.kernel import apply, base, build, checkout, dialect, tree
from harness.klog import decode
from harness.klog.splat import Splat
from harness.lib.cache import CACHE_VARIABLE, Store
from harness.lib.errors import BootTimeoutError, HarnessError, PatchproofError, UsageError
from harness.lib.files import digest, write_atomically
from harness.lib.paths import PATCHES
from harness.lib.progress import Progress
from harness.run import detectors
from harness.run.needs import Needs
from harness.run.options import Request
from harness.series import mutant, series
from harness.verdict import detector, requirements
from harness.verdict.record import Entry
from harness.verdict.words import Kind, Verdict
from harness.vm import hardware, image, machine, qemu
from harness.vm.accelerator import Accelerator, choose
from harness.vm.ssh import SshLostError, SshTimeoutError

# With less space than this (bytes) where the cache is, a stage that fails says nothing about the series.
SPACE_LEFT = 16 << 20

STAGES = (
    Entry("fetch", Kind.HARNESS, "The base source is at hand"),
    Entry("apply", Kind.STAGE, "The series applies to the base"),
    Entry("build", Kind.STAGE, "The patched kernel builds"),
    Entry("image", Kind.HARNESS, "The guest's root file system is at hand"),
    Entry("probes", Kind.STAGE, "The probes compile against the kernel's headers"),
    Entry("boot", Kind.STAGE, "The kernel boots to a shell"),
)
SKIPPED_WITH_KERNEL = ("fetch", "apply", "build")


def stages_of(request: Request) -> list[Entry]:
    """The plan's entries for the stages that ``request`` goes through, in order."""
    skipped = SKIPPED_WITH_KERNEL if request.kernel is not None else ()
    return [entry for entry in STAGES if entry.id not in skipped]


def load_series(request: Request) -> series.Series:
    """The series that is asked for, or its first patches; without one, what is given is tested as it is."""
    if request.series is not None:
        tested = series.load(request.series, PATCHES)
        if fault := mutant_of(request):
            return fault.of(tested)
        return tested if request.patches is None else tested.first(request.patches)
    if request.kernel is not None:
        return series.unpatched(request.kernel.name, "auto")
    assert request.tree is not None
    return series.unpatched(request.tree.absolute().name, "auto")


def mutant_of(request: Request) -> mutant.Mutant | None:
    """The mutant that is asked for, if any.  Raises UsageError."""
    if request.mutant is None or request.series is None:
        return None
    return mutant.find(PATCHES, requirements.load(), request.series, request.mutant)


def check(request: Request) -> None:
    """Find out at once what would end the run late: a QEMU without a device, a kernel that is none.

    Raises HarnessError, UsageError.
    """
    qemu.probe(request.qemu).require()
    if request.kernel is not None and request.headers is not None:
        build.prebuilt(request.kernel, request.headers)


@contextlib.contextmanager
def host_errors(*places: Path) -> Iterator[None]:
    """Turn an OSError into a sentence, a HarnessError; ``places`` are what is written to meanwhile."""
    try:
        yield
    except OSError as error:
        about = f" ({error.filename})" if error.filename is not None else ""
        named = " and ".join(map(str, places)) or "the folder"
        raise HarnessError(
            f"This host refused something that the run needs: {error.strerror or error}{about}. Check that "
            f"{named} can be written to and has space left; {CACHE_VARIABLE} moves the cache, --results the "
            "results."
        ) from error


def get_base(request: Request, store: Store, progress: Progress, wanted: str) -> base.Base:
    """The base source: the user's checkout, or the release from cache or network."""
    if request.tree is not None:
        return checkout.checkout(store, progress, request.tree)
    return base.fetch(store, progress, wanted)


def hold(running: machine.Machine, progress: Progress) -> None:
    """Leave the machine to the user until Ctrl-C, or until it ends by itself."""
    progress.say(f"  ssh: {running.ssh_line}")
    progress.say(f"  gdb: {running.gdb_line}")
    progress.say("  Ctrl-C ends the machine.")
    with contextlib.suppress(KeyboardInterrupt):
        while not running.wait_ended(timeout=60.0):
            pass


@dataclass(frozen=True)
class TestedSoftware:
    """All that a machine is started from."""

    kernel: build.Kernel
    image: image.Image
    actor: Path
    accelerator: Accelerator


class Pipeline:
    """Takes a request through its stages; what each one found out goes into ``run.json``."""

    def __init__(
        self,
        request: Request,
        tested: series.Series,
        store: Store,
        progress: Progress,
        results: ResultsFolder,
        journal: JournalWriter,
    ) -> None:
        self.request = request
        self.series = tested
        self.store = store
        self.progress = progress
        self.results = results
        self.journal = journal
        self.dialect = tested.dialect  # settled once the headers are there
        self.guest: Guest | None = None
        self._used = False
        self._proof = detectors.Proof(())  # what is known of the guest's detectors
        self._software: TestedSoftware | None = None
        self._tree: tree.Tree | None = None
        self._noted: set[str] = set()  # fingerprints of what kernels said while they booted
        self.machines = 0  # how many the run has started

    def prepare(self, layout: hardware.Layout) -> None:
        """Run every stage up to the first booted machine, which has this layout.

        Where an earlier part of the run has booted one, the first scenario boots its own.

        Raises SeriesError or HarnessError; the journal holds the same story.
        """
        with host_errors(self.store.root, self.results.dir):
            self._prepare(layout)

    def _prepare(self, layout: hardware.Layout) -> None:
        self.results.write_run(
            title=self.series.title,
            origin=self.series.origin,
            dialect=self.series.dialect,
            digest=self.series.digest,
        )
        tested = self._kernel()
        with self._stage("image"):
            rootfs = image.build(self.store, self.progress, self.results.log("image"))
            self.results.write_run(image=rootfs.identity)
        with self._stage("probes"):
            self.dialect = dialect.settle(self.series.dialect, tested.headers)
            self.results.write_run(dialect=self.dialect)
            actor = build_actor(self.store, tested.headers, self.results.log("probes"))
        with self._stage("boot"):
            self._software = TestedSoftware(tested, rootfs, actor, self._accelerator(tested))
            if not self.journal.passed("boot"):
                self.guest = self._boot(layout)

    @property
    def actor(self) -> Path:
        """The C actor, compiled against the headers of the kernel under test."""
        return self._ready().actor

    @property
    def slowdown(self) -> float:
        """How much slower the kernel under test is than an ordinary one."""
        return self._ready().kernel.time_scale

    def guest_for(self, needs: Needs) -> Guest:
        """The running guest if it will do for the scenario with these needs, else that of a new machine.

        Raises BootError, HarnessError.
        """
        if self.guest is not None and self.guest.machine.layout != needs.layout:
            self.give_up(f"the next scenario needs another layout: {needs.layout}")
        if self._used and needs.fresh:
            self.give_up("the next scenario needs a fresh machine")
        if self.guest is None:
            self.guest = self._boot_again(needs.layout)
        self._used = True
        return self.guest

    def explain(self, complaints: Iterable[Splat]) -> None:
        """Keep each complaint of the kernel with its call trace, decoded where that can be done."""
        for one in complaints:
            path = self.results.stack(one.fingerprint)
            if not path.exists():
                content = self._tree.content if self._tree is not None else None
                write_atomically(path, decode.decoded(one.text, self._ready().kernel.vmlinux, content))

    def spend(self, reason: str, verdict: Verdict | None = None) -> None:
        """End the machine: it has shown a splat, a new taint, or is not what the next scenario needs.

        ``verdict`` as for Journal.machine_ended().
        """
        if self.guest is None:
            return
        guest, self.guest = self.guest, None
        self._used = False
        guest.machine.close()
        if self._proof.complaint:
            reason = f"before its first scenario, {self._proof.complaint}; later, {reason}"
            verdict = verdict or Verdict.VIOLATES
        self.journal.machine_ended(guest.machine.name, reason, verdict)

    def give_up(self, reason: str, last: Callable[[], None] | None = None) -> None:
        """End the machine although its kernel is well, as far as is known: it is asked what it has lost.

        ``last`` is called before the machine ends, for whoever wants to have it a while longer.
        """
        found = self._lost()
        if last is not None:
            last()
        self.spend(*(found or (reason,)))

    def _lost(self) -> tuple[str, Verdict] | None:
        """Why the kernel is not well after all, or cannot tell; None if nothing is known against it."""
        if self.guest is None or not detector.counts_leaks(self._proof.detectors):
            return None
        running = self.guest.machine
        mark = running.console.mark()
        lost = why = ""
        try:
            lost = kmemleak.ask(self.guest)
        except (HarnessError, SshLostError, SshTimeoutError) as error:
            why = error.message
        splats = running.console.splats(mark)
        said = [one for one in splats if one.fault]
        self.explain(said)
        why = why or next((one.title for one in splats if one.blinding), "")
        if lost:
            report = running.run_dir / LEAKS
            write_atomically(report, lost)
            first, where = kmemleak.first(lost), report.relative_to(self.results.dir)
            return f"the kernel has lost memory, first {first}: {where}", Verdict.VIOLATES
        if said:
            return f"asked what it has lost, the kernel said: {said[0].title}", Verdict.VIOLATES
        if why:
            return f"its kernel could not be asked what it has lost: {why}", Verdict.HARNESS_ERROR
        return None

    def close(self) -> None:
        """End what is still running."""
        if self.guest is not None and detector.counts_leaks(self._proof.detectors):
            self.journal.note(detector.unasked(self.guest.machine.name))
        self.spend("the run is over")

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        with self.journal.stage(name):
            try:
                with host_errors(self.store.root, self.results.dir):
                    yield
            except UsageError:
                raise
            except PatchproofError as error:
                free = shutil.disk_usage(self.store.root).free
                if free >= SPACE_LEFT:
                    raise
                # Not every program says so when it could not write, and some then blame the patch.
                raise HarnessError(
                    f"The stage {name} failed with only {free / 1e6:.1f} MB of space left at "
                    f"{self.store.root}, so it says nothing about the series. Free some (`python -m harness "
                    f"clean` empties the cache), or move the cache with {CACHE_VARIABLE}. What failed: "
                    f"{error.message}",
                    log=error.log,
                    tail=error.tail,
                ) from error

    def _kernel(self) -> build.Kernel:
        if self.request.kernel is not None and self.request.headers is not None:
            tested = build.prebuilt(self.request.kernel, self.request.headers)
        else:
            with self._stage("fetch"):
                source = get_base(self.request, self.store, self.progress, self.series.base)
                self.results.write_run(
                    base_wanted=source.wanted, base=source.version, base_source=source.source
                )
                if source.note:
                    self.journal.note(source.note)
            with self._stage("apply"):
                applied = apply.apply_series(
                    self.store, self.progress, source, self.series, self.results.log("apply")
                )
                self._tree = applied
                self.results.write_run(tree=applied.tree_id)
            with self._stage("build"):
                tested = build.build_kernel(
                    self.store, self.progress, applied, self.request.fragments, self.results.log("build")
                )
        self.results.write_run(
            kernel_release=tested.release,
            kernel=tested.identity,
            compiler=tested.compiler,
            warnings=list(tested.warnings),
        )
        if tested.config is not None:
            content = tested.config.read_bytes()
            (self.results.dir / ".config").write_bytes(content)
            self.results.write_run(config_digest=digest(content))
        return tested

    def _accelerator(self, tested: build.Kernel) -> Accelerator:
        chosen = choose(self.store, self.request.accel, self.request.qemu, tested.bzimage)
        self.results.write_run(
            accelerator=chosen.name,
            accelerator_reason=chosen.reason,
            qemu=qemu.probe(self.request.qemu).version,
        )
        self.progress.say(f"accelerator: {chosen.name} ({chosen.reason})")
        return replace(chosen, time_scale=chosen.time_scale * tested.time_scale)

    def _boot(self, layout: hardware.Layout) -> Guest:
        software = self._ready()
        self.machines += 1
        name = f"machine-{self.machines}"
        self.journal.machine_started(name, accelerator=software.accelerator.name, layout=str(layout))
        booted = machine.boot(
            software.kernel.bzimage,
            software.image,
            run_dir=self.results.machine(name),
            accelerator=software.accelerator,
            qemu=self.request.qemu,
            layout=layout,
            gdb=self.request.keep_vm,
        )
        booted.hangs_up = not self.request.keep_vm
        try:
            self.journal.machine_up(name, time.monotonic() - booted.started)
            if booted.note:
                self.journal.note(f"{name}: {booted.note}")
            self.results.write_run(qemu_command=list(booted.command))
            (booted.run_dir / QEMU).write_text(hardware.readable(booted.command) + "\n")
            guest = Guest(booted)
            guest.require_vfio()
            self._show_detectors(guest)
            return guest
        except BaseException:
            booted.close()
            raise

    def _boot_again(self, layout: hardware.Layout) -> Guest:
        """Boot a machine for a scenario: the stage, of this part of the run or an earlier one, was passed."""
        try:
            return self._boot(layout)
        except BootTimeoutError as error:
            raise HarnessError(
                f"A kernel that has come up before in this run did not come up now: {error.message} "
                "That says little about it, if this host is busy. A run of this scenario alone tells.",
                log=error.log,
                tail=error.tail,
            ) from error

    def _show_detectors(self, guest: Guest) -> None:
        """Have each detector prove that it sees; HarnessError if one does not.

        What the kernel complained of before that is nobody's verdict, and no secret:
        it is noted, once.
        """
        tested, name = self._ready().kernel, guest.machine.name
        for complaint in guest.machine.console.splats():
            if not complaint.informational and complaint.fingerprint not in self._noted:
                self._noted.add(complaint.fingerprint)
                self.journal.note(f"The kernel of {name} complained while it booted: {complaint.title}")
        proof = detectors.prove(
            guest, self.actor, guest.machine.run_dir / CONTROL, tested.options, self.slowdown
        )
        self.journal.detectors(name, proof.detectors)
        self._proof = proof
        self.explain(proof.splats)
        if unseen := detector.blind(proof.detectors):
            raise HarnessError(
                f"A detector does not see what it was shown on {name}, so its silence would say nothing: "
                f"{unseen}",
                log=guest.machine.console.log,
            )

    def _ready(self) -> TestedSoftware:
        if self._software is None:
            raise HarnessError("A machine was asked for before its kernel was there.")
        return self._software
