"""The conformance matrix: the project's own, joining it with scenarios, malformed data, and its reports."""

from __future__ import annotations

import functools
import io
import re
from collections import Counter
from pathlib import Path

import pytest
from small_run import run

from harness.cli import main
from harness.journal.reader import read
from harness.journal.writer import JournalWriter
from harness.lib import paths
from harness.lib.errors import ExitCode, HarnessError
from harness.plugin import fast, items, scenario_list
from harness.report import coverage
from harness.report.coverage import ABSENT, COVERED, EXCUSED, OPEN, Row
from harness.verdict import requirements
from harness.verdict.record import Entry
from harness.verdict.requirements import Matrix, Reasons, Requirement, Scenario
from harness.verdict.verdict import Kind, Strength, Verdict

ROW = """
[MAP-01]
strength = "must"
sentence = "It maps."
expect = "Success."
revisions = "all"
sources = ["RFC1 3/7"]
evidence = "PK"
"""
GROUPS = '[groups]\nMAP = "mapping"\n'


def requirement(name: str, strength: str = "must") -> Requirement:
    return Requirement(name, Strength(strength), f"{name} holds.", "Yes.", ("RFC1",), "P", "all")


RULES = Matrix(
    {"MAP": "mapping", "REV": "revoking"},
    {
        each.id: each
        for each in (
            requirement("MAP-01"),
            requirement("MAP-02", "should"),
            requirement("REV-01"),
            requirement("REV-02", "info"),
        )
    },
)
ONE = Scenario("suites/test_map.py::test_one", ("MAP-01", "REV-02"), ("base", "feature"))
TWO = Scenario("suites/test_map.py::test_two", ("MAP-01",), ("base",))


# --- the project's own matrix


@functools.cache
def scenarios() -> tuple[Scenario, ...]:
    return scenario_list.scenarios()


def rows() -> tuple[Row, ...]:
    rules = requirements.load()
    return coverage.join(rules, requirements.load_reasons(rules), scenarios())


def test_scenarios_of_fast_and_the_mutants_that_they_kill_exist() -> None:
    named = fast.always()
    mutants = {path.stem for path in (paths.PATCHES / "mutants" / "reference-feature").glob("*.patch")}
    assert {name.partition("[")[0] for name in named} <= {one.id for one in scenarios()}
    assert {one for ones in named.values() for one in ones} <= mutants


def test_matrix_has_every_row() -> None:
    every = requirements.load().requirements.values()
    counted = Counter((each.group, str(each.strength)) for each in every)
    assert {
        group: [counted[group, strength] for strength in Strength] for group in requirements.load().groups
    } == {
        "LOG": [1, 0, 0],
        "MAP": [11, 2, 1],
        "ALIAS": [7, 0, 0],
        "RNG": [9, 1, 0],
        "HUGE": [8, 4, 0],
        "REV": [16, 1, 1],
        "STATE": [16, 2, 1],
        "LIFE": [14, 1, 0],
        "ATTR": [6, 2, 1],
        "IMP": [16, 0, 3],
        "MP": [12, 0, 0],
        "CONTRACT": [15, 0, 1],
        "RACE": [13, 1, 0],
        "ERR": [55, 1, 5],
        "FLAG": [15, 3, 3],
    }


def test_row_is_read_with_every_field() -> None:
    assert requirements.load().requirements["RNG-05"] == Requirement(
        id="RNG-05",
        strength=Strength.MUST,
        sentence="Splitting the VMA, by munmap() or mprotect() of a page in the middle, leaves every page "
        "where it was.",
        expect="Pages above the hole, touched for the first time after the split, show the right stamps; the "
        "kernel does not warn.",
        sources=(
            "review of v2 2/9, A. Williamson: a warning that a user can trigger",
            'fixed in v3 "remove bad WARN"',
        ),
        evidence="RE",
        revisions="all",
        observe="A split before the first touch, and one after it; of a DMABUF mapping and of a device-fd "
        "mapping at a non-zero offset. In v2 the device-fd mapping warned and raised SIGBUS.",
        broken_in=("v2",),
    )


