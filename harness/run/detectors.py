"""The positive control of a machine: each detector is shown something before its silence counts.

Warnings are provoked through lkdtm (drivers/misc/lkdtm/bugs.c), a DMABUF is made
and closed, a page table with known entries dumped.  What cannot be provoked
without harm is not: then the detector's words say so.
"""

from __future__ import annotations

import re
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
from harness.guest.health import HEALTH, TAINT_WARN, KernelHealth, count_dmabufs
from harness.klog.splat import Splat
from harness.lib.errors import BootError, HarnessError
from harness.verdict.detector import KMEMLEAK, Detector, State
from harness.vm.hardware import PAGE
from harness.vm.machine import QEMU_END_SECONDS
from harness.vm.ssh import SshLostError, SshTimeoutError

# How long the console may lag behind the guest, before the accelerator's time scale.
CONSOLE_SECONDS = 3.0
LOST = (ActorDiedError, DeadlineError, SshLostError, SshTimeoutError)
LAST_LINE = "patchproof: what was to be provoked has been"
TRACE = "lkdtm_do_action"  # in the call trace of what lkdtm provokes

# What it says: the state before, why nothing was provoked (or an empty line), what lkdtm refused,
# the state after, and of each of _WATCHERS `-` if the kernel has no such detector, `0` if it is
# off.  The last message has the level of a WARN.  Of a sysctl only the first byte can be read by
# the shell.
_PROVOKE = rf"""
{HEALTH}
door=/sys/kernel/debug/provoke-crash/DIRECT
why=
refused=
read -r panics </proc/sys/kernel/panic_on_warn
if [ "$panics" = 1 ]; then
    why='the kernel would panic (kernel.panic_on_warn)'
elif [ ! -e $door ]; then
    why='the kernel has no lkdtm (CONFIG_LKDTM)'
else
    for what; do echo "$what" >$door || refused="$refused $what"; done
fi
echo "$why"
echo "$refused"
echo '<4>{LAST_LINE}' >/dev/kmsg
{HEALTH}
tell() {{
    value=-
    [ ! -e "$1" ] || [ ! -e "$2" ] || read -r value <"$2"
    echo "$value"
}}
kernel=/proc/sys/kernel
if [ -e /sys/kernel/debug/kmemleak ]; then echo 1; else echo -; fi
tell $kernel/hung_task_timeout_secs $kernel/hung_task_timeout_secs
tell $kernel/soft_watchdog $kernel/soft_watchdog
tell $kernel/hardlockup_panic $kernel/nmi_watchdog
rcu=/sys/module/rcupdate/parameters/rcu_cpu_stall_suppress
tell $rcu $rcu
"""
_STATE = r"((?:\S+\n){5})"
_PROVOKED = re.compile(rf"{_STATE}(.*)\n(.*)\n{_STATE}((?:\S+\n){{5}})")

# What warns once (WARN_ONCE) can warn again: kernel/panic.c, clear_warn_once_set().
_WARN_AGAIN = "echo 1 >/sys/kernel/debug/clear_warn_once"

# Those that take their time, as the guest tells of them: name, option, what is told of one that is off.
_WATCHERS = (
    (KMEMLEAK, "CONFIG_DEBUG_KMEMLEAK", None),
    ("hung task", "CONFIG_DETECT_HUNG_TASK", "0"),
    ("soft lockup", "CONFIG_SOFTLOCKUP_DETECTOR", "0"),
    ("hard lockup", "CONFIG_HARDLOCKUP_DETECTOR", "0"),
    ("rcu stall", "CONFIG_RCU_STALL_COMMON", "1"),
)

# Detectors of a kernel built for them: name, option, what lkdtm calls what they see, the kind of
# splat that it is, and an option with which that would end in a BUG.
_PROVOKABLE = (
    ("ubsan", "UBSAN_BOUNDS", "ARRAY_BOUNDS", "ubsan", "UBSAN_TRAP"),
    ("list", "LIST_HARDENED", "CORRUPT_LIST_ADD", "list", "BUG_ON_DATA_CORRUPTION"),
)
REFCOUNT = "REFCOUNT_INC_ZERO"  # lib/refcount.c, in every kernel
OOPS = Detector(
    "oops and panic",
    State.NOT_PROVEN,
    "one would end the machine; their first lines are looked for where the provoked WARN was seen",
)
# Those that nothing is shown: name, option, why not.
_UNPROVOKABLE = (
    ("kasan", "KASAN", "a report would turn lockdep off (mm/kasan/report.c, end_report())"),
    ("page-table-check", "PAGE_TABLE_CHECK", "it ends in a BUG (mm/page_table_check.c)"),
    ("dma-debug", "DMA_API_DEBUG", "it reports the first error of a machine only (kernel/dma/debug.c)"),
)


@dataclass(frozen=True)
class Provoked:
    """What the guest said of what was provoked there, and what its console said meanwhile."""

    words: tuple[str, ...]
    why_not: str
    before: KernelHealth
    after: KernelHealth
    watchers: tuple[str, ...]  # in the order of _WATCHERS
    spent: frozenset[str]  # the kinds of what the console had before
    mark: int  # of the console, behind all that was provoked
    heard: bool  # whether the last message came through
    kinds: frozenset[str]
    traced: bool


