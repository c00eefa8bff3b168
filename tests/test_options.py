"""What a user asks for, and what cannot be asked for."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from harness.errors import UsageError
from harness.options import DEFAULT_SERIES, FRAGMENTS, KCONFIG, Request

from harness import options


def parsed(*arguments: str) -> Request:
    parser = argparse.ArgumentParser()
    for group in (options.add_source, options.add_kernel, options.add_machine, options.add_run):
        group(parser.add_argument)
    known = parser.parse_args(arguments)
    return options.request(lambda name: getattr(known, name, None))


def test_the_default_is_the_reference_series() -> None:
    assert parsed() == Request(series=DEFAULT_SERIES)
    assert (options.PATCHES / DEFAULT_SERIES / "series.toml").is_file()


@pytest.mark.parametrize(
    "arguments",
    [("--tree", "linux"), ("--kernel", "bzImage", "--headers", "include")],
    ids=["tree", "kernel"],
)
def test_what_the_user_built_is_tested_without_a_series(arguments: tuple[str, ...]) -> None:
    assert parsed(*arguments).series is None
    assert parsed(*arguments, "--series", "baseline").series == "baseline"


def test_every_option_arrives(tmp_path: Path) -> None:
    fragment = tmp_path / "more.config"
    fragment.touch()
    words = "--series s --patches 3 --tree t --accel tcg --qemu q --results r --keep-vm --repeat 2"
    assert parsed(*words.split(), "--random-order", "7", "--kconfig", str(fragment)) == Request(
        series="s",
        patches=3,
        tree=Path("t"),
        kconfig=(fragment,),
        accel="tcg",
        qemu="q",
        results=Path("r"),
        keep_vm=True,
        repeat=2,
        random_order="7",
    )


@pytest.mark.parametrize(
    ("arguments", "seed"),
    [
        ((), ""),
        (("--random-order",), "random"),
        (("--random-order", "random"), "random"),
        (("--random-order", "007"), "007"),
    ],
)
def test_a_seed_may_be_left_out(arguments: tuple[str, ...], seed: str) -> None:
    assert parsed(*arguments).random_order == seed


@pytest.mark.parametrize(
    "arguments",
    [("--random-order", "suites"), ("--random-order", "-1"), ("--repeat", "0"), ("--repeat", "x")],
)
def test_a_number_that_is_none_is_named(
    arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(*arguments)
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize("alone", [("--kernel", "bzImage"), ("--headers", "include")])
def test_kernel_and_headers_belong_together(alone: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="--kernel and --headers belong together"):
        parsed(*alone)


def test_what_would_have_no_effect_is_refused(tmp_path: Path) -> None:
    fragment = tmp_path / "more.config"
    fragment.touch()
    for useless in (("--tree", "linux"), ("--kconfig", str(fragment))):
        with pytest.raises(UsageError, match="have no effect"):
            parsed("--kernel", "bzImage", "--headers", "include", *useless)


def test_patches_are_counted_of_a_series() -> None:
    assert parsed("--patches", "3").patches == 3
    with pytest.raises(UsageError, match="no series is given"):
        parsed("--tree", "linux", "--patches", "3")


def test_a_fragment_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nosuch\.config.*is not a file"):
        parsed("--kconfig", str(tmp_path / "nosuch.config"))


def test_the_users_fragments_come_last_so_that_they_win(tmp_path: Path) -> None:
    first, second = tmp_path / "a.config", tmp_path / "b.config"
    for path in (first, second):
        path.touch()
    request = parsed("--kconfig", str(first), "--kconfig", str(second))
    assert request.fragments == (*(KCONFIG / name for name in FRAGMENTS), first, second)
    assert all(path.is_file() for path in request.fragments)
