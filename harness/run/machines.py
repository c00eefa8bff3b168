"""The machines of a run, one after the other: boot one, prove its detectors, end it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.actor import load
from harness.actor.reply import DeadlineError
from harness.guest import kmemleak
from harness.guest.guest import Guest
from harness.journal.results_folder import CONTROL, LEAKS, QEMU, ResultsFolder
from harness.journal.writer import JournalWriter
from harness.kernel.build import Kernel
from harness.kernel.dialect import Interfaces
from harness.kernel.tree import Tree
from harness.klog import decode
from harness.klog.splat import Splat
from harness.lib import interruption
from harness.lib.errors import BootTimeoutError, HarnessError, PatchproofError
from harness.lib.files import write_atomically
from harness.lib.interruption import Interruption
from harness.lib.progress import Progress
from harness.run import positive_control
from harness.run.give_up import GiveUp
from harness.run.line_coverage import LineCoverage
from harness.run.needs import Needs
from harness.run.outside_cause import cause_outside
from harness.run.request import Request
from harness.run.snapshots import Snapshots
from harness.run.speeds import Speeds
from harness.verdict import detector
from harness.verdict.verdict import Verdict
from harness.vm import hardware, machine, pauses
from harness.vm.accelerator import Accelerator
from harness.vm.image import Image
from harness.vm.pci_devices import Layout
from harness.vm.ssh import SshLostError, SshTimeoutError


class ModuleSource(Protocol):
    """Where the test importer comes from; harness.run.importer_module.ImporterModule builds it."""

    def path(self) -> Path:
        """Return the file of the module.  Raises PatchproofError if there is none."""


@dataclass(frozen=True)
class TestedSoftware:
    """The software that a machine is started from.

    ``actor`` is the C actor, compiled against the headers of the kernel under test.
    ``dialect`` is one of manifest.DIALECTS, but not ``auto``; ``interfaces`` are those in
    the headers.  ``importer`` is the test importer for this kernel.  ``tree`` is None for
    a kernel that was built elsewhere.
    """

    kernel: Kernel
    image: Image
    actor: Path
    dialect: str
    interfaces: Interfaces
    accelerator: Accelerator
    importer: ModuleSource
    tree: Tree | None = None


#: Files of splats that a run writes: a kernel can say something else each time.
MAX_STACKS = 200


class Machines:
    """The machines of a run, one at a time; the next one is booted when a scenario needs it.

    ``guest`` is the guest of the running machine, None if there is none.  ``count`` is
    the number of machines that the run has started.  ``software`` is None until the
    stages have made it.  ``give_up`` decides what is given up after machines were lost.  ``lines``
    counts the lines that its kernels execute, if that is wanted.  ``snapshots`` are those that later
    machines are started from.
    """

    def __init__(
        self, request: Request, results: ResultsFolder, journal: JournalWriter, give_up: GiveUp | None = None
    ) -> None:
        self.software: TestedSoftware | None = None
        self.guest: Guest | None = None
        self.count = 0
        self.give_up = give_up or GiveUp(journal.note, enabled=False)
        self.lines = LineCoverage(results, journal, wanted=request.coverage)
        self.snapshots = Snapshots(journal, enabled=request.snapshots)
        self._request = request
        self._results = results
        self._journal = journal
        self._used = False  # by a scenario
        self._proof = positive_control.Proof(())  # of the running machine
        self._importer: Path | None = None  # the test importer, once it was loaded into the running machine
        self._noted: set[str] = set()  # fingerprints of the complaints during a boot
        self._stacks: set[str] = set()  # fingerprints of the splats that have a file
        self._speeds = Speeds(results, journal)

    @property
    def ready(self) -> TestedSoftware:
        """The software under test.  Raises HarnessError before the stages have made it."""
        if self.software is None:
            raise HarnessError("A machine was requested before the stages had built its kernel.")
        return self.software

    @property
    def accelerator(self) -> Accelerator:
        """The accelerator at the speed that was measured last.  Raises HarnessError as ``ready`` does."""
        return self.ready.accelerator.slower(self._speeds.latest)

    def boot_first(self, layout: Layout) -> None:
        """Boot the first machine, for the stage ``boot``.  Raises BootError, HarnessError."""
        self.guest = self._boot(layout)

    def guest_for(self, needs: Needs) -> Guest:
        """Return the running guest if it meets the needs of a scenario, else the guest of a new machine.

        Raises BootError, HarnessError.
        """
        if self.guest is not None and self.guest.machine.layout != needs.layout:
            self.retire(f"the next scenario needs another layout: {needs.layout}")
        if self._used and needs.fresh:
            self.retire("the next scenario needs a fresh machine")
        if self.guest is None:
            self.guest = self._boot_again(needs.layout)
        elif self._speeds.outdated:
            self._speeds.measure(self.guest, self.ready.accelerator)
        self._used = True
        return self.guest

    def load_importer(self) -> Path:
        """Load the test importer into the running machine, unless it is loaded; return its file.

        retire() unloads it.  Raises the errors of ImporterModule.path() and load().
        """
        if self.guest is None:
            raise HarnessError("The test importer was to be loaded, and no machine runs.")
        module = self.ready.importer.path()
        load.load(self.guest, self.ready.actor, module)
        self._importer = module
        return module

    def write_stacks(self, complaints: Iterable[Splat]) -> None:
        """Write each splat to ``stacks/FINGERPRINT.txt``, with source lines where they can be found.

        After MAX_STACKS files, a splat is only in the console's log.
        """
        for one in complaints:
            path = self._results.stack(one.fingerprint)
            if not path.exists() and len(self._stacks) < MAX_STACKS:
                self._stacks.add(one.fingerprint)
                software = self.ready
                content = software.tree.content if software.tree is not None else None
                write_atomically(path, decode.add_source_lines(one.text, software.kernel.vmlinux, content))

    def end(self, reason: str, verdict: Verdict | None = None) -> None:
        """End the running machine, if any, for this ``reason``, such as a splat or a new taint bit.

        ``verdict`` is that of JournalWriter.machine_ended().  A complaint during the proof of
        the detectors precedes the reason, and makes the verdict ``violates`` if it is None.
        """
        if self.guest is None:
            return
        guest, self.guest = self.guest, None
        self._used = False
        self._importer = None
        self.lines.take(guest)
        guest.machine.close()
        if self._proof.complaint:
            reason = f"before its first scenario, {self._proof.complaint}; later, {reason}"
            verdict = verdict or Verdict.VIOLATES
        self._journal.machine_ended(guest.machine.name, reason, verdict)

    def retire(self, reason: str, last: Callable[[], None] | None = None) -> None:
        """End a machine with a healthy kernel: unload the test importer, and scan a kernel with kmemleak.

        A failure, or a leak, replaces the ``reason``.  ``last`` is called after the scan, while
        the machine still runs.
        """
        finding = self._unload_importer() or self._scan_for_leaks()
        if last is not None:
            last()
        self.end(*(finding or (reason,)))

    def _unload_importer(self) -> tuple[str, Verdict] | None:
        """Unload the test importer, if it is loaded; return the reason and the verdict if that fails."""
        if self.guest is None or self._importer is None:
            return None
        try:
            load.unload(self.guest, self.ready.actor, self._importer)
        except (HarnessError, SshLostError, SshTimeoutError) as error:
            return error.message, Verdict.HARNESS_ERROR
        return None

    def _scan_for_leaks(self) -> tuple[str, Verdict] | None:
        """Scan for leaks; return the reason and the verdict if there is one, or the scan fails.

        The result is None if all is well, or the kernel has no kmemleak.
        """
        if self.guest is None or not detector.has_kmemleak(self._proof.detectors):
            return None
        running = self.guest.machine
        mark, since = running.console.mark(), pauses.now()
        leaks = failure = ""
        try:
            leaks = kmemleak.scan(self.guest)
        except (HarnessError, SshLostError, SshTimeoutError) as error:
            failure = error.message
        splats = running.console.splats(mark)
        faults = [one for one in splats if one.fault]
        self.write_stacks(faults)
        failure = failure or next((one.title for one in splats if one.detector_lost), "")
        if leaks:
            report = running.run_dir / LEAKS
            write_atomically(report, leaks)
            first, path = kmemleak.describe_first(leaks), report.relative_to(self._results.dir)
            return f"the kernel leaks memory, first {first}: {path}", Verdict.VIOLATES
        if faults:
            said = f"during the scan for leaks, the kernel said: {faults[0].title}"
            if cause := cause_outside(running, since, faults):
                return f"{said}, because {cause}", Verdict.HARNESS_ERROR
            return said, Verdict.VIOLATES
        if failure:
            return f"its kernel could not be scanned for leaks: {failure}", Verdict.HARNESS_ERROR
        return None

    def close(self) -> None:
        """End the machine that is still running, if any, without a scan for leaks."""
        if self.guest is not None and detector.has_kmemleak(self._proof.detectors):
            self._journal.note(detector.unscanned_note(self.guest.machine.name))
        self.end("the run is over")
        self.snapshots.close()

    def _boot(self, layout: Layout) -> Guest:
        software = self.ready
        self.count = self._results.claim_machine(self.count)
        name = f"machine-{self.count}"
        self._journal.machine_started(name, accelerator=software.accelerator.name, layout=str(layout))
        if (loaded := self._load(name, layout)) is not None:
            self.lines.booted(loaded)
            return loaded
        booted = machine.boot(
            software.kernel.bzimage,
            software.image,
            run_dir=self._results.machine(name),
            accelerator=self.accelerator,
            qemu=self._request.qemu,
            layout=layout,
            gdb=self._request.keep_vm,
            arguments=self._request.kernel_argument,
        )
        # A scenario that holds a processor stops and continues the machine.
        booted.disconnect_on_stop = not self._request.keep_vm and not layout.debugger
        try:
            guest = self._up(booted)
            guest.require_vfio()
            self._speeds.measure(guest, software.accelerator)
            self._prove_detectors(guest)
            self.lines.booted(guest)
            self.snapshots.consider(guest, self._proof)
            return guest
        except BaseException:
            booted.close()
            raise

    def _load(self, name: str, layout: Layout) -> Guest | None:
        """Start a machine from the snapshot of its layout; return None if there is none, or it fails."""
        snapshot, software = self.snapshots.of(layout), self.ready
        if snapshot is None:
            return None
        try:
            loaded = machine.load(
                snapshot,
                software.kernel.bzimage,
                software.image,
                run_dir=self._results.machine(name),
                accelerator=self.accelerator,
                qemu=self._request.qemu,
                layout=layout,
                arguments=self._request.kernel_argument,
            )
            loaded.disconnect_on_stop = not layout.debugger
            try:
                guest = self._up(loaded, snapshot.machine)
                self._proof = self.snapshots.resume(guest)
                self._speeds.apply(guest, software.accelerator)
                self._journal.detectors(name, self._proof.detectors)
                proven = (
                    f"The detectors were proven on {snapshot.machine}, from which this machine was loaded.\n"
                )
                (loaded.run_dir / CONTROL).write_text(proven)
                return guest
            except BaseException:
                loaded.close()
                raise
        except PatchproofError as error:
            self.snapshots.drop(layout, error.message)
            return None

    def _up(self, running: machine.Machine, snapshot: str = "") -> Guest:
        """Record that a machine is up; return its guest."""
        self._journal.machine_up(running.name, time.monotonic() - running.started, snapshot)
        if running.note:
            self._journal.note(f"{running.name}: {running.note}")
        self._results.write_run(qemu_command=list(running.command))
        (running.run_dir / QEMU).write_text(hardware.readable(running.command) + "\n")
        return Guest(running)

    def _boot_again(self, layout: Layout) -> Guest:
        """Boot a machine for a scenario.

        A timeout, also of the proof of the detectors, is a HarnessError, because the kernel has
        passed the stage ``boot``.
        Raises NotReachedError if machines of this layout do not come up.
        """
        self.give_up.check_boot(layout)
        try:
            guest = self._boot(layout)
        except (BootTimeoutError, DeadlineError) as error:
            self.give_up.not_booted(layout, error)
            raise HarnessError.in_place_of(
                error,
                f"A kernel that could be used before in this run could not be used now: {error.message} "
                "If this host is busy, that says little about the kernel. Run this scenario alone to see.",
            ) from error
        except PatchproofError as error:
            self.give_up.not_booted(layout, error)
            raise
        self.give_up.booted(layout)
        return guest

    def _prove_detectors(self, guest: Guest) -> None:
        """Prove the detectors of a new machine.  Raises HarnessError if one is blind.

        An earlier complaint of the kernel is part of no verdict.  The journal gets a note
        of each, once a run.
        """
        kernel, name = self.ready.kernel, guest.machine.name
        for complaint in guest.machine.console.splats():
            new = complaint.fingerprint not in self._noted and len(self._noted) < MAX_STACKS
            if not complaint.informational and new:
                self._noted.add(complaint.fingerprint)
                self._journal.note(f"The kernel of {name} complained while it booted: {complaint.title}")
        proof = positive_control.prove(
            guest,
            self.ready.actor,
            guest.machine.run_dir / CONTROL,
            kernel.options,
            kernel.time_scale * guest.machine.slowdown,
        )
        self._journal.detectors(name, proof.detectors)
        self._proof = proof
        self.write_stacks(proof.splats)
        if unseen := detector.blind_clause(proof.detectors):
            raise HarnessError(
                f"A detector on {name} did not report a provoked fault, so its silence would prove nothing: "
                f"{unseen}",
                log=guest.machine.console.log,
            )


def hold(running: machine.Machine, progress: Progress) -> None:
    """Print how to reach the machine, and wait until Ctrl-C, or until it ends by itself."""
    progress.say(f"  ssh: {running.ssh_line}")
    progress.say(f"  gdb: {running.gdb_line}")
    progress.say("  Ctrl-C ends the machine.")
    try:
        while not running.wait_ended(timeout=60.0):
            pass
    except Interruption:
        interruption.dismiss()
