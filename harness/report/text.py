"""Foreign text made harmless: what a guest says must steer neither a terminal nor an XML parser."""

from __future__ import annotations

from collections.abc import Sequence

from harness.verdict import Result, Verdict


def visible(text: str) -> str:
    r"""``text`` with everything that is not plain text spelled out.

    Newlines and tabs stay, CR LF becomes a newline.  Escape sequences, NULs,
    bidirectional overrides, lone surrogates and non-characters appear as ``\x1b``
    or ``\u202e``; a byte that was not UTF-8 (decoded with ``surrogateescape``)
    appears as ``\xff``.
    """
    plain = text.replace("\r\n", "\n")
    if plain.isascii() and plain.isprintable():
        return plain
    return "".join(c if c.isprintable() or c in "\n\t" else _spelled(ord(c)) for c in plain)


def tally(results: Sequence[Result]) -> str:
    """How often the repetitions of a scenario got each verdict, and which got the rarer ones.

    For example ``9 conforms, 1 violates (#4)``.
    """
    usual, *others = _by_verdict(results)
    return ", ".join(
        [
            f"{len(usual)} {usual[0].verdict}",
            *(
                f"{len(each)} {each[0].verdict} ({', '.join(f'#{one.entry.repetition}' for one in each)})"
                for each in others
            ),
        ]
    )


def deviating(results: Sequence[Result]) -> list[Result]:
    """The repetitions of a scenario whose verdict is not the most frequent."""
    return [result for each in _by_verdict(results)[1:] for result in each]


def _by_verdict(results: Sequence[Result]) -> list[list[Result]]:
    groups: dict[Verdict, list[Result]] = {}
    for result in results:
        groups.setdefault(result.verdict, []).append(result)
    return sorted(groups.values(), key=lambda each: -len(each))


def _spelled(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
