"""The commands of the program: the whole run, and its stages one by one."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path

from harness.cli import doctor as host
from harness.cli import generate, packages
from harness.cli import prefixes as every_prefix
from harness.journal import base_verdicts
from harness.journal.reader import read
from harness.kernel import build as kernel
from harness.kernel.apply import apply_series
from harness.kernel.build import Kernel, build_kernel
from harness.kernel.checkout import kernel_version
from harness.kernel.fetch import fetch_base
from harness.kernel.static_checks import WarningCheck
from harness.kernel.tree import Tree
from harness.lib import bytecode, locks, output, paths, sandbox, time_limit
from harness.lib.cache import Store
from harness.lib.errors import ExitCode, UsageError
from harness.lib.interruption import Interruption
from harness.lib.progress import Progress
from harness.lib.shard import Shard
from harness.mutants import report as score
from harness.mutants import selection
from harness.mutants.ledger import Score
from harness.mutants.trials import Trials, locked
from harness.plugin import scenario_list
from harness.plugin.expression import KeywordExpression
from harness.plugin.start import start
from harness.report import coverage, html, junit, terminal
from harness.run import request as requests
from harness.run import resources, stages
from harness.run.base_alone import Question
from harness.run.machines import hold
from harness.run.request import DEFAULT_SERIES, Request, RunInput
from harness.run.run import run_without_scenarios
from harness.series.series import DEFAULT_BASE
from harness.verdict import requirements
from harness.verdict.interruption import is_time_limit
from harness.vm import hardware, image, machine, qemu_program
from harness.vm.accelerator import Accelerator, choose

CACHE_KINDS = {
    "kernels": ("kernel", "module", "check", "config", "selftest"),
    "images": ("image", "init", "probe", "accelerator"),
    "builds": ("workbench", "ccache"),
    "sources": ("base", "trees", "apt", "downloads", "work", "threads", "input"),
    "verdicts": (base_verdicts.KIND,),
    "logs": ("logs", "boots"),
    "bytecode": (bytecode.FOLDER,),
}
KEPT_LOGS = 10  # of each single stage; a whole run has its logs in its results


def run(args: argparse.Namespace) -> ExitCode:
    """Take a series through all stages to its verdicts."""
    time_limit.start(args.time_limit or "")
    if args.junit is not None and not args.dry_run:
        args.junit = output.prepare(args.junit, "--junit")
    run_input = requests.load(request_of(args), args.typed)
    store = Store()
    if args.dry_run:
        return _dry_run(run_input, store)
    progress = Progress(store)
    packages.ensure(store, progress)
    sandbox.current()  # refuses now what it would refuse in an hour
    stages.check(run_input.request)
    _tell(progress, run_input)
    return start(run_input, args.pytest_options)


def _tell(progress: Progress, run_input: RunInput) -> None:
    """Say which series is tested, on which base, and which of the mails are that series."""
    tested = run_input.series
    identity = f" (identity {tested.identity[:12]})" if tested.identity else ""
    progress.say(f"series {tested.name}: {tested.title}{identity}")
    if run_input.base_reason:
        progress.say(f"base {tested.base}: {run_input.base_reason}")
    for sentence in tested.posting.sentences():
        progress.say(sentence)


def ask_base(args: argparse.Namespace) -> ExitCode:
    """Run the scenarios, or the test programs, of a question on the base of a run alone."""
    question = Question.read(args.question)
    sandbox.choose(question.request.sandbox)
    os.chdir(paths.PROJECT)  # to which the ids of the scenarios are relative
    if not question.scenarios:
        return run_without_scenarios(question.run_input())
    return start(question.run_input(), question.scenarios)


def request_of(args: argparse.Namespace) -> Request:
    """Return the request in the arguments of a command.  Raises UsageError."""
    values = {field.name: getattr(args, field.name, None) for field in fields(Request)}
    options = {name: value for name, value in values.items() if value is not None}
    for name in ("kconfig", "kernel_argument"):
        options[name] = tuple(options.get(name, ()))
    options["requirement"] = tuple(
        word for words in options.get("requirement", ()) for word in words.replace(",", " ").split()
    )
    if "shard" in options:
        options["shard"] = Shard.parse(options["shard"])
    if not {"series", "kernel", "tree"} & options.keys():
        options["series"] = DEFAULT_SERIES
    for fragment in options["kconfig"]:
        if not fragment.is_file():
            raise UsageError(f"The kernel config fragment {fragment} (--kconfig) is not a file.")
    return Request(**options)


def _dry_run(run_input: RunInput, store: Store) -> ExitCode:
    """Print the commands that a run would start, and the resources that it needs; start nothing."""
    request = run_input.request
    bzimage = request.kernel
    if bzimage is None:
        bzimage = store.root / "kernel" / "KEY" / "bzImage"
        version = kernel_version(request.tree) if request.tree else run_input.series.base
        for line in kernel.make_lines(store, request.fragments, version):
            print(line)
    rootfs = store.root / "image" / "KEY" / "rootfs"
    accelerator = Accelerator("kvm" if request.accel == "kvm" else "tcg", 1.0, "not tried")
    print(hardware.readable(machine.dry_run(bzimage, rootfs, Path("RUN"), accelerator, request.qemu)))
    for need in resources.needs(store, request, run_input.series.base, resources.WHOLE_SUITE):
        print(f"# {need.subject}: {need}")
    return ExitCode.OK


def doctor(args: argparse.Namespace) -> ExitCode:
    """Show what the host has, or install what is missing."""
    store = Store()
    if args.install or args.for_tests:
        lists = (packages.PACKAGES, packages.FOR_TESTS) if args.for_tests else ()
        packages.ensure(store, Progress(store), *lists)
        return ExitCode.OK
    return host.doctor(store, args.qemu, sys.stdout)


def fetch(args: argparse.Namespace) -> ExitCode:
    """Get the base source."""
    if args.base is not None and args.tree is not None:
        raise UsageError("A base comes from --base or from --tree: leave one of them out.")
    store = Store()
    base = fetch_base(store, Progress(store), args.base or DEFAULT_BASE, args.tree)
    print(f"Linux {base.version}, commit {base.commit[:12]} in {base.repository}, from {base.source}")
    return ExitCode.OK


def apply(args: argparse.Namespace) -> ExitCode:
    """Apply a series to its base."""
    store = Store()
    tree = _applied(request_of(args), store, Progress(store))
    print(f"tree {tree.tree_id}, commit {tree.commit[:12]} in {tree.repository}")
    return ExitCode.OK


def build(args: argparse.Namespace) -> ExitCode:
    """Build the kernel of a series."""
    store = Store()
    request = request_of(args)
    if args.dry_run:
        return _dry_run(requests.load(request), store)
    built = _built(request, store, Progress(store))
    print(f"Linux {built.release}\nbzImage: {built.bzimage}\nheaders: {built.headers}")
    return ExitCode.OK


def check(args: argparse.Namespace) -> ExitCode:
    """Show the warnings of checkpatch and the compilers for every prefix of a series."""
    request = request_of(args)
    run_input = requests.load(request)
    if not run_input.series.patches:
        raise UsageError("Patches are checked, and there are none: name a series with patches by --series.")
    return _show(_checked(run_input))


def prefixes(args: argparse.Namespace) -> ExitCode:
    """Check every prefix of a series, and run the suites on each."""
    request = request_of(args)
    if request.series is None:
        raise UsageError("Only a series has prefixes: name one with --series.")
    if request.kernel is not None:
        raise UsageError("A kernel that was built elsewhere is the same for each prefix: leave --kernel out.")
    if request.mutant is not None:
        raise UsageError("A mutant changes the whole of a series, so it has no prefixes: leave --mutant out.")
    if any(option.partition("=")[0] == "--junit" for option in args.pytest_options):
        raise UsageError(
            "--junit names one file, and each prefix is a run of its own: leave it out. The results folder "
            "of each run has its junit.xml."
        )
    time_limit.start(args.time_limit or "")
    run_input = requests.load(request)
    request = run_input.request
    count = len(run_input.series.patches)
    if not 1 <= args.first <= count:
        raise UsageError(f"--from counts patches, 1 to {count}; it is {args.first}.")
    with locks.claim(request.results, ".prefixes.lock", "runs prefixes"):
        rows = _checked(run_input, args.first)
        suites_request = replace(request, variants=args.variants or "one")
        try:
            every_prefix.run(rows, suites_request, args.pytest_options)
        except Interruption as end:
            if not is_time_limit(end.reason):
                raise
            every_prefix.cut_off(rows, end.reason)
        every_prefix.store(rows, run_input.series, suites_request.results)
    return _show(rows)


def mutants(args: argparse.Namespace) -> ExitCode:
    """Try the mutants of the reference series, or generated ones of any series."""
    if args.generate:
        return generate.mutants(args)
    generate.refuse_options(args)
    folder: Path = args.results or Path("results/mutants")
    matches = None if args.expression is None else KeywordExpression.parse(args.expression)
    wanted = selection.load(requirements.load(), args.series, matches, args.shard)
    if args.list:
        score.show_list(wanted, sys.stdout)
        return ExitCode.OK
    time_limit.start(args.time_limit or "")
    scenarios = scenario_list.scenarios()
    store = Store()
    packages.ensure(store, Progress(store))
    qemu_program.probe(args.qemu).require()
    with locked(folder):
        # A mutant's fault is its own.
        request = Request(
            accel=args.accel,
            qemu=args.qemu,
            sandbox=args.sandbox,
            fast=args.fast,
            no_base=True,
            selftests="none",
        )
        trials = Trials(store, folder, scenarios, request, _say, quick=args.quick)
        try:
            trials.run(wanted)
        finally:
            result = Score.of(wanted, trials.ledger.confirmed)
            by_id = {one.id: one for one in wanted}
            score.show(result, by_id, trials.suites, folder, sys.stdout)
    return result.exit_code


def build_image(_args: argparse.Namespace) -> ExitCode:
    """Build the guest's root file system."""
    store = Store()
    progress = Progress(store)
    packages.ensure(store, progress)
    print(image.build(store, progress, _log(store, "image")).rootfs)
    return ExitCode.OK


