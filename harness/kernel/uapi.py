"""The names and numbers that C headers define, read from their text.

A header comes from the series under test, so nothing in it is trusted: what cannot be
understood has no number, and every step has a limit.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping

#: Characters of a definition that is read as a number; a longer one has no number.
BODY_LIMIT = 256
#: Definitions that lead to another before the number; one that leads back to itself ends here.
DEPTH_LIMIT = 64

_CONTINUED = re.compile(r"\\\r?\n")
_COMMENT_OR_STRING = re.compile(
    r"""/\*.*?(?:\*/|\Z)|//[^\n]*|"(?>(?:\\.|[^"\\\n])*)"?|'(?:\\.|[^'\\\n]){0,40}'""",
    re.DOTALL,  # a string ends with its line; each quote in it would begin another look at the rest
)
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_DIRECTIVE = re.compile(r"[ \t]*#[ \t]*(\w+)[ \t]*(.*)", re.ASCII)
_OBJECT_MACRO = re.compile(r"([A-Za-z_]\w*)(?![\w(])(.*)", re.ASCII)
_ENUM = re.compile(r"\benum\b[^{};()]{0,200}\{([^{}]*)\}", re.ASCII)
_TOKEN = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+|'[^'\\]'|[A-Za-z_]\w*|<<|>>|[-+*|&^~(),]", re.ASCII)
_SUFFIX = re.compile(r"\b(0[xX][0-9a-fA-F]+|[0-9]+)[uUlL]{1,3}\b", re.ASCII)
_CALL = re.compile(r"\b(_IO|_BITUL|_BITULL|BIT)[ \t]*\(", re.ASCII)

_BINARY: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.BitXor: operator.xor,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}


def code_of(text: str) -> str:
    """Return C source without comments and the contents of strings; character constants stay."""

    def replacement(found: re.Match[str]) -> str:
        return found[0] if found[0].startswith("'") else " " if found[0].startswith("/") else '""'

    return _COMMENT_OR_STRING.sub(replacement, _CONTINUED.sub("", text))


def identifiers(text: str) -> frozenset[str]:
    """Return the identifiers in the code of C source."""
    return frozenset(_IDENTIFIER.findall(code_of(text)))


class Definitions:
    """The macros without parameters and the enumerators of a header.

    ``macros`` and ``enumerators`` map a name to its definition.  What ``#if 0`` leaves
    out, or ``#undef`` takes away, is not defined.
    """

    def __init__(self, text: str) -> None:
        self.macros: dict[str, str] = {}
        self.enumerators: dict[str, str] = {}
        kept = []
        for line in _taken(code_of(text)):
            directive = _DIRECTIVE.match(line)
            if directive is None:
                kept.append(line)
            elif directive[1] == "define" and (macro := _OBJECT_MACRO.match(directive[2])):
                self.macros[macro[1]] = macro[2].strip()
            elif directive[1] == "undef":
                self.macros.pop(directive[2].strip(), None)
        for body in _ENUM.findall("\n".join(kept)):
            before, step = "-1", 0
            for entry in _entries(body):
                name, _, value = (part.strip() for part in entry.partition("="))
                if _IDENTIFIER.fullmatch(name):
                    # Kept short: each enumerator after it has a copy.
                    before, step = (value[: BODY_LIMIT + 1], 0) if value else (before, step + 1)
                    self.enumerators[name] = f"({before}) + {step}" if step else before
        self._numbers: dict[str, int | None] = {}

    @property
    def names(self) -> frozenset[str]:
        """All names."""
        return frozenset((*self.macros, *self.enumerators))

    def number(self, name: str) -> int | None:
        """Return the number that a name stands for, None if it is not known to be one."""
        return self._number(name, DEPTH_LIMIT)

    def _number(self, name: str, depth: int) -> int | None:
        if name not in self._numbers:
            self._numbers[name] = self._computed(name, depth)
        return self._numbers[name]

    def _computed(self, name: str, depth: int) -> int | None:
        body = self.macros.get(name, self.enumerators.get(name))
        if body is None or len(body) > BODY_LIMIT or not depth:
            return None
        try:
            value = _evaluate(ast.parse(self._expression(body, depth), mode="eval").body)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
        return value if 0 <= value < 1 << 64 else None

    def _expression(self, body: str, depth: int) -> str:
        """Return the definition with numbers in place of names.  Raises ValueError if that fails."""
        plain = _SUFFIX.sub(r"\1", body)
        parts = []
        place = 0
        while place < len(plain):
            if plain[place].isspace():
                place += 1
                continue
            token = _TOKEN.match(plain, place)
            if token is None:
                raise ValueError(plain)
            if call := _CALL.match(plain, place):
                parts.append(call[1])
                place = call.end() - 1
                continue
            parts.append(self._word(token[0], depth))
            place = token.end()
        return " ".join(parts)

    def _word(self, token: str, depth: int) -> str:
        if token[0].isdigit():
            octal = len(token) > 1 and token.isdigit() and token.startswith("0")
            return str(int(token, 8 if octal else 0))
        if token[0] == "'":
            return str(ord(token[1]))
        if _IDENTIFIER.fullmatch(token):
            number = self._number(token, depth - 1)
            if number is None:
                raise ValueError(token)
            return str(number)
        return token


def _taken(code: str) -> Iterator[str]:
    """Yield the lines that ``#if 0`` does not leave out."""
    left_out: list[bool] = []  # of each #if that is open
    count = 0  # of those that are True
    for line in code.splitlines():
        directive = _DIRECTIVE.match(line)
        word = directive[1] if directive else ""
        if word in ("if", "ifdef", "ifndef"):
            left_out.append(word == "if" and directive is not None and directive[2].strip() == "0")
            count += left_out[-1]
        elif word in ("else", "elif") and left_out:
            count -= left_out[-1]
            left_out[-1] = False
        elif word == "endif" and left_out:
            count -= left_out.pop()
        elif not count:
            yield line


def _entries(body: str) -> Iterator[str]:
    """Yield the parts of an enum's body between the commas that no parentheses enclose."""
    depth = start = 0
    for found in re.finditer(r"[(),]", body):
        if found[0] == ",":
            if depth == 0:
                yield body[start : found.start()]
                start = found.end()
        else:
            depth += 1 if found[0] == "(" else -1
    yield body[start:]


def _evaluate(node: ast.expr) -> int:
    """Return the value of an expression of integers.  Raises ValueError for anything else."""
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _evaluate(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            first, second = _evaluate(left), _evaluate(right)
            if isinstance(op, ast.LShift | ast.RShift) and not 0 <= second < 64:
                raise ValueError(second)
            return _BINARY[type(op)](first, second)
        case ast.Call(func=ast.Name(id="_IO"), args=[kind, number]):
            return _evaluate(kind) << 8 | _evaluate(number)  # include/uapi/asm-generic/ioctl.h
        case ast.Call(func=ast.Name(id="_BITUL" | "_BITULL" | "BIT"), args=[bit]):
            return 1 << min(max(_evaluate(bit), 0), 64)
    raise ValueError(ast.dump(node)[:80])
