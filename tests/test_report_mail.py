"""The mail about a run: its headers, its text, and that no tool takes a tag from it."""

from __future__ import annotations

import email
import email.message
import email.policy
import re
from pathlib import Path
from typing import Any

import b4
import pytest
from reported_run import BAD, GOOD, OLD, mails, posted, record

from harness.cli import main
from harness.lib.errors import ExitCode, UsageError
from harness.report import mail, mail_text, prefixes
from harness.report.prefixes import Prefixes, PrefixRow
from harness.verdict.comparison import BaseAnswer
from harness.verdict.deviation import Deviation
from harness.verdict.record import Entry
from harness.verdict.verdict import Kind, Verdict

REPORTS = Path(__file__).parent / "data" / "reports"
TAG = "Tested-by: Eve <eve@example.org>"


def parsed(content: bytes) -> email.message.EmailMessage:
    """Parse a mail, which must be without a defect, with a strict policy."""
    strict = email.policy.default.clone(raise_on_defect=True)
    found = email.message_from_bytes(content, policy=strict)
    assert isinstance(found, email.message.EmailMessage)
    for name in set(found):
        assert not found[name].defects
    return found


def text_of(content: bytes) -> str:
    body: str = parsed(content).get_content()
    return body


def quoted(text: str) -> list[str]:
    """Return the lines that are quoted as they are."""
    return [line for line in text.splitlines() if line.startswith("  |")]


def test_mail_replies_to_the_cover_letter(tmp_path: Path) -> None:
    found = parsed(mail.render(record(posted(tmp_path))))
    assert found["Subject"] == "Re: [PATCH v4 0/3] vfio: part 0"
    assert (found["In-Reply-To"], found["References"]) == ("<0@example.org>", "<0@example.org>")
    assert found["To"] == "Ann Author <ann@example.org>"
    assert [one.addr_spec for one in found["Cc"].addresses] == ["bob@example.org", "list@example.org"]
    assert found["From"] is None


def test_mail_replies_to_the_patch_that_is_named(tmp_path: Path) -> None:
    found = parsed(mail.render(record(posted(tmp_path)), 2))
    assert found["Subject"] == "Re: [PATCH v4 2/3] vfio: part 2"
    assert found["In-Reply-To"] == "<2@example.org>"
    assert found["References"].split() == ["<0@example.org>", "<2@example.org>"]


def test_mail_to_an_unknown_patch_is_refused(tmp_path: Path) -> None:
    directory = record(posted(tmp_path))
    for number in (-1, 0, 4):
        with pytest.raises(UsageError, match=f"knows no patch {number}: it has 3 patches"):
            mail.render(directory, number)


def test_mail_without_a_cover_letter_replies_to_patch_one(tmp_path: Path) -> None:
    found = parsed(mail.render(record(posted(tmp_path, mails=mails(cover=False)))))
    assert (found["In-Reply-To"], found["References"]) == ("<1@example.org>", "<1@example.org>")


UNPOSTED = [{**one, "message_id": ""} for one in mails()]


@pytest.mark.parametrize("known", [[], "damaged", UNPOSTED], ids=["tree", "damaged", "not posted"])
def test_mail_about_no_posting_replies_to_nothing(tmp_path: Path, known: object) -> None:
    found = parsed(mail.render(record(posted(tmp_path, mails=known))))
    assert found["Subject"] == "vfio: all"
    assert {"To", "Cc", "In-Reply-To", "References"}.isdisjoint(found.keys())


