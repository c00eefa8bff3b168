"""The steps of a transcript, read from its text (probes/PROTOCOL.md, "Transcripts")."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from harness.lib.errors import UsageError

#: Operations whose replies are counts and times that differ from run to run (probes/replay.c).
MEASURED = frozenset(
    (
        *("footprint", "hammered", "unhammer", "attempts", "together", "faults", "memory", "touch"),
        *(
            "watched",
            "counted",
            "clock",
            "stack",
            "held",
            "ended",
            "impcounts",
            "imprecords",
            "wakeups",
            "fds",
        ),
        *("confine", "version"),
    )
)
#: Operations that a scenario repeats until the reply is the one that it waits for.
POLLED = frozenset(("read", "ended", "ready", "stack", "impcounts", "hammered"))
#: Steps whose replies are counts or the content of files.
_MEASURED_STEPS = ("guest iommu-faults ", "guest read ")
#: The steps that can be done again without the scenario, by their first words.
REPLAYABLE = frozenset(
    [*(f"host {one}" for one in ("read", "write", "word", "words", "stamp", "fill"))]
    + [
        f"guest {one}"
        for one in (
            *("bind", "unbind", "restore", "begin-unbind", "await-suspend", "replug"),
            *("read", "write", "iommu-faults", "load-importer"),
        )
    ]
)
_FIRST = re.compile(r"# transcript (\d{1,9})")
_NUMBER = re.compile(r"0x[0-9a-f]{1,16}")
_ACTOR = re.compile(r"actor ([1-9]\d{0,3}) (c|python)")


@dataclass(frozen=True)
class Step:
    """An operation of an actor, or another step: its ``text`` without the mark, and its line, from 1.

    ``actor`` is the number of the top-level actor, 0 for another step.  ``reply`` is None if none
    was recorded.  ``wanted`` is the pattern that the reply was expected to match; empty if the
    transcript has none.
    """

    text: str
    line: int
    actor: int = 0
    kind: str = ""
    reply: str | None = None
    wanted: str = ""

    @property
    def verb(self) -> str:
        """The operation's name (``load32``) without the children, or the step's first two words."""
        words = self.text.split()
        if not self.actor:
            return " ".join(words[:2])
        while words and words[0][:1] in ("@", "&"):
            words = words[1:]
        return words[0] if words else ""

    @property
    def measured(self) -> bool:
        """True if the reply is a measurement, which another run need not repeat."""
        if not self.actor:
            return f"{self.text} ".startswith(_MEASURED_STEPS)
        return self.verb in MEASURED

    @property
    def polled(self) -> bool:
        """True if a scenario may have repeated the operation until this reply."""
        return bool(self.actor) and self.verb in POLLED and not self.wanted and not self.measured

    def conforms(self, reply: str) -> bool:
        """Return whether a reply matches ``wanted``; never without a pattern."""
        return bool(self.wanted) and matches(self.wanted, reply)

    def repeats(self, reply: str) -> bool:
        """Return whether a reply is the recorded answer; of an error only the errno counts."""
        return self.reply is not None and _same(self.reply.split(), reply.split())


@dataclass(frozen=True)
class Recording:
    """A transcript: the words of its ``machine``, the address of each device by role, and its steps."""

    machine: str
    devices: dict[str, str]
    steps: tuple[Step, ...]

    @property
    def decisive(self) -> Step | None:
        """The step whose reply was not the expected one; None if the transcript names none."""
        return next((step for step in self.steps if step.wanted), None)

    def obstacles(self) -> Iterator[Step]:
        """Iterate over the steps that cannot be done again without the scenario."""
        for step in self.steps:
            if (
                not step.actor
                and step.verb not in REPLAYABLE
                and step.text.split()[0] not in ("actor", "end")
            ):
                yield step


def matches(pattern: str, reply: str) -> bool:
    """Return whether a reply matches a pattern of a line ``= PATTERN``."""
    wanted = pattern.removeprefix("not ")
    return any(_matches(one, reply) for one in wanted.split(" | ")) is (wanted == pattern)


def _matches(one: str, reply: str) -> bool:
    wanted, words = one.split(), reply.split()
    if wanted[-1:] == ["*"]:
        words[len(wanted) - 1 :] = ["*"]
    return _same(wanted, words)


def _same(wanted: Sequence[str], words: Sequence[str]) -> bool:
    if wanted[:1] == ["error"]:
        wanted, words = wanted[:2], words[:2]
    return len(wanted) == len(words) and all(map(_equal, wanted, words))


def _equal(one: str, other: str) -> bool:
    """Return whether two words are equal, or the same number in hexadecimal."""
    return one == other or (
        bool(_NUMBER.fullmatch(one) and _NUMBER.fullmatch(other)) and int(one, 16) == int(other, 16)
    )


def parse(text: str) -> Recording:
    """Parse a transcript.  Raises UsageError with the number of a line that it cannot have."""
    lines = text.split("\n")
    found = _FIRST.fullmatch(lines[0])
    if found is None or found[1] != "2":
        raise UsageError(
            f"It is no transcript of version 2: its first line is {lines[0][:80]!r}. Run the scenario again."
        )
    machine, devices = "", {}
    steps: list[Step] = []
    actors: dict[int, str] = {}
    current = 0
    for number, line in enumerate(lines[1:], start=2):
        mark, rest = line[:2], line[2:]
        if not line or mark == "# ":
            continue
        if mark == "! ":
            words = rest.split()
            if words[:1] == ["machine"]:
                machine = rest.partition(" ")[2]
            elif words[:1] == ["device"] and len(words) == 3:
                devices[words[1]] = words[2]
            elif named := _ACTOR.fullmatch(rest):
                current = int(named[1])
                if actors.setdefault(current, named[2]) != named[2]:
                    raise _error(number, "an actor of two kinds")
                steps.append(Step(rest, number))
            elif words:
                steps.append(Step(rest, number))
            else:
                raise _error(number, "an empty step")
        elif mark == "> ":
            if not current:
                raise _error(number, "an operation without an actor")
            steps.append(Step(rest, number, current, actors[current]))
        elif not steps:
            raise _error(number, "a reply without an operation")
        elif mark == "= ":
            steps[-1] = replace(steps[-1], wanted=rest)
        elif steps[-1].reply is None:
            steps[-1] = replace(steps[-1], reply=line)
        else:
            raise _error(number, "a second reply")
    return Recording(machine, devices, tuple(steps))


def _error(number: int, what: str) -> UsageError:
    return UsageError(f"The transcript cannot be understood: line {number} is {what}.")
