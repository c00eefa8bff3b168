"""The page of a series patch by patch: what each one brought and broke."""

from __future__ import annotations

from pathlib import Path

from harness.report.html.environment import environment
from harness.report.html.violation import link
from harness.report.prefixes import Prefixes

RUN_PAGE = "report.html"


def render(root: Path, prefixes: Prefixes) -> str:
    """Return the page of the prefixes in the folder ``root``, with links to the pages of their runs."""
    tone, sentence = _answer(prefixes)
    pages = {row.folder: link(root, f"{row.folder}/{RUN_PAGE}") for row in prefixes.rows if row.folder}
    return (
        environment()
        .get_template("prefixes.html.j2")
        .render(
            title=prefixes.title or prefixes.series,
            prefixes=prefixes,
            tone=tone,
            sentence=sentence,
            links={folder: page.url for folder, page in pages.items() if page is not None},
        )
    )


def _answer(prefixes: Prefixes) -> tuple[str, str]:
    """Return the tone and the sentence of the page."""
    rows = prefixes.rows
    broke = [row for row in rows if row.broke]
    faulty = [row for row in rows if row.faulty]
    warned = [row for row in rows if any(row.warnings.values())]
    unrun = [row for row in rows if not row.verdicts]
    if broke:
        names = ", ".join(str(row.count) for row in broke)
        noun = "Patch" if len(broke) == 1 else "Patches"
        verb = "breaks" if len(broke) == 1 else "break"
        return "bad", f"{noun} {names} {verb} what worked before."
    if faulty:
        names = ", ".join(str(row.count) for row in faulty)
        return "bad", f"What patch {names} brings violates requirements; no patch breaks what worked before."
    if warned:
        names = ", ".join(str(row.count) for row in warned)
        noun = "patch" if len(warned) == 1 else "patches"
        return "bad", f"New warnings with {noun} {names}; no patch breaks what worked before."
    if unrun:
        return "open", f"The suites did not run on {len(unrun)} of the {len(rows)} prefixes."
    return "good", "No patch breaks what worked before."