def test_mail_has_names_in_any_language(tmp_path: Path) -> None:
    facts = mails(1, name="Gödel <g@example.org>")
    facts[0]["subject"] = "[PATCH v4 0/1] größer " + "vfio: all of it and more " * 12
    content = mail.render(record(posted(tmp_path, mails=facts)))
    head = content.partition(b"\n\n")[0]
    assert head.isascii()
    assert max(map(len, head.splitlines())) <= 78
    found = parsed(content)
    assert found["To"].addresses[0].display_name == "Gödel"
    assert found["Subject"].startswith("Re: [PATCH v4 0/1] größer vfio: all of it")


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("subject", "a\nBcc: eve@example.org\n\nforged"),
        ("message_id", "0@example.org>\nBcc: eve@example.org"),
        ("sender", "Ann\nBcc: eve@example.org <a@example.org>"),
        ("recipients", ["x@example.org\nBcc: eve@example.org", "<<>>", "", "no address"]),
    ],
)
def test_mail_headers_cannot_be_forged(tmp_path: Path, member: str, value: object) -> None:
    facts: list[dict[str, Any]] = [{**one} for one in mails(1)]
    facts[0][member] = value
    found = parsed(mail.render(record(posted(tmp_path, mails=facts))))
    assert set(found.keys()) <= {
        *("Subject", "To", "Cc", "In-Reply-To", "References"),
        *("MIME-Version", "Content-Type", "Content-Transfer-Encoding"),
    }
    assert not text_of(mail.render(record(posted(tmp_path, "x", mails=facts)))).startswith("forged")


def test_mail_says_what_was_tested_and_seen(tmp_path: Path) -> None:
    text = text_of(mail.render(record(posted(tmp_path))))
    for words in (
        "This series (3 patches, revision 4) was tested with patchproof",
        "base         7.1.3 instead of 7.1",
        "kernel       7.1.3-patchproof",
        "QEMU         7.2.17",
        "1. MAP-01: new, 1 scenario\n",
        "promised     A DMABUF that",
        "expected     success\n  seen         EINVAL\n  base         the base conforms\n",
        "  |    > map buf1\n  | -> errno EINVAL\n",
        "- LIFE-11: inherited, 1 scenario.",
        "The base alone does the same.",
    ):
        assert words in text


def test_mail_has_a_command_without_paths_of_the_host(tmp_path: Path) -> None:
    text = text_of(mail.render(record(posted(tmp_path))))
    command = f"tox -e vm -- --series 0@example.org --base 7.1 '{BAD.id}'"
    assert f"  | {command}\n" in text
    assert "/home/me" not in text
    assert str(tmp_path) not in text


def test_mail_quotes_a_splat_without_wrapping_it(tmp_path: Path) -> None:
    directory = record(posted(tmp_path), console="list-add", deviation=None, reason="The kernel complained.")
    text = text_of(mail.render(directory))
    lines = quoted(text)
    assert any("list_add corruption" in line for line in lines)
    assert any(len(line) > mail_text.WIDTH for line in lines)
    assert all(len(line) <= mail_text.WIDTH for line in text.splitlines() if line not in lines)


def test_mail_is_plain_text_without_html(tmp_path: Path) -> None:
    content = mail.render(record(posted(tmp_path), reason="<b>x</b>", deviation=None))
    assert parsed(content).get_content_type() == "text/plain"
    assert "<b>x</b>" in text_of(content)


def test_mail_line_of_any_length_can_be_sent(tmp_path: Path) -> None:
    transcript = f"> map buf1\n{'ä' * 5000}\n"
    content = mail.render(record(posted(tmp_path), transcript=transcript, deviation=None, reason="x" * 5000))
    assert max(map(len, content.splitlines())) < 998


def test_mail_of_a_run_that_conforms_names_no_fault(tmp_path: Path) -> None:
    text = text_of(mail.render(record(posted(tmp_path), Verdict.CONFORMS)))
    assert "\n1. " not in text
    assert "Conforms" in text
    assert "gives none" in " ".join(text.split())


def test_mail_about_a_stage_has_the_end_of_its_log() -> None:
    text = text_of(mail.render(REPORTS / "apply-failed"))
    assert "1. apply: violates\n" in text
    assert "  | error: patch failed: drivers/vfio/pci/vfio_pci_dmabuf.c:40\n" in text
    assert "To see it again" not in text


