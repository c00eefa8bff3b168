"""What kbuild prints: the step it is at, the warnings of each object, and why it failed.

The output comes from compiling somebody else's patches, so it is only ever
matched against anchored patterns and shown, never run or trusted with a path.
It is expected from ``make --output-sync=target`` under ``LC_ALL=C``: then all
lines of one step stand together below the line that names it.
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

# What says that the machine failed, not the source: each with what to do about it.
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
    """The output of one ``make``, read line by line."""

    source: Path
    steps: int = 0
    """How many objects were compiled or assembled."""
    warnings: dict[str, list[str]] = field(default_factory=dict)
    """Warning lines by the target whose making printed them; an empty list for a clean one."""
    errors: list[str] = field(default_factory=list)
    machine: list[tuple[str, str]] = field(default_factory=list)
    """Lines that blame the machine, each with what to do."""
    _target: str = ""
    _consequences: list[str] = field(default_factory=list)

    def line(self, raw: str) -> str:
        """Take in one line; returns the step it begins (``CC drivers/pci/pci.o``), or nothing."""
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
        """The error to raise for a make that failed: whose fault it is, with the lines that say so."""
        if self.machine:
            lines = [line for line, _ in self.machine]
            return HarnessError(
                f"The {what} failed. {self.machine[0][1]}",
                log=error.log,
                tail="\n".join(lines[:SHOWN_ERRORS]),
            )
        if error.returncode < 0:
            return HarnessError(
                f"The {what} was killed by signal {-error.returncode}. Nothing is said about the series; "
                "run it again.",
                log=error.log,
                tail=error.tail,
            )
        shown = self.errors or self._consequences
        more = len(shown) - SHOWN_ERRORS
        lines = shown[:SHOWN_ERRORS] + ([f"... and {more} more errors"] if more > 0 else [])
        count = f" with {len(shown)} error{'s' if len(shown) > 1 else ''}" if self.errors else ""
        return BuildError(f"The {what} failed{count}.", log=error.log, tail="\n".join(lines) or error.tail)


def unplaced(warning: str) -> str:
    """A warning without line numbers and offsets, so that code which moved is not a new warning."""
    return _POSITION.sub("", warning)