@dataclass(frozen=True)
class Proof:
    """What is known of a machine's detectors.

    ``splats`` and ``worse`` (the texts of KernelHealth.worse_than()) are what the kernel
    complained of although nothing of that kind was provoked.
    """

    detectors: tuple[Detector, ...]
    splats: tuple[Splat, ...] = ()
    worse: tuple[str, ...] = ()

    @property
    def complaint(self) -> str:
        """What the kernel complained of, as a clause; empty if all is well."""
        return "; ".join([*(f"the kernel said: {one.title}" for one in self.splats), *self.worse])


def prove(
    guest: Guest, actor: Path, transcript: Path, options: Mapping[str, str] | None, slowdown: float = 1.0
) -> Proof:
    """Show each detector of a machine something, and look whether it saw it.

    ``options`` is the kernel's configuration, None where it is not known;
    ``transcript`` gets what the actor was asked for.  What the console says of all
    this lies before its next mark.  Raises BootError if the kernel dies of it, and
    HarnessError, SshLostError, SshTimeoutError, ActorDiedError, DeadlineError if the
    guest does not answer as it should.
    """
    record = Transcript(transcript, "each detector is shown something")
    try:
        with start_actor(guest, actor, record) as eye:
            eye.slowdown = slowdown
            logged = Footprint.of(eye).log
            provoked = _provoke(guest, options or {})
            logged = Footprint.of(eye).log - logged
            dmabufs = _dmabufs(guest, eye, provoked.after)
            page_table = _page_table(eye)
        health = KernelHealth.of(guest)
        detectors = (
            _console(provoked),
            *_counts(provoked),
            refcount(provoked),
            kernel_log(logged),
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
                raise HarnessError(f"The detectors could not be shown anything: {fault}.") from error
            raise BootError(
                "The kernel died when its detectors were shown something: "
                f"{splats[-1].title if splats else error}",
                log=guest.machine.console.log,
                tail=splats[-1].text if splats else "",
            ) from error
        raise
    finally:
        record.close()


def _provoke(guest: Guest, options: Mapping[str, str]) -> Provoked:
    words = (
        *(
            word
            for _, option, word, _, fatal in _PROVOKABLE
            if options.get(option) == "y" and options.get(fatal) != "y"
        ),
        REFCOUNT,
        "WARNING",
    )
    console = guest.machine.console
    spent = frozenset(one.kind for one in console.splats())
    mark = console.mark()
    done = guest.script(_PROVOKE, *words)
    said = _PROVOKED.fullmatch(done.stdout.decode(errors="replace"))
    if said is None:
        raise HarnessError(
            "The detectors could not be shown anything: the guest did not say its kernel's state; the kernel "
            "needs CONFIG_DEBUG_FS with debugfs mounted, and CONFIG_DMA_SHARED_BUFFER: "
            f"{done.stderr.decode(errors='replace').strip()}"
        )
    wait = CONSOLE_SECONDS * guest.machine.accelerator.time_scale
    heard = console.wait_for(re.escape(LAST_LINE), wait, mark) is not None
    splats = console.splats(mark)
    before, why_not, refused, after, watchers = said.groups()
    if "WARNING" in refused.split():
        why_not = "lkdtm refuses it"
    return Provoked(
        words=() if why_not else tuple(word for word in words if word not in refused.split()),
        why_not=why_not,
        before=KernelHealth.parse(before),
        after=KernelHealth.parse(after),
        watchers=tuple(watchers.split()),
        spent=spent,
        mark=console.mark(),
        heard=heard,
        kinds=frozenset(one.kind for one in splats),
        traced=any(one.kind == "warning" and TRACE in one.text for one in splats),
    )


def _console(provoked: Provoked) -> Detector:
    hidden = "; is the log level of the console too low (loglevel=, quiet)?"
    if provoked.words:
        if "warning" not in provoked.kinds:
            return Detector("console", State.BLIND, f"a WARN was provoked and is not on it{hidden}")
        trace = "with its call trace" if provoked.traced else "without a call trace"
        return Detector("console", State.PROVEN, f"a provoked WARN is on it, {trace}")
    if not provoked.heard:
        return Detector("console", State.BLIND, f"a message of level warning is not on it{hidden}")
    words = f"no WARN was provoked, as {provoked.why_not}; a message of level warning is on it"
    return Detector("console", State.NOT_PROVEN, words)


def _counts(provoked: Provoked) -> Iterator[Detector]:
    """Taint and warn_count."""
    before, after = provoked.before, provoked.after
    if not provoked.words:
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
    elif not provoked.words:
        yield Detector("warn_count", State.NOT_PROVEN, f"no WARN was provoked, as {provoked.why_not}")
    elif after.warnings - before.warnings < len(provoked.words):
        yield Detector("warn_count", State.BLIND, "it does not count what was provoked")
    else:
        yield Detector("warn_count", State.PROVEN, "it counted what was provoked")


def _report(provoked: Provoked, name: str, word: str, kind: str, refused: str) -> Detector:
    """Judge whether the report that lkdtm's ``word`` provokes was seen.

    ``refused`` says why lkdtm may not have provoked it.
    """
    if word not in provoked.words:
        return Detector(name, State.NOT_PROVEN, f"nothing was provoked, as {provoked.why_not or refused}")
    if kind in provoked.kinds:
        return Detector(name, State.PROVEN, f"its report of a provoked {word} is on the console")
    return Detector(name, State.BLIND, f"{word} was provoked, and no report of it is on the console")


def refcount(provoked: Provoked) -> Detector:
    return _report(provoked, "refcount", REFCOUNT, "refcount", "lkdtm refuses it")


def kernel_log(records: int) -> Detector:
    """The records that Footprint counts: at least one of our own, whatever could be provoked."""
    if records > 0:
        return Detector("kernel log", State.PROVEN, "its records were counted")
    return Detector("kernel log", State.BLIND, "of what was written to it no record was counted")


def _dmabufs(guest: Guest, eye: Actor, before: KernelHealth) -> Detector:
    """A buffer is seen while it exists, and not after."""
    buffer = _any_buffer(eye)
    if buffer is None:
        words = "no DMABUF could be made (CONFIG_UDMABUF, CONFIG_DMABUF_HEAPS_SYSTEM)"
        return Detector("dmabufs", State.NOT_PROVEN, words)
    during = count_dmabufs(guest)
    buffer.close()
    after = count_dmabufs(guest)
    if (during - before.dmabufs, after - before.dmabufs) == (1, 0):
        return Detector("dmabufs", State.PROVEN, "one more was counted while it existed")
    words = f"{before.dmabufs} before, {during} while there was one more, {after} when it was closed"
    return Detector("dmabufs", State.BLIND, words)


def _any_buffer(eye: Actor) -> Buffer | None:
    for kind in ("udmabuf", "heap"):
        try:
            return eye.make(kind, PAGE)
        except Refused:
            pass
    return None


def _page_table(eye: Actor) -> Detector:
    """Of three pages two are touched, and no more."""
    mapping = eye.map(eye.make("memfd", 3 * PAGE))
    mapping.at([0, 2 * PAGE])
    try:
        found = mapping.page_table()
    except Refused as refused:
        words = f"the kernel does not show them (CONFIG_PTDUMP_DEBUGFS): {refused.errno}"
        return Detector("page tables", State.NOT_BUILT, words)
    if found.where("pte") == ((0, PAGE), (2 * PAGE, 3 * PAGE)) and found.mapped() == 2 * PAGE:
        return Detector("page tables", State.PROVEN, "of three pages, the two that were touched are in one")
    return Detector(
        "page tables", State.BLIND, f"two of three pages were touched, and it shows {found.spans}"
    )


def _lockdep(health: KernelHealth) -> Detector:
    if health.lockdep is None:
        return Detector("lockdep", State.NOT_BUILT, "CONFIG_PROVE_LOCKING")
    if health.lockdep:
        words = "it is on (debug_locks); what it sees it sees once, so nothing is provoked"
        return Detector("lockdep", State.NOT_PROVEN, words)
    return Detector("lockdep", State.NOT_PROVEN, "it is off: it has seen something while the kernel booted")


def by_files(provoked: Provoked) -> Iterator[Detector]:
    """Detectors that take their time: whether they are there, and on."""
    for (name, option, off), value in zip(_WATCHERS, provoked.watchers, strict=True):
        if value == "-":
            yield Detector(name, State.NOT_BUILT, option)
        elif value == off:
            yield Detector(name, State.NOT_PROVEN, "it is off")
        elif name == KMEMLEAK:
            words = "no leak can be provoked; it is asked when the machine is given up"
            yield Detector(name, State.NOT_PROVEN, words)
        else:
            yield Detector(name, State.NOT_PROVEN, "it is on; one would take too long to provoke")


def by_option(provoked: Provoked, options: Mapping[str, str] | None) -> Iterator[Detector]:
    """Detectors of a kernel that was built for them."""
    if options is None:
        words = "the kernel was built elsewhere, so it is not known whether it has it"
        names = [name for name, *_ in (*_PROVOKABLE, *_UNPROVOKABLE)]
        yield from (Detector(name, State.NOT_PROVEN, words) for name in names)
        return
    for name, option, word, kind, fatal in _PROVOKABLE:
        if options.get(option) != "y":
            yield Detector(name, State.NOT_BUILT, f"CONFIG_{option}")
        else:
            refused = f"lkdtm refuses it, or it would end in a BUG (CONFIG_{fatal})"
            yield _report(provoked, name, word, kind, refused)
    for name, option, why in _UNPROVOKABLE:
        if options.get(option) != "y":
            yield Detector(name, State.NOT_BUILT, f"CONFIG_{option}")
        elif name in provoked.spent:
            yield Detector(name, State.NOT_PROVEN, "it has seen something before, and reports but once")
        else:
            yield Detector(name, State.NOT_PROVEN, f"nothing was provoked: {why}")
