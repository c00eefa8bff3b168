"""The reference series and the unpatched base on a later release than 6.19, built and run for real."""

from __future__ import annotations

from pathlib import Path

import pytest
from real import LATER_BASE
from small_run import facts, junit, run

GROUPS = "MAP,REV,ERR,STATE"


def verdicts(tmp_path: Path, series: str, requirements: str) -> dict[str, str]:
    """Run scenarios on a series on the later base, require the expected verdicts, and return them."""
    arguments = ["--base", LATER_BASE, "--variants", "one", "--requirement", requirements]
    results = tmp_path / "results"
    code, output = run("run", "--series", series, "--results", results, *arguments, mark=tmp_path)
    assert code == 0, output
    about = facts(results)
    assert about["base_wanted"] == LATER_BASE
    assert about["base"].startswith(LATER_BASE)
    assert about["kernel_release"].startswith(f"{LATER_BASE}.")
    assert about["base_reason"].startswith("--base chooses it")
    assert f"base {LATER_BASE}: --base chooses it" in output
    cases = junit(results)
    return {name: case.verdict for name, case in cases.items() if name.startswith("test_")}


@pytest.mark.vm
def test_reference_series_conforms_on_a_later_base(tmp_path: Path) -> None:
    found = verdicts(tmp_path, "reference-feature", GROUPS)
    assert list(found.values()).count("conforms") > 100


@pytest.mark.vm
def test_later_base_alone_does_not_conform(tmp_path: Path) -> None:
    found = verdicts(tmp_path, "baseline", "MAP-01")
    assert set(found.values()) == {"violates"}
