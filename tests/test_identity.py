"""The identity of a series: the same for the same patches, however their mails came."""

from __future__ import annotations

import base64
import dataclasses
import quopri
from collections.abc import Callable

import pytest

from harness.series.series import Patch, Series

DIFF = """\
diff --git a/core.c b/core.c
index 1111111..2222222 100644
--- a/core.c
+++ b/core.c
@@ -7,3 +7,3 @@ int f(void)
 int line_7;
-int line_8;
+int größe;
 int line_9;
"""
SECOND = DIFF.replace("line_8", "line_18").replace("größe", "second")
MODE = "diff --git a/tool.sh b/tool.sh\nold mode 100644\nnew mode 100755\n"
TRADITIONAL = "--- a/core.c\n+++ b/core.c\n@@ -1 +1 @@\n-one\n+two\n"


def mail(diff: str, body: Callable[[bytes], bytes] = bytes, encoding: str = "8bit", more: str = "") -> bytes:
    head = f"From: J <j@example.org>\nSubject: [PATCH] x\nMIME-Version: 1.0\n{more}Content-Type: text/plain; "
    head += f'charset="utf-8"\nContent-Transfer-Encoding: {encoding}\n\n'
    return head.encode() + body(f"Why.\n\n---\n core.c | 2 +-\n\n{diff}".encode())


def in_base64(text: bytes) -> bytes:
    return base64.encodebytes(text.replace(b"\n", b"\r\n"))


def footer(text: bytes) -> bytes:
    return text + b"-- \n2.47\n\n_____\nlist mailing list\ncommit " + b"ab" * 20 + b"\n"


def made_of(*mails: bytes) -> Series:
    patches = tuple(Patch(f"{at}.patch", one, "x") for at, one in enumerate(mails))
    return Series("x", "x", "", "auto", patches, {}, "a test")


def identity(*mails: bytes) -> str:
    return made_of(*mails).identity


@pytest.mark.parametrize(
    "other",
    [
        mail(DIFF, quopri.encodestring, "quoted-printable"),
        mail(DIFF, base64.encodebytes, "base64"),
        mail(DIFF, in_base64, "base64"),
        mail(DIFF).replace(b"\n", b"\r\n"),
        mail(DIFF, footer),
        mail(DIFF, more="X-Mailman: yes\nMessage-ID: <1@example.org>\n"),
        mail(DIFF).replace(b"Why.", b"Because.\n\nReviewed-by: R <r@example.org>"),
        mail(DIFF).replace(b"---\n core", b"---\ncommit " + b"cd" * 20 + b"\n core"),
        b"From " + b"0" * 40 + b" Mon Sep 17 00:00:00 2001\n" + mail(DIFF),
        mail(DIFF.replace("@@ -7,3 +7,3 @@", "@@ -9,3 +9,3 @@").replace("index 1", "index 3")),
    ],
    ids=["QP", "base64", "CR in base64", "DOS", "footer", "headers", "message", "commit", "mbox", "rebased"],
)
def test_identity_is_that_of_the_diffs(other: bytes) -> None:
    expected = identity(mail(DIFF), mail(SECOND))
    assert len(expected) == 64
    assert identity(other, mail(SECOND)) == expected
    assert made_of(other).digest != made_of(mail(DIFF)).digest


@pytest.mark.parametrize(
    "others",
    [
        (mail(SECOND), mail(DIFF)),
        (mail(DIFF),),
        (mail(DIFF), mail(SECOND), mail(MODE)),
        (mail(DIFF + SECOND),),
        (mail(DIFF), mail(SECOND.replace("second", "third"))),
        (mail(DIFF), mail(TRADITIONAL)),
        (mail(DIFF), mail(TRADITIONAL.replace("two", "three"))),
    ],
)
def test_identity_of_other_patches_differs(others: tuple[bytes, ...]) -> None:
    every = [identity(mail(DIFF), mail(SECOND)), identity(*others), identity(mail(DIFF)), ""]
    assert len(set(every)) == (3 if others == (mail(DIFF),) else 4)


def test_identity_ignores_names_base_and_dialect() -> None:
    one = made_of(mail(DIFF))
    other = dataclasses.replace(one, name="y", base="6.19", dialect="feature", expect={"REV": "violates"})
    assert one.identity == other.identity
    assert one.digest != other.digest


def test_identity_without_a_readable_patch_is_empty() -> None:
    assert identity() == ""
    assert identity(mail(DIFF), b"") == ""
    assert identity(mail(DIFF, base64.encodebytes, "base64").replace(b"utf-8", b"x-none")) == ""
