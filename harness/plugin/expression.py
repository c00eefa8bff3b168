"""Expressions of an option -k, evaluated by pytest."""

from __future__ import annotations

from dataclasses import dataclass

from _pytest.mark.expression import Expression

from harness.lib.errors import UsageError


@dataclass(frozen=True)
class KeywordExpression:
    """Words joined by ``and``, ``or`` and ``not``.

    A call with a text returns whether the text matches.  A word matches as a part of the
    text; case does not count.
    """

    text: str
    _compiled: Expression

    @classmethod
    def parse(cls, text: str) -> KeywordExpression:
        """Parse the value of -k.  Raises UsageError."""
        try:
            return cls(text, Expression.compile(text))
        except SyntaxError as error:
            raise UsageError(
                f"-k {text!r} is not an expression of words, and, or, not: {error.msg}."
            ) from None

    def __call__(self, text: str, /) -> bool:
        lowered = text.lower()

        def contains(word: str, /, **_: object) -> bool:
            return word.lower() in lowered

        return self._compiled.evaluate(contains)
