"""Runs of a series that changes nothing, on the real base: violations that it inherits, and others."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_run import facts, junit, run

from harness.lib.errors import ExitCode

SOURCE = "drivers/vfio/pci/vfio_pci_dmabuf.c"
# A defect of 6.19: an export does not claim its BAR.
INHERITED = "suites/test_map.py::test_export_claims_the_bar[c]"
# The base refuses mmap() of a DMABUF, which is what every series here adds.
WITHOUT_INTERFACE = "suites/test_map.py::test_a_dmabuf_reaches_the_memory[c]"


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patches of which the second undoes the first: the tree, and so the kernel, is the base's."""
    folder = tmp_path_factory.mktemp("nothing")
    includes = ("dma-buf-mapping", "pci-p2pdma", "dma-resv")
    before, middle, after = (f" #include <linux/{name}.h>\n" for name in includes)
    for number, (verb, sign, counts) in enumerate((("Add", "+", "3 +4,4"), ("Remove", "-", "4 +4,3")), 1):
        (folder / f"{number:04}-comment.patch").write_text(
            "From: Dev <dev@example.org>\nDate: Mon, 2 Mar 2026 10:00:00 +0000\n"
            f"Subject: [PATCH {number}/2] vfio/pci: {verb} a comment\n\nWhy.\n---\n"
            f"diff --git a/{SOURCE} b/{SOURCE}\n--- a/{SOURCE}\n+++ b/{SOURCE}\n@@ -4,{counts} @@\n"
            f"{before}{middle}{sign}/* Nothing else. */\n{after}"
        )
    (folder / "series.toml").write_text('title = "Nothing"\nbase = "6.19"\n')
    return folder


def origins(results: Path) -> dict[str, tuple[str, str | None]]:
    """Return outcome and origin of each scenario in junit.xml."""
    cases = junit(results).items()
    return {
        name: (case.outcome, case.properties.get("origin"))
        for name, case in cases
        if name.startswith("test_")
    }


@pytest.mark.vm
def test_series_of_nothing_is_not_green(nothing: Path, tmp_path: Path) -> None:
    """It inherits the base's own defect; what the base does not offer is held against it."""
    asked = ("--series", nothing, "--results", tmp_path / "results")
    code, output = run("run", *asked, INHERITED, WITHOUT_INTERFACE, mark=tmp_path)
    assert code == ExitCode.SERIES, output
    assert origins(tmp_path / "results") == {
        "test_export_claims_the_bar[c]": ("skipped", "inherited"),
        "test_a_dmabuf_reaches_the_memory[c]": ("failure", "not comparable"),
    }
    assert "the base refuses what the series offers (map buf1 " in " ".join(output.split())
    assert "1 failed, 1 inherited" in output.splitlines()[-1]
    assert facts(tmp_path / "results")["tree"] == facts(tmp_path / "results")["base_tree"]


@pytest.mark.vm
def test_inherited_violation_alone_passes(nothing: Path, tmp_path: Path) -> None:
    """The second run takes the base's verdict from the cache; without the base, the run fails."""
    for number in (1, 2):
        results = tmp_path / str(number)
        code, output = run("run", "--series", nothing, "--results", results, INHERITED, mark=tmp_path)
        assert code == ExitCode.OK, output
        assert ": inherited, 1 scenario" in output
        assert "1 inherited" in output.splitlines()[-1]
        assert "failed" not in output.splitlines()[-1]
    assert "base: 1 scenario known of 6.19.6 alone" in output
    assert not (tmp_path / "2" / "latest" / "base" / "output.txt").exists()
    asked = ("--series", nothing, "--results", tmp_path / "3", "--no-base")
    code, output = run("run", *asked, INHERITED, mark=tmp_path)
    assert code == ExitCode.SERIES, output
    assert origins(tmp_path / "3") == {"test_export_claims_the_bar[c]": ("failure", None)}
