"""Mails of patches to the small kernel, for tests of how series are read."""

from __future__ import annotations

from pathlib import Path

from harness.series import series
from harness.series.series import Series

PATCHES = Path(__file__).parent.parent / "patches"
ANN = "Ann Author <ann@example.org>"
BOB = "Bob Builder <bob@example.org>"
FORMAT_PATCH = "From 1f2e3d4c5b6a79880f1e2d3c4b5a69788f7e6d5c Mon Sep 17 00:00:00 2001\n"
POSTED = "From mboxrd@z Thu Jan  1 00:00:00 1970\n"
FILE = "drivers/vfio/pci/core.c"


def diff(line: int, new: str = "") -> str:
    """A diff that changes one line (4 to 57) of the core.c of the small kernel."""
    context = [f" int line_{number};\n" for number in range(line - 3, line + 4)]
    context[3] = f"-int line_{line};\n+int {new or f'changed_{line}'};\n"
    head = f"diff --git a/{FILE} b/{FILE}\n--- a/{FILE}\n+++ b/{FILE}\n"
    return f"{head}@@ -{line - 3},7 +{line - 3},7 @@\n{''.join(context)}"


def patch(line: int, new: str = "") -> str:
    """The body of a patch mail."""
    return f"Why it is done.\n\nSigned-off-by: {ANN}\n---\n core.c | 2 +-\n\n{diff(line, new)}-- \n2.47.1\n\n"


def mail(
    subject: str,
    body: str = "Text.\n",
    *,
    name: str = "",
    to: str = "",
    sender: str = ANN,
    headers: str = "",
    first: str = POSTED,
) -> bytes:
    """One mail; ``name`` is its Message-ID, ``to`` the one that it answers, ``headers`` are further lines."""
    lines = [f"From: {sender}", "Date: Mon, 2 Mar 2026 10:00:00 +0000", f"Subject: {subject}"]
    lines += [f"Message-ID: <{name}@example.org>"] if name else []
    lines += [f"In-Reply-To: <{to}@example.org>", f"References: <{to}@example.org>"] if to else []
    return f"{first}{chr(10).join(lines)}\n{headers}\n{body}".encode()


def posting(tags: str = "[PATCH {}]", count: int = 2, *, prefix: str = "", to: str = "") -> list[bytes]:
    """A posting as git send-email sends it: a cover letter, and ``count`` patches in answer to it."""
    cover = mail(f"{tags.format(f'0/{count}')} vfio: all", name=f"{prefix}0", to=to)
    patches = [
        mail(
            f"{tags.format(f'{number}/{count}')} vfio: part {number}",
            patch(10 * number),
            name=f"{prefix}{number}",
            to=f"{prefix}0",
        )
        for number in range(1, count + 1)
    ]
    return [cover, *patches]


def load(folder: Path, mails: list[bytes], revision: str | None = None, *, patches: Path = PATCHES) -> Series:
    """Load the series in an mbox file of these mails."""
    path = folder / "thread.mbox"
    path.write_bytes(b"".join(mails))
    return series.load(str(path), patches, revision=revision)


def subjects(loaded: Series) -> list[str]:
    """The subjects of the patches."""
    return [one.subject for one in loaded.patches]


def titles(loaded: Series) -> list[str]:
    """The title of each patch, without tags."""
    return [one.rpartition("] ")[2] for one in subjects(loaded)]
