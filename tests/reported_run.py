"""A small run of a posted series, for tests of the reports that people read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.journal.facts import MailFacts
from harness.journal.results_folder import ResultsFolder
from harness.verdict.comparison import BaseAnswer
from harness.verdict.deviation import Deviation
from harness.verdict.record import ConsoleRange, Entry
from harness.verdict.verdict import Kind, Verdict

CONSOLES = Path(__file__).parent / "data" / "consoles"
BAD = Entry("suites/test_map.py::test_bad[c-ram]", Kind.SCENARIO, "It maps", ("MAP-01",))
GOOD = Entry("suites/test_map.py::test_good", Kind.SCENARIO, "It is well", ("MAP-05",))
OLD = Entry("suites/test_life.py::test_old", Kind.SCENARIO, "It counts", ("LIFE-11",))
NEW = BaseAnswer(Verdict.CONFORMS)


def mails(
    count: int = 3, *, cover: bool = True, name: str = "Ann Author <ann@example.org>"
) -> list[MailFacts]:
    """The facts of a posting of ``count`` patches."""
    return [
        MailFacts(
            number=number,
            subject=f"[PATCH v4 {number}/{count}] vfio: part {number}",
            message_id=f"{number}@example.org",
            sender=name,
            recipients=["Bob <bob@example.org>", "list@example.org", name],
            sha256=f"{number:064x}",
            patch_id="",
        )
        for number in range(0 if cover else 1, count + 1)
    ]


def posted(root: Path, series: str = "example", **facts: Any) -> ResultsFolder:
    """Make the folder of a run of a posted series, with its facts."""
    results = ResultsFolder.create(root, series)
    known: dict[str, Any] = {
        "title": "vfio: all",
        "message_id": "0@example.org",
        "revision": "4",
        "mails": mails(),
        "identity": "ab" * 32,
        "base_wanted": "7.1",
        "base": "7.1.3",
        "kernel_release": "7.1.3-patchproof",
        "accelerator": "tcg",
        "qemu": "7.2.17",
        "selection": ["--series", "thread.mbox", "--results", "/home/me/results"],
    }
    results.write_run(**(known | facts))
    return results


def record(
    results: ResultsFolder,
    verdict: Verdict = Verdict.VIOLATES,
    *,
    entry: Entry = BAD,
    base: BaseAnswer | None = NEW,
    second: Verdict = Verdict.CONFORMS,
    console: str = "",
    transcript: str = "> open dev1\nok\n> map buf1\nerrno EINVAL\n",
    **evidence: Any,
) -> Path:
    """Record a run in which one scenario has this verdict, another has ``second``, and one is inherited.

    ``console`` is the name of a console in tests/data/consoles, of which the splat is the scenario's.
    """
    if console:
        content = (CONSOLES / f"{console}.log").read_bytes()
        (results.dir / "console.log").write_bytes(content)
        start = content.rindex(b"\n", 0, content.index(b"cut here")) + 1
        evidence["console"] = ConsoleRange("console.log", start, len(content))
    evidence.setdefault("deviation", Deviation("success", "EINVAL", "map buf1", 3))
    journal = results.journal()
    journal.plan([entry, GOOD, OLD])
    journal.run_started()
    path = results.transcript(entry.id)
    path.write_text(transcript, errors="surrogateescape")
    journal.started(entry.id)
    if verdict is Verdict.CONFORMS:
        journal.ended(entry.id, verdict, transcript=path)
    else:
        journal.ended(entry.id, verdict, transcript=path, failure="bad", **evidence)
        if base is not None:
            journal.compared(entry.id, base)
    journal.started(GOOD.id)
    journal.ended(GOOD.id, second, failure="second", deviation=Deviation("the device's words", "SIGBUS"))
    if second is not Verdict.CONFORMS:
        journal.compared(GOOD.id, NEW)
    journal.started(OLD.id)
    journal.ended(OLD.id, Verdict.VIOLATES, reason="It does not count.", failure="old")
    journal.compared(OLD.id, BaseAnswer(Verdict.VIOLATES, failure="old"))
    journal.run_ended()
    return results.dir
