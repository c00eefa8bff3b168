"""The build of the kernel's test programs, and makefiles that make something else."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_kernel import SmallKernel

from harness.kernel import selftests
from harness.kernel.selftests import Built, NoProgramError, Wanted, build_selftests
from harness.lib.errors import BuildError, HarnessError
from harness.lib.progress import Progress

TESTS = "tools/testing/selftests"
SOURCE = "#include <stdio.h>\n#include <linux/only_here.h>\nint main(void) { puts(WORD); return 0; }\n"
LIB_MK = """\
TEST_GEN_PROGS := $(patsubst %,$(OUTPUT)/%,$(TEST_GEN_PROGS))
all: $(TEST_GEN_PROGS)
$(OUTPUT)/%: %.c
	$(CC) $(KHDR_INCLUDES) $< -o $@
"""
MAKEFILE = "TEST_GEN_PROGS := one sub/two\ninclude ../lib.mk\n"


class Selftests:
    """A tree with test programs, and its installed headers."""

    def __init__(self, folder: Path) -> None:
        self.kernel = SmallKernel(folder)
        self.headers = folder / "headers"
        (self.headers / "linux").mkdir(parents=True)
        (self.headers / "linux" / "only_here.h").write_text('#define WORD "from the headers"\n')
        self.files: dict[str, str | None] = {
            f"{TESTS}/lib.mk": LIB_MK,
            f"{TESTS}/a/Makefile": MAKEFILE,
            f"{TESTS}/a/one.c": SOURCE,
            f"{TESTS}/a/sub/two.c": SOURCE,
            f"{TESTS}/a/lib.c": "int a;\n",
        }

    def build(self, *paths: str, flags: str = "", **files: str) -> dict[str, Built]:
        """Build programs; ``files`` are those of the folder ``a``, as NAME_c for NAME.c."""
        named = {f"{TESTS}/a/{name.replace('_c', '.c')}": content for name, content in files.items()}
        built = build_selftests(
            self.kernel.store,
            Progress(self.kernel.store, io.StringIO()),
            self.kernel.tree({**self.files, **named}),
            self.headers,
            [Wanted(path, flags) for path in paths],
            self.kernel.log,
        )
        return {one.path: result for one, result in built.items()}

    def failure(self, path: str = "a/one", **files: str) -> str:
        """Build a program; return the message and the shown lines of its error."""
        (result,) = self.build(path, **files).values()
        assert isinstance(result, BuildError | NoProgramError | HarnessError), result
        return f"{type(result).__name__}: {result.message}\n{result.tail}"


@pytest.fixture
def tests(tmp_path: Path) -> Iterator[Selftests]:
    found = Selftests(tmp_path)
    yield found
    assert not list(found.kernel.store.path("work", "x").parent.glob("selftests.*"))


def test_program_is_static_and_has_the_headers_of_the_kernel(tests: Selftests) -> None:
    built = tests.build("a/one", "a/sub/two")
    for path in built.values():
        assert isinstance(path, Path)
        done = subprocess.run([path], env={}, capture_output=True, text=True, check=True)
        assert done.stdout == "from the headers\n"
        listing = subprocess.run(["readelf", "-l", path], capture_output=True, text=True, check=True)
        assert "LOAD" in listing.stdout
        assert "INTERP" not in listing.stdout


def test_program_is_built_once(tests: Selftests) -> None:
    first = tests.build("a/one")
    tests.kernel.log.unlink()
    assert tests.build("a/one") == first
    assert not tests.kernel.log.exists()


def test_flags_of_the_manifest_reach_the_compiler(tests: Selftests) -> None:
    source = "#include <stdio.h>\nint main(void) { return !true; }\n"
    assert "error" in tests.failure(one_c=source)
    assert isinstance(tests.build("a/one", flags="-include stdbool.h", one_c=source)["a/one"], Path)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "a/lib",
            f"NoProgramError: {TESTS}/a/Makefile of this tree has no test program lib; it has one",
        ),
        ("a/three", "has no test program three; it has one, sub/two."),
        ("b/one", "NoProgramError: This tree has no makefile for tools/testing/selftests/b/one."),
        ("lib", "NoProgramError: This tree has no makefile for"),
    ],
)
def test_path_without_a_program_is_no_build_error(tests: Selftests, path: str, words: str) -> None:
    assert words in tests.failure(path)


def test_makefile_that_names_no_tests_makes_the_program_itself(tests: Selftests) -> None:
    makefile = "one: one.c\n\t$(CC) -o $@ $< $(KHDR_INCLUDES)\n"
    built = tests.build("a/one", "a/three", Makefile=makefile)
    assert isinstance(built["a/one"], Path)
    assert isinstance(built["a/three"], NoProgramError)


def test_headers_of_the_tree_are_the_installed_ones(tests: Selftests) -> None:
    makefile = "one: one.c\n\t$(CC) -I../../../../usr/include -o $@ $<\n"
    assert isinstance(tests.build("a/one", Makefile=makefile)["a/one"], Path)


def test_error_of_the_compiler_is_shown(tests: Selftests) -> None:
    text = tests.failure(one_c="int main(void) { return nothing; }\n")
    assert text.startswith("BuildError: The build of a/one failed with 1 error.")
    assert "one.c:1:25: error: 'nothing' undeclared" in text


def test_one_program_that_fails_leaves_the_others(tests: Selftests) -> None:
    built = tests.build("a/one", "a/sub/two", one_c="x")
    assert isinstance(built["a/one"], BuildError)
    assert isinstance(built["a/sub/two"], Path)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("ln -s /etc/passwd $@", "left no file one"),
        ("mkfifo $@", "something else than a file"),
        ("mkdir $@", "something else than a file"),
        ("truncate -s 65M $@", "and at most 67108864 are taken"),
        ("true", "left no file one"),
        ("yes", "printed more than 500 lines"),
        ("sleep 600", "did not end within 1 s"),
        ("kill -KILL $$PPID", "HarnessError: The build of a/one was killed by signal 9. This proves nothing"),
        ("echo No space left on device; false", "HarnessError: The build of a/one failed. There is no space"),
    ],
)
def test_makefile_that_makes_no_program_is_a_sentence(
    tests: Selftests, recipe: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftests, "MAX_LINES", 500)
    if "sleep" in recipe:
        monkeypatch.setattr(selftests, "SECONDS", 1)
    makefile = f"TEST_GEN_PROGS := one\ninclude ../lib.mk\n$(OUTPUT)/one:\n\t{recipe}\n"
    assert words in tests.failure(Makefile=makefile)


def test_tree_without_selftests_has_no_program(tmp_path: Path) -> None:
    kernel = SmallKernel(tmp_path)
    progress = Progress(kernel.store, io.StringIO())
    built = build_selftests(kernel.store, progress, kernel.tree(), tmp_path, [Wanted("a/one")], kernel.log)
    assert isinstance(built[Wanted("a/one")], NoProgramError)
