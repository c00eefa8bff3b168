"""The texts of a kit: what it says before it boots, and its README."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

from harness.lib.text import one_line, visible
from harness.run.claim import Claim, Kind
from harness.verdict import requirements
from harness.verdict.record import Result

COLUMNS = 100
_LABEL = 11  # columns of "expected   "
_IDENTITY = 12  # digits of an identity

_FILES = (
    ("bzImage", "the kernel"),
    ("initrd.cpio", "its first process, and the program that carries out the operations; both are static"),
    ("transcript.txt", "the operations and the answers of the run; `=` is the answer that was expected"),
    ("machine, append", "QEMU's arguments, one a line, and the kernel's command line"),
    ("config", "the kernel's configuration"),
    ("series.mbox", "the patches on the base, for `git am`; absent for a kernel without patches"),
    ("settings, complaints, faults, about", "for the script"),
)

_VERDICTS = {
    Kind.REPLY: "The kit compares the answer to the operation in line {line} of the transcript.",
    Kind.SILENCE: "The kit sees whether the operation in line {line} of the transcript ends in time.",
    Kind.LEFTOVER: "The kit counts the DMABUFs when all its processes have ended.",
    Kind.COMPLAINT: "The kit searches the kernel's console for the same complaint.",
    Kind.DEATH: "The kit sees whether the kernel dies again.",
    Kind.ANSWERS: "The kit compares all answers with those of the run, which does not say which is wrong.",
    Kind.CONFORMS: "The kit compares every answer with that of the run, in which all was as promised.",
}


def about(result: Result, facts: Mapping[str, object]) -> str:
    """Return what the kit says first: the requirements, what was expected and seen, what was tested."""
    lines = [*_claim(result), *_tested(result, facts)]
    return "\n".join(lines) + "\n"


def readme(result: Result, claim: Claim, facts: Mapping[str, object]) -> str:
    """Return the README of a kit."""
    paragraphs = [
        "\n".join(_claim(result)),
        "\n".join(_tested(result, facts)),
        _filled(_VERDICTS[claim.kind].format(line=claim.line)),
        "Run `sh FILE --help` for the options, where FILE is the kit. The exit code is 0 if the kernel\n"
        "conforms, 1 if the fault was shown again, 2 if neither could be said.",
        "    sh FILE --gdb                 and, in another terminal, with a vmlinux of this kernel:\n"
        "    gdb vmlinux -ex 'target remote 127.0.0.1:1234'\n"
        "    ACCEL=kvm sh FILE             with KVM\n"
        "    KERNEL=arch/x86/boot/bzImage sh FILE    another kernel, built with the same configuration",
        "Files:\n" + "\n".join(f"    {name:<16}  {words}" for name, words in _FILES),
        _filled(
            f"Linux {_fact(facts, 'base')} is free software under the GNU General Public License, version 2. "
            f"Its source: that release, then series.mbox, built with config by {_fact(facts, 'compiler')}. "
            f"The base came from: {_fact(facts, 'base_source')}."
        ),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _claim(result: Result) -> Iterator[str]:
    known = requirements.load().requirements
    for name in result.entry.requirements:
        if name in known:
            yield _labelled(name, known[name].sentence)
    if not result.entry.requirements:
        yield _labelled("promised", result.entry.title)
    deviation = result.deviation
    if deviation is not None:
        yield _labelled("expected", deviation.expected)
        yield _labelled("the run", deviation.seen)
        if deviation.operation:
            yield _labelled("asked", deviation.operation)
    elif result.reason:
        yield _labelled("the run", result.reason)
    for one in result.complaints:
        if one.fault:
            yield _labelled("the kernel", one.title)


def _tested(result: Result, facts: Mapping[str, object]) -> Iterator[str]:
    series = f"{_fact(facts, 'series')} {_fact(facts, 'identity')[:_IDENTITY]}".strip()
    title = f" ({_fact(facts, 'title')})" if facts.get("title") else ""
    checkout = f", tree {_fact(facts, 'checkout')[:_IDENTITY]}" if facts.get("checkout") else ""
    kernel = f"Linux {_fact(facts, 'base') or _fact(facts, 'kernel_release')} with {series}{title}{checkout}"
    yield _labelled("tested", kernel)
    yield _labelled("scenario", result.entry.id)


def _fact(facts: Mapping[str, object], name: str) -> str:
    return one_line(visible(str(facts.get(name) or "")))


def _labelled(label: str, text: str) -> str:
    return _filled(one_line(visible(text)), f"{label:<{_LABEL}}", " " * _LABEL)


def _filled(text: str, first: str = "", others: str = "") -> str:
    return textwrap.fill(text, COLUMNS, initial_indent=first, subsequent_indent=others)
