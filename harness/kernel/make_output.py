"""Parse the output of kbuild: the present step, the warnings of each object, the reason of a failure.

The output comes from untrusted patches, so it is only matched against anchored
patterns and shown; no path in it is used.  It must come from ``make
--output-sync=target`` under ``LC_ALL=C``, where all lines of one step follow the
line that names the step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from harness.lib.command import CommandError
from harness.lib.errors import BuildError, HarnessError, PatchproofError

SHOWN_ERRORS = 10

_STEP = re.compile(r"  ([A-Z][A-Z0-9_]+) +(?:\[M\] +)?(\S+)")
_WARNING = re.compile(r"\S+?(?::\d+)*: warning: |(?:/\S+/)?ld(?:\.bfd)?: warning: |WARNING: modpost: ")
_POSITION = re.compile(r"(?::\d+)+(?=: )|\+0x[0-9a-f]+")

_ERRORS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\S+?(?::\d+)*: (?:fatal |internal compiler )?error: ",  # gcc, objtool
        r"\S+?:\d+: Error: ",  # the assembler
        r".*: undefined reference to `",  # the linker
        r".*: multiple definition of `",
        r"ERROR: modpost: ",
        r"\S*Kconfig\S*:\d+: ",  # scripts/kconfig: syntax errors
        r"error: recursive dependency detected",
        r"make(?:\[\d+\])?: \*\*\* No rule to make target ",
    )
)
_CONSEQUENCE = re.compile(r"make(?:\[\d+\])?: \*\*\* ")

# Lines that show a fault of the machine, not of the source, each with the advice to the user.
_MACHINE = (
    (
        re.compile(
            r"(?!.*error: #error ).*: '?No space left on device'?$"
            r"|fixdep: not all data was written to the output$"
        ),
        "There is no space left on the device. Free some (`python -m harness clean` empties the cache).",
    ),
    (
        re.compile(r".*fatal error: Killed signal terminated program |.*\*\*\* \[.*\] (?:Killed|Error 137)$"),
        "The compiler was killed, most likely because memory ran out. Give the machine more memory or swap.",
    ),
    (
        re.compile(r"virtual memory exhausted|\S+: out of memory allocating |.*: Cannot allocate memory$"),
        "Memory ran out. Give the machine more memory or swap.",
    ),
    (
        re.compile(r".*: (?:flex|bison|bc|lz4|gcc|ccache|rsync|perl|ld): (?:command )?not found$"),
        "A program that the build needs is not installed. `python -m harness doctor` lists what is missing.",
    ),
    (
        re.compile(r".*fatal error: (?:libelf|gelf|elf)\.h: No such file or directory$"),
        "The libelf headers are not installed. `python -m harness doctor` lists what is missing.",
    ),
)


@dataclass
class Output:
    """The output of one ``make``, parsed line by line."""

    source: Path
    steps: int = 0
    """The number of compiled or assembled objects."""
    warnings: dict[str, list[str]] = field(default_factory=dict)
    """Warning lines by target; an empty list for a target without warnings."""
    errors: list[str] = field(default_factory=list)
    machine: list[tuple[str, str]] = field(default_factory=list)
    """Lines that show a fault of the machine, each with its advice."""
    _target: str = ""
    _consequences: list[str] = field(default_factory=list)

    def line(self, raw: str) -> str:
        """Parse one line; return the step that it begins (``CC drivers/pci/pci.o``), or an empty text."""
        text = raw.replace(f"{self.source}/", "")
        if match := _STEP.fullmatch(text):
            self._target = match[2]
            self.warnings[self._target] = []
            self.steps += match[1] in ("CC", "AS")
            return f"{match[1]} {match[2]}"
        if _WARNING.match(text):
            self.warnings.setdefault(self._target, []).append(text)
            return ""
        for pattern, advice in _MACHINE:
            if pattern.match(text):
                self.machine.append((text, advice))
                return ""
        if any(pattern.match(text) for pattern in _ERRORS):
            if text not in self.errors:
                self.errors.append(text)
        elif _CONSEQUENCE.match(text):
            self._consequences.append(text)
        return ""

    def failure(self, error: CommandError, what: str) -> PatchproofError:
        """Return the error for a failed make: HarnessError if a line blames the machine, else BuildError.

        ``what`` names the command in the message.  The error has the lines that show the reason.
        """
        if self.machine:
            lines = [line for line, _ in self.machine]
            return HarnessError(
                f"The {what} failed. {self.machine[0][1]}",
                log=error.log,
                tail="\n".join(lines[:SHOWN_ERRORS]),
            )
        if error.returncode < 0:
            return HarnessError(
                f"The {what} was killed by signal {-error.returncode}. This proves nothing about the "
                "series; run it again.",
                log=error.log,
                tail=error.tail,
            )
        shown = self.errors or self._consequences
        more = len(shown) - SHOWN_ERRORS
        lines = shown[:SHOWN_ERRORS] + ([f"... and {more} more errors"] if more > 0 else [])
        count = f" with {len(shown)} error{'s' if len(shown) > 1 else ''}" if self.errors else ""
        return BuildError(f"The {what} failed{count}.", log=error.log, tail="\n".join(lines) or error.tail)


def without_position(warning: str) -> str:
    """Return a warning without line numbers and offsets, so that moved code causes no new warning."""
    return _POSITION.sub("", warning)