def test_sentences_end_and_have_single_spaces() -> None:
    for each in requirements.load().requirements.values():
        for text in filter(None, (each.sentence, each.expect, each.findings, each.observe)):
            assert text[-1] in ".?", (each.id, text)
            assert text == " ".join(text.split()), (each.id, text)


def test_every_must_has_a_scenario_or_a_reason() -> None:
    left = [row.requirement.id for row in rows() if row.state == OPEN and row.requirement.strength == "must"]
    assert not left, "write a scenario, or a reason into suites/not-covered.toml"


def test_scenario_has_the_dialects_of_its_marker() -> None:
    places = {one.id: one.dialects for one in scenarios()}
    assert places["suites/test_map.py::test_without_the_series_mmap_is_einval"] == ("base",)
    assert items.KERNEL_DIALECTS in places.values()
    written = {one.id: one.where for one in scenarios()}
    two_markers = "suites/test_attribute.py::test_the_attribute_of_a_wrong_descriptor_is_refused"
    kinds = [one.attributes for one in scenarios() if one.id == two_markers]
    assert kinds == [("set", "get-set"), ("get-set",)]
    flags = "suites/test_attribute.py::test_export_flags_choose_the_attribute"
    assert written[flags] == "base map ioctl device-ioctl feature; attribute: flags"


# --- joining


def test_join_gives_each_requirement_its_state() -> None:
    reasons = Reasons({"MAP-02": "It cannot be seen."})
    assert [
        (row.requirement.id, row.state, row.reason) for row in coverage.join(RULES, reasons, [ONE, TWO])
    ] == [
        ("MAP-01", COVERED, ""),
        ("MAP-02", EXCUSED, "It cannot be seen."),
        ("REV-01", OPEN, ""),
        ("REV-02", COVERED, ""),
    ]


def test_reason_of_a_group_is_the_default() -> None:
    reasons = Reasons({"MAP-02": "It cannot be seen."}, {"MAP": "Not yet."})
    first, second, *_ = coverage.join(RULES, reasons, [])
    assert (first.reason, second.reason) == ("Not yet.", "It cannot be seen.")


@pytest.mark.parametrize(
    ("reasons", "says"),
    [
        (Reasons({"MAP-01": "No."}), "a reason why MAP-01 has no scenario, and there is one"),
        (Reasons({"MAP-02": "No."}, {"MAP": "No."}), "the group MAP, and no requirement of it needs one"),
    ],
)
def test_reason_that_is_not_needed_is_an_error(reasons: Reasons, says: str) -> None:
    with pytest.raises(HarnessError, match=says):
        coverage.join(RULES, reasons, [ONE, TWO])


def test_scenario_of_an_unknown_requirement_is_an_error() -> None:
    stray = Scenario("suites/test_map.py::test_stray", ("MAP-01", "MAP-03"), ("base",))
    with pytest.raises(HarnessError, match="test_stray names the requirement 'MAP-03'"):
        coverage.join(RULES, Reasons(), [stray])


@pytest.mark.parametrize(
    ("ids", "strength"),
    [
        (("REV-02",), "info"),
        (("REV-02", "MAP-02"), "should"),
        (("REV-02", "MAP-02", "MAP-01"), "must"),
        (("MAP-01", "REV-02"), "must"),
    ],
)
def test_strength_is_the_most_binding(ids: tuple[str, ...], strength: str) -> None:
    assert RULES.strength(ids) is Strength(strength)


def stored_run(folder: Path, *verdicts: Verdict, name: str = "MAP-01") -> Path:
    journal = JournalWriter(folder)
    entries = [Entry(f"test_{n}", Kind.SCENARIO, "", (name,)) for n in range(len(verdicts))]
    journal.plan(entries)
    for entry, verdict in zip(entries, verdicts, strict=True):
        if verdict is not Verdict.NOT_REACHED:
            journal.started(entry.id)
            journal.ended(entry.id, verdict)
    return folder


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        ((), ABSENT),
        (("not-applicable", "conforms"), "conforms"),
        (("conforms", "not-reached"), "not-reached"),
        (("not-reached", "harness-error"), "harness-error"),
        (("harness-error", "violates", "conforms"), "violates"),
        (("kernel-died", "violates"), "kernel-died"),
    ],
)
def test_requirement_has_its_worst_verdict(tmp_path: Path, verdicts: tuple[str, ...], worst: str) -> None:
    record = read(stored_run(tmp_path, *map(Verdict, verdicts)))
    first, *others = coverage.join_run(RULES, record)
    assert first.state == worst
    assert [word for word, _ in first.checks] == list(verdicts)
    assert {row.state for row in others} == {ABSENT}


