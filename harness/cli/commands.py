"""The command line: the main job as one command, and its stages one by one."""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

import pytest

from harness.cli import doctor as host
from harness.cli import prefixes
from harness.journal import resume
from harness.journal.reader import read
from harness.kernel import apply, tree
from harness.kernel import build as kernel
from harness.kernel.build import build_kernel
from harness.kernel.static_checks import WarningCheck
from harness.lib import paths
from harness.lib.cache import CACHE_VARIABLE, Store
from harness.lib.errors import ExitCode, PatchproofError, UsageError
from harness.lib.progress import Progress
from harness.mutants import report
from harness.mutants import trials as mutants
from harness.mutants.ledger import Score
from harness.plugin import collect
from harness.report import coverage, junit, table
from harness.run import options, stages
from harness.run.run import ARGUMENTS, RUN
from harness.series import series
from harness.verdict import requirements
from harness.vm import hardware, image, machine, qemu
from harness.vm.accelerator import Accelerator, choose

PROGRAM = "python -m harness"
Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns its exit code.  A user's mistake is a sentence, never a traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _as_interrupt)
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # what it has to say comes as an exception
    parser = _parser()
    try:
        with stages.host_errors():
            if arguments[:1] == ["run"]:
                return _run(parser.parse_known_args(arguments)[0], arguments[1:])
            if arguments[:1] == ["prefixes"]:
                return _prefixes(
                    parser.parse_known_args(arguments)[0], options.without("--from", arguments[1:])
                )
            known = parser.parse_args(arguments)
            command: Command = known.command
            return command(known)
    except PatchproofError as error:
        if not (isinstance(error.__cause__, BrokenPipeError) and _has_no_reader(sys.stdout)):
            print(f"patchproof: {error}", file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        print("patchproof: interrupted", file=sys.stderr)
        return int(ExitCode.INTERRUPTED)


def _has_no_reader(stream: TextIO) -> bool:
    """Whether it is a pipe whose reader has read enough (``| head``)."""
    poll = select.poll()
    poll.register(stream, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _as_interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """A polite kill ends a run as Ctrl-C does: machine off, journal closed."""
    # timeout(1) sends it twice, to its child and to the group; the second would cut off the end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


class _Suites:
    """To pytest: where the scenarios are, unless the user names some, and what the user said."""

    def __init__(self, arguments: list[str]) -> None:
        self._arguments = arguments
        self._config: pytest.Config | None = None
        self.interrupted = False  # before there was anything to record it in

    def pytest_configure(self, config: pytest.Config) -> None:
        """Nothing but pytest can tell the name of a file from the value of one of its options."""
        self._config = config
        config.stash[ARGUMENTS] = self._arguments
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args = [str(paths.SUITES)]

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Tell Ctrl-C from a suite that cannot be read: pytest's exit code is the same."""
        self.interrupted = (
            excinfo.type is KeyboardInterrupt and self._config is not None and RUN not in self._config.stash
        )


def _run(known: argparse.Namespace, arguments: list[str]) -> int:
    """The main job: pytest on the suites, with the plugin that takes it through the stages."""
    asked = arguments
    if known.resume is not None:
        arguments = resume.command(known.resume, options.without(resume.OPTION, arguments))
        known = _parser().parse_known_args(["run", *arguments])[0]
    request = _request(known)
    tested = stages.load_series(request)
    store = Store()
    if known.dry_run:
        return _dry_run(request, store)
    progress = Progress(store)
    host.ensure(store, progress)
    stages.check(request)
    progress.say(f"series {tested.name}: {tested.title} (digest {tested.digest[:12]})")
    where = [f"--rootdir={paths.PROJECT}", f"--config-file={paths.PROJECT / 'pyproject.toml'}"]
    # -rN: the table at the end says it all, and why.
    suites = _Suites(asked)
    code = pytest.main([*where, "-p", "harness.plugin.hooks", "-rN", *arguments], plugins=[suites])
    if suites.interrupted:
        return int(ExitCode.INTERRUPTED)
    renamed = {
        pytest.ExitCode.USAGE_ERROR: ExitCode.HARNESS,
        pytest.ExitCode.NO_TESTS_COLLECTED: ExitCode.NOTHING_APPLICABLE,
    }
    return int(renamed.get(pytest.ExitCode(code), code)) if code in set(pytest.ExitCode) else int(code)


def _dry_run(request: options.Request, store: Store) -> int:
    """Print what a run would start, and start nothing."""
    bzimage = request.kernel
    if bzimage is None:
        bzimage = store.root / "kernel" / "KEY" / "bzImage"
        for line in kernel.make_lines(store, request.fragments, bzimage.parent / "include"):
            print(line)
    rootfs = store.root / "image" / "KEY" / "rootfs"
    accelerator = Accelerator("kvm" if request.accel == "kvm" else "tcg", 1.0, "not tried")
    print(hardware.readable(machine.dry_run(bzimage, rootfs, Path("RUN"), accelerator, request.qemu)))
    return int(ExitCode.OK)


def _doctor(known: argparse.Namespace) -> int:
    store = Store()
    progress = Progress(store)
    if known.install:
        host.ensure(store, progress)
        return int(ExitCode.OK)
    return int(host.doctor(store, known.qemu, sys.stdout))


def _fetch(known: argparse.Namespace) -> int:
    store = Store()
    wanted = series.DEFAULT_BASE
    source = stages.get_base(options.Request(tree=known.tree), store, Progress(store), wanted)
    print(f"Linux {source.version}, commit {source.commit[:12]} in {source.repository}, from {source.source}")
    return int(ExitCode.OK)


def _applied(request: options.Request, store: Store, progress: Progress) -> tree.Tree:
    tested = stages.load_series(request)
    source = stages.get_base(request, store, progress, tested.base)
    return apply.apply_series(store, progress, source, tested, _log(store, "apply"))


def _apply(known: argparse.Namespace) -> int:
    store = Store()
    applied = _applied(_request(known), store, Progress(store))
    print(f"tree {applied.tree_id}, commit {applied.commit[:12]} in {applied.repository}")
    return int(ExitCode.OK)


def _built(request: options.Request, store: Store, progress: Progress) -> kernel.Kernel:
    if request.kernel is not None and request.headers is not None:
        return kernel.prebuilt(request.kernel, request.headers)
    applied = _applied(request, store, progress)
    return build_kernel(store, progress, applied, request.fragments, _log(store, "build"))


def _build(known: argparse.Namespace) -> int:
    store = Store()
    request = _request(known)
    if known.dry_run:
        return _dry_run(request, store)
    host.ensure(store, Progress(store))
    built = _built(request, store, Progress(store))
    print(f"Linux {built.release}\nbzImage: {built.bzimage}\nheaders: {built.headers}")
    return int(ExitCode.OK)


def _checked(request: options.Request, tested: series.Series, first: int = 1) -> list[prefixes.PrefixResult]:
    store = Store()
    progress = Progress(store)
    host.ensure(store, progress)
    source = stages.get_base(request, store, progress, tested.base)
    bench = WarningCheck(store, progress, prefixes.request_text(request.fragments), _log(store, "check"))
    return prefixes.check(store, progress, tested, source, bench, first)


def _check(known: argparse.Namespace) -> int:
    request = _request(known)
    rows = _checked(request, stages.load_series(request))
    prefixes.show(rows, sys.stdout)
    return int(prefixes.exit_code(rows))


def _prefixes(known: argparse.Namespace, arguments: list[str]) -> int:
    """What check does, and then the main job for each prefix; ``arguments`` are the options for that."""
    request = _request(known)
    if request.series is None:
        raise UsageError("Only a series has prefixes: name one with --series.")
    tested = stages.load_series(request)
    count = len(tested.patches)
    if not 1 <= known.first <= count:
        raise UsageError(f"--from counts patches, 1 to {count}; it is {known.first}.")
    rows = _checked(request, tested, known.first)
    prefixes.run(rows, request.series, request.results, arguments)
    prefixes.show(rows, sys.stdout)
    return int(prefixes.exit_code(rows))


def _mutants(known: argparse.Namespace) -> int:
    rules = requirements.load()
    wanted = mutants.load(rules, known.series, known.expression, known.shard)
    if known.list:
        report.show_list(wanted, sys.stdout)
        return int(ExitCode.OK)
    scenarios = collect.scenarios()
    store = Store()
    progress = Progress(store)
    host.ensure(store, progress)
    qemu.probe(known.qemu).require()
    with mutants.alone(known.results):
        machine_options = ["--accel", known.accel, "--qemu", known.qemu]
        trials = mutants.Trials(store, known.results, scenarios, machine_options, _say, quick=known.quick)
        try:
            trials.run(wanted)
        finally:
            reached = Score.of(wanted, trials.ledger.settled)
            by_id = {one.id: one for one in wanted}
            report.show(reached, by_id, trials.suites, known.results, sys.stdout)
    return int(reached.exit_code)


def _say(text: str) -> None:
    print(text, flush=True)


def _image(_known: argparse.Namespace) -> int:
    store = Store()
    progress = Progress(store)
    host.ensure(store, progress)
    print(image.build(store, progress, _log(store, "image")).rootfs)
    return int(ExitCode.OK)


def _boot(known: argparse.Namespace) -> int:
    store = Store()
    request = _request(known)
    if known.dry_run:
        return _dry_run(request, store)
    progress = Progress(store)
    host.ensure(store, progress)
    built = _built(request, store, progress)
    rootfs = image.build(store, progress, _log(store, "image"))
    accelerator = choose(store, request.accel, request.qemu, built.bzimage)
    run_dir = store.path("boots", str(os.getpid()))
    with (
        progress.stage("boot"),
        machine.boot(
            built.bzimage, rootfs, run_dir=run_dir, accelerator=accelerator, qemu=request.qemu, gdb=True
        ) as booted,
    ):
        progress.say(f"Linux {built.release} is up ({accelerator.name}: {accelerator.reason}).")
        stages.hold(booted, progress)
    return int(ExitCode.OK)


def _judge(known: argparse.Namespace) -> int:
    code = read(known.folder).exit_code
    print(f"JUnit: {junit.write(known.folder)}")
    table.show(known.folder, sys.stdout)
    return int(code)


def _matrix(known: argparse.Namespace) -> int:
    rules = requirements.load()
    if known.group not in (None, *rules.groups):
        raise UsageError(f"There is no group {known.group!r}; the groups are {', '.join(rules.groups)}.")
    if known.results is not None:
        rows = coverage.join_run(rules, read(known.results))
    else:
        rows = coverage.join(rules, requirements.load_reasons(rules), collect.scenarios())
    chosen = [row for row in rows if known.group in (None, row.requirement.group)]
    show = coverage.write_csv if known.csv else coverage.show
    show(chosen, sys.stdout, only_unchecked=known.uncovered)
    return int(ExitCode.OK)


def _clean(known: argparse.Namespace) -> int:
    store = Store()
    kinds = [kind for name in known.what or CACHE_KINDS for kind in CACHE_KINDS[name]]
    freed = store.remove(kinds)
    print(f"{freed / 1e6:.0f} MB freed below {store.root}")
    return int(ExitCode.OK)


CACHE_KINDS = {
    "kernels": ("kernel", "check"),
    "images": ("image", "init", "probe", "accelerator"),
    "builds": ("workbench", "ccache"),
    "sources": ("base", "trees", "apt", "downloads", "work"),
    "logs": ("logs", "boots"),
}
KEPT_LOGS = 10  # of each stage; those of whole runs are in their results


def _log(store: Store, stage: str) -> Path:
    """A new log for a stage that is run by itself, as another program may be at the same stage."""
    log = store.path("logs", stage, f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log")
    for old in sorted(log.parent.iterdir())[: 1 - KEPT_LOGS]:
        old.unlink(missing_ok=True)
    return log


def _request(known: argparse.Namespace) -> options.Request:
    return options.request(lambda name: getattr(known, name, None))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Does this kernel do what the series promises?",
        epilog=f"The cache is ${CACHE_VARIABLE}, else $XDG_CACHE_HOME/patchproof. "
        "Exit codes: 0 all as expected, 1 the series' fault, 2 the harness's or the machine's fault, "
        "3 nothing was applicable, 130 interrupted.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command | None, text: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example:  {PROGRAM} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(command=command)
        return sub

    def dry(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--dry-run",
            action="store_true",
            help="print the make lines and the QEMU command line, run nothing",
        )

    run = add(
        "run",
        None,
        "take a series to a verdict (what `tox -e vm -- ...` calls); every pytest option works, too",
        "run --series reference-feature -k map",
    )
    for group in (
        *(options.add_source, options.add_kernel, options.add_machine, options.add_run, options.add_resume),
    ):
        group(run.add_argument)
    dry(run)

    doctor = add("doctor", _doctor, "show what this host has and what is missing", "doctor")
    doctor.add_argument("--qemu", metavar="PATH", default="qemu-system-x86_64", help="the QEMU program")
    doctor.add_argument("--install", action="store_true", help="install missing packages (as root on Debian)")

    fetch = add("fetch", _fetch, "get the base source", "fetch")
    fetch.add_argument("--tree", metavar="DIR", type=Path, help="take it from this kernel git checkout")

    applying = add("apply", _apply, "apply a series to the base", "apply --series my-series.mbox")
    options.add_source(applying.add_argument)

    build = add("build", _build, "build the kernel of a series", "build --series baseline")
    options.add_source(build.add_argument)
    options.add_kernel(build.add_argument)
    dry(build)

    check = add(
        "check",
        _check,
        "ask checkpatch, gcc, clang and sparse for all their warnings of every prefix of a series",
        "check --series reference-ioctl",
    )
    options.add_source(check.add_argument)
    options.add_kernel(check.add_argument)

    every = add(
        "prefixes",
        None,
        "check every prefix of a series, and run the suites on each; selects as `run` does",
        "prefixes --series reference-feature --from 12 -k revoke",
    )
    every.add_argument(
        "--from",
        metavar="N",
        dest="first",
        type=int,
        default=1,
        help="begin with the first N patches (default: 1)",
    )
    for group in (options.add_source, options.add_kernel, options.add_machine, options.add_run):
        group(every.add_argument)

    faults = add(
        "mutants",
        _mutants,
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
    options.add_qemu(faults.add_argument)

    add("image", _image, "build the guest's root file system", "image")

    boot = add(
        "boot", _boot, "boot the kernel of a series and leave it running", "boot --series reference-feature"
    )
    for group in (options.add_source, options.add_kernel, options.add_machine):
        group(boot.add_argument)
    dry(boot)

    judge = add(
        "judge", _judge, "make the reports of a stored run again, without a machine", "judge results/latest"
    )
    judge.add_argument("folder", metavar="RESULTS", type=Path, help="the folder of the run")

    rules = add(
        "matrix",
        _matrix,
        "show which scenarios check each requirement, in which dialects, and why some have none",
        "matrix --group REV --uncovered",
    )
    rules.add_argument("--group", metavar="NAME", help="only this group of requirements, e.g. MAP")
    rules.add_argument("--uncovered", action="store_true", help="list only those without a scenario")
    rules.add_argument(
        "--results", metavar="DIR", type=Path, help="show the verdicts of this stored run instead"
    )
    rules.add_argument("--csv", action="store_true", help="print CSV")

    clean = add("clean", _clean, "delete what is cached", "clean kernels builds")
    clean.add_argument(
        "what",
        nargs="*",
        metavar="WHAT",
        choices=[*CACHE_KINDS, []],
        help=f"{', '.join(CACHE_KINDS)}; all if none",
    )
    return parser
