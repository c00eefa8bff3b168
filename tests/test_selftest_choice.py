"""The test programs of the kernel that are run: those a series changes, those known, and the manifest's."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.lib import paths
from harness.lib.errors import UsageError
from harness.run.request import Request, load
from harness.series import public, selftest
from harness.series.manifest import Manifest
from harness.series.selftest import ALL, AUTO, KNOWN, MAX_PROGRAMS, NONE, Program, Table, choose
from harness.series.selftest_table import fill

EXAMPLE = Path(__file__).parent / "data" / "selftests" / "series"
TREE = "tools/testing/selftests"


def names(*changed: str, choice: str = AUTO, table: Table | None = None) -> list[str]:
    return [one.path for one in choose(choice, table or Table(), [f"{TREE}/{one}" for one in changed])]


def test_changed_sources_are_the_programs_of_a_series() -> None:
    changed = ("vfio/standalone/b_test.c", "vfio/Makefile", "vfio/.gitignore", "mm/a_test.c")
    assert names(*changed) == ["mm/a_test", "vfio/standalone/b_test"]
    assert choose(AUTO, Table(), ["drivers/vfio/pci/core.c", "tools/lib/a.c"]) == ()


def test_program_of_vfio_has_the_device_as_argument_and_variable() -> None:
    (program,) = choose(AUTO, Table(), [f"{TREE}/vfio/new_test.c"])
    assert program.arguments == ("{bdf}",)
    assert program.environment == (("VFIO_SELFTESTS_BDF", "{bdf}"),)
    assert program.devices == ("edu",)
    assert program.own


def test_program_elsewhere_has_no_argument() -> None:
    (program,) = choose(AUTO, Table(), [f"{TREE}/mm/new_test.c"])
    assert (program.arguments, program.devices) == ((), ("edu",))


def test_changed_known_program_runs_whole() -> None:
    (program,) = choose(AUTO, Table(), [f"{TREE}/iommu/iommufd.c"])
    assert (program.arguments, program.option, program.own) == ((), "IOMMUFD_TEST", True)


def test_changed_library_runs_the_known_programs_beside_it() -> None:
    known = [one.path for one in KNOWN if one.path.startswith("vfio/")]
    assert names("vfio/lib/iommu.c") == known
    assert names("vfio/lib/iommu.c", "vfio/vfio_dma_mapping_test.c") == [known[1], known[0], *known[2:]]


def test_other_file_without_a_known_program_is_told() -> None:
    (program,) = choose(AUTO, Table(), [f"{TREE}/mm/lib/a.c", f"{TREE}/mm/b.h"])
    assert program.path == "mm/"
    assert program.problem.startswith("The series changes mm/b.h and 1 more, which belongs to no program")


def test_script_is_told_and_not_run() -> None:
    (program,) = choose(AUTO, Table(), [f"{TREE}/vfio/run_test.sh"])
    assert (program.path, program.problem) == (
        "vfio/run_test.sh",
        "It is a script, and only compiled programs are run.",
    )


def test_too_many_programs_are_told() -> None:
    found = choose(AUTO, Table(), [f"{TREE}/mm/t{number}.c" for number in range(MAX_PROGRAMS + 5)])
    assert len(found) == MAX_PROGRAMS + 1
    assert "the last 5 are not run" in found[-1].problem


def test_all_adds_the_known_programs_once() -> None:
    assert names("dmabuf-heaps/dmabuf-heap.c", choice=ALL)[0] == "dmabuf-heaps/dmabuf-heap"
    assert sorted(names("dmabuf-heaps/dmabuf-heap.c", choice=ALL)) == sorted(one.path for one in KNOWN)
    assert not any(one.own for one in choose(ALL, Table(), []))


def test_none_runs_none() -> None:
    assert names("mm/a_test.c", choice=NONE) == []


def test_manifest_that_runs_none_leaves_the_known_ones() -> None:
    assert names("mm/a_test.c", table=Table(run=False)) == []
    assert names("mm/a_test.c", choice=ALL, table=Table(run=False)) == [one.path for one in KNOWN]


def manifest(folder: Path, text: str) -> Manifest:
    path = folder / "series.toml"
    path.write_text(text)
    return Manifest.read(path)


def test_manifest_says_how_a_program_is_run(tmp_path: Path) -> None:
    text = """\
