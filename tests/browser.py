"""A headless Chromium that opens a page, and a reader of the document that it shows."""

from __future__ import annotations

import html
import os
import re
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

CONSOLE = re.compile(r":CONSOLE[:(]\d+\)?\] (.*)")
PATIENCE = 120.0  # seconds; only a hang takes longer


@dataclass(frozen=True)
class Shown:
    """The document that a browser made of a page, and the lines of its console."""

    document: str
    console: tuple[str, ...]


def open_page(page: Path, profile: Path, *options: str) -> Shown:
    """Open ``page`` in Chromium with the new folder ``profile``; return what it makes of it."""
    ended = subprocess.run(
        [
            *("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *(f"--user-data-dir={profile}", "--enable-logging=stderr", *options, "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        check=True,
        timeout=PATIENCE,
        env={**os.environ, "HOME": str(profile), "XDG_RUNTIME_DIR": str(profile)},
    )
    log = ended.stderr.decode(errors="replace")
    return Shown(ended.stdout.decode(), tuple(CONSOLE.findall(log)))


def measure(page: Path, profile: Path, width: int, expression: str) -> str:
    """Return the value of a script's ``expression`` about ``frame``, the document of the page.

    The page is shown ``width`` pixels wide in a frame of another page, as it runs no script itself.
    """
    outer = profile.with_name(f"{profile.name}.html")
    script = (
        "const f = document.querySelector('iframe'); f.onload = () => { const frame = f.contentDocument;"
        f" document.title = String({expression}); }};"
    )
    content = html.escape(page.read_text(), quote=True)
    outer.write_text(
        '<!DOCTYPE html><meta charset="utf-8"><title>not loaded</title>'
        f'<iframe style="border:0" width="{width}" height="1000" srcdoc="{content}"></iframe>'
        f"<script>{script}</script>"
    )
    shown = open_page(outer, profile, "--window-size=1600,1200")
    found = re.search(r"<title>(.*?)</title>", shown.document)
    assert found is not None
    return found[1]


@dataclass
class Element:
    """A start tag with its attributes."""

    tag: str
    attributes: dict[str, str]


@dataclass
class Document(HTMLParser):
    """The elements of a document in order, and its text."""

    elements: list[Element] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Prepare the parser, which is no dataclass."""
        super().__init__(convert_charrefs=True)

    @classmethod
    def of(cls, text: str) -> Document:
        """Parse a document."""
        made = cls()
        made.feed(text)
        made.close()
        return made

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element."""
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        """Keep a text."""
        self.texts.append(data)

    @property
    def text(self) -> str:
        """All text, with runs of blanks as one."""
        return " ".join(" ".join(self.texts).split())

    def values(self, attribute: str) -> list[str]:
        """Return the values of an attribute of all elements."""
        return [one.attributes[attribute] for one in self.elements if attribute in one.attributes]
