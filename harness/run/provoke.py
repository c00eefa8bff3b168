"""Provoke a fault for each detector, through lkdtm (drivers/misc/lkdtm/bugs.c)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.guest.guest import Guest
from harness.guest.health import KernelHealth
from harness.lib.errors import HarnessError

# How long the console may lag behind the guest, before the accelerator's time scale.
CONSOLE_SECONDS = 3.0
END_MESSAGE = "patchproof: what was to be provoked has been"
TRACE = "lkdtm_do_action"  # in the call trace of what lkdtm provokes
# The output: why nothing was provoked (or an empty line), the crash points that lkdtm refused, and a
# line for each detector that takes its time.  That line is `-` if the kernel has no such detector,
# else the value of its switch.  The last message has the level of a WARN.
# The shell reads only the first byte of a sysctl.
_PROVOKE = rf"""
direct=/sys/kernel/debug/provoke-crash/DIRECT
why=
refused=
read -r panics </proc/sys/kernel/panic_on_warn
if [ "$panics" = 1 ]; then
    why='the kernel would panic (kernel.panic_on_warn)'
elif [ ! -e $direct ]; then
    why='the kernel has no lkdtm (CONFIG_LKDTM)'
else
    for point; do echo "$point" >$direct || refused="$refused $point"; done
fi
echo "$why"
echo "$refused"
echo '<4>{END_MESSAGE}' >/dev/kmsg
show() {{
    value=-
    [ ! -e "$1" ] || [ ! -e "$2" ] || read -r value <"$2"
    echo "$value"
}}
kernel=/proc/sys/kernel
if [ -e /sys/kernel/debug/kmemleak ]; then echo 1; else echo -; fi
show $kernel/hung_task_timeout_secs $kernel/hung_task_timeout_secs
show $kernel/soft_watchdog $kernel/soft_watchdog
show $kernel/hardlockup_panic $kernel/nmi_watchdog
rcu=/sys/module/rcupdate/parameters/rcu_cpu_stall_suppress
show $rcu $rcu
"""
_PROVOKED = re.compile(r"(.*)\n(.*)\n((?:\S+\n){5})")


@dataclass(frozen=True)
class Provoked:
    """The faults provoked in a guest, the kernel's state before and after, and what the console shows."""

    crash_points: tuple[str, ...]  # the crash points that lkdtm accepted
    why_not: str  # the reason that nothing was provoked, a clause; empty if something was
    before: KernelHealth
    after: KernelHealth
    watchers: tuple[str, ...]  # in the order of _WATCHERS
    earlier_kinds: frozenset[str]  # the kinds of the splats that were on the console before
    mark: int  # of the console, after all that was provoked (bytes)
    message_seen: bool  # the last message is on the console
    kinds: frozenset[str]  # of the provoked splats
    traced: bool  # the provoked WARN has its call trace


def provoke(guest: Guest, points: Sequence[str]) -> Provoked:
    """Have lkdtm go through its crash ``points``, "WARNING" among them, and return what the guest reports.

    Raises HarnessError if the guest does not report it, or its kernel's state.
    """
    console = guest.machine.console
    earlier_kinds = frozenset(one.kind for one in console.splats())
    mark = console.mark()
    before = KernelHealth.of(guest)
    done = guest.script(_PROVOKE, *points)
    after = KernelHealth.of(guest)
    output = _PROVOKED.fullmatch(done.stdout.decode(errors="replace"))
    if output is None:
        raise HarnessError(
            "The detectors could not be proven, because the guest did not report what was provoked. The "
            "script's standard error: "
            f"{done.stderr.decode(errors='replace').strip()}"
        )
    seconds = CONSOLE_SECONDS * guest.machine.accelerator.time_scale
    message_seen = console.wait_for(re.escape(END_MESSAGE), seconds, mark) is not None
    splats = console.splats(mark)
    why_not, refused, watchers = output.groups()
    if "WARNING" in refused.split():
        why_not = "lkdtm refuses it"
    return Provoked(
        crash_points=() if why_not else tuple(point for point in points if point not in refused.split()),
        why_not=why_not,
        before=before,
        after=after,
        watchers=tuple(watchers.split()),
        earlier_kinds=earlier_kinds,
        mark=console.mark(),
        message_seen=message_seen,
        kinds=frozenset(one.kind for one in splats),
        traced=any(one.kind == "warning" and TRACE in one.text for one in splats),
    )
