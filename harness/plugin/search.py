"""Random cases: many tried by one actor, and the smallest that fails done once more, alone.

What is tried does not change from run to run.  A case that fails is made smaller
as long as it fails; the smallest is then done by a fresh actor whose transcript
holds nothing else, which is the one to replay.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from hypothesis import Phase, given, settings
from hypothesis.strategies import SearchStrategy

from harness.actor.actor import Actor
from harness.actor.reply import Refused

SHRINK_SECONDS = 20.0  # after the first failure; then no case is tried that was not tried before
DISPROOFS = (AssertionError, Refused)

Subject = TypeVar("Subject")
Case = TypeVar("Case")


class CaseFailedError(Exception):
    """A case was disproved; the same error for every case, so that the smallest of all is looked for."""


class _EndError(BaseException):
    """Carries an error past hypothesis after which no other case can be tried."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Search:
    """What a scenario searches with.

    ``start`` starts an actor; ``begin_anew`` ends those that were started and sets
    their transcript aside.
    """

    start: Callable[[], Actor]
    begin_anew: Callable[[], None]

    def __call__(
        self,
        cases: SearchStrategy[Case],
        prepare: Callable[[Actor], Subject],
        check: Callable[[Subject, Case], None],
        *,
        examples: int,
    ) -> None:
        """Check ``examples`` cases against what ``prepare`` makes of an actor.

        ``check`` disproves a case by AssertionError or Refused, and leaves the
        subject as it found it.  Raises what the smallest disproved case raises; any
        other error ends the search at once.  Cases are told apart by their repr().
        """
        attempts = _Attempts(self._prepared(prepare), check)

        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            report_multiple_bugs=False,
            print_blob=True,
        )
        @given(cases)
        def attempt(case: Case) -> None:
            attempts.make(case)

        try:
            attempt()
        except _EndError as end:
            raise end.error from None
        except CaseFailedError:
            assert attempts.failure is not None
        else:
            return
        self._alone(prepare, check, attempts.failure)

    def _prepared(self, prepare: Callable[[Actor], Subject]) -> tuple[Actor, Subject]:
        actor = self.start()
        return actor, prepare(actor)

    def _alone(
        self,
        prepare: Callable[[Actor], Subject],
        check: Callable[[Subject, Case], None],
        failure: _Failure[Case],
    ) -> None:
        self.begin_anew()
        actor, subject = self._prepared(prepare)
        actor.comment(f"the smallest case that fails: {failure.case}")
        try:
            check(subject, failure.case)
        except DISPROOFS as error:
            error.add_note(f"The smallest case that fails: {failure.case}")
            raise
        raise AssertionError(
            f"This case failed after others, but not when it was done alone: {failure.case}. The transcript "
            f"that was set aside, beside this one, has them all. It failed so: {failure.error}"
        ) from failure.error


@dataclass(frozen=True)
class _Failure(Generic[Case]):
    case: Case
    error: Exception


class _Attempts(Generic[Subject, Case]):
    """The cases tried; ``failure`` is the last that failed, in the end the smallest."""

    def __init__(self, prepared: tuple[Actor, Subject], check: Callable[[Subject, Case], None]) -> None:
        self._actor, self._subject = prepared
        self._check = check
        self._failures: dict[str, Exception] = {}
        self._count = 0
        self._end = float("inf")
        self.failure: _Failure[Case] | None = None

    def make(self, case: Case) -> None:
        """Try a case.  Raises CaseFailedError."""
        key = repr(case)
        if key not in self._failures and time.monotonic() < self._end:
            self._try(case, key)
        if key in self._failures:
            self.failure = _Failure(case, self._failures[key])
            raise CaseFailedError

    def _try(self, case: Case, key: str) -> None:
        self._count += 1
        self._actor.comment(f"case {self._count}: {key}")
        try:
            self._check(self._subject, case)
        except DISPROOFS as error:
            self._end = min(self._end, time.monotonic() + SHRINK_SECONDS)
            self._failures[key] = error
        except Exception as error:
            raise _EndError(error) from error
