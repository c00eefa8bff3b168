"""An assertion of a scenario becomes a sentence with what was expected and seen; run by a real pytest."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from harness.actor.mismatch import Mismatch
from harness.actor.transcript import forget_operation
from harness.plugin.assertion import explain, mismatch_of

pytest_plugins = ["pytester"]


CAUGHT = ("try:", "    assert 1 == 2", "except AssertionError:", "    pass")


class Hooks:
    """The plugin's hooks for assertions, without its machines."""

    def __init__(self) -> None:
        self.error: AssertionError | None = None

    def pytest_assertrepr_compare(
        self, config: pytest.Config, op: str, left: object, right: object
    ) -> list[str]:
        return explain(config, op, left, right)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        if call.excinfo is not None:
            assert isinstance(call.excinfo.value, AssertionError)
            self.error = mismatch_of(item.config, call.excinfo.value)
        return (yield)


def error_of(pytester: pytest.Pytester, *body: str) -> AssertionError:
    """Run a test with these lines; return its error as a scenario has it."""
    forget_operation()
    pytester.makepyfile("\n    ".join(["def test_it():", *body]))
    hooks = Hooks()
    pytester.inline_run("-p", "no:cacheprovider", plugins=(hooks,))
    assert hooks.error is not None
    return hooks.error


@pytest.mark.parametrize(
    ("line", "sentence", "expected", "seen"),
    [
        ("assert 1 + 1 == 3", "Expected 3, but saw 2.", "3", "2"),
        ("assert [1, 2][0] == 2", "Expected 2, but saw 1.", "2", "1"),
        ("assert 'EIO' in ('EPERM',)", "Expected one of EPERM, but saw EIO.", "one of EPERM", "EIO"),
        ("assert 'SIGBUS' is None", "Expected success, but saw SIGBUS.", "success", "SIGBUS"),
        ("assert 1 == 1 == 2", "Expected 2, but saw 1.", "2", "1"),
        ("assert 1 == 2, 'It is late:'", "It is late.", "2", "1"),
        ("assert 1 == 2, f'page {3}'", "Page 3.", "2", "1"),
        ("assert '50%\\n~x' == 'y'", "Expected y, but saw 50% ~x.", "y", "50% ~x"),
        ("assert list(range(64)) == [5] * 64", "", "5 in pages 0 to 4; 5 in pages 6 to 63", None),
    ],
)
def test_comparison_becomes_a_sentence(
    pytester: pytest.Pytester, line: str, sentence: str, expected: str, seen: str | None
) -> None:
    error = error_of(pytester, line)
    assert isinstance(error, Mismatch)
    assert str(error) == sentence or not sentence
    assert error.deviation.expected == expected
    assert error.deviation.seen == seen or seen is None


@pytest.mark.parametrize(
    "lines",
    [
        (
            "try:",
            "    assert 1 == 2",
            "except AssertionError:",
            "    pass",
            "raise AssertionError('elsewhere')",
        ),
        (*CAUGHT, "assert not 5"),
        ("raise AssertionError('Expected 2, but saw 1.')",),
        ("assert [] or 0",),
    ],
)
def test_other_assertions_keep_their_message(pytester: pytest.Pytester, lines: tuple[str, ...]) -> None:
    assert not isinstance(error_of(pytester, *lines), Mismatch)


def test_caught_comparison_does_not_hide_the_next(pytester: pytest.Pytester) -> None:
    error = error_of(pytester, *CAUGHT, "assert 3 == 4")
    assert str(error) == "Expected 4, but saw 3."


def test_mismatch_stays_as_it_is(pytester: pytest.Pytester) -> None:
    body = (
        "from harness.actor.mismatch import Mismatch",
        "raise Mismatch('it is late', expected='a', seen='b')",
    )
    assert str(error_of(pytester, *body)) == "It is late."


def test_mismatch_has_the_place_and_the_notes(pytester: pytest.Pytester) -> None:
    error = error_of(
        pytester,
        "try:",
        "    assert 1 == 2",
        "except AssertionError as e:",
        "    e.add_note('case 3')",
        "    raise",
    )
    assert error.__notes__ == ["case 3"]
    assert error.__traceback__ is not None


def test_long_values_are_still_recognized(pytester: pytest.Pytester) -> None:
    """A message of pytest that is cut off would not have the whole sentence."""
    error = error_of(
        pytester, "assert 'a b ' * 999 not in [chr(99 + n % 9) * 99 for n in range(99)] + ['a b ' * 999]"
    )
    assert isinstance(error, Mismatch)
