"""Parse the output of kbuild: the present step, the warnings of each object, the reason of a failure.

The output comes from untrusted patches, so it is only matched against the patterns of
``make_patterns`` and shown; no path in it is used.  It must come from ``make
--output-sync=target`` under ``LC_ALL=C``, where all lines of one step follow the
line that names the step, and make's own line ends a step that failed.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from harness.kernel.make_patterns import (
    AFTER,
    BEFORE,
    CERTAIN,
    ERRORS,
    HEADERS_MISSING,
    HOST_HEADER,
    HOST_RULE,
    MACHINE,
    NOISE,
)
from harness.lib import cgroup
from harness.lib.command import CommandError
from harness.lib.errors import BuildError, HarnessError, PatchproofError
from harness.lib.text import printable

SHOWN_ERRORS = 10
#: The target of kconfig's warnings, which belong to the configuration and not to an object.
CONFIGURATION = "Kconfig"

# The lines shown of what explains an error, before it and after it, and of a step without a known error.
_SHOWN_BEFORE = 4
_SHOWN_AFTER = 8
_SHOWN_OF_STEP = 6
_LINE_LENGTH = 1000  # characters
#: Warnings of one build that are kept, with the last one saying so; targets that are told apart.
MAX_WARNINGS = 20_000
MAX_TARGETS = 200_000
#: Errors of one step that are kept, and steps with an error.
MAX_ERRORS = 1000
_MORE_WARNINGS = f"warning: there are more than {MAX_WARNINGS} warnings, and only these are told"

_STEP = re.compile(r"  ([A-Z][A-Z0-9_]+) +(?:\[M\] +)?(\S+)")
_WARNING = re.compile(
    r"(?!make(?:\[\d+\])?: )\S+?(?::\d+){0,3}: warning: |(?:/\S+/)?ld(?:\.bfd)?: warning: |WARNING: modpost: "
)
_KCONFIG_WARNING = re.compile(r"WARNING: unmet direct dependencies detected for |\S*Kconfig\S*:\d+:warning: ")
_KCONFIG_MORE = re.compile(r"  +(?:Depends on|Selected by|- )")
_POSITION = re.compile(r"(?::\d+)+(?=:)|\+0x[0-9a-f]+")
_FAILED = re.compile(r"make(?:\[\d+\])?: \*\*\* (?!Waiting for |.*\bDeleting (?:intermediate )?file)")


@dataclass
class _Step:
    """The lines of one step, or between two steps."""

    name: str = ""  # CC, HOSTCC, or another word of kbuild
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_SHOWN_OF_STEP))
    errors: list[str] = field(default_factory=list)
    machine: list[tuple[str, str]] = field(default_factory=list)
    header: str = ""  # the line that misses a header which could be one of the host

    @property
    def certain(self) -> bool:
        """Whether the step has an error that only the tree can cause, whatever else it prints."""
        return any(CERTAIN.match(one) for one in self.errors)


@dataclass
class Output:
    """The output of one ``make``, parsed line by line."""

    source: Path
    steps: int = 0
    """The number of compiled or assembled objects."""
    warnings: dict[str, list[str]] = field(default_factory=dict)
    """Warning lines by target; an empty list for a target without warnings."""
    _target: str = ""
    _step: _Step = field(default_factory=_Step)
    _passed: list[_Step] = field(default_factory=list)
    """Steps that did not fail as make says, but have lines that blame the machine or show an error."""
    _failed: list[_Step] = field(default_factory=list)
    _consequences: list[str] = field(default_factory=list)
    _before: deque[str] = field(default_factory=lambda: deque(maxlen=_SHOWN_BEFORE))
    _context: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)
    """The lines that explain an error, before it and after it."""
    _explained: str = ""
    _unmet: bool = False
    _warned: int = 0
    _kills: int = field(default_factory=cgroup.out_of_memory_kills)

    def line(self, raw: str) -> str:
        """Parse one line; return the step that it begins (``CC drivers/pci/pci.o``), or an empty text."""
        text = raw[: 4 * _LINE_LENGTH].replace(f"{self.source}/", "")
        if match := _STEP.fullmatch(text):
            self._end_step(failed=False, name=match[1])
            self._target = printable(match[2], _LINE_LENGTH)
            if len(self.warnings) < MAX_TARGETS:
                self.warnings[self._target] = []
            self.steps += match[1] in ("CC", "AS")
            return f"{match[1]} {self._target}"
        self._read(printable(text.expandtabs(), _LINE_LENGTH))
        return ""

    def failure(self, error: CommandError, what: str) -> PatchproofError:
        """Return the error for a failed make: HarnessError if the machine is to blame, else BuildError.

        The machine is to blame if a step that failed says so, or if memory ran out meanwhile, and no
        error is one that only the tree can cause.  ``what`` names the command in the message.  The
        error has the lines that show the reason.
        """
        meanwhile = cgroup.kills_since(self._kills)
        steps = self._failed
        if not any(step.errors or step.machine for step in steps):
            steps = [*self._passed, self._step]
        machine = [one for step in steps if not step.certain for one in step.machine]
        if machine:
            lines = list(dict.fromkeys(line for line, _ in machine))
            return HarnessError(
                f"The {what} failed{meanwhile}. {machine[0][1]}",
                log=error.log,
                tail="\n".join(lines[:SHOWN_ERRORS]),
            )
        certain = any(step.certain for step in steps)
        if error.signal or (meanwhile and not certain):
            how = f"was killed by signal {error.signal}" if error.signal else "failed"
            return HarnessError.in_place_of(
                error,
                f"The {what} {how}{meanwhile}. This proves nothing about the series; run it again.",
            )
        errors = list(dict.fromkeys(line for step in steps for line in step.errors))
        count = len(errors)
        said = f" with {count} error{'s' if count > 1 else ''}" if count else ""
        lines = self._shown_errors(errors) if count else self._shown_steps()
        return BuildError(f"The {what} failed{said}.", log=error.log, tail="\n".join(lines) or error.tail)

    def _read(self, text: str) -> None:
        """Parse a line that begins no step."""
        if self._read_warning(text):
            return
        advice = next((advice for pattern, advice in MACHINE if pattern.match(text)), None)
        if advice:
            self._machine(text, advice)
        elif HOST_HEADER.match(text) and self._step.name.startswith("HOST"):
            self._machine(text, HEADERS_MISSING)
        elif advice == "" or any(pattern.match(text) for pattern in ERRORS):
            self._error(text)
            if HOST_HEADER.match(text):
                self._step.header = text
        elif BEFORE.match(text):
            self._before.append(text)
        elif self._explained and AFTER.match(text):
            after = self._context[self._explained][1]
            if len(after) < _SHOWN_AFTER:
                after.append(text)
        if _FAILED.match(text):
            if len(self._consequences) < SHOWN_ERRORS:
                self._consequences.append(text)
            self._end_step(failed=True, rule=text)
        elif not NOISE.match(text):
            self._step.lines.append(text)

    def _read_warning(self, text: str) -> bool:
        """Keep ``text`` if it is a line of a warning; return whether it is one."""
        if self._unmet and _KCONFIG_MORE.match(text):
            last = self.warnings[CONFIGURATION][-1]
            if len(last) < _LINE_LENGTH:
                self.warnings[CONFIGURATION][-1] = f"{last} {' '.join(text.split())}"
            return True
        self._unmet = _KCONFIG_WARNING.match(text) is not None
        if not self._unmet and not _WARNING.match(text):
            return False
        self._warned += 1
        if self._warned <= MAX_WARNINGS:
            said = text if self._warned < MAX_WARNINGS else _MORE_WARNINGS
            self.warnings.setdefault(CONFIGURATION if self._unmet else self._target, []).append(said)
        self._unmet = self._unmet and self._warned < MAX_WARNINGS
        self._step.lines.append(text)
        if BEFORE.match(text):
            self._before.append(text)
        return True

    def _machine(self, text: str, advice: str) -> None:
        if len(self._step.machine) < MAX_ERRORS:
            self._step.machine.append((text, advice))

    def _error(self, text: str) -> None:
        if len(self._step.errors) < MAX_ERRORS:
            self._step.errors.append(text)
            self._explained = text
            self._context.setdefault(text, (list(self._before), []))
        self._before.clear()

    def _end_step(self, *, failed: bool, name: str = "", rule: str = "") -> None:
        """End the present step, which the line ``rule`` of make calls failed, and begin that of ``name``."""
        step = self._step
        if failed and step.header and HOST_RULE.match(rule):
            step.machine.append((step.header, HEADERS_MISSING))
            step.errors = [one for one in step.errors if one != step.header]
        ended = self._failed if failed else self._passed
        if (step.machine or step.errors or (failed and step.lines)) and len(ended) < MAX_ERRORS:
            ended.append(step)
        self._step = _Step(name)
        self._before.clear()
        self._explained = ""

    def _shown_errors(self, errors: list[str]) -> list[str]:
        """Return the first errors with the lines that explain them, and the number of the others."""
        lines = []
        for error in errors[:SHOWN_ERRORS]:
            before, after = self._context[error]
            lines += [*before, error, *after[:_SHOWN_AFTER]]
        more = len(errors) - SHOWN_ERRORS
        lines = list(dict.fromkeys(lines))
        return [*lines, f"... and {more} more errors"] if more > 0 else lines

    def _shown_steps(self) -> list[str]:
        """Return the last lines of the step that failed first, and make's line about it."""
        last = self._failed[0].lines if self._failed else ()
        return [*last, *self._consequences[:SHOWN_ERRORS]]


def without_position(warning: str) -> str:
    """Return a warning without line numbers and offsets, so that moved code causes no new warning."""
    return _POSITION.sub("", warning)
