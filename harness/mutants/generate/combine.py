"""One kernel for many faults: each has a copy of its function, and the command line chooses one.

A build and its link take most of the time that a mutant costs.  So the source of one kernel gets, for
each fault, a copy of the function with the fault, and the function itself becomes a switch::

    static int f__mutant_7(int a) {...}
    int f(int a)
    {
            switch (patchproof_mutant) {
            case 7: return f__mutant_7(a);
            }
            return f__unchanged(a);
    }

Without the argument ``patchproof_mutant=7`` on the kernel's command line the function is unchanged.
Line directives keep all line numbers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.mutants.generate.c_source import Function, Source, lines_of
from harness.mutants.generate.fault import Fault

ARGUMENT = "patchproof_mutant"
# Of one kernel: its switches must stay small beside the driver.
MOST = 400

_LINKAGE = re.compile(r"\b(?:static|inline|extern|__always_inline|noinline|asmlinkage|__init|__exit)\b")
_SWITCH = f"""\
static int {ARGUMENT} __ro_after_init;

static int __init {ARGUMENT}_setup(char *text)
{{
	return kstrtoint(text, 0, &{ARGUMENT});
}}
early_param("{ARGUMENT}", {ARGUMENT}_setup);

"""
_MAIL = """\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: patchproof <patchproof@localhost>
Date: Thu, 1 Jan 2026 00:00:00 +0000
Subject: [PATCH] {subject}

{message}
---

{diff}--
"""


@dataclass(frozen=True)
class Combined:
    """Many faults in one patch: ``numbers`` has the number of each, by its name."""

    patch: bytes
    numbers: Mapping[str, int]


def can_combine(source: Source, fault: Fault) -> bool:
    """Return whether the function of a fault can have a copy: its parameters have names."""
    function = source.function_at(fault.first)
    return (
        function is not None
        and function.parameters is not None
        and function.body.first <= fault.first
        and fault.last <= function.span.last
    )


def combine(sources: Mapping[str, Source], faults: Sequence[Fault]) -> Combined:
    """Return the patch with all of ``faults``, each of which can_combine(); ``sources`` is by file."""
    numbers = {fault.name: number for number, fault in enumerate(faults, 1)}
    diffs = []
    for file, source in sources.items():
        here = [fault for fault in faults if fault.file == file]
        if here:
            new = _with_copies(file, source, here, numbers)
            diffs.append(diff(file, source.text.decode(errors="surrogateescape"), new))
    message = "Choose one by the kernel's command line."
    return Combined(mail(f"{len(faults)} faults in one kernel", message, "".join(diffs)), numbers)


def mail(subject: str, message: str, text: str) -> bytes:
    """Return a patch as git am takes it; ``text`` is the diff."""
    return _MAIL.format(subject=subject, message=message, diff=text).encode(errors="surrogateescape")


def diff(file: str, old: str, new: str) -> str:
    """Return the unified diff between two versions of a file."""
    head = f"diff --git a/{file} b/{file}\n"
    # Only a line feed ends a line for git.
    lines = difflib.unified_diff(lines_of(old), lines_of(new), f"a/{file}", f"b/{file}")
    missing = "\n\\ No newline at end of file\n"
    return head + "".join(line if line.endswith("\n") else line + missing for line in lines)


def _with_copies(file: str, source: Source, faults: Sequence[Fault], numbers: Mapping[str, int]) -> str:
    """Return the text of a file with copies of the functions that have faults."""
    by_function: dict[int, list[Fault]] = {}
    for fault in faults:
        function = source.function_at(fault.first)
        assert function is not None
        by_function.setdefault(source.functions.index(function), []).append(fault)
    parts: list[str] = []
    at = 0
    for place in sorted(by_function):
        function = source.functions[place]
        parts.append(_text(source, at, function.span.start))
        if not at:
            parts.append(_SWITCH)
        parts += _copies(file, source, function, by_function[place], numbers)
        at = function.span.end
    return "".join([*parts, _text(source, at, len(source.text))])


def _text(source: Source, start: int, end: int) -> str:
    return source.text[start:end].decode(errors="surrogateescape")


def _copies(
    file: str, source: Source, function: Function, faults: Sequence[Fault], numbers: Mapping[str, int]
) -> list[str]:
    name = function.identifier
    head = _text(source, function.span.start, function.name.start)
    signature = _text(source, function.name.end, function.body.start)
    # The name stays on its line, whatever stood before it.
    line = f'#line {function.name.first - 1} "{file}"\n'
    before = f"{line}static {' '.join(_LINKAGE.sub('', head).split())}\n"
    body = _text(source, function.body.start, function.span.end)
    parts = [f"\n{before}{name}__unchanged{signature}{body}\n"]
    for fault in faults:
        body = "".join(_faulty(source, function, fault))
        parts.append(f"\n{before}{name}__mutant_{numbers[fault.name]}{body}\n")
    arguments = ", ".join(function.parameters or ())
    cases = [
        f"\tcase {numbers[fault.name]}:\n\t\treturn {name}__mutant_{numbers[fault.name]}({arguments});\n"
        for fault in faults
    ]
    choice = f"\tswitch ({ARGUMENT}) {{\n{''.join(cases)}\t}}\n\treturn {name}__unchanged({arguments});\n"
    line = f'#line {function.span.first} "{file}"\n'
    end = f'#line {function.span.last} "{file}"\n'
    parts.append(f"\n{line}{head}{name}{signature}{{\n{choice}{end}}}")
    return parts


def _faulty(source: Source, function: Function, fault: Fault) -> list[str]:
    """Return the text of a function with a fault, from behind its name to its end."""
    lines = [*source.lines[: fault.first - 1], fault.new, *source.lines[fault.last :]]
    first = source.lines[function.name.first - 1]
    begin = len("".join(source.lines[: function.name.first - 1]).encode(errors="surrogateescape"))
    column = len(source.text[begin : function.name.end].decode(errors="surrogateescape"))
    assert fault.first > function.name.first, fault
    kept = "".join(lines[function.name.first : _last(function, fault)])
    last = lines[_last(function, fault)]
    return [first[column:], kept, last[: last.index("}") + 1]]


def _last(function: Function, fault: Fault) -> int:
    """Return the index of the function's last line, where the lines of a fault are one element."""
    return function.span.last - 1 - (fault.last - fault.first)
