"""A generated mutant: a fault, the kernel that has it, and the scenarios that could notice it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.lib.errors import UsageError
from harness.lib.files import digest
from harness.mutants.generate import combine
from harness.mutants.generate.c_source import Source
from harness.mutants.generate.fault import Fault
from harness.series import mutant
from harness.series.mutant import Mutant
from harness.series.series import Patch, Series

EQUIVALENT = "generated.toml"  # beside the mutants of hand of a series
_KEYS = ("file", "function", "was", "now", "why")


@dataclass(frozen=True)
class GeneratedMutant:
    """A fault of the series named ``series``.

    ``scenarios`` reach one of its lines.  ``number`` chooses it in a kernel with many faults, 0 if its
    kernel has this fault alone.  ``equivalent`` says why no user can notice it; empty if one could.
    ``origin`` is the number of the patch, from 1, that brought the line; 0 if that is not known.
    """

    series: str
    fault: Fault
    patch: Patch
    scenarios: tuple[str, ...]
    number: int = 0
    equivalent: str = ""
    origin: int = 0

    @property
    def id(self) -> str:
        """Return ``SERIES/NAME``."""
        return f"{self.series}/{self.fault.name}"

    @property
    def mutant(self) -> Mutant:
        """Return the same as a mutant that is a patch, which no requirement must catch."""
        return Mutant(
            self.series, self.fault.name, self.patch, self.fault.change, (), equivalent=self.equivalent
        )

    def key(self, whole: Series, configuration: str) -> str:
        """Return the digest of series, configuration and fault."""
        return digest(whole.digest, configuration, self.patch.content)


def patch_of(fault: Fault, source: Source) -> Patch:
    """Return a patch with one fault."""
    old = source.text.decode(errors="surrogateescape")
    text = combine.diff(fault.file, old, fault.apply(source.lines))
    subject = f"{fault.rule} in {fault.function}(), {fault.place}"
    content = combine.mail(subject, f"{fault.place}: {fault.change}", text)
    return Patch(f"{fault.name}{mutant.SUFFIX}", content, subject)


def read_equivalent(patches: Path, series: str) -> Mapping[tuple[str, ...], str]:
    """Return why faults are equivalent, by file, function, and the text before and after.

    They stand in ``patches/mutants/SERIES/generated.toml``, an array of tables ``fault`` with these keys and
    ``why``.  Runs of blanks count as one.  Raises UsageError.
    """
    path = patches / mutant.FOLDER / series / EQUIVALENT
    if not path.resolve().is_relative_to(patches.resolve()) or not path.is_file():
        return {}
    try:
        tables = tomllib.loads(path.read_text())["fault"]
        return {_place(one): str(one["why"]) for one in tables if _checked(one)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read: {error!r}.") from error


def equivalence(fault: Fault, known: Mapping[tuple[str, ...], str]) -> str:
    """Return why a fault is equivalent; empty if nobody has said so."""
    return known.get((fault.file, fault.function, *map(_plain, (fault.old, fault.new))), "")


def _checked(one: Mapping[str, Any]) -> bool:
    if set(one) != set(_KEYS):
        raise KeyError(f"a fault has the keys {', '.join(_KEYS)}")
    return True


def _place(one: Mapping[str, Any]) -> tuple[str, ...]:
    return str(one["file"]), str(one["function"]), _plain(str(one["was"])), _plain(str(one["now"]))


def _plain(text: str) -> str:
    return " ".join(text.split())
