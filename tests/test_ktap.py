"""The parser of KTAP: output of the kernel's own programs, nesting, and output that is none."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.verdict import ktap
from harness.verdict.case import Case
from harness.verdict.ktap import MAX_CASES, MAX_DEPTH, MAX_FAULTS, Report, parse
from harness.verdict.verdict import Verdict

RECORDED = Path(__file__).parent / "data" / "ktap"
NESTED = """\
KTAP version 1
1..2
  KTAP version 1
  # Subtest: importers
  1..2
    KTAP version 1
    1..1
    # importer.c:12: 3 is not 4
    not ok 1 attach
  not ok 1 static
  ok 2 dynamic # SKIP no such importer
not ok 1 importers
ok 2 - exporters
"""


def report(text: str) -> Report:
    return parse(text.split("\n"))


@pytest.mark.parametrize(
    ("name", "passed", "failed", "skipped", "faults"),
    [
        ("dmabuf-heap-6.19", 11, 0, 0, ()),
        ("iommufd-6.19", 8, 0, 0, ()),
        ("vfio_pci_device_test-7.1", 4, 0, 1, ()),
        ("vfio_pci_device_test-7.1-failed", 0, 5, 0, ()),
        ("vfio_dma_mapping_test-7.1", 20, 0, 10, ()),
        ("vfio_dma_mapping_mmio_test-7.1", 15, 0, 0, ()),
        ("vfio_iommufd_setup_test-7.1", 6, 0, 0, ()),
        ("udmabuf-6.19", 5, 0, 0, ("it planned 7 results and printed 5",)),
    ],
)
def test_recorded_output_has_its_results(
    name: str, passed: int, failed: int, skipped: int, faults: tuple[str, ...]
) -> None:
    found = report((RECORDED / f"{name}.txt").read_text())
    counts = Counter(one.verdict for one in found.cases)
    assert [counts[one] for one in (Verdict.CONFORMS, Verdict.VIOLATES, Verdict.NOT_APPLICABLE)] == [
        passed,
        failed,
        skipped,
    ]
    assert found.faults == faults


def test_diagnostics_belong_to_the_result_after_them() -> None:
    cases = report("1..2\n# why\nnot ok 1 a\nnot ok 2 b").cases
    assert [one.reason for one in cases] == ["# why", "it printed no reason"]


def test_nested_results_have_the_names_of_their_parents() -> None:
    assert report(NESTED) == Report(
        (
            Case("importers > static > attach", Verdict.VIOLATES, "# importer.c:12: 3 is not 4"),
            Case("importers > dynamic", Verdict.NOT_APPLICABLE, "no such importer"),
            Case("exporters", Verdict.CONFORMS),
        ),
        found=True,
    )


@pytest.mark.parametrize(
    ("line", "case"),
    [
        ("ok 1", Case("test 1", Verdict.CONFORMS)),
        ("ok 1 - a.b", Case("a.b", Verdict.CONFORMS)),
        (r"ok 1 a \# b", Case("a # b", Verdict.CONFORMS)),
        ("ok 1 a # SKIP", Case("a", Verdict.NOT_APPLICABLE, "it gave no reason")),
        ("not ok 1 a # skip: no device", Case("a", Verdict.NOT_APPLICABLE, "no device")),
        ("not ok 1 a # TODO", Case("a", Verdict.NOT_APPLICABLE, "it is expected to fail (TODO): no reason")),
        ("ok 1 a # XFAIL x", Case("a", Verdict.NOT_APPLICABLE, "it is expected to fail (XFAIL): x")),
        ("not ok 1 a # TIMEOUT 45 s", Case("a", Verdict.VIOLATES, "TIMEOUT 45 s")),
        ("not ok 1 a", Case("a", Verdict.VIOLATES, "it printed no reason")),
        ("not ok 1 a\x1b[31m", Case(r"a\x1b[31m", Verdict.VIOLATES, "it printed no reason")),
    ],
)
def test_result_line_is_a_case(line: str, case: Case) -> None:
    assert report(f"1..1\n{line}") == Report((case,), found=True)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("1..2\nok 1 a", "it planned 2 results and printed 1"),
        ("ok 1 a", "it printed no plan (1..N), so that missing results would not be noticed"),
        ("1..1\n1..1\nok 1 a", "it printed two plans"),
        ("1..2\nok 2 a\nok 3 b", "the result 2 stands where 1 was to come"),
        ("1..1\nBail out! no memory", "it bailed out: no memory"),
        ("1..1\n  1..1\n  not ok 1 a\nok 1 b", "the test b is ok, and one of its subtests is not"),
        ("1..1\n  1..2\n  ok 1 a\nok 1 b", "the test b planned 2 results and printed 1"),
        ("1..0\n  1..1\n  ok 1 a", "its last subtests have no result of their parent"),
    ],
)
def test_output_that_is_no_valid_ktap_is_a_fault(text: str, fault: str) -> None:
    assert fault in report(text).faults


def test_parent_that_fails_by_itself_is_a_case() -> None:
    cases = report("1..1\n  1..1\n  ok 1 a\nnot ok 1 b").cases
    assert [(one.name, one.verdict) for one in cases] == [
        ("b > a", Verdict.CONFORMS),
        ("b", Verdict.VIOLATES),
    ]


def test_plan_of_no_tests_has_the_reason_of_a_skip() -> None:
    assert report("TAP version 13\n1..0 # SKIP no iommu").skipped == "no iommu"


def test_words_of_a_program_are_no_results() -> None:
    assert report("ok, here we go\nnot ok\nok then 1\n1..2..3") == Report()


def test_deep_nesting_is_a_fault_without_a_recursion() -> None:
    lines = (f"{' ' * depth}1..1" for depth in range(5000))
    assert f"its subtests are nested more than {MAX_DEPTH} deep" in parse(lines).faults


def test_many_results_are_limited_and_failures_kept() -> None:
    last = MAX_CASES + 3
    lines = [f"1..{last}", *(f"ok {number} a" for number in range(1, last)), f"not ok {last} b"]
    found = parse(lines)
    assert len(found.cases) == MAX_CASES + 1
    assert found.cases[-1].name == "b"
    assert found.faults == (f"it printed more than {MAX_CASES} results, and only these are told",)


@given(st.lists(st.sampled_from(["ok 1 a", "not ok 2 b", "1..1", "1..0 # SKIP", "x", "KTAP version 1"])))
def test_any_order_of_lines_is_bounded(lines: list[str]) -> None:
    indented = [" " * (number * 7 % 5) + line for number, line in enumerate(lines)]
    found = ktap.parse(indented)
    assert len(found.cases) <= len(lines)
    assert len(found.faults) <= MAX_FAULTS