def boot(args: argparse.Namespace) -> ExitCode:
    """Boot the kernel of a series and leave it running."""
    store = Store()
    request = request_of(args)
    if args.dry_run:
        return _dry_run(requests.load(request), store)
    progress = Progress(store)
    built = _built(request, store, progress)
    rootfs = image.build(store, progress, _log(store, "image"))
    accelerator = choose(store, request.accel, request.qemu, built.bzimage)
    run_dir = Path(tempfile.mkdtemp(prefix="boot-", dir=store.path("boots", "x").parent))
    with (
        progress.stage("boot"),
        machine.boot(
            built.bzimage, rootfs, run_dir=run_dir, accelerator=accelerator, qemu=request.qemu, gdb=True
        ) as booted,
    ):
        progress.say(f"Linux {built.release} is up ({accelerator.name}: {accelerator.reason}).")
        hold(booted, progress)
    return ExitCode.OK


def judge(args: argparse.Namespace) -> ExitCode:
    """Make the reports of a stored run again, without a machine."""
    if args.junit is not None:
        args.junit = output.prepare(args.junit, "--junit")
    code = read(args.folder).exit_code
    print(f"JUnit: {junit.write(args.folder)}")
    print(f"HTML: {html.write(args.folder)}")
    if args.junit is not None:
        output.write(args.junit, junit.render(args.folder))
    terminal.show(args.folder, sys.stdout, every=args.every)
    return code


