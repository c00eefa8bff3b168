"""Say what differs between two runs besides their results: series, base, machine, selection."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.journal.facts import read_mails
from harness.lib.text import counted, one_line
from harness.report.comparison_of_runs.runs import Run

ALL = "all scenarios"
_TAGS = re.compile(r"^(?:\[[^]]*\]\s*)+")  # of a subject: ``[PATCH v3 2/9]``
_SHORT = 12  # hex digits of a digest that are shown

#: The facts that are compared, by the name that a reader sees; a later one is left out if an earlier differs.
_FACTS = (
    ("base", ("base", "base_tree")),
    ("kernel configuration", ("config_digest", "fragments")),
    ("options without a kernel", ("missing_options",)),
    ("compiler", ("compiler",)),
    ("dialect", ("dialect", "interfaces")),
    ("QEMU", ("qemu", "qemu_digest")),
    ("accelerator", ("accelerator",)),
    ("guest image", ("image",)),
    ("program", ("program",)),
    ("repetitions", ("repeat",)),
)
_DIGESTS = frozenset({"base_tree", "config_digest", "fragments", "qemu_digest", "image", "program"})
# Options of a run, with the number of their values, that another line of the header is about.
_OTHERS = {
    **dict.fromkeys(
        (
            *("--results", "--series", "--revision", "--base", "--tree", "--kernel", "--headers", "--accel"),
            *(
                "--qemu",
                "--kconfig",
                "--mutant",
                "--resume",
                "--repeat",
                "--patches",
                "--junit",
                "--time-limit",
            ),
        ),
        1,
    ),
    **dict.fromkeys(("--refresh", "--no-base", "--keep-vm"), 0),
}


@dataclass(frozen=True)
class Difference:
    """A fact that differs between two runs; a value is empty if the run did not record it."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Patches:
    """How the patches of two series compare: by their subjects, then by their patch-ids."""

    same: int = 0
    changed: int = 0
    new: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Return ``patches: 2 the same, 7 changed, 1 new, 0 gone``."""
        return f"{self.same} the same, {self.changed} changed, {len(self.new)} new, {len(self.gone)} gone"


def differences(before: Run, after: Run) -> tuple[Difference, ...]:
    """Return the facts that differ, in the order of a report."""
    return tuple(_differences(before, after))


def _differences(before: Run, after: Run) -> Iterator[Difference]:
    names = series(before), series(after)
    if names[0] != names[1]:
        yield Difference("series", *names)
    for name, facts in _FACTS:
        for fact in facts:
            values = [_value(run, fact) for run in (before, after)]
            # A fact that one run lacks differs as well; one that neither has does not.
            if values[0] != values[1]:
                yield Difference(name, *values)
                break
    selections = _selection(before), _selection(after)
    if selections[0] != selections[1]:
        yield Difference("selection", *selections)


def patches(before: Run, after: Run) -> Patches | None:
    """Return how the patches compare; None if one of the runs did not record them."""
    first, second = _patches(before), _patches(after)
    if first is None or second is None:
        return None
    ids, later_ids = ({identity for _, identity in found if identity} for found in (first, second))
    subjects, later_subjects = ({subject for subject, _ in found} for found in (first, second))
    same = [identity for _, identity in second if identity in ids]
    others = [subject for subject, identity in second if identity not in ids]
    changed = [subject for subject in others if subject in subjects]
    new = [subject for subject in others if subject not in subjects]
    gone = [
        subject for subject, identity in first if identity not in later_ids and subject not in later_subjects
    ]
    return Patches(len(same), len(changed), tuple(new), tuple(gone))


def describe(run: Run) -> str:
    """Return what a run tested, on one line: series, base, accelerator, number of scenarios."""
    base = run.fact("base") or run.fact("base_wanted") or "unknown"
    return (
        f"{series(run)}, base {base}, {run.fact('accelerator') or 'no accelerator'}, "
        f"{counted(len(run.record.scenarios), 'scenario')}"
    )


def series(run: Run) -> str:
    """Return the name of what was tested, with the identity of its patches, of its checkout, or of both."""
    name = run.fact("series") or "an unknown series"
    identity = run.fact("identity") or ("" if run.fact("checkout") else run.fact("digest"))
    tree = f"tree {run.fact('checkout')[:_SHORT]}" if run.fact("checkout") else ""
    return " ".join(part for part in (name, identity[:_SHORT], tree) if part)


def _value(run: Run, fact: str) -> str:
    value = run.facts.get(fact)
    if isinstance(value, list):
        return one_line(", ".join(map(str, value))) or "none"
    text = run.fact(fact)
    return text[:_SHORT] if fact in _DIGESTS else text


def _selection(run: Run) -> str:
    """Return the options that select scenarios, without those that say what is tested, and on what."""
    words = run.facts.get("selection")
    chosen: list[str] = []
    left = list(map(str, words)) if isinstance(words, list) else []
    while left:
        word = left.pop(0)
        name, equals, _ = word.partition("=")
        if name in _OTHERS:
            del left[: 0 if equals else _OTHERS[name]]
        else:
            chosen.append(one_line(word))
    return " ".join(chosen) or ALL


def _patches(run: Run) -> Sequence[tuple[str, str]] | None:
    """Return the subject without its tags, and the patch-id, of each patch; None if they are not recorded."""
    if "mails" not in run.facts:
        return None
    return [
        (_TAGS.sub("", one_line(one["subject"])), one["patch_id"])
        for one in read_mails(run.facts)
        if one["number"]
    ]