[[selftest.program]]
path = "vfio/standalone/a_test"
arguments = ["-r", "{bdf}", "-g", "{group:edu2}"]
devices = ["edu", "edu2"]
environment = { A = "b" }
timeout = 7
ktap = "optional"
flags = "-include stdbool.h"
"""
    program = Program(
        "vfio/standalone/a_test",
        ("-r", "{bdf}", "-g", "{group:edu2}"),
        ("edu", "edu2"),
        (("A", "b"),),
        7,
        True,
        "-include stdbool.h",
    )
    table = manifest(tmp_path, text).selftest
    assert table == Table(True, (program,))
    assert choose(AUTO, table, [f"{TREE}/vfio/standalone/a_test.c"]) == (program,)


def test_manifest_with_a_path_alone_has_the_defaults(tmp_path: Path) -> None:
    (program,) = manifest(tmp_path, '[[selftest.program]]\npath = "vfio/a_test"').selftest.programs
    assert program == Program("vfio/a_test", ("{bdf}",), ("edu",), ((selftest.BDF_VARIABLE, "{bdf}"),))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("selftest = 1", "`selftest` in"),
        ('[selftest]\nrun = "all"', "can only be 'none'"),
        ("[selftest]\nother = 1", "has the key 'other' in [selftest]"),
        ("[selftest]\nprogram = 1", "must have a table [[selftest.program]]"),
        ('[selftest]\nrun = "none"\n[[selftest.program]]\npath = "a/b"', "leave one out"),
        ('[[selftest.program]]\npath = "a/b"\n[[selftest.program]]\npath = "a/b"', "two tables"),
        ("[[selftest.program]]", "`path` of"),
        ('[[selftest.program]]\npath = "../b"', "`path` of"),
        ('[[selftest.program]]\npath = "a/b/../../../c"', "`path` of"),
        ('[[selftest.program]]\npath = "a/b"\nwhat = 1', "has the key 'what'"),
        ('[[selftest.program]]\npath = "a/b"\narguments = "x"', "must be a list of texts"),
        ('[[selftest.program]]\npath = "a/b"\narguments = ["{x}"]', "{x} in a table"),
        ('[[selftest.program]]\npath = "a/b"\narguments = ["{bdf:rng}"]', "{bdf:rng} in a table"),
        ('[[selftest.program]]\npath = "a/b"\ndevices = []', "{bdf} in a table"),
        ('[[selftest.program]]\npath = "a/b"\ndevices = ["disk"]', "`devices` of"),
        ('[[selftest.program]]\npath = "a/b"\nenvironment = { A = 1 }', "must be a table of texts"),
        ('[[selftest.program]]\npath = "a/b"\nenvironment = { "A=B" = "c" }', "names of variables"),
        ('[[selftest.program]]\npath = "a/b"\ntimeout = 0', "a number of seconds"),
        ('[[selftest.program]]\npath = "a/b"\ntimeout = true', "a number of seconds"),
        ('[[selftest.program]]\npath = "a/b"\nktap = "no"', "'required' or 'optional'"),
        ('[[selftest.program]]\npath = "a/b"\nflags = "a\\nb"', "flags for the compiler"),
    ],
)
def test_malformed_table_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        manifest(tmp_path, text)
    assert words in refused.value.message


def test_placeholders_have_address_and_group() -> None:
    values = {"edu": ("0000:01:00.0", "7"), "ram": ("0000:02:00.0", "8")}
    assert fill("{bdf} {group} {bdf:ram} {group:ram}", values) == "0000:01:00.0 7 0000:02:00.0 8"


@pytest.mark.parametrize("name", ["rfc1", "rfc2"])
def test_public_revision_with_a_test_says_how_to_run_it(name: str) -> None:
    path = paths.PATCHES / public.FOLDER / f"{name}.toml"
    prefix = next(line for line in path.read_text().splitlines() if line.startswith("message-id-prefix"))
    found = public.find(paths.PATCHES, [f"{prefix.split(chr(34))[1]}-1-x@example.org"])
    (program,) = found.selftest.programs
    assert program.path == "vfio/standalone/vfio_dmabuf_mmap_test"
    assert program.arguments == ("-r", "{bdf}", "-g", "{group}")
    assert program.devices == ("edu",)


def test_example_series_brings_its_programs() -> None:
    found = load(Request(series=str(EXAMPLE))).selftests
    names = ("endless", "broken", "crash", "deep", "example", "flood", "plain")  # the manifest's first
    assert [one.path for one in found] == [f"example/{name}_test" for name in names]
    assert [one.timeout for one in found] == [2, *[selftest.TIMEOUT] * 6]
    assert load(Request(series=str(EXAMPLE), selftests=NONE)).selftests == ()


def test_kernel_built_elsewhere_is_refused_with_all() -> None:
    with pytest.raises(UsageError, match="--kernel gives none"):
        Request(kernel=Path("bzImage"), headers=Path("include"), selftests=ALL)