def test_run_of_unknown_requirements_is_an_error(tmp_path: Path) -> None:
    record = read(stored_run(tmp_path, Verdict.CONFORMS, name="MAP-77"))
    with pytest.raises(HarnessError, match="names the requirement 'MAP-77'"):
        coverage.join_run(RULES, record)


# --- malformed data


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (ROW, ROW + "[MAP-01]", "is not a TOML file"),
        (GROUPS, "", "has no table `groups`"),
        (GROUPS, "groups = 'MAP'\n", "has no table `groups`"),
        ('"mapping"\n', '"mapping"\nREV = "revoking"\n', "The group REV .* has a title and no rows"),
        ("[MAP-01]", "[REV-01]", "The group MAP "),
        ("[MAP-01]", "[MAP-1]", "'MAP-1' is not named like MAP-01"),
        ("[MAP-01]", "[map]", "'map' is not named like MAP-01"),
        (GROUPS, f"MAP-02 = 1\n{GROUPS}", "'MAP-02' is no table"),
        ('strength = "must"\n', "", "has no `strength`"),
        ('sources = ["RFC1 3/7"]\n', "", "has no `sources`"),
        ('"must"', '"may"', "strength 'may'; one of must, should, info"),
        ('"It maps."', '" "', "a `sentence` that is no text"),
        ('"Success."', "7", "a `expect` that is no text"),
        ('["RFC1 3/7"]', "[]", "a `sources` that is no list of texts"),
        ('["RFC1 3/7"]', '"RFC1 3/7"', "a `sources` that is no list of texts"),
        ('"PK"', '"PX"', "evidence 'PX'"),
        ('"all"', '"v9"', "revisions 'v9'"),
        ('"all"', '"v4..v2"', "revisions 'v4..v2'"),
        ('"all"', '"..v2"', r"revisions '\.\.v2'"),
        ('"PK"', '"PK"\nbroken_in = ["v9"]', "broken in 'v9'"),
        ('"PK"', '"PK"\nexpected = "x"', "`expected`, which is not known"),
    ],
)
def test_malformed_matrix_is_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = tmp_path / "requirements.toml"
    text = GROUPS + ROW
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(HarnessError, match=says) as refusal:
        requirements.load(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("revisions", ["all", "base", "RFC1", "RFC2..", "RFC1..v1", "v8"])
def test_revisions_can_be_one_or_a_span(tmp_path: Path, revisions: str) -> None:
    path = tmp_path / "requirements.toml"
    path.write_text(GROUPS + ROW.replace('"all"', f'"{revisions}"'))
    assert requirements.load(path).requirements["MAP-01"].revisions == revisions


def test_missing_matrix_is_a_harness_error(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="There is no file "):
        requirements.load(tmp_path / "requirements.toml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("MAP-99 = 'No.'", r"not-covered\.toml names the requirement 'MAP-99'"),
        ("MAP-01 = ' '", "The reason for MAP-01 .* must be a text"),
        ("MAP-01 = 7", "The reason for MAP-01 .* must be a text"),
        ("[group.XYZ]\nreason = 'No.'", "the group 'XYZ'"),
        ("[group.MAP]\nreason = ''", "The reason for MAP "),
        ("[group.MAP]\nwhy = 'No.'", "holds `reason` and nothing else"),
        ("[group]\nMAP = 'No.'", "holds `reason` and nothing else"),
        ("MAP-01 = ", "is not a TOML file"),
    ],
)
def test_malformed_reasons_are_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "not-covered.toml"
    path.write_text(text)
    with pytest.raises(HarnessError, match=says):
        requirements.load_reasons(RULES, path)


