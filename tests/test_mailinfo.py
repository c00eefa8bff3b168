"""Decoding many mails at once gives what decoding each one gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from mails import diff, mail, patch

from harness.lib import git
from harness.lib.errors import ApplyError
from harness.series import mailinfo

PLAIN = [mail(f"[PATCH {number}/3] vfio: part {number}", patch(10 * number)) for number in (1, 2, 3)]
CR_IN_FILES = mail("[PATCH] x", diff(10).replace(";\n", ";\r\n"))
TWO_MAILS = PLAIN[0] + PLAIN[1]
DAMAGED = mail("[PATCH] x", patch(10), headers="Content-Type: text/plain; charset=no-such-set\n")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The git commands that run from now on, by name."""
    found: list[str] = []
    query = git.query

    def counted(arguments: Sequence[str], **more: Any) -> bytes:
        found.append(arguments[0])
        return query(arguments, **more)

    monkeypatch.setattr(git, "query", counted)
    mailinfo.forget()
    return found


def test_mails_decoded_ahead_are_those_decoded_alone(commands: list[str]) -> None:
    mails = [*PLAIN, CR_IN_FILES, mail("[PATCH] y", diff(20).replace(";\n", ";\r\n"))]
    alone = [mailinfo.decode("x", one) for one in mails]
    assert [b"\r" in one.patch for one in alone] == [False, False, False, True, True]
    mailinfo.forget()
    commands.clear()
    mailinfo.decode_ahead(mails)
    assert sorted(commands) == ["mailinfo"] * 5 + ["mailsplit"] * 2
    assert [mailinfo.decode("x", one) for one in mails] == alone
    mailinfo.decode_ahead(mails)
    assert len(commands) == 7


def test_mail_that_is_several_is_refused_after_decoding_ahead(commands: list[str]) -> None:
    mailinfo.decode_ahead([*PLAIN, TWO_MAILS])
    assert mailinfo.decode("1", PLAIN[0]).author == "Ann Author"
    with pytest.raises(ApplyError, match="The patch 4 is refused: git reads 2 mails in it"):
        mailinfo.decode("4", TWO_MAILS)


def test_mail_that_is_damaged_leaves_the_others(commands: list[str]) -> None:
    mailinfo.decode_ahead([DAMAGED, *PLAIN])
    assert [mailinfo.decode("x", one).author for one in PLAIN] == ["Ann Author"] * 3
    assert commands == ["mailsplit", *["mailinfo"] * 4]
    with pytest.raises(ApplyError, match="git cannot read it as a mail"):
        mailinfo.decode("4", DAMAGED)


def test_decoded_mails_beyond_the_limit_are_forgotten(
    commands: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailinfo, "_KEPT", 2)
    mailinfo.decode_ahead(PLAIN)
    assert len(mailinfo._kept) == 2
