"""What a run records of the mails of its series."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from mails import ANN, PATCHES, diff, load, mail, posting

from harness.run.mail_facts import MAX_RECIPIENTS, mail_facts
from harness.series import series


def test_mail_facts_have_cover_and_patches(tmp_path: Path) -> None:
    mails = posting("[PATCH v4 {}]")
    facts = mail_facts(load(tmp_path, mails))
    assert [one["number"] for one in facts] == [0, 1, 2]
    assert [one["message_id"] for one in facts] == [f"{number}@example.org" for number in range(3)]
    assert facts[2]["subject"] == "[PATCH v4 2/2] vfio: part 2"
    assert facts[0]["sender"] == ANN


def test_mail_facts_hash_the_patch_file(tmp_path: Path) -> None:
    path = tmp_path / "0001-a.patch"
    path.write_bytes(mail("[PATCH] vfio: a", f"Why.\n---\n{diff(10)}"))
    (fact,) = mail_facts(series.load(str(tmp_path), PATCHES))
    assert fact["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_mail_facts_have_patch_ids(tmp_path: Path) -> None:
    facts = mail_facts(load(tmp_path, posting("[PATCH v4 {}]")))
    (tmp_path / "2").mkdir()
    other = mail_facts(load(tmp_path / "2", posting("[PATCH v5 {}]")))
    ids = [one["patch_id"] for one in facts]
    assert ids == [one["patch_id"] for one in other]
    assert [len(one) for one in ids] == [0, 40, 40]
    assert ids[1] != ids[2]


def test_mail_facts_of_the_base_alone_are_empty() -> None:
    assert mail_facts(series.load("baseline", PATCHES)) == []


def recipients(folder: Path, headers: str) -> list[str]:
    box = mail("[PATCH] vfio: a", f"Why.\n---\n{diff(10)}", name="1", headers=headers)
    return mail_facts(load(folder, [box]))[0]["recipients"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ("To: a@example.org,\n B <b@example.org>\nCc: c@example.org\n",
         ["a@example.org", "B <b@example.org>", "c@example.org"]),
        ("To: =?utf-8?q?G=C3=B6del?= <g@example.org>\n", ["Gödel <g@example.org>"]),
        ("To: =?utf-8?q?x=3Cevil=40example=2Eorg=3E=2C?= <g@example.org>\n",
         ["x evil example.org <g@example.org>"]),
        ('Cc: "Last, First" <l@example.org>\n', ["Last First <l@example.org>"]),
        ("To: undisclosed-recipients:;\n", []),
        ("To: a@b@c, <a b@example.org>, =?utf-8?q?=0A?=\n", []),
    ],
    ids=["plain", "decoded", "injected", "quoted", "group", "malformed"],
)  # fmt: skip
def test_mail_facts_have_the_recipients(tmp_path: Path, headers: str, expected: list[str]) -> None:
    assert recipients(tmp_path, headers) == expected


def test_mail_facts_of_very_many_recipients_are_few(tmp_path: Path) -> None:
    many = ",\n ".join(f"a{number}@example.org" for number in range(500))
    assert len(recipients(tmp_path, f"To: {many}\n")) == MAX_RECIPIENTS


def test_mail_facts_from_a_list_have_the_author(tmp_path: Path) -> None:
    box = mail(
        "[PATCH] vfio: a",
        f"Why.\n---\n{diff(10)}",
        sender='"Ann via list" <list@example.org>',
        headers=f"Reply-To: {ANN}\n",
    )
    assert mail_facts(load(tmp_path, [box]))[0]["sender"] == ANN
