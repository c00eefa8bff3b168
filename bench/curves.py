"""Measure the same at several sizes, fit a straight line to the medians, and print both as tables."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

PATIENT = 30.0  # seconds; what took longer is not measured again
#: The times of each measurement, by the size that was measured.
Points = Mapping[int, Sequence[float]]
#: The same for each kind of measurement, by the heading of its column.
Kinds = dict[str, dict[int, list[float]]]


def measure(kinds: Kinds, size: int, runs: int, once: Callable[[], Mapping[str, float]]) -> None:
    """Call ``once`` up to ``runs`` times, and add its seconds, by their kinds, to those of ``size``."""
    for _ in range(runs):
        times = once()
        for kind, seconds in times.items():
            kinds.setdefault(kind, {}).setdefault(size, []).append(seconds)
        if sum(times.values()) > PATIENT:
            break


class Laps:
    """A stopwatch for steps that follow each other; ``times`` has their seconds."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self._last = time.perf_counter()

    def end(self, step: str) -> None:
        """End a step, and begin the next one."""
        now = time.perf_counter()
        self.times[step] = now - self._last
        self._last = now


@dataclass(frozen=True)
class Line:
    """The line ``start + slope * x`` of least squares, in the unit of the points.

    ``residual`` is the root mean square of the distances of the points from it.  ``exponent`` is that of
    the power of x by which the last two points grow: 1 for a line through the origin, 2 for a square.
    """

    start: float
    slope: float
    residual: float
    exponent: float


def fit(points: Points) -> Line:
    """Fit a line to the medians, which are above 0, as the sizes are.

    Raises ValueError for fewer than two sizes.
    """
    sizes = sorted(points)
    if len(sizes) < 2:
        raise ValueError(f"A line needs two sizes, and {len(sizes)} were measured.")
    medians = [statistics.median(points[size]) for size in sizes]
    slope, start = statistics.linear_regression(sizes, medians)
    squares = [(start + slope * size - median) ** 2 for size, median in zip(sizes, medians, strict=True)]
    exponent = math.log(medians[-1] / medians[-2]) / math.log(sizes[-1] / sizes[-2])
    return Line(start, slope, math.sqrt(statistics.fmean(squares)), exponent)


def digits(value: float) -> str:
    """Format a number with three digits that count: ``0.0123``, ``45.6``, ``1230``, ``1.23e-06``."""
    if value == 0 or abs(value) < 1e-4:
        return f"{value:.2e}" if value else "0"
    places = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, places):.{max(places, 0)}f}"


def points_table(
    title: str, size: str, kinds: Mapping[str, Points], more: Mapping[str, Mapping[int, str]]
) -> Table:
    """Make a table with a row for each size: the median of each kind, and its least and most in brackets.

    ``more`` are further columns, by their headings.
    """
    shown = Table(size, title=title)
    for heading in (*kinds, *more):
        shown.add_column(heading)
    for column in shown.columns:
        column.justify = "right"
    for x in sorted({x for points in kinds.values() for x in points}):
        cells = [_cell(points.get(x, ())) for points in kinds.values()]
        shown.add_row(str(x), *cells, *(column.get(x, "") for column in more.values()))
    return shown


def _cell(seconds: Sequence[float]) -> str:
    if not seconds:
        return ""
    spread = f" ({digits(min(seconds))}..{digits(max(seconds))})" if len(seconds) > 1 else ""
    return f"{digits(statistics.median(seconds))}{spread}"


def lines_table(size: str, kinds: Mapping[str, Points]) -> Table:
    """Make a table of the fitted lines; a kind that was measured at one size only has none."""
    shown = Table("", "a", "b", "residual", "last exponent", title=f"a + b * {size}")
    for column in shown.columns[1:]:
        column.justify = "right"
    for heading, points in kinds.items():
        if len(points) > 1:
            line = fit(points)
            shown.add_row(
                heading, *map(digits, (line.start, line.slope, line.residual)), f"{line.exponent:.2f}"
            )
    return shown


def show(
    console: Console,
    title: str,
    size: str,
    kinds: Kinds,
    more: Mapping[str, Mapping[int, str]] | None = None,
    *,
    milliseconds: bool = False,
) -> None:
    """Print the points, and the lines, in seconds or in milliseconds."""
    factor, unit = (1000, "ms") if milliseconds else (1, "s")
    scaled = {
        kind: {x: [factor * one for one in seconds] for x, seconds in points.items()}
        for kind, points in kinds.items()
    }
    console.print(points_table(f"{title}, in {unit}", size, scaled, more or {}))
    console.print(lines_table(size, scaled))
