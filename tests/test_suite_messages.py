"""Every check of the suites says in words what it expected and saw.

A scenario may check by an ``assert`` in one of these forms only:

- ``assert SEEN == EXPECTED``, one comparison, what is expected on the right.  SEEN is a value that
  speaks for itself: an answer, or a mapping or sequence of answers.
- The same with a message, a clause of at least three words.  The message is needed where the
  values say nothing alone: a length, a sum, a difference, an attribute, a tuple, a member of a mapping, a
  truth value, a set without the names of its members; and for ``is not``, ``not in``.

Everything else is a helper that raises Mismatch (harness/actor/expect.py, suites/support/).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SUITES = Path(__file__).resolve().parent.parent / "suites"
NEED_A_MESSAGE = (ast.IsNot, ast.NotIn)
NUMBERS = (
    "count_dmabufs",
    "attachments",
    "len",
    "sum",
    "any",
    "all",
    "bool",
    "int",
    "min",
    "max",
    "set",
    "isinstance",
)


def complaints(source: str) -> list[str]:
    """List the checks of a source that explain nothing, each as ``LINE: why``."""
    tree = ast.parse(source)
    return [f"{line}: {why}" for node in ast.walk(tree) for line, why in _complaints_of(node)]


def _complaints_of(node: ast.AST) -> Iterator[tuple[int, str]]:
    match node:
        case ast.Assert():
            yield from ((node.lineno, why) for why in _complaints_of_assert(node))
        case ast.Raise(exc=ast.Call(func=ast.Name(id="AssertionError")) | ast.Name(id="AssertionError")):
            yield node.lineno, "raises AssertionError instead of Mismatch"
        case ast.Expr(value=ast.Call(func=ast.Name(id="outcome"))):
            yield node.lineno, "looks at no outcome"
        case ast.Call(func=ast.Attribute(value=ast.Name(id="pytest"), attr="fail" | "raises")):
            yield node.lineno, "fails without what was expected and seen"


def _complaints_of_assert(node: ast.Assert) -> Iterator[str]:
    if not isinstance(node.test, ast.Compare):
        yield "asserts no comparison"
        return
    if len(node.test.ops) > 1:
        yield "asserts a chain of comparisons"
        return
    left, operator, right = node.test.left, node.test.ops[0], node.test.comparators[0]
    if isinstance(left, ast.Constant) or (isinstance(left, ast.Name) and left.id.isupper()):
        yield "has what is expected on the left"
    elif node.msg is not None:
        if _literal_words(node.msg) < 3 or _is_sentence(ast.unparse(node.msg).lstrip("f").strip("'\"")):
            yield "has a message that is no clause"
    elif isinstance(operator, NEED_A_MESSAGE) or _is_mute(left) or _is_truth(right):
        yield "compares values that say nothing without a message"


def _is_mute(value: ast.expr) -> bool:
    """Return whether a value says nothing alone: a number that is made of others, or a truth value."""
    match value:
        case ast.SetComp() | ast.GeneratorExp() | ast.Tuple() | ast.Attribute() | ast.BinOp(op=ast.Sub()):
            return True
        case ast.Subscript(slice=ast.Constant(value=str())):
            return True
        case ast.Call(func=ast.Name(id=name)):
            return name in NUMBERS
    return _is_truth(value)


def _is_truth(value: ast.expr) -> bool:
    """Return whether a value is true or false."""
    return (
        isinstance(value, (ast.Compare, ast.BoolOp))
        or (isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not))
        or (isinstance(value, ast.Constant) and isinstance(value.value, bool))
    )


def _is_sentence(text: str) -> bool:
    """Return whether a message begins with a capital, as no clause does, or ends with a period."""
    first = text.split()[0]
    return text.endswith(".") or (first[:1].isupper() and not first[1:2].isupper())


def _literal_words(message: ast.expr) -> int:
    """Return the number of words of a message that stand in the source."""
    match message:
        case ast.Constant(value=str() as text):
            return len(text.split())
        case ast.JoinedStr():
            return sum(_literal_words(part) for part in message.values)
    return 0


@pytest.mark.parametrize("path", sorted(SUITES.rglob("*.py")), ids=lambda path: path.name)
def test_every_check_of_a_suite_explains_itself(path: Path) -> None:
    assert complaints(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "assert mapping.pages() == GONE",
        "assert mapping.stamp() is None",
        "assert outcome(attempt) in ('EPERM', 'EACCES')",
        "assert answers == dict.fromkeys(answers, 'ENOTTY')",
        "assert [one.size for one in buffers] == [LENGTH]",
        "assert len(buffers) == 2, 'the kernel lists another number of DMABUFs'",
        "assert seen == errno, f'the call with flags {flags:#x} was refused'",
        "assert size == 0, 'IOMMU_IOAS_UNMAP unmapped too much'",
        "require_gone(mapping)",
    ],
)
def test_check_that_explains_itself_is_accepted(line: str) -> None:
    assert complaints(line) == []


@pytest.mark.parametrize(
    "line",
    [
        "assert ok",
        "assert not ok",
        "assert mapping.page_table().is_empty()",
        "assert isinstance(word, int)",
        "assert one == other == GONE",
        "assert a and b",
        "assert GONE == mapping.pages()",
        "assert 1 == count",
        "assert len(buffers) == 2",
        "assert (word == gone) == done",
        "assert closes is True",
        "assert after - before < 4",
        "assert word is not None",
        "assert 'success' not in answers",
        "assert {one.seen() for one in views} == {'SIGBUS'}",
        "assert errno == 'EINVAL', (prot, flags)",
        "assert errno == 'EINVAL', f'flags={flags:#x}'",
        "assert errno == 'EINVAL', name",
        "assert word == 0, 'The register was lost'",
        "assert word == 0, 'the register was lost.'",
        "raise AssertionError('no')",
        "raise AssertionError",
        "pytest.fail('no')",
        "pytest.raises(Refused)",
        "assert (one.sigsegv, one.other) == (0, 0)",
        "outcome(lambda: owner.map(buffer))",
    ],
)
def test_check_that_explains_nothing_is_refused(line: str) -> None:
    (complaint,) = complaints(line)
    assert complaint.startswith("1: ")
