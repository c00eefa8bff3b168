"""The check for patchwork, and the result for b4 review, read back by what takes them."""

from __future__ import annotations

import email.message
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from b4.review import checks
from jsonschema import Draft202012Validator
from reported_run import BAD, GOOD, mails, posted, record

from harness.cli import main
from harness.lib.errors import ExitCode, UsageError
from harness.lib.paths import PROJECT
from harness.report import b4, patchwork
from harness.verdict.record import Entry
from harness.verdict.verdict import Strength, Verdict

REPORTS = Path(__file__).parent / "data" / "reports"
# What patchwork takes to create a check: CheckCreate of its API, with the lengths of its database.
CHECK = Draft202012Validator(
    {
        "type": "object",
        "required": ["state", "context"],
        "additionalProperties": False,
        "properties": {
            "state": {"enum": ["pending", "success", "warning", "fail"]},
            "context": {"type": "string", "pattern": "^[-a-zA-Z0-9_]+$", "maxLength": 255},
            "description": {"type": "string"},
            "target_url": {"type": "string", "pattern": "^https?://", "maxLength": 200},
        },
    }
)
HOSTILE = "\x1b[2J\x00 \udcff\n\u202e"


def check(directory: Path, **options: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(patchwork.render(directory, **options))
    CHECK.validate(found)
    return found


def unended(root: Path, **how: bool) -> Path:
    """Record a run that did not come to its end."""
    results = posted(root)
    journal = results.journal()
    journal.plan([GOOD, BAD])
    journal.run_started()
    journal.started(GOOD.id)
    journal.ended(GOOD.id, Verdict.CONFORMS)
    if how.get("violated"):
        journal.started(BAD.id)
        journal.ended(BAD.id, Verdict.VIOLATES)
    if how.get("interrupted"):
        journal.interrupted("SIGINT")
    return results.dir


@pytest.mark.parametrize(
    ("verdict", "state", "status"),
    [
        (Verdict.CONFORMS, "success", "pass"),
        (Verdict.VIOLATES, "fail", "fail"),
        (Verdict.KERNEL_DIED, "fail", "fail"),
        (Verdict.HARNESS_ERROR, "warning", "warn"),
    ],
)
def test_state_follows_the_run(tmp_path: Path, verdict: Verdict, state: str, status: str) -> None:
    directory = record(posted(tmp_path), verdict)
    assert check(directory)["state"] == state
    (result,) = json.loads(b4.render(directory, io.BytesIO()))
    assert result["status"] == status


@pytest.mark.parametrize(
    ("how", "state"),
    [({}, "pending"), ({"interrupted": True}, "pending"), ({"violated": True}, "fail")],
    ids=["killed", "interrupted", "violated"],
)
def test_state_of_a_run_that_was_cut_off(tmp_path: Path, how: dict[str, bool], state: str) -> None:
    assert check(unended(tmp_path, **how))["state"] == state


def test_state_of_a_run_with_nothing_applicable(tmp_path: Path) -> None:
    journal = (results := posted(tmp_path)).journal()
    journal.plan([BAD])
    journal.run_started()
    journal.started(BAD.id)
    journal.ended(BAD.id, Verdict.NOT_APPLICABLE)
    journal.run_ended()
    assert check(results.dir)["state"] == "warning"


def test_finding_makes_no_failed_check(tmp_path: Path) -> None:
    entry = Entry(BAD.id, BAD.kind, BAD.title, BAD.requirements, strength=Strength.INFO)
    directory = record(posted(tmp_path), entry=entry, base=None)
    assert check(directory)["state"] == "success"


def test_check_has_the_given_name_and_address(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    words = ["--context", "vfio-conformance", "--url", "https://ci.example.org/1", str(REPORTS / "mixed")]
    assert main.main(["report", "patchwork", *words]) == ExitCode.OK
    found = json.loads(capfdbinary.readouterr().out)
    CHECK.validate(found)
    assert (found["context"], found["target_url"]) == ("vfio-conformance", "https://ci.example.org/1")


@pytest.mark.parametrize(
    "options",
    [
        {"context": ""},
        {"context": "two words"},
        {"context": "x" * 256},
        {"url": "ftp://example.org"},
        {"url": "https://example.org/ x"},
        {"url": f"https://example.org/{'x' * 200}"},
    ],
)
def test_check_that_patchwork_would_refuse_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        patchwork.render(REPORTS / "mixed", **options)


def test_check_of_hostile_texts_is_plain() -> None:
    for name in ("mixed", "killed", "apply-failed"):
        text = patchwork.render(REPORTS / name)
        assert text.isascii()
        assert r"\u001b" not in text


# --- b4 review


def cover(message_id: str) -> email.message.EmailMessage:
    mail = email.message.EmailMessage()
    mail["Subject"] = "[PATCH v4 0/3] vfio: all"
    if message_id:
        mail["Message-ID"] = f"<{message_id}>"
    mail.set_content("All of it.\n")
    return mail


def reviewed(results: Path, message_id: str = "0@example.org", *words: str) -> dict[str, str]:
    """Run the command as b4 does, with the code of b4; return its one result."""
    command = f"env PYTHONPATH={PROJECT} {sys.executable} -m harness report b4 {' '.join(words)} {results}"
    (found,) = checks.run_series_checks((message_id, cover(message_id)), [command], str(PROJECT))
    return found


def test_b4_finds_the_run_of_the_cover_letter(tmp_path: Path) -> None:
    record(posted(tmp_path, "other", message_id="x@example.org", mails=[]), Verdict.CONFORMS)
    record(posted(tmp_path))
    found = reviewed(tmp_path, "0@example.org", "--url", "https://ci.example.org/1")
    assert (found["tool"], found["status"], found["url"]) == (
        "patchproof",
        "fail",
        "https://ci.example.org/1",
    )
    assert "1 scenario violates" in found["summary"]
    assert "MAP-01: new, 1 scenario\n  expected success; seen EINVAL" in found["details"]


def test_b4_warns_of_a_series_without_a_run(tmp_path: Path) -> None:
    record(posted(tmp_path))
    found = reviewed(tmp_path, "unknown@example.org")
    assert (found["status"], found["summary"]) == ("warn", "No stored run tested <unknown@example.org>.")


def test_b4_warns_of_a_mail_without_a_message_id(tmp_path: Path) -> None:
    record(posted(tmp_path))
    (result,) = json.loads(b4.render(tmp_path, io.BytesIO(cover("").as_bytes())))
    assert (result["status"], result["summary"]) == ("warn", "The mail has no Message-ID.")


def test_b4_is_told_of_a_folder_that_is_missing(tmp_path: Path) -> None:
    found = reviewed(tmp_path / "missing")
    assert (found["status"], found["summary"]) == ("fail", "exited with error code 2")
    assert "There is no folder" in found["details"]


def newest(root: Path, message: str = "0@example.org") -> str:
    found = b4.newest_run(root, message)
    return "" if found is None else found.name


def store(root: Path, name: str, **facts: Any) -> None:
    record(posted(root / "made", **facts)).rename(root / name)


def test_newest_run_of_a_series_is_found(tmp_path: Path) -> None:
    store(tmp_path, "z-20260101T000000Z")
    store(tmp_path, "a-20260201T000000Z")
    store(tmp_path, "part-20260301T000000Z", mails=mails(3)[:2])
    store(tmp_path, "mutant-20260401T000000Z", selection=["--mutant", "x"], mails=mails(4))
    store(tmp_path, "broken-20260501T000000Z")
    (tmp_path / "broken-20260501T000000Z" / "run.json").write_text("{")
    (tmp_path / "link").symlink_to("z-20260101T000000Z")
    assert newest(tmp_path) == "a-20260201T000000Z"
    assert newest(tmp_path, "2@example.org") == "a-20260201T000000Z"
    assert newest(tmp_path, "9@example.org") == ""


def test_b4_result_of_hostile_texts_is_plain(tmp_path: Path) -> None:
    directory = record(posted(tmp_path, title=HOSTILE), reason=HOSTILE, deviation=None)
    text = b4.render(directory, io.BytesIO())
    (result,) = json.loads(text)
    assert text.isascii()
    assert r"\x1b[2J\x00 \xff \u202e" in result["details"]
