"""Show untrusted text with visible control characters, make file names of it; counts and signals in words."""

from __future__ import annotations

import re
import signal


def printable(text: str | bytes, limit: int = 200) -> str:
    """Return ``text`` on one line with all unprintable characters escaped.

    The result has at most ``limit`` characters; a longer one ends with an ellipsis.
    """
    # An escape is longer than its character, so no more than these can be shown.
    start = text[: 4 * limit + 4]
    decoded = start.decode(errors="backslashreplace") if isinstance(start, bytes) else start
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in decoded[: limit + 1]
    )
    return shortened(shown, limit)


#: The user name and the password of a URL.
_CREDENTIALS = re.compile(r"""(?<=://)[^\s/'"<>\\]+@""")


def without_credentials(text: str) -> str:
    """Return ``text`` with ``...`` for the user name and the password of each URL."""
    return _CREDENTIALS.sub("...@", text) if "@" in text else text


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, whose plural ends in "s"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def signal_name(number: int) -> str:
    """Return the name of a signal, such as ``SIGKILL``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # one of the real-time signals


def one_line(text: str) -> str:
    """Return ``text`` on one line, so that a guest cannot forge a line of a report."""
    return " ".join(text.split())


def shortened(text: str, limit: int) -> str:
    """Return ``text``, or if it has more than ``limit`` characters its start and an ellipsis."""
    return text if len(text) <= limit else text[: max(0, limit - 1)] + "…"


def part_of(count: int, total: int, noun: str) -> str:
    """Return a part of a number of things: ``3 of 4 pages``, ``all 4 pages``, ``the only page``."""
    if count < total:
        return f"{count} of {counted(total, noun)}"
    return f"the only {noun}" if total == 1 else f"all {counted(total, noun)}"


def slug(text: str, limit: int = 80, empty: str = "series") -> str:
    """Return ``text`` as a part of a file name, at most ``limit`` characters; ``empty`` if none is left."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:limit] or empty


def visible(text: str) -> str:
    r"""Return ``text`` with every character that is not plain text escaped.

    Newlines and tabs stay, CR LF becomes a newline.  Escape sequences, NULs,
    bidirectional overrides, lone surrogates and non-characters appear as ``\x1b``
    or ``\u202e``; a byte that was not UTF-8 (decoded with ``surrogateescape``)
    appears as ``\xff``.
    """
    plain = text.replace("\r\n", "\n")
    if plain.replace("\n", "").replace("\t", "").isprintable():
        return plain
    return "".join(c if c.isprintable() or c in "\n\t" else _escaped(ord(c)) for c in plain)


def _escaped(code: int) -> str:
    """Return the escape of one code point; U+DC80 to U+DCFF are bytes of surrogateescape."""
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
