"""An operation that is held at each lock that it takes or releases, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from harness.actor.actor import Actor
from harness.actor.call import Call
from harness.guest.hold import LOCKS, Hold
from harness.lib.errors import HarnessError
from suites.support.race import (
    DONE,
    HELD,
    Meeting,
    Result,
    begin_held,
    outcome_while_held,
    require_result,
)

NOT_HELD = "not held"
MISSES = 4


@dataclass
class Sweep:
    """Hold an operation at its first lock, then at its second, and so on until it passes all of them.

    An operation can take fewer locks than at first, as when a lock is free that was taken then.
    It is not held in that case, and the point is tried again.  If it is the last one, the sweep is over after
    MISSES tries: the operation was held at every lock that it takes now.
    ``inside`` is the function that the operation enters.  ``points`` are the names of functions
    at which it is held: sleeping locks, their releases, and ``others``.
    """

    hold: Hold
    inside: str
    others: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    outcomes: list[str] = field(default_factory=list)
    misses: int = 0

    def scout(self, actor: Actor, attempt: Callable[[], object]) -> None:
        """Learn the points by one operation that is not held.  HarnessError if there is none."""
        with self.hold.at_point(self.inside, (*LOCKS, *self.others), None, HELD) as held:
            Result.of(begin_held(held, actor, attempt))
            self.points = held.points
        if not self.points:
            raise HarnessError(f"The operation takes no lock in {self.inside}, so it cannot be held at one.")

    def meet(
        self,
        first: tuple[Actor, Callable[[], object]],
        second: tuple[Actor, Callable[[], object]],
        then: Callable[[], object] | None = None,
    ) -> Meeting:
        """Hold the ``first`` operation at the next point while the ``second`` acts.

        ``then`` is what the second side does next.  Its result is the one in the Meeting; the one
        before is required to be a success.
        """
        number = len(self.outcomes) + 1
        with self.hold.at_point(self.inside, set(self.points), number, HELD) as held:
            one = begin_held(held, *first)
            other = Call.begin(*second)
            outcome = NOT_HELD if held.passed else outcome_while_held(held, other)
            if then is not None and outcome in ("returned", NOT_HELD):
                require_result(Result.of(other), DONE)
                other = Call.begin(second[0], then)
                outcome, then = NOT_HELD if held.passed else outcome_while_held(held, other), None
        self._count(outcome)
        result = Result.of(one)
        if then is not None:
            require_result(Result.of(other), DONE)
            other = Call.begin(second[0], then)
        return Meeting(outcome, result, Result.of(other))

    def _count(self, outcome: str) -> None:
        """Go on to the next point, or try this one again.

        HarnessError after MISSES misses in a row, unless only the last point is left.
        """
        if outcome != NOT_HELD:
            self.outcomes.append(outcome)
            self.misses = 0
            return
        self.misses += 1
        if self.misses == MISSES and 1 < len(self.points) == len(self.outcomes) + 1:
            self.points = self.points[:-1]
            return
        if self.misses == MISSES:
            raise HarnessError(
                f"The operation was to be held at lock {len(self.outcomes) + 1} of {len(self.points)} in "
                f"{self.inside}, and {MISSES} times it took fewer locks than at first."
            )

    def over(self) -> bool:
        """Tell whether the operation was held at every point."""
        return len(self.outcomes) == len(self.points)

    def told(self) -> str:
        """Tell how the other side fared at each point."""
        steps = zip(self.points, self.outcomes, strict=False)
        fewer = f" ({MISSES} operations took one lock fewer than the first)" if self.misses == MISSES else ""
        return ", ".join(f"{outcome} at {point}" for point, outcome in steps) + fewer
