"""Faults in executed lines: the file beside the coverage of a run, and what each report tells of it.

``data/fault-trials`` is of a real run of reference-feature, and of the first 17 trials on its lines.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from results import Run

from harness.cli import main
from harness.journal import fault_trials, line_counts
from harness.journal.fault_trials import Outcome
from harness.journal.line_counts import FOLDER
from harness.lib.errors import ExitCode, HarnessError
from harness.lib.shard import Shard
from harness.mutants.fate import Fate
from harness.mutants.generate import report
from harness.mutants.generate.coverage import read_coverage
from harness.mutants.generate.fault import Fault
from harness.mutants.generate.mutant import GeneratedMutant
from harness.mutants.generate.report import Tried
from harness.mutants.ledger import MutantTrial
from harness.report import generated_mutants, html, markdown, terminal
from harness.report.generated_mutants import Faults
from harness.series.series import Patch
from harness.verdict.verdict import Verdict

TRIALS = Path(__file__).parent / "data" / "fault-trials" / FOLDER
#: What the report of that run has on the screen.
SCREEN = """\
Faults: NOT ALL FAULTS WERE TRIED: nothing is known of 2 of 17. 14 of 15 faults put into executed lines were \
noticed; 1 survived.
Not noticed: 1 fault
  patch 6, drivers/vfio/pci/vfio_pci_core.c:278, vfio_pci_restore_decoding(): a flag left out \
(no scenario was tried)
      278 - (cmd & ~mask) | (virt_cmd & mask));
      278 + (cmd | mask) | (virt_cmd & mask));
"""
HOSTILE = "</pre><script>alert(1)</script>\x1b[2J\u202e{{ 7919*7907 }}\nFaults: all were noticed."


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that came to its end, with the real coverage and the real faults."""
    run = Run(tmp_path / "reference-feature-20261129T150625Z")
    run.begin()
    for entry in (run.revoke, run.map, run.told):
        run.end(entry, Verdict.CONFORMS)
    run.results.write_run(series="reference-feature", selection=["--series", "v 4.mbox", "--coverage"])
    shutil.copytree(TRIALS, run.folder / FOLDER)
    run.finish()
    return run


