"""The lines that bench/growth.py fits to measured points, and its tables."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.curves import Kinds, digits, fit, measure, show
from bench.growth import spread


def test_fit_of_points_on_a_line_is_that_line() -> None:
    line = fit({10: [7.0], 40: [22.0, 900.0, 1.0], 100: [52.0]})  # of three runs the median counts
    assert [line.start, line.slope] == pytest.approx([2.0, 0.5])
    assert line.residual == pytest.approx(0.0, abs=1e-9)


def test_fit_of_a_square_shows_residual_and_exponent() -> None:
    line = fit({1: [1.0], 2: [4.0], 3: [9.0]})
    # The line of least squares is 4x - 10/3; it misses the points by 1/3, 2/3 and 1/3.
    assert [line.start, line.slope] == pytest.approx([-10 / 3, 4.0])
    assert line.residual == pytest.approx((6 / 9 / 3) ** 0.5)
    assert line.exponent == pytest.approx(2.0)


def test_fit_of_one_size_is_refused() -> None:
    with pytest.raises(ValueError, match="two sizes, and 1"):
        fit({10: [7.0, 8.0]})


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (45.678, "45.7"),
        (1234.5, "1230"),
        (-0.5, "-0.500"),
        (1.5e-6, "1.50e-06"),
    ],
)
def test_digits_are_three(value: float, shown: str) -> None:
    assert digits(value) == shown


def test_measure_does_not_repeat_what_takes_long() -> None:
    kinds: Kinds = {}
    measure(kinds, 5, 3, lambda: {"map": 20.0, "load": 20.0})
    measure(kinds, 1, 3, lambda: {"map": 1.0, "load": 2.0})
    assert kinds == {"map": {5: [20.0], 1: [1.0] * 3}, "load": {5: [20.0], 1: [2.0] * 3}}


def test_tables_have_spread_and_blanks() -> None:
    output = io.StringIO()
    kinds: Kinds = {"one": {2: [3.0, 1.0, 2.0], 4: [4.0]}, "two": {2: [5.0]}}
    show(Console(file=output, width=120), "a run", "scenarios", kinds, {"faults": {4: "9"}})
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.getvalue().splitlines()]
    assert ["2", "2.00 (1.00..3.00)", "5.00", ""] in rows
    assert ["4", "4.00", "", "9"] in rows
    assert ["one", "0", "1.00", "0", "1.00"] in rows
    assert not any(row[:1] == ["two"] for row in rows)  # one size makes no line


def test_spread_takes_ids_at_equal_distances() -> None:
    ids = list("abcdefgh")
    assert spread(ids, 4) == ["a", "c", "e", "g"]
    assert spread(ids, 3) == ["a", "c", "f"]
    assert spread(ids, 9) == ids
