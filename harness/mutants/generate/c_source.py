"""Functions and statements of a C file of the kernel, by tree-sitter's grammar of C.

The grammar does not know the kernel's annotations, such as ``__user``.  They are blanked
before a file is parsed, so that every position stays.  A macro that begins a loop looks like a call
without a semicolon, and is none of the statements here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import tree_sitter_c
from tree_sitter import Language, Node, Parser

_ANNOTATION = re.compile(
    rb"\b__(?:user|iomem|rcu|percpu|force|init|exit|must_check|maybe_unused|always_unused|cold|private)\b"
)
_LANGUAGE = Language(tree_sitter_c.language())
_LOOPS = ("for_statement", "while_statement", "do_statement")


@dataclass(frozen=True)
class Span:
    """A part of a file: its first and last line (from 1), and its bytes from ``start`` to before ``end``."""

    first: int
    last: int
    start: int
    end: int

    @classmethod
    def of(cls, node: Node) -> Span:
        """Return the span of a node of the syntax tree."""
        return cls(node.start_point.row + 1, node.end_point.row + 1, node.start_byte, node.end_byte)


@dataclass(frozen=True)
class Statement:
    """A statement that ends with a semicolon.

    ``kind`` is ``call``, ``assignment``, ``return``, ``goto``, ``break``, ``continue`` or ``other``.
    ``callee`` and ``arguments`` are those of a call.  ``block`` and ``place`` tell its
    neighbours: they have the same block, and a place one higher or lower.  ``loop`` is true inside of
    a loop of the language itself.
    """

    span: Span
    kind: str
    callee: str
    arguments: tuple[str, ...]
    block: int
    place: int
    loop: bool


@dataclass(frozen=True)
class Function:
    """A function's definition.

    ``name`` is the place of its name, ``parameters`` are the names of its parameters, None if one has no
    name or their number is not fixed.  ``body`` begins with the brace.
    """

    identifier: str
    span: Span
    name: Span
    body: Span
    parameters: tuple[str, ...] | None
    statements: tuple[Statement, ...]
    conditions: tuple[Span, ...]


class Source:
    """A C file: its ``text``, its ``lines`` with their ends, and its ``functions``."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.lines = lines_of(text.decode(errors="surrogateescape"))
        blanked = _ANNOTATION.sub(lambda match: b" " * len(match[0]), text)
        tree = Parser(_LANGUAGE).parse(blanked)
        self.functions = tuple(filter(None, map(self._function, _definitions(tree.root_node))))

    def at(self, span: Span) -> str:
        """Return the text of a span."""
        return self.text[span.start : span.end].decode(errors="surrogateescape")

    def function_at(self, line: int) -> Function | None:
        """Return the function whose definition has this line."""
        return next((one for one in self.functions if one.span.first <= line <= one.span.last), None)

    def _function(self, node: Node) -> Function | None:
        declarator = node.child_by_field_name("declarator")
        while declarator is not None and declarator.type != "function_declarator":
            declarator = declarator.child_by_field_name("declarator")
        body = node.child_by_field_name("body")
        name = declarator.child_by_field_name("declarator") if declarator is not None else None
        if declarator is None or body is None or name is None or name.type != "identifier":
            return None
        return Function(
            self.at(Span.of(name)),
            Span.of(node),
            Span.of(name),
            Span.of(body),
            self._parameters(declarator),
            tuple(self._statements(body)),
            tuple(_conditions(body)),
        )

    def _parameters(self, declarator: Node) -> tuple[str, ...] | None:
        listed = declarator.child_by_field_name("parameters")
        names: list[str] = []
        for one in listed.named_children if listed is not None else []:
            if one.type == "comment":
                continue
            if one.type != "parameter_declaration":
                return None
            inner = one.child_by_field_name("declarator")
            if inner is None and self.at(Span.of(one)) == "void":
                continue
            while inner is not None and inner.type != "identifier":
                inner = inner.child_by_field_name("declarator") or next(iter(inner.named_children), None)
            if inner is None:
                return None
            names.append(self.at(Span.of(inner)))
        return tuple(names)

    def _statements(self, body: Node) -> Iterator[Statement]:
        for node in _walk(body):
            if not node.type.endswith("_statement") or not self.at(Span.of(node)).endswith(";"):
                continue
            if node.type in _LOOPS or node.type in ("if_statement", "labeled_statement", "case_statement"):
                continue
            if any(child.is_missing for child in node.children):
                continue
            parent = node.parent
            assert parent is not None
            place = next(number for number, one in enumerate(parent.children) if one == node)
            yield Statement(Span.of(node), *self._kind(node), parent.start_byte, place, _inside(node, _LOOPS))

    def _kind(self, node: Node) -> tuple[str, str, tuple[str, ...]]:
        """Return kind, callee and arguments of a statement."""
        word = node.type.removesuffix("_statement")
        if word in ("return", "goto", "break", "continue"):
            return word, "", ()
        expression = next(iter(node.named_children), None)
        if expression is None:
            return "other", "", ()
        if expression.type == "assignment_expression":
            return "assignment", "", ()
        if expression.type != "call_expression":
            return "other", "", ()
        callee = expression.child_by_field_name("function")
        listed = expression.child_by_field_name("arguments")
        if callee is not None and callee.type == "call_expression":  # guard(mutex)(&lock)
            callee = callee.child_by_field_name("function")
        arguments = [self.at(Span.of(one)) for one in listed.named_children] if listed is not None else []
        return "call", self.at(Span.of(callee)) if callee is not None else "", tuple(arguments)


def lines_of(text: str) -> list[str]:
    """Return the lines of a text with their ends; only a line feed ends a line."""
    return [line for line in re.split(r"(?<=\n)", text) if line]


def _walk(node: Node) -> Iterator[Node]:
    """Yield what is below a node in the order of the file, however deep it is."""
    pending = list(reversed(node.named_children))
    while pending:
        child = pending.pop()
        yield child
        pending += reversed(child.named_children)


def _definitions(root: Node) -> Iterator[Node]:
    """Yield the definitions of functions, also those between preprocessor lines."""
    pending = list(reversed(root.named_children))
    while pending:
        node = pending.pop()
        if node.type == "function_definition":
            yield node
        elif node.type.startswith("preproc_"):
            pending += reversed(node.named_children)


def _inside(node: Node, types: tuple[str, ...]) -> bool:
    parent = node.parent
    while parent is not None:
        if parent.type in types:
            return True
        parent = parent.parent
    return False


def _conditions(body: Node) -> Iterator[Span]:
    """Yield the conditions of if and while, with their parentheses."""
    for node in _walk(body):
        if node.type in ("if_statement", "while_statement"):
            condition = node.child_by_field_name("condition")
            if condition is not None and condition.type == "parenthesized_expression":
                yield Span.of(condition)