def content_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / FOLDER / fault_trials.MUTANTS).read_text())
    return content


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the stored faults of a run."""
    content = content_of(folder)
    edit(content)
    line_counts.write(folder, fault_trials.MUTANTS, content)


def survive(content: dict[str, Any]) -> None:
    """Let all faults survive."""
    for one in content["mutants"]:
        one["fate"] = Outcome.SURVIVED


def screen(folder: Path, *, every: bool = False) -> str:
    stream = io.StringIO()
    terminal.show(folder, stream, every=every)
    return stream.getvalue()


# -- what the reports tell -------------------------------------------------------------------


def test_screen_has_faults_after_the_lines(run: Run) -> None:
    for every in (False, True):
        assert SCREEN in screen(run.folder, every=every)
    text = screen(run.folder)
    assert text.index("Lines: 136 of 136") < text.index("Faults: ") < text.index("Results: ")


def test_screen_has_few_survivors_without_v(run: Run) -> None:
    change(run.folder, survive)
    assert "Not noticed: 17 faults (-v shows all 17)\n" in screen(run.folder)
    assert screen(run.folder).count(".c:") == generated_mutants.SHOWN
    assert screen(run.folder, every=True).count(".c:") == 17


def test_screen_lists_failed_trials_with_v_alone(run: Run) -> None:
    change(run.folder, lambda content: content["mutants"][0].update(fate=Outcome.ERROR))
    assert "1 survived, 1 could not be tried.\n" in screen(run.folder)
    assert "vfio_pci_dmabuf.c:269" not in screen(run.folder)
    assert "Could not be tried: 1 fault\n  patch 11, drivers/vfio/pci/vfio_pci_dmabuf.c:269" in screen(
        run.folder, every=True
    )


def test_page_and_summary_have_the_survivors(run: Run) -> None:
    for text in (html.render(run.folder), markdown.render(run.folder).replace("&#46;", ".")):
        assert "NOT ALL FAULTS WERE TRIED" in text
        assert "- (cmd &amp; ~mask) | (virt_cmd &amp; mask));" in text
    assert '<a href="#faults">Faults</a>' in html.render(run.folder)


def test_judge_shows_faults_and_keeps_the_exit_code(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    change(run.folder, survive)
    assert main.main(["judge", str(run.folder)]) == ExitCode.OK
    assert (
        "0 of 17 faults put into executed lines were noticed (0.0 %); 17 survived." in capsys.readouterr().out
    )
    assert "(0.0 %); 17 survived." in (run.folder / html.REPORT).read_text()


def test_run_without_faults_is_told_how_to_try_some(run: Run) -> None:
    (run.folder / FOLDER / fault_trials.MUTANTS).unlink()
    command = "tox -e mutants -- --generate --series 'v 4.mbox' --coverage"
    assert f"Faults: none were tried; `{command} {run.folder}` tries some.\n" in screen(run.folder)
    page, summary = html.render(run.folder), markdown.render(run.folder)
    assert f"--coverage results/{run.folder.name}`" in page
    assert "Faults&#58; none were tried" in summary
    assert str(run.folder) not in page + summary


def test_run_that_executed_nothing_gets_no_advice(run: Run) -> None:
    (run.folder / FOLDER / fault_trials.MUTANTS).unlink()
    covered = line_counts.read_report(run.folder) or {}
    line_counts.write(run.folder, line_counts.REPORT, covered | {"executed": 0})
    assert "Faults" not in screen(run.folder) + html.render(run.folder) + markdown.render(run.folder)


def test_run_without_coverage_has_no_faults(run: Run) -> None:
    (run.folder / FOLDER / line_counts.REPORT).unlink()
    assert "Faults" not in screen(run.folder) + html.render(run.folder) + markdown.render(run.folder)


def test_text_of_a_fault_is_plain_text_everywhere(run: Run) -> None:
    def edit(content: dict[str, Any]) -> None:
        survive(content)
        for one in content["mutants"]:
            one |= {
                "file": HOSTILE,
                "function": HOSTILE,
                "rule": HOSTILE,
                "now": f"{HOSTILE}\n",
                "was": "\n\n",
            }

    change(run.folder, edit)
    shown, page, summary = screen(run.folder), html.render(run.folder), markdown.render(run.folder)
    assert r"alert(1)</script>\x1b[2J\u202e" in shown
    assert "\nFaults: all" not in shown
    assert "<script>" not in page + summary
    for text in (shown, page, summary):
        assert not {"\x1b", "\u202e"} & set(text)
        assert "62615533" not in text  # the product: no template was made of the text


def test_page_of_many_survivors_is_small(run: Run) -> None:
    def edit(content: dict[str, Any]) -> None:
        survive(content)
        content["mutants"][0] |= {"was": "\n" * 30, "now": f"{'x' * 999}\n" * 30}
        content["mutants"] = content["mutants"][:1] * 300 + content["mutants"][1:2] * 2700

    change(run.folder, edit)
    page = html.render(run.folder)
    assert len(page) < 2_000_000
    assert "2700 more are in coverage/mutants.json" in page
    summary = markdown.render(run.folder)
    assert len(summary) < 1 << 20
    assert "and 2980 more" in summary


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        (
            Faults(190, ("s",) * 6, ("f",) * 4, 0, 1, ""),  # type: ignore[arg-type]
            "190 of 196 faults put into executed lines were noticed (96.9 %); 6 survived, 4 could not be "
            "tried, 1 equivalent and not counted.",
        ),
        (Faults(1, (), (), 0, 0, ""), "1 of 1 fault put into executed lines was noticed (100.0 %)."),
        (Faults(0, (), (), 9, 0, ""), "NO FAULT WAS TRIED TO THE END: nothing is known of 9 of 9."),
        (Faults(0, (), (), 0, 2, ""), "NO FAULT WAS TRIED TO THE END. 2 equivalent and not counted."),
        (
            Faults(2, (), (), 1, 0, "1/2"),
            "NOT ALL FAULTS WERE TRIED: nothing is known of 1 of 3. 2 of 2 faults put into executed lines "
            "were noticed. These are the faults of part 1/2.",
        ),
    ],
)
def test_sentence_tells_first_what_is_open(faults: Faults, sentence: str) -> None:
    assert faults.sentence == sentence


# -- files that are refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"schema": 2, "mutants": []}',
        '{"schema": 1}',
        '{"schema": 1, "mutants": 3}',
        '{"schema": 1, "mutants": [{}]}',
        '{"schema": 1, "mutants": [{"fate": "eaten"}]}',
        '{"schema": 1, "mutants": [{"fate": "killed", "line": 1e999}]}',
        '{"schema": 1, "mutants": [{"fate": "killed", "line": 1, "was": "a", "now": "a\\n", "patch": 1, '
        '"file": "f", "function": "f", "rule": "r", "scenarios": 1}]}',
    ],
)
def test_damaged_faults_are_told(run: Run, text: str) -> None:
    identity = {name: content_of(run.folder)[name] for name in ("series", "kernel")}
    text = text.replace('{"schema"', f'{json.dumps(identity)[:-1]}, "schema"')
    (run.folder / FOLDER / fault_trials.MUTANTS).write_text(text)
    with pytest.raises(HarnessError, match=r"mutants\.json is damaged .* Remove it"):
        generated_mutants.load(run.folder)


def test_faults_beyond_the_largest_size_are_not_read(run: Run) -> None:
    with (run.folder / FOLDER / fault_trials.MUTANTS).open("a") as stream:
        stream.truncate(fault_trials.MAX_BYTES + 1)
    with pytest.raises(HarnessError, match="larger than 16 MiB"):
        generated_mutants.load(run.folder)


@pytest.mark.parametrize("name", ["series", "kernel"])
def test_faults_of_another_coverage_are_refused(run: Run, name: str) -> None:
    change(run.folder, lambda content: content.update({name: "other"}))
    with pytest.raises(HarnessError, match="about another series or kernel than the coverage beside it"):
        generated_mutants.load(run.folder)


# -- the file of a session -------------------------------------------------------------------


def tried_fault(fate: Fate | None) -> Tried:
    fault = Fault("drivers/x.c", 3, 3, "f", "drop a statement", "\tg();\n", ";\n")
    mutant = GeneratedMutant("good", fault, Patch("x.patch", b"", "x"), ("one",), origin=7)
    trial = None if fate is None else MutantTrial(mutant.id, "key", "suites", "control", fate)
    return Tried(mutant, trial, whole=True)


def write_lines(folder: Path) -> None:
    """Write the file that a session reads, with the identity of the coverage."""
    covered = line_counts.read_report(folder) or {}
    line_counts.write(folder, line_counts.LINES, covered | {"files": {}})


def test_session_is_kept_with_its_run(run: Run) -> None:
    write_lines(run.folder)
    session = [tried_fault(fate) for fate in (Fate.KILLED, Fate.SURVIVED, Fate.ERROR, None)]
    said = report.keep_with_run(session, read_coverage(run.folder), Shard(1, 2))
    assert f"`python -m harness judge {run.folder}` makes them anew" in said
    found = generated_mutants.load(run.folder)
    assert found is not None
    assert (found.noticed, len(found.survived), len(found.failed), found.open, found.shard) == (
        *(1, 1, 1, 1),
        "1/2",
    )
    assert found.survived[0].heading == "patch 7, drivers/x.c:3, f(): drop a statement"
    assert found.survived[0].difference == "    3 - g();\n    3 + ;"
    report.write(session, run.folder)
    own = json.loads((run.folder / fault_trials.MUTANTS).read_text())
    assert own["mutants"] == content_of(run.folder)["mutants"]


def test_session_without_a_trial_replaces_nothing(run: Run) -> None:
    write_lines(run.folder)
    assert report.keep_with_run([tried_fault(None)], read_coverage(run.folder), None) == ""
    assert report.keep_with_run([tried_fault(Fate.KILLED)], None, None) == ""
    assert len(content_of(run.folder)["mutants"]) == 17


def test_coverage_outside_of_a_run_keeps_nothing(run: Run, tmp_path: Path) -> None:
    write_lines(run.folder)
    shutil.copy(run.folder / FOLDER / line_counts.LINES, tmp_path / "copied.json")
    coverage = read_coverage(tmp_path / "copied.json")
    assert report.keep_with_run([tried_fault(Fate.KILLED)], coverage, None) == ""


def test_run_that_cannot_be_written_is_told(run: Run) -> None:
    write_lines(run.folder)
    path = run.folder / FOLDER / fault_trials.MUTANTS
    path.unlink()
    path.mkdir()
    said = report.keep_with_run([tried_fault(Fate.KILLED)], read_coverage(run.folder), None)
    assert said.startswith("The reports of the run will not have these faults: ")
    assert "mutants.json was not written (Is a directory)" in said


def test_session_of_another_coverage_is_not_kept(run: Run) -> None:
    write_lines(run.folder)
    coverage = read_coverage(run.folder)
    covered = line_counts.read_report(run.folder) or {}
    line_counts.write(run.folder, line_counts.REPORT, covered | {"kernel": "other"})
    said = report.keep_with_run([tried_fault(Fate.KILLED)], coverage, None)
    assert "the coverage there is not the one that was used" in said
    assert len(content_of(run.folder)["mutants"]) == 17
