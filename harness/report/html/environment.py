"""The template engine: every value is escaped, and made visible before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from harness.lib.text import shortened, visible

SHORT = 200  # characters of a value that every page has room for
TEMPLATES = Path(__file__).parent / "templates"


@cache
def environment() -> Environment:
    """Return the engine of all pages.

    Each value in a template becomes text: control characters are shown as escapes, and markup is
    escaped.  A template's own markup (the result of a macro) stays as it is.
    """
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_text,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@dataclass
class Room:
    """The bytes of long texts that a page may still show, as they stand in its source."""

    left: int

    def take(self, text: str) -> bool:
        """Return whether ``text`` still fits, and count it if so."""
        size = len(escape(text).encode("utf-8", "replace"))
        fits = size <= self.left
        self.left -= size if fits else 0
        return fits


@dataclass(frozen=True)
class _Showing:
    hide: Callable[[str], str]
    room: Room


_SHOWING: ContextVar[_Showing | None] = ContextVar("_SHOWING", default=None)


@contextmanager
def showing(hide: Callable[[str], str], size: int) -> Iterator[None]:
    """Pass each value of the page that is rendered meanwhile through ``hide``.

    Values longer than SHORT have ``size`` bytes in all; those that do not fit any more are cut.
    """
    token = _SHOWING.set(_Showing(hide, Room(size)))
    try:
        yield
    finally:
        _SHOWING.reset(token)


def _text(value: Any) -> Any:
    """Return a value as it is shown: a text without control characters, and without what is hidden."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    now = _SHOWING.get()
    if now is None:
        return visible(value)
    text = visible(now.hide(value))
    return text if len(text) <= SHORT or now.room.take(text) else shortened(text, SHORT)
