"""The template engine: every value is escaped, and made visible before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.lib.text import visible

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


_HIDE: ContextVar[Callable[[str], str] | None] = ContextVar("_HIDE", default=None)


@contextmanager
def hiding(hide: Callable[[str], str]) -> Iterator[None]:
    """Pass each value of the pages that are rendered meanwhile through ``hide``."""
    token = _HIDE.set(hide)
    try:
        yield
    finally:
        _HIDE.reset(token)


def _text(value: Any) -> Any:
    """Return a value as it is shown: a text without control characters, and without what is hidden."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    hide = _HIDE.get()
    return visible(value if hide is None else hide(value))
