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
    begin_held,
    outcome_while_held,
    require_result,
    result_of,
)


@dataclass
class Sweep:
    """Hold an operation at its first lock, then at its second, and so on until it passes all of them.

    ``inside`` is the function that the operation enters.  ``points`` are the names of functions
    at which it is held: sleeping locks, their releases, and ``others``.
    """

    hold: Hold
    inside: str
    others: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    outcomes: list[str] = field(default_factory=list)

    def scout(self, actor: Actor, attempt: Callable[[], object]) -> None:
        """Learn the points by one operation that is not held.  HarnessError if there is none."""
        with self.hold.at_point(self.inside, (*LOCKS, *self.others), None, HELD) as held:
            result_of(begin_held(held, actor, attempt))
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
            if held.passed:
                raise HarnessError(f"The operation took fewer locks in {self.inside} than it did at first.")
            other = Call.begin(*second)
            outcome = outcome_while_held(held, other)
            if then is not None and outcome == "returned":
                require_result(result_of(other), DONE)
                other = Call.begin(second[0], then)
                outcome, then = outcome_while_held(held, other), None
        self.outcomes.append(outcome)
        result = result_of(one)
        if then is not None:
            require_result(result_of(other), DONE)
            other = Call.begin(second[0], then)
        return Meeting(outcome, result, result_of(other))

    def over(self) -> bool:
        """Tell whether the operation was held at every point."""
        return len(self.outcomes) == len(self.points)

    def told(self) -> str:
        """Tell how the other side fared at each point."""
        steps = zip(self.points, self.outcomes, strict=False)
        return ", ".join(f"{outcome} at {point}" for point, outcome in steps)
