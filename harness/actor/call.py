"""Operations in flight: an actor carries one out while its parent and other actors carry out theirs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from harness.actor.actor import Actor
from harness.actor.reply import DeadlineError, Fault, Refused, judge
from harness.actor.session import DEADLINE
from harness.lib.errors import HarnessError

WINDOW_SECONDS = 30  # for an actor to get where it is held, before the kernel's slowdown


@dataclass(frozen=True)
class Place:
    """An actor in the kernel: its ``state`` (``D``, ``S``, ``R``), and its stack from the top."""

    state: str
    functions: tuple[str, ...]

    @classmethod
    def parse(cls, reply: str) -> Place:
        """Parse the reply to ``stack``.  Raises ValueError, LookupError."""
        words = dict(word.split("=", 1) for word in reply.split())
        return cls(words["state"], tuple(filter(None, words["stack"].split(","))))

    def __str__(self) -> str:
        return f"{self.state} in {' < '.join(self.functions) or 'user mode'}"


class Call:
    """One operation that a child actor carries out, while other actors can be asked for theirs.

    ``Call.begin(owner, lambda: owner.revoke(buffer))`` begins it.  Until result() or
    outcome() the actor takes no other operation.
    """

    def __init__(self, actor: Actor, line: str, seconds: int) -> None:
        self.actor = actor
        self.line = line
        self._seconds = seconds

    @classmethod
    def begin(cls, actor: Actor, attempt: Callable[[], object]) -> Call:
        """Begin the operation of a child that ``attempt`` asks for; return at once.

        ``attempt`` must ask this actor for one operation.  Raises HarnessError if it does not.
        """

        def take(line: str, seconds: int) -> NoReturn:
            raise _LineError(line, seconds)

        actor.instead = take
        try:
            attempt()
        except _LineError as taken:
            line, seconds = taken.line, taken.seconds
        else:
            raise HarnessError(f"The actor {actor.name} was to begin an operation, and was asked for none.")
        finally:
            actor.instead = None
        actor.require("STACKTRACE")
        call = cls(actor, line, seconds)
        call._parent(f"&{{}} {line}")
        return call

    def ended(self) -> bool:
        """Return whether the actor has ended the operation."""
        return self._parent("ended {}") == "yes"

    def place(self) -> Place:
        """Return where in the kernel the actor is; the stack of one that runs may be out of date."""
        return Place.parse(self._parent("stack {}"))

    def held_in(self, *functions: str) -> Place | None:
        """Wait until the actor sleeps inside one of these kernel functions; None if the operation ends first.

        Raises HarnessError if it does neither.  The functions that wait for a lock show in no
        stack; asleep() is for these.
        """
        seconds = math.ceil(WINDOW_SECONDS * self.actor.slowdown)
        try:
            said = self._parent(f"held {{}} {','.join(functions)} deadline={seconds}", seconds)
        except DeadlineError as error:
            raise HarnessError(
                f"The operation `{self.line}` neither ended nor came to {' or '.join(functions)}: "
                f"the actor {self.actor.name} is {self.place()}."
            ) from error
        return None if said == "ended" else Place.parse(said)

    def asleep(self) -> Place | None:
        """Wait until the actor sleeps uninterruptibly, as for a lock; None if the operation ends first."""
        return self.held_in("asleep")

    def result(self, deadline: int | None = None) -> str | Fault:
        """Wait for the end of the operation; return the words after ``ok``, or the fault.

        ``deadline`` is in whole seconds from now, before the multiplication by the
        slowdown.  Raises what the operation itself would raise.
        """
        seconds = math.ceil((deadline or self._seconds) * self.actor.slowdown)
        reply = self.actor.ask_parent(f"finish {{}} deadline={seconds}", seconds, self.line)
        return judge(self.line, reply, seconds)

    def outcome(self) -> str:
        """Wait for the end; return ``success``, the errno of a refusal, or ``SIGBUS`` and its like."""
        try:
            result = self.result()
        except Refused as refused:
            return refused.errno
        return type(result).__name__.upper() if isinstance(result, Fault) else "success"

    def _parent(self, words: str, seconds: int = DEADLINE) -> str:
        said = judge(words, self.actor.ask_parent(words, seconds), seconds)
        if isinstance(said, Fault):
            raise HarnessError(f"The operation `{words}` was answered by a fault: {said}.")
        return said


class _LineError(Exception):
    """The line that an actor was to be sent."""

    def __init__(self, line: str, seconds: int) -> None:
        super().__init__(line)
        self.line = line
        self.seconds = seconds
