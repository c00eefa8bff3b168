"""The claim of a scenario: what a kit shows again, or why no kit can."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum, auto
from itertools import pairwise
from pathlib import Path

from harness.actor import steps
from harness.actor.steps import Recording, Step
from harness.klog.fingerprint import constant_parts
from harness.lib.errors import UsageError
from harness.report.evidence import located
from harness.verdict.deviation import Deviation
from harness.verdict.record import Result
from harness.verdict.verdict import Verdict

LEFTOVER = "DMABUFs are left over"  # in the words of harness.guest.health


class Kind(StrEnum):
    """The evidence of a claim; vmimage/kit/claim.c has the same words."""

    REPLY = auto()  # the answer to one step
    SILENCE = auto()  # a step that does not end in time
    LEFTOVER = auto()  # DMABUFs that outlive the actors
    COMPLAINT = auto()  # a complaint of the kernel
    DEATH = auto()  # the end of the kernel
    ANSWERS = auto()  # all answers are those of the run, which does not say what conforms
    CONFORMS = auto()  # all answers are those of the run, which conformed


@dataclass(frozen=True)
class Claim:
    """What a scenario showed.

    ``transcript`` is its text, and ``line`` that of the deciding step, 0 if it is not one step.
    ``complaints`` are basic regular expressions, one of which finds the complaint on the console.
    """

    kind: Kind
    transcript: str
    recording: Recording
    line: int = 0
    complaints: tuple[str, ...] = ()

    @property
    def needed(self) -> tuple[Step, ...]:
        """The steps up to the deciding one, or all."""
        every = self.recording.steps
        return tuple(step for step in every if not self.line or step.line <= self.line)

    def witnessed(self) -> set[str]:
        """Return the roles of the devices whose memory the host reads or writes."""
        return {step.text.split()[2] for step in self.needed if not step.actor and step.verb[:5] == "host "}

    def needs_importer(self) -> bool:
        """Return whether the test importer is loaded."""
        return any(not step.actor and step.verb == "guest load-importer" for step in self.needed)

    def settings(self) -> Iterator[str]:
        """Iterate over the lines that tell the guest's init how to compare (vmimage/kit/claim.c)."""
        yield f"kind {self.kind}"
        if self.line:
            yield f"line {self.line}"
        for step in self.needed:
            if step.measured:
                yield f"measured {step.line}"
        for step, following in pairwise(self.needed):
            if step.polled and following.line != self.line:
                same = (step.actor, step.text) == (following.actor, following.text)
                yield f"left-out {step.line}" if same else f"polled {step.line}"


def claim_of(result: Result, directory: Path) -> Claim:
    """Return the claim of a scenario.  Raises UsageError with the reason if none can be packed."""
    if result.verdict is Verdict.NOT_APPLICABLE:
        raise UsageError(f"The scenario is not applicable, so there is nothing to show: {result.reason}")
    if not result.ended or result.verdict in (Verdict.HARNESS_ERROR, Verdict.NOT_REACHED):
        raise UsageError(f"The scenario has no verdict on the kernel ({result.verdict}): {result.reason}")
    path = located(directory, result.transcript)
    if path is None:
        raise UsageError("The scenario has no transcript, so there is nothing that could be repeated.")
    text = path.read_text(encoding="utf-8", errors="replace")
    claim = _claim(result, text, steps.parse(text))
    for step in claim.recording.obstacles():
        if not claim.line or step.line <= claim.line:
            raise UsageError(
                "The scenario does what only the harness can do: " + step.text.removeprefix("other ") + "."
            )
    return claim


def _claim(result: Result, text: str, recording: Recording) -> Claim:
    faults = tuple(dict.fromkeys(_pattern(one.title) for one in result.complaints if one.fault))
    if result.verdict is Verdict.KERNEL_DIED:
        return Claim(Kind.DEATH, text, recording, complaints=faults)
    if result.verdict is not Verdict.VIOLATES:
        return Claim(Kind.CONFORMS, text, recording)
    deviation = result.deviation
    of_kernel = deviation is None or deviation.of_kernel
    if faults and of_kernel:
        return Claim(Kind.COMPLAINT, text, recording, complaints=faults)
    if LEFTOVER in result.reason and of_kernel:
        return Claim(Kind.LEFTOVER, text, recording)
    step = recording.decisive or (_step_of(deviation, recording) if deviation and not of_kernel else None)
    if step is None:
        return Claim(Kind.ANSWERS, text, recording)
    silent = step.reply is None or step.reply.startswith("timeout")
    if silent and not step.wanted:
        return Claim(Kind.SILENCE, text, recording, step.line)
    if step.measured and not step.wanted:
        raise UsageError(
            f"A measurement decided, and only the scenario knows which ones conform: {result.reason}"
        )
    # Without a pattern the evidence may be in an earlier reply as well.
    return Claim(Kind.REPLY if step.wanted else Kind.ANSWERS, text, recording, step.line)


def _step_of(deviation: Deviation, recording: Recording) -> Step | None:
    """Return the step that decided: the one at its line, else the last one with its text."""
    if deviation.line:
        return next((step for step in recording.steps if step.line == deviation.line), None)
    named = [
        step for step in recording.steps if deviation.operation and step.text.endswith(deviation.operation)
    ]
    return named[-1] if named else None


def _pattern(title: str) -> str:
    """Return a basic regular expression for the lines with this title, whatever its numbers are."""
    parts = constant_parts(title.splitlines()[0] if title else "")
    return ".*".join(re.sub(r"[][\\.*^$]", r"\\\g<0>", part) for part in parts)
