"""The connection to an actor: requests, deadlines, and replies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self, TypeVar

from harness.actor import interface
from harness.actor.reply import ActorDiedError, DeadlineError, Fault, judge
from harness.actor.transcript import MARGIN, Channel, Transcript
from harness.lib.errors import HarnessError, PatchproofError
from harness.lib.interruption import Interruption
from harness.lib.text import printable
from harness.vm.ssh import SshTimeoutError
from harness.vm.ssh_limits import LINE_LIMIT

DEADLINE = 10  # seconds, the actor's default for one operation
SHOWN = 2000  # characters of what an actor said, in an error
REFUSALS = 20  # of the series' interface, that a transcript counts
T = TypeVar("T")


class Wire:
    """The channel of a top-level actor and all its descendants; ``kind`` is that of Transcript.actor()."""

    def __init__(
        self, channel: Channel, transcript: Transcript, margin: float = MARGIN, kind: str = "c"
    ) -> None:
        self._channel = channel
        self._kind = kind
        self._number = transcript.actor(kind)
        self._transcript = transcript
        self._margin = margin
        self._lost: PatchproofError | None = None

    def ask(self, line: str, seconds: float, answers: str | None = None) -> str:
        """Send one line and return its reply; the actor's own deadline is ``seconds``.

        ``answers`` is the line that the reply belongs to, if that is an earlier one.

        Raises DeadlineError, ActorDiedError, and SshLostError if the guest is gone.
        After one of these errors the wire is unusable: every further call raises the
        same error at once.
        """
        if self._lost is not None:
            raise self._lost
        self._transcript.operation(line, self._number, self._kind)
        try:
            self._channel.write(line.encode(errors="surrogateescape") + b"\n", self._margin)
            raw = self._channel.read_line(seconds + self._margin, LINE_LIMIT)
        except SshTimeoutError as error:
            self._lost = DeadlineError(line, seconds + self._margin, answered=False)
            self._transcript.comment(f"no answer: {self._lost}")
            raise self._lost from error
        except EOFError as error:
            self._lost = ActorDiedError(f"The actor ended while it did `{line}`: {self._end_report()}")
            self._transcript.comment(str(self._lost))
            raise self._lost from error
        except PatchproofError as error:
            self._lost = error
            self._transcript.comment(f"no answer: {error}")
            raise
        except Interruption:
            self._lost = HarnessError(f"The run was interrupted while the actor did `{line}`.")
            raise
        reply = raw.decode(errors="backslashreplace").rstrip("\r")
        self._transcript.reply(reply)
        if (refused := interface.refusal(answers or line, reply)) and len(
            self._transcript.refused
        ) < REFUSALS:
            self._transcript.refused[refused] = None
        return reply

    def comment(self, text: str) -> None:
        """Write a comment line into the transcript."""
        self._transcript.comment(text)

    def close(self) -> None:
        """Close the actor's input and wait for its end, after which all its resources are released."""
        self._transcript.end(self._number)
        try:
            if self._lost is None:
                self._channel.end_input()
                self._channel.wait(self._margin)
        except PatchproofError as error:
            self._transcript.comment(f"it did not end when it was asked to: {error}")
        finally:
            self._channel.close()

    def _end_report(self) -> str:
        try:
            status = self._channel.wait(self._margin)
        except SshTimeoutError:
            return "it closed its output, but did not exit."
        errors = printable(self._channel.read_errors().strip(), SHOWN)
        end = f"exit status {status}" if status >= 0 else "killed by a signal"
        return f"{end}{f'; standard error: {errors}' if errors else ''}."


class Session:
    """The operations of one actor; ``name`` is its name from spawn() or fork(), empty for the first.

    ``revoke_via`` is the call that revokes, for a probe that does not know it from the
    headers: ``feature``, ``device-ioctl``, ``ioctl``, or ``none`` if the kernel offers none.
    ``attribute_via`` is the interface for the memory attribute of a DMABUF: ``flags``,
    ``set``, ``get-set``, or ``none``.
    Every deadline is multiplied by ``slowdown``.  ``absent`` returns why a kernel
    option is not in the kernel, empty if it is.  ``instead``, if not None, gets each line
    and its deadline in place of the actor, and returns the reply.

    Every operation may raise Refused, DeadlineError, ActorDiedError, SshLostError;
    NotOfferedError if this kernel lacks the call; HarnessError if the actor rejects
    the line itself.
    """

    def __init__(self, wire: Wire, name: str = "", prefix: str = "") -> None:
        self.name = name
        self._wire = wire
        self._prefix = prefix
        self.revoke_via: str | None = None
        self.attribute_via = "none"
        self.slowdown = 1.0
        self.absent: Callable[[str], str] = lambda _: ""
        self.instead: Callable[[str, int], str] | None = None

    def __str__(self) -> str:
        return self.name or "the first process"

    def raw(self, line: str, seconds: int = DEADLINE) -> str:
        """Send any line and return the unparsed reply; ``seconds`` is the deadline that the line sets."""
        if self.instead is not None:
            return self.instead(line, seconds)
        return self._wire.ask(self._prefix + line, seconds)

    def ask_parent(self, words: str, seconds: int = DEADLINE, answers: str | None = None) -> str:
        """Have the actor's parent carry out a line, in which ``{}`` stands for this actor's name.

        Returns the unparsed reply.  ``answers`` as for Wire.ask().  Raises HarnessError if
        this actor has no parent.
        """
        if not self.name:
            raise HarnessError("The first actor of a scenario has no parent that could watch it.")
        parent = self._prefix.removesuffix(f"@{self.name} ")
        return self._wire.ask(parent + words.replace("{}", self.name, 1), seconds, answers)

    def do(self, *words: object, **options: object) -> str | Fault:
        """Carry out an operation; return the words after ``ok``, or the fault.

        An option that is None is left out.  ``deadline`` is in whole seconds, before the
        multiplication by ``slowdown``.
        """
        given = {key: value for key, value in options.items() if value is not None}
        seconds = math.ceil(int(str(given.pop("deadline", DEADLINE))) * self.slowdown)
        if seconds != DEADLINE:
            given["deadline"] = seconds
        line = " ".join([*map(_word, words), *(f"{key}={_word(value)}" for key, value in given.items())])
        return judge(line, self.raw(line, seconds), seconds)

    def say(self, *words: object, **options: object) -> str:
        """Carry out an operation that cannot fault; return the words after ``ok``."""
        answer = self.do(*words, **options)
        if isinstance(answer, Fault):
            raise HarnessError(f"The operation `{words[0]}` was answered by a fault: {answer}.")
        return answer

    def comment(self, text: str) -> None:
        """Write a comment line into the transcript."""
        self._wire.comment(text)

    def read(self, parse: Callable[[str], T], *words: object, **options: object) -> T:
        """Carry out an operation and parse the words after ``ok``.  HarnessError if ``parse`` fails."""
        return understand(parse, self.say(*words, **options), words[0])

    def close(self) -> None:
        """End the top-level actor and all its descendants."""
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def understand(parse: Callable[[str], T], reply: str, verb: object) -> T:
    """Parse the words after ``ok`` of the reply to an operation.  HarnessError if ``parse`` fails."""
    try:
        return parse(reply)
    except (ValueError, LookupError) as error:
        raise HarnessError(f"The answer to `{verb}` cannot be understood: {printable(reply)!r}") from error


def _word(value: object) -> str:
    """Format a value for a line: numbers above 9 in hexadecimal."""
    return hex(value) if isinstance(value, int) and value > 9 else str(value)
