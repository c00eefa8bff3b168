"""One conversation with an actor: the wire, the deadlines, the replies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self, TypeVar

from harness.actor.reply import ActorDiedError, DeadlineError, Fault, judge
from harness.actor.transcript import LIMIT, MARGIN, Channel, Transcript
from harness.lib.errors import HarnessError, PatchproofError
from harness.vm.ssh import SshTimeoutError

DEADLINE = 10  # seconds, the actor's own for one operation
T = TypeVar("T")


class Wire:
    """One top-level actor's channel, shared with the actors that it spawns."""

    def __init__(self, channel: Channel, transcript: Transcript, margin: float = MARGIN) -> None:
        self._channel = channel
        self._transcript = transcript
        self._margin = margin
        self._lost: PatchproofError | None = None

    def ask(self, line: str, seconds: float) -> str:
        """One line and its reply.

        Raises DeadlineError, ActorDiedError, and SshLostError if the guest is gone.
        A line that was never answered leaves nothing to talk to: asking again
        raises the same error at once.
        """
        if self._lost is not None:
            raise self._lost
        self._transcript.operation(line)
        try:
            self._channel.write(line.encode(errors="surrogateescape") + b"\n", self._margin)
            raw = self._channel.read_line(seconds + self._margin, LIMIT)
        except SshTimeoutError as error:
            self._lost = DeadlineError(line, seconds + self._margin, answered=False)
            self._transcript.comment(f"no answer: {self._lost}")
            raise self._lost from error
        except EOFError as error:
            self._lost = ActorDiedError(f"The actor ended while it did `{line}`: {self._last_words()}")
            self._transcript.comment(str(self._lost))
            raise self._lost from error
        except PatchproofError as error:
            self._lost = error
            self._transcript.comment(f"no answer: {error}")
            raise
        reply = raw.decode(errors="backslashreplace").rstrip("\r")
        self._transcript.reply(reply)
        return reply

    def comment(self, text: str) -> None:
        """A line for people in the transcript."""
        self._transcript.comment(text)

    def close(self) -> None:
        """End the actor, which sees the end of its input, and wait until it is gone with all it held."""
        try:
            if self._lost is None:
                self._channel.end_input()
                self._channel.wait(self._margin)
        except PatchproofError as error:
            self._transcript.comment(f"it did not end when it was asked to: {error}")
        finally:
            self._channel.close()

    def _last_words(self) -> str:
        try:
            status = self._channel.wait(self._margin)
        except SshTimeoutError:
            return "it closed its output, but did not exit."
        said = self._channel.read_errors().decode(errors="backslashreplace").strip()
        how = f"exit status {status}" if status >= 0 else "killed by a signal"
        return f"{how}{f'; it said: {said}' if said else ''}."


class Session:
    """A conversation with one actor; ``name`` is empty for the first, else what spawn() called it.

    ``revoke_via`` is the call that revokes, where the probe cannot know it from the
    headers: ``feature``, ``ioctl``, or ``none`` if there is none.
    ``slowdown`` is what every deadline is multiplied by.

    Every operation may raise Refused, DeadlineError, ActorDiedError, SshLostError;
    NotOfferedError where it would take a call that this kernel does not have;
    HarnessError where the actor found the line itself wrong.
    """

    def __init__(self, wire: Wire, name: str = "", prefix: str = "") -> None:
        self.name = name
        self._wire = wire
        self._prefix = prefix
        self.revoke_via: str | None = None
        self.slowdown = 1.0

    def raw(self, line: str, seconds: int = DEADLINE) -> str:
        """Any line at all, and the reply as it came; ``seconds`` is the deadline that the line asks for."""
        return self._wire.ask(self._prefix + line, seconds)

    def do(self, *words: object, **options: object) -> str | Fault:
        """An operation: the words of its ``ok``, or the fault.

        An option that is None is left out; ``deadline`` is in whole seconds, for a
        kernel that nothing slows down.
        """
        given = {key: value for key, value in options.items() if value is not None}
        seconds = math.ceil(int(str(given.pop("deadline", DEADLINE))) * self.slowdown)
        if seconds != DEADLINE:
            given["deadline"] = seconds
        line = " ".join([*map(_word, words), *(f"{key}={_word(value)}" for key, value in given.items())])
        return judge(line, self.raw(line, seconds), seconds)

    def say(self, *words: object, **options: object) -> str:
        """An operation that cannot fault."""
        answer = self.do(*words, **options)
        if isinstance(answer, Fault):
            raise HarnessError(f"The operation `{words[0]}` was answered by a fault: {answer}.")
        return answer

    def comment(self, text: str) -> None:
        """A line for people in the transcript."""
        self._wire.comment(text)

    def read(self, parse: Callable[[str], T], *words: object, **options: object) -> T:
        """An operation whose answer ``parse`` understands; HarnessError if it does not."""
        said = self.say(*words, **options)
        try:
            return parse(said)
        except (ValueError, LookupError) as error:
            raise HarnessError(f"The answer to `{words[0]}` cannot be understood: {said[:200]!r}") from error

    def close(self) -> None:
        """Hang up on it and on all it has spawned."""
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _word(value: object) -> str:
    """As a transcript shows it: addresses and sizes in hexadecimal."""
    return hex(value) if isinstance(value, int) and value > 9 else str(value)
