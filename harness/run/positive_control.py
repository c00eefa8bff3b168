"""The positive control of a machine: each detector must report a provoked fault before its silence counts.

Warnings are provoked through lkdtm (drivers/misc/lkdtm/bugs.c).  A DMABUF is made
and closed, and a page table with known entries is dumped.  A fault that would harm
the machine is not provoked, and the detector's words say why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.actor.actor import Actor
from harness.actor.footprint import Footprint
from harness.actor.handles import Buffer
from harness.actor.reply import ActorDiedError, DeadlineError, Refused
from harness.actor.start import start_actor
from harness.actor.transcript import Transcript
from harness.guest.guest import Guest
from harness.guest.health import TAINT_WARN, KernelHealth, count_dmabufs
from harness.klog.splat import Splat
from harness.lib.errors import BootError, HarnessError
from harness.run.provoke import Provoked, provoke
from harness.verdict.detector import KMEMLEAK, Detector, State
from harness.vm.hardware import PAGE
from harness.vm.machine import QEMU_END_SECONDS
from harness.vm.ssh import SshLostError, SshTimeoutError

LOST = (ActorDiedError, DeadlineError, SshLostError, SshTimeoutError)

# Rearms WARN_ONCE: kernel/panic.c, clear_warn_once_set().
_WARN_AGAIN = "echo 1 >/sys/kernel/debug/clear_warn_once"

# Detectors that report only after a delay, in the order of the guest's output: name, option, the
# value of the switch of one that is off.
_WATCHERS = (
    (KMEMLEAK, "CONFIG_DEBUG_KMEMLEAK", None),
    ("hung task", "CONFIG_DETECT_HUNG_TASK", "0"),
    ("soft lockup", "CONFIG_SOFTLOCKUP_DETECTOR", "0"),
    ("hard lockup", "CONFIG_HARDLOCKUP_DETECTOR", "0"),
    ("rcu stall", "CONFIG_RCU_STALL_COMMON", "1"),
)

OOPS = Detector(
    "oops and panic",
    State.NOT_PROVEN,
    "one would end the machine; the console is searched for their first lines as for the provoked WARN",
)
# Detectors that lkdtm can provoke, if they are built: name, option, lkdtm's crash point, the kind of
# splat that it makes, and an option with which it would end in a BUG.
_PROVOKABLE = (
    ("ubsan", "UBSAN_BOUNDS", "ARRAY_BOUNDS", "ubsan", "UBSAN_TRAP"),
    ("list", "LIST_HARDENED", "CORRUPT_LIST_ADD", "list", "BUG_ON_DATA_CORRUPTION"),
)
REFCOUNT = "REFCOUNT_INC_ZERO"  # lib/refcount.c, in every kernel
# Detectors that are not provoked: name, option, the reason.
_UNPROVOKABLE = (
    ("kasan", "KASAN", "a report would turn lockdep off (mm/kasan/report.c, end_report())"),
    ("page-table-check", "PAGE_TABLE_CHECK", "it ends in a BUG (mm/page_table_check.c)"),
    ("dma-debug", "DMA_API_DEBUG", "it reports the first error of a machine only (kernel/dma/debug.c)"),
)


@dataclass(frozen=True)
class Proof:
    """The detectors of a machine, after their positive control.

    ``splats`` and ``worse`` (the texts of KernelHealth.worse_than()) are complaints of
    the kernel that were not provoked.
    """

    detectors: tuple[Detector, ...]
    splats: tuple[Splat, ...] = ()
    worse: tuple[str, ...] = ()

    @property
    def complaint(self) -> str:
        """The complaints that were not provoked, as a clause; empty if there is none."""
        return "; ".join([*(f"the kernel said: {one.title}" for one in self.splats), *self.worse])


def prove(
    guest: Guest, actor: Path, transcript: Path, options: Mapping[str, str] | None, slowdown: float = 1.0
) -> Proof:
    """Provoke a fault for each detector of a machine, and check that the detector reports it.

    ``options`` is the kernel's configuration, None if it is unknown.  The actor's
    operations are written to ``transcript``.  All that the console shows of the proof
    stands before the console's next mark.  ``slowdown`` multiplies the actor's deadlines.

    Raises BootError if the kernel dies of it, and HarnessError, SshLostError,
    SshTimeoutError, ActorDiedError, DeadlineError if the guest does not answer as it
    should.
    """
    record = Transcript(transcript, "the positive control of the detectors")
    try:
        with start_actor(guest, actor, record) as observer:
            observer.slowdown = slowdown
            records_before = Footprint.of(observer).log
            provoked = provoke(guest, _crash_points(options or {}))
            records = Footprint.of(observer).log - records_before
            dmabufs = _dmabufs(guest, observer, provoked.after)
            page_table = _page_table(observer)
        health = KernelHealth.of(guest)
        detectors = (
            _console(provoked),
            *_counts(provoked),
            refcount(provoked),
            kernel_log(records),
            dmabufs,
            page_table,
            _lockdep(health),
            OOPS,
            *by_files(provoked),
            *by_option(provoked, options),
        )
        splats = guest.machine.console.splats(provoked.mark)
        guest.script(_WARN_AGAIN)
        worse = tuple(one.text for one in health.worse_than(provoked.after))
        return Proof(detectors, tuple(one for one in splats if one.fault), worse)
    except LOST as error:
        if guest.machine.wait_ended(QEMU_END_SECONDS) or not guest.machine.alive():
            splats = guest.machine.console.splats()
            if not splats and (fault := guest.machine.outside_fault()):
                raise HarnessError(f"The detectors could not be proven: {fault}.") from error
            raise BootError(
                f"The kernel died when its detectors were proven: {splats[-1].title if splats else error}",
                log=guest.machine.console.log,
                tail=splats[-1].text if splats else "",
            ) from error
        raise
    finally:
        record.close()


def _crash_points(options: Mapping[str, str]) -> tuple[str, ...]:
    """Return the crash points of lkdtm that a kernel with these ``options`` survives."""
    optional = (
        point
        for _, option, point, _, fatal in _PROVOKABLE
        if options.get(option) == "y" and options.get(fatal) != "y"
    )
    return (*optional, REFCOUNT, "WARNING")


def _console(provoked: Provoked) -> Detector:
    question = "; is the log level of the console too low (loglevel=, quiet)?"
    if provoked.crash_points:
        if "warning" not in provoked.kinds:
            return Detector("console", State.BLIND, f"a WARN was provoked and is not on it{question}")
        trace = "with its call trace" if provoked.traced else "without a call trace"
        return Detector("console", State.PROVEN, f"a provoked WARN is on it, {trace}")
    if not provoked.message_seen:
        return Detector("console", State.BLIND, f"a message of level warning is not on it{question}")
    words = f"no WARN was provoked, as {provoked.why_not}; a message of level warning is on it"
    return Detector("console", State.NOT_PROVEN, words)


def _counts(provoked: Provoked) -> Iterator[Detector]:
    """Judge the taint and warn_count by the provoked WARN."""
    before, after = provoked.before, provoked.after
    if not provoked.crash_points:
        yield Detector("taint", State.NOT_PROVEN, f"no WARN was provoked, as {provoked.why_not}")
    elif before.taint >> TAINT_WARN & 1:
        words = f"bit {TAINT_WARN} (WARN) was set before one was provoked"
        yield Detector("taint", State.NOT_PROVEN, words)
    elif after.taint >> TAINT_WARN & 1:
        yield Detector("taint", State.PROVEN, f"a provoked WARN set bit {TAINT_WARN}")
    else:
        yield Detector("taint", State.BLIND, f"a provoked WARN did not set bit {TAINT_WARN}")
    if before.warnings is None or after.warnings is None:
        yield Detector("warn_count", State.NOT_BUILT, "the kernel does not count its warnings")
    elif not provoked.crash_points:
        yield Detector("warn_count", State.NOT_PROVEN, f"no WARN was provoked, as {provoked.why_not}")
    elif after.warnings - before.warnings < len(provoked.crash_points):
        yield Detector("warn_count", State.BLIND, "it did not count each provoked warning")
    else:
        yield Detector("warn_count", State.PROVEN, "it counted each provoked warning")


def _by_report(provoked: Provoked, name: str, point: str, kind: str, refused: str) -> Detector:
    """Judge a detector by its report, a splat of this ``kind``, of lkdtm's crash ``point``.

    ``refused`` is the reason to give if lkdtm refused the crash point.
    """
    if point not in provoked.crash_points:
        return Detector(name, State.NOT_PROVEN, f"nothing was provoked, as {provoked.why_not or refused}")
    if kind in provoked.kinds:
        return Detector(name, State.PROVEN, f"its report of a provoked {point} is on the console")
    return Detector(name, State.BLIND, f"{point} was provoked, and no report of it is on the console")


def refcount(provoked: Provoked) -> Detector:
    """Judge the saturation check of reference counts (lib/refcount.c)."""
    return _by_report(provoked, "refcount", REFCOUNT, "refcount", "lkdtm refuses it")


def kernel_log(records: int) -> Detector:
    """Judge the count of kernel log records: one or more, because the proof itself writes a record."""
    if records > 0:
        return Detector("kernel log", State.PROVEN, "its records were counted")
    return Detector("kernel log", State.BLIND, "a record was written to it, and none was counted")


def _dmabufs(guest: Guest, observer: Actor, before: KernelHealth) -> Detector:
    """Judge the count of DMABUFs by one that is made and closed; ``before`` has the count without it."""
    buffer = _any_buffer(observer)
    if buffer is None:
        words = "no DMABUF could be made (CONFIG_UDMABUF, CONFIG_DMABUF_HEAPS_SYSTEM)"
        return Detector("dmabufs", State.NOT_PROVEN, words)
    during = count_dmabufs(guest)
    buffer.close()
    after = count_dmabufs(guest)
    if (during - before.dmabufs, after - before.dmabufs) == (1, 0):
        return Detector("dmabufs", State.PROVEN, "one more was counted while it existed")
    words = f"{before.dmabufs} before, {during} while there was one more, {after} after it was closed"
    return Detector("dmabufs", State.BLIND, words)


def _any_buffer(observer: Actor) -> Buffer | None:
    for kind in ("udmabuf", "heap"):
        try:
            return observer.make(kind, PAGE)
        except Refused:
            pass
    return None


def _page_table(observer: Actor) -> Detector:
    """Judge the page-table dump by a mapping of three pages, of which two are touched."""
    mapping = observer.map(observer.make("memfd", 3 * PAGE))
    mapping.at([0, 2 * PAGE])
    try:
        found = mapping.page_table()
    except Refused as refused:
        words = f"the kernel does not show them (CONFIG_PTDUMP_DEBUGFS): {refused.errno}"
        return Detector("page tables", State.NOT_BUILT, words)
    if found.where("pte") == ((0, PAGE), (2 * PAGE, 3 * PAGE)) and found.mapped() == 2 * PAGE:
        return Detector(
            "page tables", State.PROVEN, "two of three pages were touched, and one shows these two"
        )
    return Detector(
        "page tables", State.BLIND, f"two of three pages were touched, and one shows {found.spans}"
    )


def _lockdep(health: KernelHealth) -> Detector:
    if health.lockdep is None:
        return Detector("lockdep", State.NOT_BUILT, "CONFIG_PROVE_LOCKING")
    if health.lockdep:
        words = "it is on (debug_locks); it reports only once, so nothing is provoked"
        return Detector("lockdep", State.NOT_PROVEN, words)
    return Detector("lockdep", State.NOT_PROVEN, "it is off: it reported something while the kernel booted")


def by_files(provoked: Provoked) -> Iterator[Detector]:
    """Judge the detectors that report only after a delay: built or not, on or off."""
    for (name, option, off), value in zip(_WATCHERS, provoked.watchers, strict=True):
        if value == "-":
            yield Detector(name, State.NOT_BUILT, option)
        elif value == off:
            yield Detector(name, State.NOT_PROVEN, "it is off")
        elif name == KMEMLEAK:
            words = "no leak can be provoked; the kernel is scanned for leaks when its machine is given up"
            yield Detector(name, State.NOT_PROVEN, words)
        else:
            yield Detector(name, State.NOT_PROVEN, "it is on; to provoke its report would take too long")


def by_option(provoked: Provoked, options: Mapping[str, str] | None) -> Iterator[Detector]:
    """Judge the detectors that depend on a kernel option; ``options`` is None if they are unknown."""
    if options is None:
        words = "the kernel was built elsewhere, so its options are unknown"
        names = [name for name, *_ in (*_PROVOKABLE, *_UNPROVOKABLE)]
        yield from (Detector(name, State.NOT_PROVEN, words) for name in names)
        return
    for name, option, point, kind, fatal in _PROVOKABLE:
        if options.get(option) != "y":
            yield Detector(name, State.NOT_BUILT, f"CONFIG_{option}")
        else:
            refused = f"lkdtm refuses it, or it would end in a BUG (CONFIG_{fatal})"
            yield _by_report(provoked, name, point, kind, refused)
    for name, option, reason in _UNPROVOKABLE:
        if options.get(option) != "y":
            yield Detector(name, State.NOT_BUILT, f"CONFIG_{option}")
        elif name in provoked.earlier_kinds:
            yield Detector(name, State.NOT_PROVEN, "it has reported something before, and reports only once")
        else:
            yield Detector(name, State.NOT_PROVEN, f"nothing was provoked: {reason}")
