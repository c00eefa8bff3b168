"""Measure where the compile time of the kernel goes, by folder, from a sample of its objects.

    python bench/build.py [--sample N] [--also FLAGS]

The objects are those of the last kernel that was built here.  N of each folder are compiled again by the
commands that kbuild recorded, without ccache.  A folder's sum is the mean of its sample times the
number of its objects.  Figures are processor seconds, which other work on the host changes less than
the time on a clock.  ``--also`` compiles each object again with more options for the compiler, and
prints the ratio.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.kernel.workbench import FOLDER, workbench
from harness.lib import contained
from harness.lib.cache import Store
from harness.lib.errors import HarnessError, PatchproofError, UsageError

#: Folders that are shown by their subfolders.
_DEEP = ("arch", "drivers", "fs", "kernel", "lib", "net")
_LEAST = 3.0  # processor seconds; the folders that take less are one row
_COMMAND = re.compile(r"(?:saved)?cmd_\S+ := (\S+\.cc) (.*?) -o (\S+\.o) (\S+\.c)\s")
# bash prints the time of each command on its own standard error.
_TIMED = "TIMEFORMAT='%U %S'\n"
_OBJECT = "/tmp/bench.o"  # noqa: S108  # that of the sandbox
_DEPENDENCIES = "/tmp/bench.d"  # noqa: S108


@dataclass(frozen=True)
class Compilation:
    """An ``object`` of the kernel ("mm/memory.o"), and the arguments of the compiler that make it."""

    object: str
    arguments: str
    source: str

    @property
    def folder(self) -> str:
        """The folder whose row it belongs to: ``mm``, ``drivers/gpu``."""
        parts = self.object.split("/")[:-1]
        return "/".join(parts[: 2 if parts[0] in _DEEP else 1])

    def command(self, more: str) -> str:
        """Return the command for a shell that compiles it again to /tmp, with ``more`` options."""
        return f"gcc {self.arguments} {more} -o {_OBJECT} {self.source}"


def compilation(recorded: str) -> Compilation | None:
    """Return what the first line of a ``.cmd`` file of kbuild recorded; None if that compiles no C."""
    found = _COMMAND.match(recorded)
    if found is None or found[3].startswith(("/", "scripts/", "tools/")) or "/" not in found[3]:
        return None
    arguments = re.sub(r"-Wp,-MMD,\S+", f"-Wp,-MMD,{_DEPENDENCIES}", found[2])
    return Compilation(found[3], arguments, found[4])


def compilations(build: Path) -> dict[str, list[Compilation]]:
    """Return the compilations of a build folder by folder, those of large objects first."""
    found: dict[str, list[tuple[int, Compilation]]] = defaultdict(list)
    for path in build.rglob(".*.o.cmd"):
        with path.open(errors="replace") as stream:
            each = compilation(stream.readline())
        if each is not None and (build / each.object).is_file():
            found[each.folder].append(((build / each.object).stat().st_size, each))
    return {
        folder: [each for _, each in sorted(sized, key=lambda pair: -pair[0])]
        for folder, sized in found.items()
    }


def spread(items: list[Compilation], count: int) -> list[Compilation]:
    """Return ``count`` of ``items`` at equal distances, so that large and small objects are among them."""
    step = max(len(items) / count, 1.0)
    return [items[int((number + 0.5) * step)] for number in range(min(count, len(items)))]


def script(sample: Iterable[Compilation], variants: Iterable[str]) -> str:
    """Return a script that prints a line `NUMBER USER SYSTEM` for each compilation and variant, in turns."""
    chosen = list(variants)
    lines = [_TIMED]
    for each in sample:
        for number, more in enumerate(chosen):
            command = f"/bin/sh -c {shlex.quote(each.command(more))} >/dev/null 2>&1"
            lines.append(f'spent=$( {{ time {command} || exit; }} 2>&1 ) || exit; echo "{number} $spent"\n')
    return "".join(lines)


def measured(
    build: Path, source: Path, sampled: Mapping[str, list[Compilation]], variants: list[str], log: Path
) -> dict[str, list[float]]:
    """Compile the sample; return the mean seconds of an object by folder, for each of the variants."""
    text = script((each for chosen in sampled.values() for each in chosen), variants)
    argv = ["bash", "-c", 'eval "$(cat)"']
    output = contained.run(argv, read=[source], write=[build], folder=build, log=log, stdin=text.encode())
    lines = [line.split() for line in output.splitlines() if re.fullmatch(r"\d+ [\d.]+ [\d.]+", line)]
    if len(lines) != len(variants) * sum(map(len, sampled.values())):
        raise HarnessError(f"An object of {build} cannot be compiled again by its recorded command.", log=log)
    seconds = iter([float(user) + float(system) for _, user, system in lines])
    means: dict[str, list[float]] = {}
    for folder, chosen in sampled.items():
        rows = [[next(seconds) for _ in variants] for _ in chosen]
        means[folder] = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return means


def table(found: Mapping[str, list[Compilation]], means: Mapping[str, list[float]], also: str) -> Table:
    """Make a table of the folders, the longest first."""
    shown = Table("folder", "objects", "mean [s]", "sum [s]", "share", title="Compiling the kernel's C files")
    if also:
        shown.add_column(f"with {also}")
    for column in shown.columns[1:]:
        column.justify = "right"
    sums = {folder: [mean * len(found[folder]) for mean in means[folder]] for folder in found}
    whole = [sum(column) for column in zip(*sums.values(), strict=True)]
    small = [folder for folder in sums if sums[folder][0] < _LEAST]
    groups = {folder: [folder] for folder in sorted(sums, key=lambda name: -sums[name][0])}
    groups = {name: folders for name, folders in groups.items() if name not in small}
    for name, folders in [*groups.items(), (f"{len(small)} smaller", small), ("all", list(sums))]:
        objects = sum(len(found[folder]) for folder in folders)
        taken = [sum(column) for column in zip(*(sums[folder] for folder in folders), strict=True)]
        if objects:
            ratio = [f"{taken[1] / taken[0]:.3f}"] if also else []
            figures = (f"{taken[0] / objects:.2f}", f"{taken[0]:.1f}", f"{taken[0] / whole[0]:.1%}")
            shown.add_row(name, str(objects), *figures, *ratio)
    return shown


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=3, help="objects of each folder (default: %(default)s)")
    parser.add_argument("--also", metavar="FLAGS", default="", help="more options for the compiler")
    known = parser.parse_args()
    store = Store()
    try:
        built = sorted(
            (store.root / FOLDER).glob("*/build-*/out/vmlinux"), key=lambda path: path.stat().st_mtime
        )
        if not built:
            raise UsageError(
                f"There is no finished build in {store.root / FOLDER}. Run `python -m harness build`."
            )
        build = built[-1].parent
        source = build.parent.parent / "src"
        with workbench(store):
            found = compilations(build)
            sampled = {folder: spread(each, known.sample) for folder, each in found.items()}
            variants = ["", known.also] if known.also else [""]
            means = measured(build, source, sampled, variants, store.path("logs", "bench-build.log"))
    except PatchproofError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    Console(width=None if sys.stdout.isatty() else 100).print(table(found, means, known.also))
    return 0


if __name__ == "__main__":
    sys.exit(main())
