"""The parser of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.cli import commands, generate, reproduce, stored
from harness.cli.program import Program
from harness.journal import resume
from harness.kernel import pins
from harness.kernel.list_archive import ARCHIVE_VARIABLE, DEFAULT_ARCHIVE
from harness.lib import sandbox, time_limit
from harness.lib.cache import CACHE_VARIABLE
from harness.run.base_alone import COMMAND
from harness.run.request import ANY_SEED, AUTO, DEFAULT_SERIES
from harness.series import selftest


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; a wrong one ends the program with a usage message.

    In the result ``command`` is the function of the command, ``typed`` are the arguments
    after the command's name, and ``pytest_options`` those that the command passes on.
    With ``--resume`` the result also has the options that the run was started with.
    Raises HarnessError for a folder that cannot be resumed.
    """
    program = parser()
    args, others = program.parse_known_args(arguments)
    if others and (not args.passes_on or arguments[0].startswith("-")):
        program.error(f"unrecognized arguments: {' '.join(others)}")
    typed = list(arguments[1:])
    if getattr(args, "resume", None) is not None:
        resumed = resume.command_line(args.resume, _without_resume(typed))
        args, others = program.parse_known_args([arguments[0], *resumed])
    args.typed, args.pytest_options = typed, others
    return args


def _without_resume(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without ``--resume`` and its value."""
    only_resume = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_resume(only_resume)
    return only_resume.parse_known_args(arguments)[1]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole program."""
    program = Program(
        f"The cache is in ${CACHE_VARIABLE}, or else in $XDG_CACHE_HOME/patchproof. "
        "Exit codes: 0 all as expected or inherited from the base, 1 a fault of the series, "
        "2 a fault of the harness, the host or the base, or repetitions with different verdicts, "
        "3 no scenario was applicable, 130 interrupted."
    )
    add = program.add

    def dry(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--dry-run",
            action="store_true",
            help="print the make and QEMU command lines, and run nothing",
        )

    run = add(
        "run",
        commands.run,
        "build and boot a series, run the scenarios and report the verdicts, as `tox -e vm -- ...` does; "
        "takes pytest's options, too",
        "run --series reference-feature -k map",
        passes_on=True,
    )
    groups = (_add_source, _add_kernel, _add_sandbox, _add_machine, _add_run, _add_shard, _add_resume)
    for group in (*groups, _add_coverage, _add_junit):
        group(run)
    _add_bisect(run)
    dry(run)

    doctor = add("doctor", commands.doctor, "show what this host has and what is missing", "doctor")
    doctor.add_argument(
        "--qemu", metavar="PATH", default="qemu-system-x86_64", help="the QEMU program (default: %(default)s)"
    )
    doctor.add_argument(
        "--install", action="store_true", help="install the missing packages (as root on Debian)"
    )
    doctor.add_argument(
        "--for-tests",
        action="store_true",
        help="install those that the project's own tests need as well, a browser among them",
    )

    fetch = add("fetch", commands.fetch, "get the base source", "fetch --base 7.2")
    _add_base(fetch)
    fetch.add_argument("--tree", metavar="DIR", type=Path, help="take it from this git checkout of a kernel")

    applying = add("apply", commands.apply, "apply a series to the base", "apply --series my-series.mbox")
    _add_source(applying)

    build = add("build", commands.build, "build the kernel of a series", "build --series baseline")
    _add_source(build)
    _add_kernel(build)
    _add_sandbox(build)
    dry(build)

    check = add(
        "check",
        commands.check,
        "show the warnings of checkpatch, gcc, clang and sparse for each prefix of a series",
        "check --series reference-ioctl",
    )
    _add_source(check)
    _add_kernel(check)
    _add_sandbox(check)

    every = add(
        "prefixes",
        commands.prefixes,
        "check each prefix of a series as `check` does, and run the suites on it as `run` does",
        "prefixes --series reference-feature --from 12 -k revoke",
        passes_on=True,
    )
    every.add_argument(
        "--from",
        metavar="N",
        dest="first",
        type=int,
        default=1,
        help="begin with the prefix of N patches (default: %(default)s)",
    )
    for group in (_add_source, _add_kernel, _add_sandbox, _add_machine, _add_run):
        group(every)

    faults = add(
        "mutants",
        commands.mutants,
        "add faults to the reference series, one at a time, and check that the scenarios catch them",
        "mutants --series reference-feature -k 'zap or fault' --shard 1/4",
    )
    faults.add_argument(
        "--series",
        metavar="NAME",
        help="only the mutants of this series (default: all); with --generate any series, as for run",
    )
    faults.add_argument(
        "-k",
        dest="expression",
        metavar="EXPR",
        help="only the mutants whose name or subject matches, as in pytest",
    )
    faults.add_argument("--shard", metavar="I/N", help="only the I-th of N parts of the mutants, e.g. 2/4")
    faults.add_argument("--list", action="store_true", help="list the mutants, and run nothing")
    few = faults.add_mutually_exclusive_group()
    few.add_argument(
        "--quick",
        action="store_true",
        help="run only the scenarios that must catch a mutant, which saves minutes for one that survives",
    )
    few.add_argument(
        "--fast",
        action="store_true",
        help="run only the scenarios of `run --fast`, to learn how many mutants these kill",
    )
    faults.add_argument(
        "--results",
        metavar="DIR",
        type=Path,
        help="the folder of the results; mutants that have a result there are not tried again (default: "
        "results/mutants; with --generate results/generated-SERIES)",
    )
    generate.add_options(faults)
    _add_sandbox(faults)
    _add_qemu(faults)
    _add_time_limit(faults)

    add("image", commands.build_image, "build the guest's root file system", "image")

    boot = add(
        "boot",
        commands.boot,
        "boot the kernel of a series and leave it running",
        "boot --series reference-feature",
    )
    for group in (_add_source, _add_kernel, _add_sandbox, _add_machine):
        group(boot)
    dry(boot)

    judge = add(
        "judge",
        commands.judge,
        "judge a stored run again, and write its reports, without a machine",
        "judge results/latest",
    )
    judge.add_argument("folder", metavar="RESULTS", type=Path, help="the folder of the run")
    _add_junit(judge)
    judge.add_argument(
        "-v",
        dest="every",
        action="store_true",
        help="show a row for each scenario, and the findings, as `run -v` does",
    )

    stored.add_commands(program)

    again = add(
        "reproduce",
        reproduce.reproduce,
        "do a scenario of a stored run again by its transcript, and tell whether it shows the same; exit "
        "code 0 if it conforms now, 1 if it shows again, 2 if that could not be said",
        "reproduce results/latest test_mmap_after_a_revoke",
    )
    reproduce.add_arguments(again)
    _add_sandbox(again)
    _add_qemu(again)
    _add_time_limit(again)

    # Without a help text it is not in the list of commands: only a run starts it.
    asking = program.commands.add_parser(
        COMMAND,
        description="Run scenarios on the base of a run, without its series. A run starts this by itself.",
        allow_abbrev=False,
    )
    asking.add_argument("question", metavar="FILE", type=Path, help="the file that the run has written")
    asking.set_defaults(command=commands.ask_base, passes_on=False)

    rules = add(
        "matrix",
        commands.matrix,
        "show the requirements with their scenarios and dialects, or the reason for having none",
        "matrix --group REV --uncovered",
    )
    rules.add_argument("--group", metavar="NAME", help="only this group of requirements, e.g. MAP")
    rules.add_argument("--uncovered", action="store_true", help="only the requirements without a scenario")
    rules.add_argument(
        "--results",
        metavar="DIR",
        type=Path,
        help="show the verdicts of this stored run instead of the dialects",
    )
    rules.add_argument("--csv", action="store_true", help="print CSV")

    clean = add("clean", commands.clean, "delete the cache, or a part of it", "clean kernels builds")
    clean.add_argument(
        "what",
        nargs="*",
        metavar="WHAT",
        choices=[*commands.CACHE_KINDS, []],
        help=f"the parts to delete: {', '.join(commands.CACHE_KINDS)} (default: all)",
    )
    return program.parser


def _add_source(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the kernel under test."""
    parser.add_argument(
        "--series",
        metavar="NAME|DIR|MBOX|ID|-",
        help="the name of a folder in patches/, a folder of patches, a maildir, an mbox file, which may be "
        f"compressed, a message-id or a link to one (the thread is fetched from ${ARCHIVE_VARIABLE}, by "
        f"default {DEFAULT_ARCHIVE}), or - for standard input "
        f"(default: {DEFAULT_SERIES}, or none with --tree or --kernel)",
    )
    parser.add_argument(
        "--refresh",
        action="store_true",
        help="fetch the thread of a message-id again, even if the cache has it",
    )
    parser.add_argument(
        "--revision",
        metavar="N",
        help="of several revisions in an mbox file or a folder, test revision N, or RFCN such as RFC2 "
        "(default: the newest complete one of an mbox file; a folder may have only one)",
    )
    parser.add_argument(
        "--patches",
        metavar="N",
        type=int,
        help="only the first N patches of the series; its manifest has the verdicts expected of them",
    )
    parser.add_argument(
        "--mutant",
        metavar="NAME",
        help="add this fault, one of patches/mutants/SERIES/ or a file FILE.patch, to the series; the "
        "scenarios that must catch it run first",
    )
    parser.add_argument(
        "--tree",
        metavar="DIR",
        type=Path,
        help="test the kernel in this git checkout, with its uncommitted changes; DIR itself is not changed",
    )
    _add_base(parser)


def _add_base(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses the base."""
    parser.add_argument(
        "--base",
        metavar="RELEASE",
        type=lambda release: release.removeprefix("v"),  # the name of its tag
        help=f"the kernel release to apply the series to: {', '.join(pins.releases())} (default: the "
        "one that the series names)",
    )


def _add_kernel(parser: argparse.ArgumentParser) -> None:
    """Add the options of the kernel's configuration."""
    parser.add_argument(
        "--kconfig",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="an additional kernel config fragment, e.g. vmimage/kconfig/debug.config (repeatable)",
    )


def _add_sandbox(parser: argparse.ArgumentParser) -> None:
    """Add the option that contains what a tree under test makes the host run."""
    parser.add_argument(
        "--sandbox",
        choices=sandbox.CHOICES,
        default=sandbox.AUTO,
        help="run makefiles, scripts and compilers on the tree in bubblewrap: where that works (auto), "
        "or nothing without it (on), or never (off); docs/security.md (default: %(default)s)",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    """Add the options of the virtual machine."""
    parser.add_argument(
        "--kernel",
        metavar="BZIMAGE",
        type=Path,
        help="boot this kernel instead of building one; needs --headers",
    )
    parser.add_argument(
        "--headers",
        metavar="DIR",
        type=Path,
        help="the user-space headers of --kernel, as installed by `make headers_install`",
    )
    _add_qemu(parser)


def _add_qemu(parser: argparse.ArgumentParser) -> None:
    """Add the options of QEMU."""
    parser.add_argument(
        "--accel",
        choices=("auto", "kvm", "tcg"),
        default="auto",
        help="the accelerator of QEMU (default: %(default)s)",
    )
    parser.add_argument(
        "--qemu", metavar="PATH", default="qemu-system-x86_64", help="the QEMU program (default: %(default)s)"
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    """Add the options of a whole run."""
    parser.add_argument(
        "--results",
        metavar="DIR",
        type=Path,
        default=Path("results"),
        help="the folder in which a run makes its own folder (default: %(default)s)",
    )
    parser.add_argument(
        "--requirement",
        metavar="ID[,ID]",
        action="append",
        default=[],
        help="only the scenarios that check one of these requirements; ID may be a group, such as MAP "
        "(repeatable)",
    )
    parser.add_argument(
        "--variants",
        choices=("all", "one"),
        help="run each scenario with all devices, probes and entry points, or with the first of each; "
        "every row of a table runs in either case (default: all; `prefixes`: one)",
    )
    parser.add_argument(
        "--kernel-argument",
        metavar="WORD",
        action="append",
        default=[],
        help="one more word for the kernel's command line; goes with --no-base (repeatable)",
    )
    parser.add_argument(
        "--fast",
        action="store_true",
        help="only few, quick scenarios that together check each requirement; the report says that it is a "
        "selection",
    )
    parser.add_argument(
        "--until-violated",
        action="store_true",
        help="end the run at the first scenario that the kernel unexpectedly fails",
    )
    parser.add_argument(
        "--no-base",
        action="store_true",
        help="do not ask the base alone whether it does the same as a series that violates or does not "
        "build or boot; every violation then counts as the series' (with --until-violated no violation is "
        "compared)",
    )
    parser.add_argument(
        "--no-give-up",
        action="store_true",
        help="run every scenario, even after three machines in a row were lost to one cause; by default "
        "those that are about to do the same are then not-reached",
    )
    parser.add_argument(
        "--no-snapshots",
        action="store_true",
        help="boot every machine; by default only the first one of a layout is booted, and later ones are "
        "loaded from a snapshot of it",
    )
    parser.add_argument(
        "--selftests",
        choices=selftest.CHOICES,
        help="the kernel's own test programs to run after the scenarios: those that the series changes "
        "(auto), none, or those of the tree that test VFIO and DMABUFs, too (all) (default: auto)",
    )
    _add_time_limit(parser)
    parser.add_argument(
        "--keep-vm", action="store_true", help="keep the machine running after the run, until Ctrl-C"
    )
    parser.add_argument(
        "--machines",
        metavar="N",
        type=_machines,
        default=AUTO,
        help="run the scenarios on N machines side by side; auto: on three for two processors, if there are "
        "memory and work for them (default: auto)",
    )
    parser.add_argument(
        "--repeat",
        metavar="N",
        type=_count,
        default=1,
        help="run all scenarios N times; a scenario with different verdicts fails the run (default: 1)",
    )
    parser.add_argument(
        "--random-order",
        metavar="SEED",
        nargs="?",
        const=ANY_SEED,
        default="",
        type=_seed,
        help="shuffle the scenarios, but keep those with the same machine together; the same SEED, a number, "
        "gives the same order (without SEED: a random one, which the report shows)",
    )


def _add_time_limit(parser: argparse.ArgumentParser) -> None:
    """Add the option that ends a command in order after some time."""
    parser.add_argument(
        "--time-limit",
        metavar="TIME",
        type=_time,
        help="end in order after this time, such as 90s, 45m or 2h; the exit code is then 2, or 1 if a fault "
        "of the series was found (default: none)",
    )


def _add_junit(parser: argparse.ArgumentParser) -> None:
    """Add the option that writes the report for a CI system to a fixed place."""
    parser.add_argument(
        "--junit",
        metavar="FILE",
        type=Path,
        help="write a copy of junit.xml to FILE, also if the run fails, is interrupted or killed; an older "
        "FILE is removed first",
    )


def _add_coverage(parser: argparse.ArgumentParser) -> None:
    """Add the options that count executed lines."""
    parser.add_argument(
        "--coverage",
        action="store_true",
        help="count by gcov which of the lines that the series adds or changes are executed, and by which "
        "scenarios (docs/coverage.md)",
    )
    parser.add_argument(
        "--require-coverage",
        metavar="PERCENT",
        type=float,
        help="with --coverage: exit code 2 if a lower share of these lines was executed",
    )


def _add_shard(parser: argparse.ArgumentParser) -> None:
    """Add the option that runs a part of the selection."""
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="run only the I-th of N parts of the selected scenarios, e.g. 2/4; the kernel's own test "
        "programs are in the first part; `report --merge` puts the parts together",
    )


def _add_bisect(parser: argparse.ArgumentParser) -> None:
    """Add the option that looks for the patch at fault."""
    parser.add_argument(
        "--bisect",
        action="store_true",
        help="check that each patch builds without new warnings and boots, and find the first patch with "
        "which each violation shows that the base does not have, by halving over the prefixes of the series",
    )


def _add_resume(parser: argparse.ArgumentParser) -> None:
    """Add the option that resumes a run."""
    parser.add_argument(
        "--resume",
        metavar="RESULTS",
        type=Path,
        help="resume the run in this folder, which was cut off, with the same options; only the scenarios "
        "that it never reached are run",
    )


def _time(text: str) -> str:
    try:
        time_limit.seconds_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of repetitions")
    return int(text)


def _machines(text: str) -> int:
    if text == "auto":
        return AUTO
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of machines: a number, or auto")
    return int(text)


def _seed(text: str) -> str:
    if text not in ("", ANY_SEED) and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed: a number, or {ANY_SEED}")
    return text
