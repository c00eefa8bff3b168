"""The request of a user, by the command line's options, and combinations that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli.commands import request_of
from harness.cli.parser import parse
from harness.lib import paths
from harness.lib.errors import UsageError
from harness.lib.paths import KCONFIG
from harness.run.request import DEFAULT_SERIES, FRAGMENTS, Request


def parsed(*arguments: str) -> Request:
    return request_of(parse(["run", *arguments]))


def test_default_is_the_reference_series() -> None:
    assert parsed() == Request(series=DEFAULT_SERIES)
    assert (paths.PATCHES / DEFAULT_SERIES / "series.toml").is_file()


@pytest.mark.parametrize(
    "arguments",
    [("--tree", "linux"), ("--kernel", "bzImage", "--headers", "include")],
    ids=["tree", "kernel"],
)
def test_users_tree_or_kernel_has_no_series(arguments: tuple[str, ...]) -> None:
    assert parsed(*arguments).series is None
    assert parsed(*arguments, "--series", "baseline").series == "baseline"


def test_every_option_is_in_the_request(tmp_path: Path) -> None:
    fragment = tmp_path / "more.config"
    fragment.touch()
    words = "--series s --patches 3 --tree t --accel tcg --qemu q --results r --keep-vm --repeat 2"
    more = ["--revision", "RFC2", "--random-order", "7", "--kconfig", str(fragment)]
    assert parsed(*words.split(), *more) == Request(
        series="s",
        revision="RFC2",
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
def test_random_order_without_a_seed_is_random(arguments: tuple[str, ...], seed: str) -> None:
    assert parsed(*arguments).random_order == seed


@pytest.mark.parametrize(
    "arguments",
    [("--random-order", "suites"), ("--random-order", "-1"), ("--repeat", "0"), ("--repeat", "x")],
)
def test_malformed_number_is_refused(arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(*arguments)
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize("alone", [("--kernel", "bzImage"), ("--headers", "include")])
def test_kernel_without_headers_is_refused(alone: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="--kernel and --headers belong together"):
        parsed(*alone)


def test_option_without_effect_is_refused(tmp_path: Path) -> None:
    fragment = tmp_path / "more.config"
    fragment.touch()
    for useless in (("--tree", "linux"), ("--kconfig", str(fragment))):
        with pytest.raises(UsageError, match="have no effect"):
            parsed("--kernel", "bzImage", "--headers", "include", *useless)


def test_patches_without_a_series_are_refused() -> None:
    assert parsed("--patches", "3").patches == 3
    with pytest.raises(UsageError, match="no series is given"):
        parsed("--tree", "linux", "--patches", "3")


def test_revision_without_a_series_is_refused() -> None:
    assert Request(series="v4.mbox", revision="3").arguments() == ["--series=v4.mbox", "--revision=3"]
    with pytest.raises(UsageError, match="--revision chooses a revision of --series"):
        parsed("--tree", "linux", "--revision", "3")


def test_missing_fragment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nosuch\.config.*is not a file"):
        parsed("--kconfig", str(tmp_path / "nosuch.config"))


def test_users_fragments_come_last(tmp_path: Path) -> None:
    first, second = tmp_path / "a.config", tmp_path / "b.config"
    for path in (first, second):
        path.touch()
    request = parsed("--kconfig", str(first), "--kconfig", str(second))
    assert request.fragments == (*(KCONFIG / name for name in FRAGMENTS), first, second)
    assert all(path.is_file() for path in request.fragments)
