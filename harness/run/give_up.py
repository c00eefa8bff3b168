"""Give up what loses one machine after the other, so that a broken kernel does not keep a run for hours.

After LIMIT machines in a row were lost to one cause, the scenarios that are left of that kind are
``not-reached``.  A scenario is of that kind if it needs the same machine and is about to do the last of
the operations that all lost scenarios did.  So it is cut off before the harm, and its machine stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.actor.reply import DeadlineError
from harness.actor.scene import Operation
from harness.guest.guest import UnbindTimeoutError
from harness.klog.splat import Splat
from harness.lib.errors import HarnessError, PatchproofError
from harness.run.error_to_verdict import KernelDiedError, NotReachedError, UnhealthyKernelError
from harness.verdict.deviation import verb_of
from harness.vm.pci_devices import Layout
from harness.vm.ssh import SshTimeoutError

LIMIT = 3  # machines in a row
OPTION = "--no-give-up"
_CLEANING_UP = "guest restore"  # begins the clean-up; what comes after it is not the scenario's choice
_WITH_ARGUMENTS = "guest bind"  # a step that says which device the scenario uses


@dataclass(frozen=True)
class Cause:
    """The cause by which a scenario lost its machine: two with one ``key`` are the same.

    ``clause`` says it to a reader.
    """

    key: str
    clause: str


def cause_of(error: BaseException, operation: Operation, faults: Sequence[Splat]) -> Cause | None:
    """Return why a scenario lost its machine; None if its kernel may not be the reason.

    ``error`` ended a phase of the scenario, ``operation`` was its latest one then, and ``faults`` are the
    complaints of its kernel.
    """
    if isinstance(error, HarnessError):
        return None
    if faults:
        return Cause(f"splat {faults[0].place}", f"the kernel said: {faults[0].title}")
    verb = verb_of(operation.call)
    match error:
        case KernelDiedError():
            during = f" during `{verb}`" if verb else ""
            return Cause(f"died {verb}", f"the kernel died without a word{during}")
        case UnhealthyKernelError() if error.changes:
            return Cause(re.sub(r"\d+", "N", error.changes[0]), error.changes[0])
        case UnbindTimeoutError():
            return Cause("unbind", "the kernel did not unbind a device from its driver")
        case DeadlineError() | SshTimeoutError():
            what = f"the operation `{verb}`" if verb else "a command in the guest"
            return Cause(f"deadline {verb}", f"{what} did not end")
    return None


class Doings:
    """The operations that one scenario has done, each with its errno if it was refused.

    ``forbid`` is called with these and the next one, before that is done; it may raise NotReachedError.
    ``cut_off`` is that error, None if there was none.  After it, nothing is forbidden any more, because
    what follows is the clean-up.
    """

    def __init__(self, forbid: Callable[[frozenset[str], str], None]) -> None:
        self.cut_off: NotReachedError | None = None
        self._forbid = forbid
        self._done: set[str] = set()
        self._current = ""
        self._over = False

    def begins(self, line: str) -> None:
        """Take in an operation or a step that is about to begin."""
        name = verb_of(line)
        self._over = self._over or name == _CLEANING_UP
        if self._over:
            return
        name = line if name == _WITH_ARGUMENTS else name
        try:
            self._forbid(frozenset(self._done), name)
        except NotReachedError as error:
            self.cut_off = error
            self._over = True
            raise
        self._finish("")
        self._current = name

    def replied(self, reply: str) -> None:
        """Take in the reply to the latest operation or step."""
        kind, _, rest = reply.partition(" ")
        self._finish(f" {rest.partition(' ')[0]}" if kind == "error" else "")

    @property
    def all(self) -> frozenset[str]:
        """The operations so far, those without a reply included."""
        return frozenset({*self._done, *filter(None, [self._current])})

    def _finish(self, outcome: str) -> None:
        if self._current:
            self._done.add(self._current + outcome)
            self._current = ""


@dataclass(frozen=True)
class _Kind:
    """Scenarios that need this ``layout`` and do all of these ``operations``."""

    layout: Layout
    operations: frozenset[str]


@dataclass
class _Row:
    """The ``lost`` machines in a row that one ``cause`` cost, by scenarios that all did ``common``.

    ``kept`` are the operations of each scenario since the row began that left its machine as it should.
    ``given_up`` are the kinds that are not run any more.
    """

    cause: Cause
    lost: int = 0
    common: frozenset[str] = frozenset()
    kept: list[frozenset[str]] = field(default_factory=list)
    given_up: set[_Kind] = field(default_factory=set)


@dataclass(frozen=True)
class GivenUp:
    """What a run has given up, for another process: kinds of scenarios, and the boots that failed."""

    rows: Mapping[str, _Row]
    boots: Mapping[Layout, Sequence[str]]


class GiveUp:
    """What a run has given up.  ``tell`` gets a sentence whenever it gives up more."""

    def __init__(self, tell: Callable[[str], None], *, enabled: bool = True) -> None:
        self._tell = tell
        self._enabled = enabled
        self._rows: dict[str, _Row] = {}
        self._boots: dict[Layout, list[str]] = {}  # of machines in a row that did not come up: the reasons

    def lost(self, cause: Cause, layout: Layout, done: frozenset[str]) -> None:
        """Count a machine with this layout that was lost by a scenario which had ``done`` this much."""
        row = self._rows.setdefault(cause.key, _Row(cause))
        common = row.common & done if row.lost else done
        against = sum(common <= kept for kept in row.kept)
        if against >= (row.lost if row.given_up else 1):
            row.lost, row.common = 1, done
            row.kept.clear()
        else:
            row.lost, row.common = row.lost + 1, common
        if row.lost < LIMIT or not self._enabled:
            return
        kind = _Kind(layout, row.common)
        if kind not in row.given_up:
            row.given_up.add(kind)
            self._tell(
                f"Given up: {row.lost} machines in a row were lost to one cause: {row.cause.clause}. On "
                f"machines of the layout {layout}, scenarios that do all of this are not run: "
                f"{', '.join(sorted(row.common)) or 'any operation'}. {OPTION} runs them."
            )

    def kept(self, done: frozenset[str]) -> None:
        """Take in that a scenario which had ``done`` this much left its machine as it should.

        If others lose theirs by the same operations, that begins another row.  Of a cause that is given up
        already, it takes as many as have lost theirs.
        """
        for row in self._rows.values():
            row.kept.append(done)

    def check(self, layout: Layout, done: frozenset[str], upcoming: str) -> None:
        """Raise NotReachedError if a scenario is about to do what lost machine after machine.

        It has ``done`` this much, and ``upcoming`` is its next operation, whose answer nobody knows.
        """
        for row in self._rows.values():
            for kind in row.given_up:
                left = kind.operations - done
                if kind.layout == layout and all(f"{name} ".startswith(f"{upcoming} ") for name in left):
                    raise NotReachedError(
                        f"Given up, as {LIMIT} machines in a row were lost to one cause: {row.cause.clause}."
                    )

    # -- several processes -------------------------------------------------------------------

    def given_up(self) -> GivenUp:
        """Return a copy of what was given up so far."""
        rows = {
            key: _Row(row.cause, given_up=set(row.given_up))
            for key, row in self._rows.items()
            if row.given_up
        }
        boots = {layout: tuple(reasons) for layout, reasons in self._boots.items() if self._enabled}
        return GivenUp(rows, boots)

    def follow(self, given_up: GivenUp) -> None:
        """Replace what this object knows by what another process has given up."""
        self._rows = dict(given_up.rows)
        self._boots = {layout: list(reasons) for layout, reasons in given_up.boots.items()}

    # -- machines that do not come up ------------------------------------------------------

    def check_boot(self, layout: Layout) -> None:
        """Raise NotReachedError if machines of this layout do not come up."""
        reasons = self._boots.get(layout, [])
        if len(reasons) >= LIMIT and self._enabled:
            raise NotReachedError(
                f"Given up, as {LIMIT} machines in a row with the layout {layout} could not be used: "
                f"{reasons[0]}"
            )

    def booted(self, layout: Layout) -> None:
        """Take in that a machine of this layout came up."""
        self._boots.pop(layout, None)

    def not_booted(self, layout: Layout, error: PatchproofError) -> None:
        """Count a machine of this layout that did not come up, or could not be used."""
        reasons = self._boots.setdefault(layout, [])
        reasons.append(error.message)
        if len(reasons) == LIMIT and self._enabled:
            self._tell(
                f"Given up: {LIMIT} machines in a row with the layout {layout} could not be used. The "
                f"scenarios that need one are not run: {reasons[0]} {OPTION} tries each."
            )
