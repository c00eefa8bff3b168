"""Measure how long it takes to read and to check a series of 1,000 mails, and git mailsplit on the same file.

    python bench/mails.py [--runs N]

The file is made here: a thread of five patches with 994 answers that quote them, and a
series of 999 patches.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.lib import paths
from harness.series import mailinfo, series

HUNK = "".join(f" int line_{number};\n" for number in range(3))
DIFF = f"diff --git a/x.c b/x.c\n--- a/x.c\n+++ b/x.c\n@@ -1,7 +1,7 @@\n{HUNK}-int old;\n+int new;\n{HUNK}"


def mail(number: int, subject: str, body: str, to: int = 0) -> str:
    """Return a mail with the Message-ID ``number`` in answer to ``to``."""
    return (
        "From mboxrd@z Thu Jan  1 00:00:00 1970\nFrom: Ann <ann@example.org>\n"
        "Date: Mon, 2 Mar 2026 10:00:00 +0000\n"
        f"Message-ID: <{number}@example.org>\nIn-Reply-To: <{to}@example.org>\nSubject: {subject}\n\n{body}\n"
    )


def patches(total: int) -> Iterator[str]:
    """Yield the mails of a series in answer to a cover letter that is not there."""
    for number in range(1, total + 1):
        yield mail(number, f"[PATCH v4 {number}/{total}] x: part {number}", f"Why.\n---\n{DIFF}-- \n2.47\n")


def thread() -> Iterator[str]:
    """Yield five patches and 994 answers, each to the mail before it or to a patch."""
    yield from patches(5)
    quoted = "".join(f"> {line}\n" for line in (DIFF * 8).splitlines())
    for number in range(6, 1000):
        to = number - 1 if number % 7 else number % 5 + 1
        yield mail(number, "Re: [PATCH v4 1/5] x: part 1", f"Fine.\n{quoted}", to)


def seconds(action: Callable[[], object], runs: int) -> float:
    """Return the median duration of ``action``."""
    durations = []
    for _ in range(runs):
        started = time.monotonic()
        action()
        durations.append(time.monotonic() - started)
    return statistics.median(durations)


def split(path: Path) -> None:
    """Let git split the file ``path`` into a new folder."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        subprocess.run(["git", "mailsplit", f"-o{folder}", "--", str(path)], check=True, capture_output=True)


def check(loaded: series.Series) -> None:
    """Let git decode every patch, and read its diff, with nothing at hand from before."""
    mailinfo.forget()
    series.check(loaded)


def measure(path: Path, runs: int) -> tuple[float, float, float]:
    """Return the seconds to read the series in ``path``, to check it, and for git to split it."""
    loaded = series.load(str(path), paths.PATCHES)
    return (
        seconds(lambda: series.load(str(path), paths.PATCHES), runs),
        seconds(lambda: check(loaded), runs),
        seconds(lambda: split(path), runs),
    )


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", metavar="N", type=int, default=5, help="default: %(default)s")
    runs = parser.parse_args().runs
    shown = Table("mails")
    for heading in ("MB", "read, s", "check, s", "git mailsplit, s", "ratio"):
        shown.add_column(heading, justify="right")
    for name, content in (("thread, 5 patches", "".join(thread())), ("999 patches", "".join(patches(999)))):
        with tempfile.TemporaryDirectory(prefix="patchproof-bench-") as folder:
            path = Path(folder) / "t.mbox"
            path.write_text(content)
            read, checked, git = measure(path, runs)
        shown.add_row(
            name,
            f"{len(content) / 1e6:.1f}",
            f"{read:.2f}",
            f"{checked:.2f}",
            f"{git:.2f}",
            f"{read / git:.1f}",
        )
    Console().print(shown)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
