"""Explain why Kconfig dropped an option: name the dependency that is not met.

The parser follows Documentation/kbuild/kconfig-language.rst as far as
dependencies go.  It evaluates expressions against the finished ``.config``, so it
needs no macros, compiler probes or ``choice`` logic.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SRCARCH = "x86"
_TOKEN = re.compile(r'"[^"]*"|\'[^\']*\'|\|\||&&|!=|<=|>=|[()!=<>]|\$\([^)]*\)|[\w.-]+')
#: Characters of a condition that is evaluated; a longer one counts as met.
MAX_CONDITION = 2000
#: Parentheses, negations and included files inside each other that are followed.
MAX_DEPTH = 100
#: Bytes of one Kconfig file that are read.
MAX_FILE = 4 << 20
_TYPES = ("bool", "tristate", "string", "int", "hex", "prompt")


@dataclass
class Option:
    """All definitions of one symbol: the conditions of each, and the options that select the symbol."""

    defined: list[list[str]] = field(default_factory=list)
    prompts: list[list[str]] = field(default_factory=list)
    defaults: list[list[str]] = field(default_factory=list)
    selected_by: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class _Block:
    """An open ``menu``, ``if`` or ``choice``, or the entry being read; ``conditions`` are its own."""

    kind: str
    name: str = ""
    conditions: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    defaults: list[str] = field(default_factory=list)


class Options:
    """The options of a kernel source tree, with their dependencies (SRCARCH x86)."""

    def __init__(self, source: Path) -> None:
        self._root = source.resolve()
        self._options: dict[str, Option] = {}
        self._seen: set[Path] = set()
        self._read("Kconfig", [])

    def why(self, name: str, asked: str, got: Mapping[str, str]) -> str:
        """Return a clause that explains why ``name`` is not ``asked`` in the configuration ``got``."""
        option = self._options.get(name)
        if option is None or not (option.defined or option.prompts):
            return "this tree has no such option"
        if asked == "n":
            forcing = [by for by, condition in option.selected_by if is_on(by, got) and holds(condition, got)]
            return "it is selected by " + ", ".join(sorted(set(forcing))) if forcing else "it cannot be off"
        if unmet := _unmet_everywhere(option.defined, got):
            return f"it depends on {unmet}, which is not met"
        if option.prompts:
            if unmet := _unmet_everywhere(option.prompts, got):
                return f"it can be set only with {unmet}, which is not met"
            return f"nothing in its Kconfig entry forbids it, yet it came out as {got.get(name, 'n')}"
        if option.defaults and (unmet := _unmet_everywhere(option.defaults, got)):
            return f"it has no prompt and its default needs {unmet}, which is not met"
        selecting = sorted({by for by, _ in option.selected_by})[:6]
        return "it has no prompt and is on only when selected" + (
            f" (by {', '.join(selecting)})" if selecting else ""
        )

    def _read(self, relative: str, outer: Sequence[_Block], depth: int = 0) -> None:
        # The tree is not trusted: read only files inside it, and each one once.
        try:
            path = (self._root / relative).resolve()
            if path in self._seen or not path.is_relative_to(self._root) or not path.is_file():
                return
            with path.open("rb") as stream:
                text = stream.read(MAX_FILE).decode(errors="replace")
        except (OSError, ValueError, RuntimeError):  # too long a name, a NUL in it, a circle of links
            return
        self._seen.add(path)
        blocks: list[_Block] = list(outer)
        entry: _Block | None = None
        for line in _logical_lines(text):
            word, _, rest = line.partition(" ")
            rest = rest.strip()
            if word in ("config", "menuconfig", "choice", "menu", "if", "comment", "source", "mainmenu",
                        "endif", "endmenu", "endchoice"):  # fmt: skip
                self._close(entry, blocks)
                entry = None
            if word in ("config", "menuconfig"):
                entry = _Block("config", rest)
            elif word == "comment":
                entry = _Block("comment")
            elif word in ("choice", "menu"):
                blocks.append(_Block(word))
            elif word == "if":
                blocks.append(_Block("if", conditions=[rest]))
            elif word in ("endif", "endmenu", "endchoice"):
                if len(blocks) > len(outer):
                    blocks.pop()
            elif word == "source" and depth < MAX_DEPTH:
                self._read(rest.strip("\"'").replace("$(SRCARCH)", SRCARCH), blocks, depth + 1)
            else:
                self._attribute(word, rest, entry, blocks)
        self._close(entry, blocks)

    def _attribute(self, word: str, rest: str, entry: _Block | None, blocks: Sequence[_Block]) -> None:
        target = entry if entry is not None else (blocks[-1] if blocks else None)
        if target is None:
            return
        text, condition = _split_if(rest)
        if word == "depends":
            target.conditions.append(rest.removeprefix("on").strip())
        elif word == "default" or word.startswith("def_"):
            if text != "n":
                target.defaults.append(f"({text}) && ({condition})")
        elif word in _TYPES:
            if text:
                target.prompts.append(condition)
        elif word == "select" and target.kind == "config":
            self._option(text).selected_by.append((target.name, condition))

    def _close(self, entry: _Block | None, blocks: Sequence[_Block]) -> None:
        if entry is None or entry.kind != "config":
            return
        conditions = [c for block in (*blocks, entry) for c in block.conditions]
        option = self._option(entry.name)
        option.defined.append(conditions)
        option.prompts += [[*conditions, prompt] for prompt in entry.prompts]
        option.defaults += [[*conditions, default] for default in entry.defaults]

    def _option(self, name: str) -> Option:
        return self._options.setdefault(name, Option())


def _logical_lines(text: str) -> Iterator[str]:
    """Yield the lines without comments and help texts, continued lines joined, blanks collapsed."""
    help_indent: int | None = None
    in_help = False
    pending = ""
    for raw in text.expandtabs(8).splitlines():
        stripped = raw.strip()
        if in_help:
            indent = len(raw) - len(raw.lstrip())
            if not stripped:
                continue
            if help_indent is None and indent > 0:
                help_indent = indent
            if help_indent is not None and indent >= help_indent:
                continue
            in_help, help_indent = False, None
        if not pending and stripped.startswith("#"):
            continue
        if stripped.endswith("\\"):
            pending += stripped[:-1] + " "
            continue
        line, pending = " ".join((pending + stripped).split()), ""
        if line in ("help", "---help---"):
            in_help = True
        elif line:
            yield line


def _split_if(rest: str) -> tuple[str, str]:
    """Split ``"Text" if COND`` into its halves; without a condition it is ``y``."""
    text, found, condition = rest.rpartition(" if ")
    return (text.strip(), condition.strip()) if found else (rest, "y")


def _unmet_everywhere(alternatives: Sequence[Sequence[str]], got: Mapping[str, str]) -> str:
    """Return the unmet conditions of the alternatives; empty when one alternative is met."""
    unmet = [_unmet(conditions, got) for conditions in alternatives]
    return " or ".join(" && ".join(parts) for parts in unmet) if all(unmet) else ""


def _unmet(conditions: Sequence[str], got: Mapping[str, str]) -> list[str]:
    """Return the conjuncts of ``conditions`` that do not hold in ``got``, each once."""
    parts = [part for condition in conditions for part in _conjuncts(condition)]
    return list(dict.fromkeys(part for part in parts if not holds(part, got)))


def _conjuncts(condition: str, left: int = MAX_DEPTH) -> list[str]:
    """Return the parts of ``condition`` that must all hold; a part with alternatives stays whole."""
    if len(condition) > MAX_CONDITION or not left:
        return [condition[:MAX_CONDITION]]
    parts: list[list[str]] = [[]]
    depth = 0
    for word in _TOKEN.findall(condition):
        depth += (word == "(") - (word == ")")
        if word == "||" and depth == 0:
            return [f"({condition})"]
        if word == "&&" and depth == 0:
            parts.append([])
        else:
            parts[-1].append(word)
    found = []
    for part in parts:
        text = re.sub(r"(?<=[(!]) | (?=\))", "", " ".join(part))
        found += _conjuncts(text[1:-1], left - 1) if part[:1] == ["("] else [text]
    return found


def is_on(name: str, got: Mapping[str, str]) -> bool:
    """Return whether the option ``name`` is built in or a module."""
    return got.get(name, "n") in ("y", "m")


def holds(condition: str, got: Mapping[str, str]) -> bool:
    """Evaluate a Kconfig expression in ``got``; an expression that cannot be parsed is True."""
    if len(condition) > MAX_CONDITION:
        return True
    tokens = _TOKEN.findall(condition)
    try:
        return _Expression(tokens, got).either()
    except (IndexError, KeyError, ValueError):
        return True


class _Expression:
    """A recursive-descent parser of ``||``, ``&&``, ``!``, parentheses and comparisons."""

    def __init__(self, tokens: Sequence[str], got: Mapping[str, str]) -> None:
        self._tokens = list(tokens)
        self._got = got
        self._depth = 0

    def either(self) -> bool:
        return self._chain("||", self._both, any)

    def _both(self) -> bool:
        return self._chain("&&", self._one, all)

    def _chain(self, operator: str, term: Callable[[], bool], join: Callable[[list[bool]], bool]) -> bool:
        terms = [term()]
        while self._tokens and self._tokens[0] == operator:
            self._tokens.pop(0)
            terms.append(term())
        return join(terms)

    def _one(self) -> bool:
        word = self._tokens.pop(0)
        if word in ("!", "("):
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise ValueError("too deep")
        if word == "!":
            return not self._one()
        if word == "(":
            inner = self.either()
            self._tokens.pop(0)
            return inner
        if self._tokens and self._tokens[0] in ("=", "!=", "<", ">", "<=", ">="):
            return self._compare(word, self._tokens.pop(0), self._tokens.pop(0))
        # A macro such as $(cc-option,...) depends on the toolchain: count it as met.
        return word.startswith("$") or self._value(word) in ("y", "m")

    def _compare(self, left: str, operator: str, right: str) -> bool:
        a, b = self._value(left), self._value(right)
        if operator in ("=", "!="):
            return (a == b) == (operator == "=")
        x, y = int(a, 0), int(b, 0)
        return {"<": x < y, ">": x > y, "<=": x <= y, ">=": x >= y}[operator]

    def _value(self, word: str) -> str:
        if word[0] in "\"'":
            return word[1:-1]
        if word in ("y", "m", "n") or re.fullmatch(r"-?\d+|0x[0-9a-fA-F]+", word):
            return word
        return self._got.get(word, "n").strip('"')
