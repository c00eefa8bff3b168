"""Reading the tags of a subject: revision, RFC, n/m, names of lists, answers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.series import tag


@pytest.mark.parametrize(
    ("subject", "number", "total", "revision", "rfc"),
    [
        ("[PATCH 1/2] x", 1, 2, 1, False),
        ("[PATCHv2 1/2] x", 1, 2, 2, False),
        ("[PATCH V3 1/2] x", 1, 2, 3, False),
        ("[patch v3 1/2] x", 1, 2, 3, False),
        ("[PATCH-v3 1/2] x", 1, 2, 3, False),
        ("[PATCH, v3, 1/2] x", 1, 2, 3, False),
        ("[PATCH v12 0003/0010] x", 3, 10, 12, False),
        ("[PATCH 1/2 v3] x", 1, 2, 3, False),
        ("[PATCH v3 RESEND 1/2] x", 1, 2, 3, False),
        ("[PATCH RESEND v3 1/2] x", 1, 2, 3, False),
        ("[RESEND PATCH v3 1/2] x", 1, 2, 3, False),
        ("[RESEND v3 1/2] x", 1, 2, 3, False),
        ("[RESEND][PATCH v3 1/2] x", 1, 2, 3, False),
        ("[v4,1/2] x", 1, 2, 4, False),
        ("[1/2] x", 1, 2, 1, False),
        ("[RFC,v4,1/2] x", 1, 2, 4, True),
        ("[RFC 1/2] x", 1, 2, 1, True),
        ("[RFC v2 1/2] x", 1, 2, 2, True),
        ("[RFCv2 1/2] x", 1, 2, 2, True),
        ("[RFC PATCHv2 1/2] x", 1, 2, 2, True),
        ("[RFC/PATCH v2 1/2] x", 1, 2, 2, True),
        ("[PATCH/RFC 1/2] x", 1, 2, 1, True),
        ("[RFC v2 PATCH 01/10] x", 1, 10, 2, True),
        ("[RFC][PATCH v2 1/2] x", 1, 2, 2, True),
        ("[PATCH v2][RFC 1/2] x", 1, 2, 2, True),
        ("[PATCH 1/2] [RFC] x", 1, 2, 1, True),
        ("[PATCH vfio-next v2 1/2] x", 1, 2, 2, False),
        ("[PATCH net-next,v2 1/2] x", 1, 2, 2, False),
        ("[vfio-next v2 1/2] x", 1, 2, 2, False),
        ("[PATCH 6.1/5.15 1/2] x", 1, 2, 1, False),
        ("[PATCH 5.10/5.15/6.1 v2 1/2] x", 1, 2, 2, False),
        ("[PATCH 5.10.y 1/2] x", 1, 2, 1, False),
        ("[PATCH v5.10 1/2] x", 1, 2, 1, False),
        ("[PATCH v6.1.y v2 1/2] x", 1, 2, 2, False),
        ("[PATCH 6.12 AUTOSEL 1/2] x", 1, 2, 1, False),
        ("[PATCH 1 of 2] x", 1, 2, 1, False),
        ("[Linaro-mm-sig] [PATCH v4 1/2] x", 1, 2, 4, False),
        ("[Linaro-mm-sig][PATCH v4 1/2] x", 1, 2, 4, False),
        ("[list-v9] [dri-devel] [RFC PATCH v4 1/2] x", 1, 2, 4, True),
        ("[EXTERNAL] [PATCH 1/2] x", 1, 2, 1, False),
        ("[PATCH_v3 1/2] x", 1, 2, 3, False),
        ("[PATCH.v3 1/2] x", 1, 2, 3, False),
        ("[PATCH ver3 1/2] x", 1, 2, 3, False),
        ("[PATCH take 3 1/2] x", 1, 2, 3, False),
        ("[PATCH][v3][1/2] x", 1, 2, 3, False),
        ("[v3][PATCH 1/2] x", 1, 2, 3, False),
        ("[PATCH 1/2 6.1/5.15] x", 1, 2, 1, False),
        ("[PATCH for-6.1/block 1/2] x", 1, 2, 1, False),
        ("EXT: [PATCH 1/2] x", 1, 2, 1, False),
        ("RESEND: [PATCH v3 1/2] x", 1, 2, 3, False),
        ("***SPAM*** [PATCH 1/2] x", 1, 2, 1, False),
        ("{Spam?} [A-list] [PATCH 1/2] x", 1, 2, 1, False),
        ("PATCH v3 1/2: x", 1, 2, 3, False),
        ("RFC PATCH v3 1/2: x", 1, 2, 3, True),
        ("(PATCH v3 1/2) x", 1, 2, 3, False),
        ("[PATCH take#3 1/2] x", 1, 2, 3, False),
        ("[PATCH v31/2] x", None, None, 1, False),
        ("[PATCH v3] x", None, None, 3, False),
        ("[PATCH] x", None, None, 1, False),
    ],
)
def test_tag_of_a_patch_is_read(
    subject: str, number: int | None, total: int | None, revision: int, rfc: bool
) -> None:
    read = tag.parse(subject)
    assert (read.number, read.total, read.revision, read.rfc) == (number, total, revision, rfc)
    assert (read.title, read.tagged, read.answer) == ("x", True, False)


@pytest.mark.parametrize(
    "subject",
    [
        "Re: [PATCH 1/2] x",
        "RE: [Linaro-mm-sig] [PATCH 1/2] x",
        "[Linaro-mm-sig] Re: [PATCH 1/2] x",
        "[Linaro-mm-sig] Re: [dri-devel] [PATCH 1/2] x",
        "Re: [EXT] Re: [PATCH 1/2] x",
        "AW: [PATCH 1/2] x",
        "Fwd: [PATCH 1/2] x",
        "Antwort: [EXT] [PATCH 1/2] x",
        "R: [PATCH 1/2] x",
        "Re[2]: [PATCH 1/2] x",
        "Re(2): [PATCH 1/2] x",
        "Re^2: [PATCH 1/2] x",
        "Rif: [PATCH 1/2] x",
        "回覆: [PATCH 1/2] x",
        "回复：[PATCH 1/2] x",  # noqa: RUF001
    ],
)
def test_tag_after_re_is_an_answer(subject: str) -> None:
    read = tag.parse(subject)
    assert (read.answer, read.number, read.title) == (True, 1, "x")


@pytest.mark.parametrize(
    "subject",
    [
        "vfio: x",
        "r600: x",
        "PATCH 1/2 of x",
        "(PATCH) x",
        "[media] vfio: x",
        "[x86/mm] vfio: x",
        "vfio: fix [PATCH 1/2] x",
        "",
        "[",
        "[GIT PULL] VFIO",
    ],
)
def test_tag_of_an_untagged_subject_is_none(subject: str) -> None:
    read = tag.parse(subject)
    assert (read.tagged, read.number, read.revision, read.rfc, read.answer) == (False, None, 1, False, False)
    assert read.title == subject


def test_tag_of_a_pull_request_is_known() -> None:
    assert tag.parse("[GIT PULL] VFIO updates for v7.1").pull
    assert tag.parse("[some-list] [GIT PULL v2] VFIO").pull
    assert not tag.parse("[PATCH] pull it").pull


@settings(deadline=None)
@given(st.text(alphabet="[]RFCPATCHvV0123/., :Rex\u0663", max_size=60))
def test_tag_of_any_text_is_read(subject: str) -> None:
    read = tag.parse(subject)
    assert read.title or not subject
    assert read.number is None or 0 <= read.number <= 9999
