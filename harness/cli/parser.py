"""The command line parser, and the request that a command line makes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.cli import commands
from harness.journal import resume
from harness.lib.cache import CACHE_VARIABLE
from harness.run.request import ANY_SEED, DEFAULT_SERIES

PROGRAM = "python -m harness"
Command = Callable[[argparse.Namespace], int]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; one that is wrong ends the program with a usage message.

    In the result ``command`` is the function that does the work, ``typed`` the
    arguments after the command's name, and ``pytest_options`` those that only
    pytest knows.  A run that is resumed has the options that it was started with.
    Raises HarnessError for a folder that cannot be resumed.
    """
    whole = parser()
    known, others = whole.parse_known_args(arguments)
    typed = list(arguments[1:])
    if getattr(known, "resume", None) is not None:
        resumed = resume.command_line(known.resume, _without_resume(typed))
        known, others = whole.parse_known_args([arguments[0], *resumed])
    if others and not known.passes_on:
        whole.error(f"unrecognized arguments: {' '.join(others)}")
    known.typed, known.pytest_options = typed, others
    return known


def _without_resume(arguments: Sequence[str]) -> list[str]:
    """Return what a user gives besides the folder to resume."""
    resuming = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_resume(resuming)
    return resuming.parse_known_args(arguments)[1]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole program."""
    whole = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Does this kernel do what the series promises?",
        epilog=f"The cache is ${CACHE_VARIABLE}, else $XDG_CACHE_HOME/patchproof. "
        "Exit codes: 0 all as expected, 1 the series' fault, 2 the harness's or the machine's fault, "
        "3 nothing was applicable, 130 interrupted.",
        allow_abbrev=False,
    )
    named = whole.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: Command, text: str, example: str, *, passes_on: bool = False
    ) -> argparse.ArgumentParser:
        sub = named.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example:  {PROGRAM} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(command=command, passes_on=passes_on)
        return sub

    def dry(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--dry-run",
            action="store_true",
            help="print the make lines and the QEMU command line, run nothing",
        )

    run = add(
        "run",
        commands.run,
        "take a series to a verdict (what `tox -e vm -- ...` calls); every pytest option works, too",
        "run --series reference-feature -k map",
        passes_on=True,
    )
    for group in (_add_source, _add_kernel, _add_machine, _add_run, _add_resume):
        group(run)
    dry(run)

    doctor = add("doctor", commands.doctor, "show what this host has and what is missing", "doctor")
    doctor.add_argument("--qemu", metavar="PATH", default="qemu-system-x86_64", help="the QEMU program")
    doctor.add_argument("--install", action="store_true", help="install missing packages (as root on Debian)")

    fetch = add("fetch", commands.fetch, "get the base source", "fetch")
    fetch.add_argument("--tree", metavar="DIR", type=Path, help="take it from this kernel git checkout")

    applying = add("apply", commands.apply, "apply a series to the base", "apply --series my-series.mbox")
    _add_source(applying)

    build = add("build", commands.build, "build the kernel of a series", "build --series baseline")
    _add_source(build)
    _add_kernel(build)
    dry(build)

    check = add(
        "check",
        commands.check,
        "ask checkpatch, gcc, clang and sparse for all their warnings of every prefix of a series",
        "check --series reference-ioctl",
    )
    _add_source(check)
    _add_kernel(check)

    every = add(
        "prefixes",
        commands.prefixes,
        "check every prefix of a series, and run the suites on each; selects as `run` does",
        "prefixes --series reference-feature --from 12 -k revoke",
        passes_on=True,
    )
    every.add_argument(
        "--from",
        metavar="N",
        dest="first",
        type=int,
        default=1,
        help="begin with the first N patches (default: 1)",
    )
    for group in (_add_source, _add_kernel, _add_machine, _add_run):
        group(every)

    faults = add(
        "mutants",
        commands.mutants,
        "break the reference series, one fault at a time, and see that the scenarios notice",
        "mutants --series reference-feature -k 'zap or fault' --shard 1/4",
    )
    faults.add_argument("--series", metavar="NAME", help="only the mutants of this series (default: all)")
    faults.add_argument(
        "-k", dest="expression", metavar="EXPR", help="only those whose name or subject fits, as in pytest"
    )
    faults.add_argument("--shard", metavar="I/N", help="only the I-th of N parts, e.g. 2/4")
    faults.add_argument("--list", action="store_true", help="list them, and run nothing")
    faults.add_argument(
        "--quick",
        action="store_true",
        help="run the scenarios that must catch each mutant, and no others: a survivor costs minutes less",
    )
    faults.add_argument(
        "--results",
        metavar="DIR",
        type=Path,
        default=Path("results/mutants"),
        help="where the results are, and where a run goes on that was ended (default: %(default)s)",
    )
    _add_qemu(faults)

    add("image", commands.build_image, "build the guest's root file system", "image")

    boot = add(
        "boot",
        commands.boot,
        "boot the kernel of a series and leave it running",
        "boot --series reference-feature",
    )
    for group in (_add_source, _add_kernel, _add_machine):
        group(boot)
    dry(boot)

    judge = add(
        "judge",
        commands.judge,
        "make the reports of a stored run again, without a machine",
        "judge results/latest",
    )
    judge.add_argument("folder", metavar="RESULTS", type=Path, help="the folder of the run")

    rules = add(
        "matrix",
        commands.matrix,
        "show which scenarios check each requirement, in which dialects, and why some have none",
        "matrix --group REV --uncovered",
    )
    rules.add_argument("--group", metavar="NAME", help="only this group of requirements, e.g. MAP")
    rules.add_argument("--uncovered", action="store_true", help="list only those without a scenario")
    rules.add_argument(
        "--results", metavar="DIR", type=Path, help="show the verdicts of this stored run instead"
    )
    rules.add_argument("--csv", action="store_true", help="print CSV")

    clean = add("clean", commands.clean, "delete what is cached", "clean kernels builds")
    clean.add_argument(
        "what",
        nargs="*",
        metavar="WHAT",
        choices=[*commands.CACHE_KINDS, []],
        help=f"{', '.join(commands.CACHE_KINDS)}; all if none",
    )
    return whole


def _add_source(parser: argparse.ArgumentParser) -> None:
    """Options that name the kernel under test."""
    parser.add_argument(
        "--series",
        metavar="NAME|DIR|MBOX",
        help=f"a name below patches/, a folder of patches, or an mbox file (default: {DEFAULT_SERIES}, "
        "or none with --tree or --kernel)",
    )
    parser.add_argument(
        "--patches",
        metavar="N",
        type=int,
        help="only the first N patches of the series; its manifest says what they alone give",
    )
    parser.add_argument(
        "--mutant",
        metavar="NAME",
        help="the series with this fault, one of patches/mutants/SERIES/; the scenarios that must see it "
        "come first",
    )
    parser.add_argument(
        "--tree",
        metavar="DIR",
        type=Path,
        help="a kernel git checkout: test what is checked out there, uncommitted changes included; "
        "DIR itself is not touched",
    )


def _add_kernel(parser: argparse.ArgumentParser) -> None:
    """Options of configuring and building."""
    parser.add_argument(
        "--kconfig",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="one more kernel config fragment (repeatable), e.g. vmimage/kconfig/debug.config",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    """Options of the virtual machine."""
    parser.add_argument(
        "--kernel", metavar="BZIMAGE", type=Path, help="boot this kernel instead of building one"
    )
    parser.add_argument(
        "--headers",
        metavar="DIR",
        type=Path,
        help="its user-space headers, as `make headers_install` leaves them",
    )
    _add_qemu(parser)


def _add_qemu(parser: argparse.ArgumentParser) -> None:
    """Options of QEMU."""
    parser.add_argument(
        "--accel", choices=("auto", "kvm", "tcg"), default="auto", help="accelerator (default: auto)"
    )
    parser.add_argument(
        "--qemu", metavar="PATH", default="qemu-system-x86_64", help="the QEMU program (default: %(default)s)"
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    """Options of a whole run."""
    parser.add_argument(
        "--results",
        metavar="DIR",
        type=Path,
        default=Path("results"),
        help="where the folder of this run is made (default: results)",
    )
    parser.add_argument(
        "--requirement",
        metavar="ID[,ID]",
        action="append",
        default=[],
        help="only the scenarios that check one of these requirements; a group such as MAP means all of it "
        "(repeatable)",
    )
    parser.add_argument(
        "--variants",
        choices=("all", "one"),
        help="of a scenario that runs with several devices, probes or ways in: all of them, or the first "
        "(default: all; `prefixes`: one)",
    )
    parser.add_argument(
        "--until-violated",
        action="store_true",
        help="end the run at the first scenario that the kernel unexpectedly fails",
    )
    parser.add_argument(
        "--keep-vm", action="store_true", help="leave the machine running at the end, until Ctrl-C"
    )
    parser.add_argument(
        "--repeat",
        metavar="N",
        type=_count,
        default=1,
        help="go through the scenarios N times; verdicts that differ fail the run",
    )
    parser.add_argument(
        "--random-order",
        metavar="SEED",
        nargs="?",
        const=ANY_SEED,
        default="",
        type=_seed,
        help="shuffle the scenarios, those that share a machine among themselves; with the same SEED, a "
        "number, in the same way (default: one is chosen, and stands in the last line of the report)",
    )


def _add_resume(parser: argparse.ArgumentParser) -> None:
    """Options of a run that has a past."""
    parser.add_argument(
        "--resume",
        metavar="RESULTS",
        type=Path,
        help="go on with a run that was cut off, in its own folder: only the scenarios that were never "
        "reached run; it needs no other option",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of repetitions")
    return int(text)


def _seed(text: str) -> str:
    if text not in ("", ANY_SEED) and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed: a number, or {ANY_SEED}")
    return text
