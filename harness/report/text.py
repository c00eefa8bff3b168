"""Foreign text made harmless: what a guest says must steer neither a terminal nor an XML parser."""

from __future__ import annotations


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


def _spelled(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