def test_reasons_are_read(tmp_path: Path) -> None:
    path = tmp_path / "not-covered.toml"
    path.write_text("MAP-01 = 'No.'\n[group.REV]\nreason = 'Not yet.'\n")
    assert requirements.load_reasons(RULES, path) == Reasons({"MAP-01": "No."}, {"REV": "Not yet."})


# --- what is printed

SHOWN = """\
MAP-01    must    covered  MAP-01 holds.
    base feature  suites/test_map.py::test_one
    base          suites/test_map.py::test_two
MAP-02    should  excused  MAP-02 holds.
    It cannot be seen.
REV-01    must    open     REV-01 holds.
REV-02    info    covered  REV-02 holds.
    base feature  suites/test_map.py::test_one

group     strength  covered  excused  open
MAP       must            1        0     0
MAP       should          0        1     0
REV       must            0        0     1
REV       info            1        0     0
all       must            1        0     1
all       should          0        1     0
all       info            1        0     0
"""

CSV = """\
requirement,strength,state,scenario,where,reason
MAP-01,must,covered,suites/test_map.py::test_one,base feature,
MAP-01,must,covered,suites/test_map.py::test_two,base,
MAP-02,should,excused,,,It cannot be seen.
REV-01,must,open,,,
REV-02,info,covered,suites/test_map.py::test_one,base feature,
"""


def joined() -> tuple[Row, ...]:
    return coverage.join(RULES, Reasons({"MAP-02": "It cannot be seen."}), [ONE, TWO])


def test_show_lists_requirements_and_scenarios() -> None:
    stream = io.StringIO()
    coverage.show(joined(), stream, only_unchecked=False)
    assert stream.getvalue() == SHOWN


def test_show_only_unchecked_keeps_the_totals() -> None:
    stream = io.StringIO()
    coverage.show(joined(), stream, only_unchecked=True)
    head, totals = stream.getvalue().split("\n\n")
    assert head == "\n".join(SHOWN.splitlines()[3:6])
    assert totals == SHOWN.split("\n\n")[1]


@pytest.mark.parametrize("alone", [False, True])
def test_csv_lists_the_same_rows(alone: bool) -> None:
    stream = io.StringIO()
    coverage.write_csv(joined(), stream, only_unchecked=alone)
    lines = CSV.splitlines(keepends=True)
    assert stream.getvalue() == "".join(lines[:1] + lines[3:5] if alone else lines)


def test_command_shows_the_real_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["matrix", "--group", "MAP"]) == ExitCode.OK
    said = capsys.readouterr().out
    assert re.search(r"\n    base +suites/test_map\.py::test_without_the_series_mmap_is_einval\n", said)
    assert "REV-01" not in said
    assert said.splitlines()[-3].split()[:2] == ["MAP", "must"]


def test_command_shows_a_stored_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    stored_run(tmp_path, Verdict.CONFORMS, Verdict.VIOLATES)
    assert main.main(["matrix", "--results", str(tmp_path)]) == ExitCode.OK
    said = capsys.readouterr().out
    assert "\nMAP-01    must    violates      A DMABUF that " in said
    assert "\n    conforms  test_0\n    violates  test_1\n" in said


def test_command_with_an_unknown_group_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["matrix", "--group", "MAPS"]) == ExitCode.HARNESS
    assert "There is no group 'MAPS'; the groups are LOG, MAP, " in capsys.readouterr().err


# --- collecting

UNKNOWN = '''
from harness.plugin.markers import requirement


@requirement("MAP-01")
@requirement("MAP-01", "MAP-O2")
def test_mistaken() -> None:
    """It names what there is not."""
'''


def test_run_with_an_unknown_requirement_does_not_begin(tmp_path: Path) -> None:
    suite = tmp_path / "test_mistaken.py"
    suite.write_text(UNKNOWN)
    results = tmp_path / "results"
    code, output = run("run", "--collect-only", "--results", results, suite, mark=tmp_path)
    assert code == ExitCode.HARNESS
    assert "test_mistaken names the requirement 'MAP-O2'" in output


def test_suites_that_cannot_be_collected_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "test_broken.py").write_text("import nosuchmodule\n")
    with pytest.raises(HarnessError, match="cannot be collected") as failed:
        scenario_list.scenarios(tmp_path)
    assert "No module named 'nosuchmodule'" in failed.value.tail
