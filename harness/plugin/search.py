"""Search random cases with one actor, and run the smallest case that fails once more, alone.

The cases are the same in every run.  A case that fails is made smaller as long as it
fails.  The smallest is then run by a new actor, so that its transcript has nothing
else and can be replayed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from hypothesis import Phase, given, settings
from hypothesis.strategies import SearchStrategy

from harness.actor.actor import Actor
from harness.actor.mismatch import Mismatch
from harness.actor.reply import Refused
from harness.lib.text import one_line

SHRINK_SECONDS = 20.0  # after the first failure; then only cases that were tried before are tried
DISPROOFS = (AssertionError, Refused)

Subject = TypeVar("Subject")
Case = TypeVar("Case")


class CaseFailedError(Exception):
    """A case failed; one error type for all cases, so that hypothesis shrinks to the smallest of all."""


class _EndError(BaseException):
    """An error that ends the search; a BaseException, so that hypothesis does not try another case."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Search:
    """A search for a case that fails, as a callable.

    ``start`` starts an actor; ``begin_anew`` ends the started actors and sets their
    transcript aside.
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
        """Check ``examples`` cases on the subject that ``prepare`` makes with an actor.

        ``check`` raises AssertionError or Refused for a case that fails, and restores the
        subject.  The search then raises the error of the smallest such case.  Any other
        error ends the search at once.  Two cases are the same if their repr() is.
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
        mismatch = Mismatch(
            f"this case failed after others, but not alone: {failure.case}",
            expected="no failure",
            seen=one_line(str(failure.error)),
            moment="",
        )
        mismatch.add_note("All cases are in the transcript that was set aside, beside this one.")
        raise mismatch from failure.error


@dataclass(frozen=True)
class _Failure(Generic[Case]):
    case: Case
    error: Exception


class _Attempts(Generic[Subject, Case]):
    """The cases tried so far; ``failure`` is the last one that failed, in the end the smallest."""

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
