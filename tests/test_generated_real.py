"""Generated mutants on a real kernel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_run import run

from harness.kernel.apply import apply_series
from harness.kernel.fetch import fetch_base
from harness.lib import paths
from harness.lib.cache import Store
from harness.lib.errors import ExitCode
from harness.lib.progress import Progress
from harness.series import series

FILE = "drivers/vfio/pci/vfio_pci_dmabuf.c"
STATEMENT = "\t\t\tret = -EBADFD;"
SCENARIO = "suites/test_bad_revoke.py::test_a_revoke_while_memory_is_off_succeeds"


def line_of(tmp_path: Path, text: str) -> int:
    """Return the number of the only line with this text in the file of the default series."""
    store = Store()
    whole = series.load("reference-feature", paths.PATCHES)
    with (tmp_path / "stages.txt").open("w") as output:
        progress = Progress(store, output)
        base = fetch_base(store, progress, whole.base)
        tree = apply_series(store, progress, base, whole, tmp_path / "apply.log")
    lines = tree.content(FILE).decode().split("\n")
    assert lines.count(text) == 1
    return lines.index(text) + 1


@pytest.mark.vm
def test_generated_mutants_are_killed_on_a_real_kernel(tmp_path: Path) -> None:
    line = line_of(tmp_path, STATEMENT)
    covered = {"patch": 12, "function": "f", "count": 1, "scenarios": [SCENARIO]}
    coverage = tmp_path / "lines.json"
    files = {FILE: {"lines": {str(line): covered}}}
    coverage.write_text(json.dumps({"schema": 1, "series": "x", "kernel": "x", "files": files}))
    arguments: list[str | Path] = ["mutants", "--generate", "--series", "reference-feature"]
    arguments += ["--coverage", coverage, "--results", tmp_path / "results"]
    code, output = run(*arguments, mark=tmp_path)
    # The same as dropped is to say that it succeeded, so one of the two is tried.
    assert "2 kept, 1 same object as another fault" in output, output
    assert "Score: 2 of 2 generated mutants killed, 100.0 %" in output
    assert code == ExitCode.OK
    found = json.loads((tmp_path / "results" / "mutants.json").read_text())["mutants"]
    assert {one["killer"].partition("[")[0] for one in found} == {SCENARIO}

    code, output = run(*arguments, mark=tmp_path)
    assert code == ExitCode.OK
    assert "2 of 2 mutants were tried before" in output