def matrix(args: argparse.Namespace) -> ExitCode:
    """Show the scenarios of each requirement, or their verdicts in a stored run."""
    rules = requirements.load()
    if args.group not in (None, *rules.groups):
        raise UsageError(f"There is no group {args.group!r}; the groups are {', '.join(rules.groups)}.")
    if args.results is not None:
        rows = coverage.join_run(rules, read(args.results))
    else:
        rows = coverage.join(rules, requirements.load_reasons(rules), scenario_list.scenarios())
    chosen = [row for row in rows if args.group in (None, row.requirement.group)]
    show = coverage.write_csv if args.csv else coverage.show
    show(chosen, sys.stdout, only_unchecked=args.uncovered)
    return ExitCode.OK


def clean(args: argparse.Namespace) -> ExitCode:
    """Delete the cache, or some kinds of what it holds."""
    store = Store()
    kinds = [kind for name in args.what or CACHE_KINDS for kind in CACHE_KINDS[name]]
    freed = store.remove(kinds)
    print(f"{freed / 1e6:.0f} MB freed below {store.root}")
    return ExitCode.OK


def _applied(request: Request, store: Store, progress: Progress) -> Tree:
    run_input = requests.load(request)
    tested = run_input.series
    _tell(progress, run_input)
    base = fetch_base(store, progress, tested.base, request.tree)
    return apply_series(store, progress, base, tested, _log(store, "apply"))


def _built(request: Request, store: Store, progress: Progress) -> Kernel:
    packages.ensure(store, progress)
    if request.kernel is not None and request.headers is not None:
        return kernel.prebuilt(request.kernel, request.headers)
    tree = _applied(request, store, progress)
    return build_kernel(store, progress, tree, request.fragments, _log(store, "build"))


def _checked(run_input: RunInput, first: int = 1) -> list[every_prefix.PrefixResult]:
    request, tested = run_input.request, run_input.series
    store = Store()
    progress = Progress(store)
    _tell(progress, run_input)
    packages.ensure(store, progress)
    base = fetch_base(store, progress, tested.base, request.tree)
    fragments = every_prefix.request_text(request.fragments, base.version)
    warnings = WarningCheck(store, progress, fragments, _log(store, "check"))
    return every_prefix.check(store, progress, tested, base, warnings, first)


def _show(rows: list[every_prefix.PrefixResult]) -> ExitCode:
    every_prefix.show(rows, sys.stdout)
    return every_prefix.exit_code(rows)


def _say(text: str) -> None:
    print(text, flush=True)


def _log(store: Store, stage: str) -> Path:
    """Return the path of a new log for a single stage; delete all but the newest KEPT_LOGS.

    The name has the process id, because another program may run the same stage.
    """
    log = store.path("logs", stage, f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log")
    for old in sorted(log.parent.iterdir())[: 1 - KEPT_LOGS]:
        old.unlink(missing_ok=True)
    return log
