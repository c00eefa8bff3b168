"""The comparison of two runs: categories, exit codes, refusals, and what is never silent."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from two_runs import Told, make_run

from harness.cli.parser import parse
from harness.journal.results_folder import ResultsFolder
from harness.journal.writer import EVENTS, JournalWriter
from harness.lib.errors import ExitCode, HarnessError, UsageError
from harness.report.comparison_of_runs import as_html, as_json, as_text
from harness.report.comparison_of_runs.comparison import RunComparison, compare_runs
from harness.report.comparison_of_runs.complaints import complaint_changes
from harness.report.comparison_of_runs.pairs import Category
from harness.report.comparison_of_runs.runs import Run
from harness.report.comparison_of_runs.sections import sections
from harness.report.evidence import located
from harness.verdict.comparison import BaseAnswer
from harness.verdict.record import Complaint, Entry, Record, Result
from harness.verdict.verdict import Kind, Strength, Verdict

X = "suites/test_x.py::test_x[c]"
GOOD = Told()
BAD = Told(Verdict.VIOLATES, seen="EINVAL")
SKIPPED = Told(Verdict.NOT_APPLICABLE, reason="needs the dialect ioctl")
LOST = Told(Verdict.HARNESS_ERROR, reason="The connection was lost.")
ABSENT = None

MIRROR = {
    Category.BROKEN: Category.FIXED,
    Category.FIXED: Category.BROKEN,
    Category.NEWLY_APPLICABLE: Category.NO_LONGER_APPLICABLE,
    Category.NO_LONGER_APPLICABLE: Category.NEWLY_APPLICABLE,
    Category.NEW: Category.VANISHED,
    Category.VANISHED: Category.NEW,
}


def compared(root: Path, before: Told | None, after: Told | None) -> RunComparison:
    """Compare two runs that tell this of one scenario, and nothing else in common."""
    first = make_run(root / "a", {"y": GOOD} | ({X: before} if before else {}))
    second = make_run(root / "b", {"y": GOOD} | ({X: after} if after else {}))
    return compare_runs(first, second)


@pytest.mark.parametrize(
    ("before", "after", "category", "code"),
    [
        (GOOD, GOOD, Category.SAME, 0),
        (GOOD, BAD, Category.BROKEN, 1),
        (GOOD, Told(Verdict.KERNEL_DIED), Category.BROKEN, 1),
        (BAD, GOOD, Category.FIXED, 0),
        (BAD, BAD, Category.STILL, 0),
        (SKIPPED, GOOD, Category.NEWLY_APPLICABLE, 0),
        (SKIPPED, BAD, Category.NEWLY_APPLICABLE, 0),
        (GOOD, SKIPPED, Category.NO_LONGER_APPLICABLE, 0),
        (BAD, SKIPPED, Category.NO_LONGER_APPLICABLE, 0),
        (SKIPPED, SKIPPED, Category.SAME, 0),
        (GOOD, LOST, Category.UNSAID, 2),
        (LOST, BAD, Category.UNSAID, 2),
        (LOST, GOOD, Category.UNSAID, 0),
        (LOST, LOST, Category.UNSAID, 0),
        (BAD, LOST, Category.UNSAID, 2),
        (SKIPPED, LOST, Category.UNSAID, 0),
        (LOST, replace(BAD, base=BaseAnswer(Verdict.VIOLATES, failure="EINVAL")), Category.UNSAID, 0),
        (GOOD, Told(Verdict.NOT_REACHED), Category.UNSAID, 2),
        (GOOD, ABSENT, Category.VANISHED, 0),
        (ABSENT, GOOD, Category.NEW, 0),
        (ABSENT, BAD, Category.NEW, 0),
    ],
)
def test_pair_has_category_and_exit_code(
    tmp_path: Path, before: Told | None, after: Told | None, category: Category, code: int
) -> None:
    comparison = compared(tmp_path, before, after)
    assert {pair.id: pair.category for pair in comparison.pairs}[X] is category
    assert comparison.exit_code == code
    # Whatever is not the same has a place in the text.
    assert (category is Category.SAME) == ("test_x" not in as_text.render(comparison))


def test_violation_that_was_expected_is_a_regression(tmp_path: Path) -> None:
    after = Told(Verdict.VIOLATES, seen="EINVAL", expected=Verdict.VIOLATES)
    assert compared(tmp_path, GOOD, after).exit_code == ExitCode.SERIES


def test_info_requirement_changes_a_finding_only(tmp_path: Path) -> None:
    before = Told(strength=Strength.INFO)
    after = Told(Verdict.VIOLATES, seen="EINVAL", strength=Strength.INFO)
    comparison = compared(tmp_path, before, after)
    assert [pair.category for pair in comparison.pairs] == [Category.SAME, Category.CHANGED]
    assert comparison.exit_code == ExitCode.OK
    assert "violates: Title of" in as_text.render(comparison)


def test_inherited_violation_is_no_regression(tmp_path: Path) -> None:
    after = Told(Verdict.VIOLATES, seen="EINVAL", base=BaseAnswer(Verdict.VIOLATES, failure="EINVAL"))
    comparison = compared(tmp_path, GOOD, after)
    assert comparison.exit_code == ExitCode.OK
    assert comparison.summary == "B fixes 0, breaks 0, inherits 1, keeps 0 of A's violations."
    assert [section.title for section in sections(comparison)] == ["Inherited from the base"]


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (Told(Verdict.VIOLATES, seen="EINVAL", operation="load32 map2 0x4000"), True),
        (Told(Verdict.VIOLATES, seen="EMFILE"), False),
        (Told(Verdict.VIOLATES, seen="EINVAL", operation="map buf1 length=0x1000"), False),
    ],
)
def test_violation_has_the_same_cause_or_another(tmp_path: Path, other: Told, same: bool) -> None:
    comparison = compared(tmp_path, BAD, other)
    (pair,) = comparison.of(Category.STILL)
    assert pair.same_cause is same
    text = as_text.render(comparison)
    assert ("by another cause" in text) is not same
    assert same or ("EINVAL (A)" in text)


def test_new_complaint_of_the_kernel_is_a_regression(tmp_path: Path) -> None:
    oops = Told(Verdict.VIOLATES, seen="EINVAL", oops="vfio_pci_dma_buf_fault")
    comparison = compared(tmp_path, BAD, oops)
    assert comparison.exit_code == ExitCode.SERIES
    assert [one.where for one in comparison.complaints] == ["new"]
    assert compared(tmp_path / "mirror", oops, BAD).exit_code == ExitCode.OK
    assert compared(tmp_path / "same", oops, oops).exit_code == ExitCode.OK


def test_repetitions_that_differ_say_nothing(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", {"x": GOOD})
    second = make_run(tmp_path / "b", {"x": GOOD, "x#2": Told(Verdict.VIOLATES, seen="1", repetition=2)})
    comparison = compare_runs(first, second)
    assert [pair.category for pair in comparison.pairs] == [Category.UNSAID]
    assert "1 conforms, 1 violates (#2)" in as_text.render(comparison)
    assert comparison.exit_code == ExitCode.HARNESS


def test_repetitions_that_agree_are_one_scenario(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", {"x": GOOD})
    second = make_run(tmp_path / "b", {"x": BAD, "x#2": Told(Verdict.VIOLATES, seen="1", repetition=2)})
    assert [pair.category for pair in compare_runs(first, second).pairs] == [Category.BROKEN]


def test_violation_holds_although_a_repetition_was_lost(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", {"x": GOOD})
    lost = Told(Verdict.HARNESS_ERROR, reason="lost", repetition=2)
    comparison = compare_runs(first, make_run(tmp_path / "b", {"x": BAD, "x#2": lost}))
    assert [pair.category for pair in comparison.pairs] == [Category.BROKEN]


def test_runs_without_a_common_scenario_say_nothing(tmp_path: Path) -> None:
    comparison = compare_runs(make_run(tmp_path / "a", {"x": GOOD}), make_run(tmp_path / "b", {"y": GOOD}))
    assert comparison.exit_code == ExitCode.HARNESS
    assert "No scenario has a verdict in both runs" in as_text.render(comparison)


def test_other_program_is_refused_with_both_digests(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", {"x": GOOD})
    second = make_run(tmp_path / "b", {"x": GOOD}, program="cd" * 32)
    with pytest.raises(UsageError, match=r"abababababab.*cdcdcdcdcdcd.*--force"):
        compare_runs(first, second)
    forced = compare_runs(first, second, force=True)
    assert forced.exit_code == ExitCode.OK
    assert "Forced: The two runs are of different programs" in as_text.render(forced)


def test_run_of_an_older_program_is_refused(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", {"x": GOOD}, program="")
    with pytest.raises(UsageError, match="of an older version of this program") as refused:
        compare_runs(first, make_run(tmp_path / "b", {"x": GOOD}))
    assert "different programs" not in refused.value.message


def test_run_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    whole = make_run(tmp_path / "a", {"x": GOOD, "y": GOOD})
    events = (whole / EVENTS).read_bytes().splitlines(keepends=True)
    cut = make_run(tmp_path / "b", {"x": GOOD, "y": GOOD})
    (cut / EVENTS).write_bytes(b"".join(events[:-2]))  # y has started and not ended
    with pytest.raises(UsageError, match="cut off: what it lacks cannot be said to conform"):
        compare_runs(whole, cut)
    forced = compare_runs(whole, cut, force=True)
    assert [pair.id for pair in forced.of(Category.UNSAID)] == ["y"]
    assert "cannot be said whether B breaks it" in as_text.render(forced)


def test_folder_that_holds_no_run_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", {"x": GOOD})
    file = tmp_path / "file"
    file.touch()
    for other in (tmp_path, file, tmp_path / "missing"):
        with pytest.raises(HarnessError):
            compare_runs(run, other)


def test_event_of_a_newer_program_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", {"x": GOOD})
    with (run / EVENTS).open("a") as stream:
        stream.write('{"event": "frobnicated"}\n')
    text = as_text.render(compare_runs(make_run(tmp_path / "b", {"x": GOOD}), run))
    assert "does not understand" in text
    assert "'frobnicated'" in text


def test_facts_that_differ_are_said(tmp_path: Path) -> None:
    first = make_run(
        tmp_path / "a",
        {"x": GOOD},
        series="v3",
        base="7.1",
        selection=["--series", "v3", "--time-limit=9m", "-k", "map"],
    )
    second = make_run(tmp_path / "b", {"x": GOOD}, series="v4", base="7.2", selection=["--series", "v4"])
    comparison = compare_runs(first, second)
    assert {one.name: (one.before, one.after) for one in comparison.differences} == {
        "series": ("v3", "v4"),
        "base": ("7.1", "7.2"),
        "selection": ("-k map", "all scenarios"),
    }
    assert comparison.summary == "v4 fixes 0, breaks 0, inherits 0, keeps 0 of v3's violations."


def test_revisions_name_the_runs(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", {"x": GOOD}, series="one", revision="RFC2")
    second = make_run(tmp_path / "b", {"x": GOOD}, series="two", revision="4")
    comparison = compare_runs(first, second)
    assert (comparison.before.label, comparison.after.label) == ("RFC2", "v4")


def test_runs_of_one_series_are_named_by_their_times(tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        made = make_run(tmp_path / name, {"x": GOOD}, series="mine")
        runs.append(made.rename(tmp_path / f"mine-20260226T00000{name}Z"))
    comparison = compare_runs(*runs)
    assert (comparison.before.label, comparison.after.label) == ("20260226T00000aZ", "20260226T00000bZ")


def test_patches_are_told_apart_by_subject_and_id(tmp_path: Path) -> None:
    def mails(**patches: str) -> list[dict[str, object]]:
        return [
            {
                "number": number,
                "subject": f"[PATCH {number}/3] {name}",
                "recipients": [],
                "patch_id": identity,
            }
            for number, (name, identity) in enumerate({"cover": "", **patches}.items())
        ]

    first = make_run(tmp_path / "a", {"x": GOOD}, mails=mails(one="1", two="2", three="3"))
    second = make_run(tmp_path / "b", {"x": GOOD}, mails=mails(renamed="1", two="4", four="5"))
    found = compare_runs(first, second).patches
    assert found is not None
    assert (found.same, found.changed, found.new, found.gone) == (1, 1, ("four",), ("three",))
    # Runs of older versions have no patch-ids.
    first, second = (make_run(tmp_path / name, {"x": GOOD}, mails=mails(one="", two="")) for name in "cd")
    assert "patches" not in {one.name for one in compare_runs(first, second).differences}
    assert compare_runs(first, second).patches is not None


def test_answer_of_another_kind_is_told(tmp_path: Path) -> None:
    lines = "# x\n> open vfio 0\nok dev1\n> ioctl dev1 0x3b75\nerror {} ioctl: words\n"
    comparison = compared(
        tmp_path, Told(transcript=lines.format("ENOMEM")), Told(transcript=lines.format("EINVAL"))
    )
    assert [pair.id for pair in comparison.of(Category.CHANGED)] == [X]
    assert "ENOMEM → EINVAL at `ioctl dev1 0x3b75`" in as_text.render(comparison)
    assert comparison.exit_code == ExitCode.OK


def test_finding_that_changes_is_told_without_its_numbers(tmp_path: Path) -> None:
    same = compared(tmp_path, Told(findings=["it took 12 ms"]), Told(findings=["it took 900 ms"]))
    assert not same.of(Category.CHANGED)
    other = compared(tmp_path / "2", Told(findings=["it is ENODEV"]), Told(findings=["it can be mapped"]))
    text = as_text.render(other)
    assert "it is ENODEV (A)" in text
    assert "it can be mapped (B)" in text


def test_equal_changes_are_one_item(tmp_path: Path) -> None:
    ids = [f"suites/test_x.py::test_{name}[{variant}]" for name in "ab" for variant in "123"]
    first = make_run(tmp_path / "a", dict.fromkeys(ids, GOOD))
    second = make_run(tmp_path / "b", dict.fromkeys(ids, BAD))
    (section,) = sections(compare_runs(first, second))
    (item,) = section.items
    assert (item.scenarios, len(item.pairs)) == (2, 6)
    assert "2 scenarios in 6 variants: conforms in A, violates in B" in as_text.render(
        compare_runs(first, second)
    )


def test_regressions_are_the_last_section(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", {"x": GOOD, "y": BAD, "z": BAD})
    second = make_run(tmp_path / "b", {"x": BAD, "y": GOOD, "z": BAD})
    assert sections(compare_runs(first, second))[-1].title == "Newly violated"


def test_json_has_every_pair_that_is_not_the_same(tmp_path: Path) -> None:
    comparison = compared(tmp_path, GOOD, BAD)
    content = json.loads(as_json.render(comparison))
    assert (content["format"], content["version"], content["exit_code"]) == ("patchproof-comparison", 1, 1)
    (scenario,) = content["scenarios"]
    assert scenario["id"] == X
    assert scenario["after"]["deviation"]["seen"] == "EINVAL"
    assert content["counts"]["same"] == 1
    assert content["counts"]["newly-violated"] == 1
    assert content["causes"][0]["scenarios"] == [X]


TOLD = st.sampled_from(
    [
        *(GOOD, BAD, SKIPPED, LOST, Told(Verdict.NOT_REACHED), Told(Verdict.VIOLATES, seen="SIGBUS")),
        *(Told(Verdict.KERNEL_DIED, oops="fault_a"), Told(findings=["a"]), Told(findings=["b"])),
        *(Told(transcript="> a\nok\n"), Told(transcript="> a\nerror EINVAL a: b\n")),
    ]
)
RUN = st.dictionaries(st.sampled_from("abcdef"), TOLD, min_size=1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=RUN, second=RUN)
def test_comparison_backwards_is_the_mirror_image(
    tmp_path_factory: pytest.TempPathFactory, first: dict[str, Told], second: dict[str, Told]
) -> None:
    root = tmp_path_factory.mktemp("runs")
    folders = make_run(root / "a", first), make_run(root / "b", second)
    forward, backward = compare_runs(*folders), compare_runs(*reversed(folders))
    seen = {pair.id: pair for pair in backward.pairs}
    assert seen.keys() == {pair.id for pair in forward.pairs} == first.keys() | second.keys()
    for pair in forward.pairs:
        other = seen[pair.id]
        assert other.category is MIRROR.get(pair.category, pair.category)
        assert (other.gone, other.new, other.same_cause) == (pair.new, pair.gone, pair.same_cause)
        assert (pair.reply is None) == (other.reply is None)
        if pair.reply and other.reply:
            assert pair.reply.kinds == other.reply.kinds[::-1]
    words = {"new": "gone", "gone": "new"}
    assert Counter(one.where for one in forward.complaints) == Counter(
        words.get(one.where, one.where) for one in backward.complaints
    )


@settings(max_examples=30, deadline=None)
@given(told=RUN)
def test_run_compared_with_itself_has_no_difference(
    tmp_path_factory: pytest.TempPathFactory, told: dict[str, Told]
) -> None:
    folder = make_run(tmp_path_factory.mktemp("run"), told)
    comparison = compare_runs(folder, folder, force=True)
    assert {pair.category for pair in comparison.pairs} <= {Category.SAME, Category.STILL, Category.UNSAID}
    assert all(pair.same_cause for pair in comparison.pairs)
    assert comparison.exit_code == ExitCode.OK


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(codec=None, categories=None)))
def test_comparison_of_any_text_is_printable(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    root = tmp_path_factory.mktemp("runs")
    odd = Told(Verdict.VIOLATES, seen=text, operation=text, reason=text, findings=[text], requirement=text)
    first = make_run(root / "a", {"x": GOOD, text: GOOD}, base=text, series=text)
    second = make_run(root / "b", {"x": odd, text: odd})
    shown = as_text.render(compare_runs(first, second))
    assert all(one.isprintable() or one == "\n" for one in shown)
    assert as_json.render(compare_runs(first, second)).isascii()
    assert all(one.isprintable() or one in "\n\t" for one in as_html.render(compare_runs(first, second)))


def test_compare_command_writes_to_a_file(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "a", {"x": GOOD}), make_run(tmp_path / "b", {"x": BAD})
    output = tmp_path / "out.json"
    args = parse(["compare", str(first), str(second), "--format", "json", "-o", str(output)])
    assert args.command(args) == ExitCode.SERIES
    assert json.loads(output.read_bytes())["exit_code"] == 1


def test_complaints_are_new_gone_moved_or_in_both(tmp_path: Path) -> None:
    def run(label: str, *complaints: Complaint) -> Run:
        entry = Entry("x", Kind.SCENARIO, "")
        return Run(tmp_path, Record("r", (Result(entry, complaints=complaints),)), {}, label)

    kept, gone, came, before, after = (
        Complaint("bug", "BUG", name, "", place=place)
        for name, place in (("kept", "1"), ("gone", "2"), ("came", "3"), ("before", "4"), ("after", "4"))
    )
    changes = complaint_changes(run("A", kept, gone, before), run("B", kept, came, after))
    assert {
        (one.complaint.fingerprint, one.where, one.before, one.after, one.earlier) for one in changes
    } == {
        ("kept", "both", 1, 1, ""),
        ("came", "new", 0, 1, ""),
        ("after", "moved", 1, 1, "before"),
        ("gone", "gone", 1, 0, ""),
    }


def test_fault_of_a_machine_is_compared_by_what_is_wrong(tmp_path: Path) -> None:
    def run(name: str, fault: str) -> Path:
        folder = make_run(tmp_path / name, {"x": GOOD}, complete=False)
        journal = JournalWriter(folder)
        journal.machine_started("machine-7")
        journal.machine_ended("machine-7", fault, Verdict.VIOLATES if fault else None)
        journal.run_ended()
        return folder

    well, leak, other = run("a", ""), run("b", "It left 3 objects."), run("c", "It left 9 objects.")
    assert compare_runs(well, leak).exit_code == ExitCode.SERIES
    assert compare_runs(leak, other).exit_code == ExitCode.OK
    assert "It left 3 objects." in as_text.render(compare_runs(well, leak))
    assert compare_runs(leak, well).exit_code == ExitCode.OK


def test_harness_error_of_a_machine_is_no_regression(tmp_path: Path) -> None:
    def run(name: str, verdict: Verdict | None) -> Path:
        folder = make_run(tmp_path / name, {"x": GOOD}, complete=False)
        journal = JournalWriter(folder)
        journal.machine_started("machine-7")
        journal.machine_ended("machine-7", "kmemleak did not answer." if verdict else "", verdict)
        journal.run_ended()
        return folder

    well, lost = run("a", None), run("b", Verdict.HARNESS_ERROR)
    comparison = compare_runs(well, lost)
    assert comparison.regressions == ()
    assert comparison.exit_code == ExitCode.HARNESS  # a leak cannot be excluded
    assert compare_runs(lost, well).exit_code == ExitCode.OK


def test_new_repetition_is_not_hidden_by_an_inherited_one(tmp_path: Path) -> None:
    same, other = (
        replace(BAD, base=BaseAnswer(one, failure="EINVAL")) for one in (BAD.verdict, GOOD.verdict)
    )
    again = {"x#2": replace(other, repetition=2)}
    before = make_run(tmp_path / "a", {"x": GOOD, "x#2": replace(GOOD, repetition=2)})
    (pair,) = compare_runs(before, make_run(tmp_path / "b", {"x": same, **again})).regressions
    assert (pair.category, pair.inherited) == (Category.BROKEN, False)


def test_stage_that_fails_is_a_regression(tmp_path: Path) -> None:
    def run(name: str, verdict: Verdict) -> Path:
        results = ResultsFolder.create(tmp_path / name, "series")
        results.write_run(program="ab")
        journal = results.journal()
        journal.plan([Entry("build", Kind.STAGE, "The kernel builds"), Entry("x", Kind.SCENARIO, "")])
        journal.run_started()
        journal.started("build")
        journal.ended("build", verdict, reason="core.c:1: error")
        if verdict is Verdict.CONFORMS:
            journal.started("x")
            journal.ended("x", Verdict.CONFORMS)
        journal.run_ended()
        return results.dir

    comparison = compare_runs(run("a", Verdict.CONFORMS), run("b", Verdict.VIOLATES))
    assert [pair.id for pair in comparison.regressions] == ["build"]
    assert comparison.exit_code == ExitCode.SERIES
    assert "core.c:1: error" in as_text.render(comparison)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "/etc/passwd", "../../b", "transcripts", "\udcff"])
def test_transcript_elsewhere_is_not_read(tmp_path: Path, name: str) -> None:
    assert located(tmp_path, name) is None