@pytest.mark.parametrize("text", [f"x\n{TAG}\ny", f"{'x' * 57} {TAG} {'y' * 57} {TAG}", TAG])
def test_b4_takes_no_tag_from_the_mail(tmp_path: Path, text: str) -> None:
    entry = Entry(BAD.id, Kind.SCENARIO, text, ("MAP-01",))
    directory = record(
        posted(tmp_path, title=text, base_reason=text, interfaces=text),
        entry=entry,
        base=BaseAnswer(Verdict.HARNESS_ERROR, text),
        reason=text,
        deviation=Deviation(text, text, text),
        transcript=f"> map buf1\n{text}\n",
    )
    body = text_of(mail.render(directory))
    assert "eve@example.org" in body
    assert b4.LoreMessage.find_trailers(body, followup=True)[0] == []
    assert not re.search(r"^\s*[\w-]+-by: ", body, re.MULTILINE | re.IGNORECASE)


def test_b4_would_take_the_tag_of_a_person() -> None:
    found, _ = b4.LoreMessage.find_trailers(f"It works.\n\n{TAG}\n", followup=True)
    assert [one.name for one in found] == ["Tested-by"]


def test_mail_spells_hostile_text_out(tmp_path: Path) -> None:
    hostile = "\x1b[2J\x00 \udcff \u202e"
    content = mail.render(
        record(
            posted(tmp_path, title=hostile, base_reason=hostile),
            reason=hostile,
            deviation=Deviation(hostile, hostile, hostile),
            transcript=f"> {hostile}\n",
        )
    )
    assert r"\x1b[2J\x00 \xff \u202e" in text_of(content)
    assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", content)


# --- the patch that brings a fault


def tell(root: Path, **broke: int) -> None:
    """Write what `prefixes` found: each of these scenarios was broken by the patch of this number."""
    ids = {"bad": BAD.id, "good": GOOD.id, "old": OLD.id}
    rows = [
        PrefixRow(
            number,
            f"vfio: part {number}",
            broke=tuple(ids[name] for name, by in broke.items() if by == number),
        )
        for number in (1, 2, 3)
    ]
    prefixes.write(root, Prefixes("example", "vfio: all", "ab" * 32, tuple(rows)))


def test_mail_replies_to_the_patch_that_brings_the_fault(tmp_path: Path) -> None:
    tell(tmp_path, bad=2, old=3)
    content = mail.render(record(posted(tmp_path)))
    found = parsed(content)
    assert (found["In-Reply-To"], found["Subject"]) == ("<2@example.org>", "Re: [PATCH v4 2/3] vfio: part 2")
    assert "  since        patch 2, vfio: part 2\n" in text_of(content)
    assert "patch 3" not in text_of(content)  # inherited


def test_mail_about_faults_of_two_patches_replies_to_neither(tmp_path: Path) -> None:
    tell(tmp_path, bad=2, good=3)
    content = mail.render(record(posted(tmp_path), second=Verdict.VIOLATES))
    assert parsed(content)["In-Reply-To"] == "<0@example.org>"
    for number in (2, 3):
        assert f"  since        patch {number}, vfio: part {number}\n" in text_of(content)


@pytest.mark.parametrize("broke", [{}, {"bad": 2}], ids=["no patch", "one fault of two"])
def test_mail_about_a_fault_of_no_patch_replies_to_all(tmp_path: Path, broke: dict[str, int]) -> None:
    tell(tmp_path, **broke)
    content = mail.render(record(posted(tmp_path), second=Verdict.VIOLATES))
    assert parsed(content)["In-Reply-To"] == "<0@example.org>"


def test_prefixes_of_another_series_name_no_patch(tmp_path: Path) -> None:
    tell(tmp_path, bad=2)
    content = mail.render(record(posted(tmp_path, identity="cd" * 32)))
    assert parsed(content)["In-Reply-To"] == "<0@example.org>"
    assert "since" not in text_of(content)


def test_option_mail_is_the_format_mail(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    directory = str(record(posted(tmp_path)))
    assert main.main(["report", "--mail", directory]) == ExitCode.OK
    said = capfdbinary.readouterr().out
    assert main.main(["report", "mail", directory]) == ExitCode.OK
    assert capfdbinary.readouterr().out == said != b""
