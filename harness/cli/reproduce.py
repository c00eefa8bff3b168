"""The command ``reproduce``: do a scenario of a stored run again, by its transcript."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.actor.build import build_actor
from harness.journal.facts import read_facts
from harness.journal.reader import read
from harness.kernel import build
from harness.kernel.build import Kernel
from harness.kernel.dialect import Interfaces
from harness.kernel.module import module_in_cache
from harness.lib import time_limit
from harness.lib.cache import Store
from harness.lib.errors import ExitCode, UsageError
from harness.lib.progress import Progress
from harness.lib.text import counted, one_line, shortened, visible
from harness.run.claim import Claim, claim_of
from harness.run.kit import write_kit
from harness.run.machines import TestedSoftware
from harness.run.reproduce import Attempt, CachedModule, Outcome, Reproducer
from harness.run.request import Request
from harness.verdict import requirements
from harness.verdict.record import Record, Result
from harness.vm import image, qemu_program
from harness.vm.accelerator import choose

COMPLAINT = "no complaint"  # of the kernel
MOST_TIMES = 1000
_LISTED = 8  # scenarios that a part of an id matches
_LONGEST = 2000  # characters of a reply
_CODES = {Outcome.CONFORMS: ExitCode.OK, Outcome.SHOWN: ExitCode.SERIES, Outcome.UNSAID: ExitCode.HARNESS}
_SENTENCES = {
    Outcome.CONFORMS: "It conforms now",
    Outcome.SHOWN: "It shows again",
    Outcome.UNSAID: "It could not be said",
}


def reproduce(args: argparse.Namespace) -> ExitCode:
    """Do a scenario again up to ``--times`` times, until it shows again what it showed in the run."""
    time_limit.start(args.time_limit or "")
    result = find(read(args.folder), args.scenario)
    claim = claim_of(result, args.folder)
    store = Store()
    progress = Progress(store)
    facts = read_facts(args.folder)
    if args.kit is not None:
        return _pack(store, result, claim, facts, args.kit)
    request = Request(accel=args.accel, qemu=args.qemu)
    software = _software(store, progress, facts, request)
    qemu_program.probe(request.qemu).require()
    reproducer = Reproducer(claim, result, software, request, store.path("boots", "reproduced"))
    print(visible(_head(result)), flush=True)
    attempts: list[Attempt] = []
    while len(attempts) < args.times and (not attempts or attempts[-1].outcome is not Outcome.SHOWN):
        attempts.append(reproducer.attempt())
    worst = next((one for one in attempts if one.outcome is Outcome.SHOWN), None)
    worst = worst or next((one for one in attempts if one.outcome is Outcome.UNSAID), attempts[-1])
    print(visible(_tail(claim, result, worst, len(attempts))))
    return _CODES[worst.outcome]


def _pack(store: Store, result: Result, claim: Claim, facts: Mapping[str, object], path: Path) -> ExitCode:
    """Write a kit instead of doing the scenario again."""
    write_kit(store, result, claim, _kernel(store, facts), facts, path)
    size = path.stat().st_size / (1 << 20)
    print(f"{path} ({size:.1f} MiB): `sh {shlex.quote(str(path))}` boots it, where there is a QEMU.")
    return ExitCode.OK


def _times(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_TIMES:
        raise argparse.ArgumentTypeError(f"it is a number from 1 to {MOST_TIMES}")
    return int(text)


def find(record: Record, name: str) -> Result:
    """Return the scenario with this id, this number in the plan, or the only one whose id contains ``name``.

    Raises UsageError, which lists several.
    """
    scenarios = record.scenarios
    if name.isdecimal() and 1 <= int(name) <= len(scenarios):
        return scenarios[int(name) - 1]
    found = [one for one in scenarios if one.entry.id == name]
    found = found or [one for one in scenarios if name in one.entry.id]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"The run has no scenario {name!r}: give a part of an id, or the number of a scenario from 1 to "
            f"{len(scenarios)}. plan.json has the ids."
        )
    numbers = {one.entry.id: number for number, one in enumerate(scenarios, start=1)}
    listed = "".join(f"\n  {numbers[one.entry.id]:>4}  {one.entry.id}" for one in found[:_LISTED])
    more = f"\n  and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    raise UsageError(
        f"{name!r} is in the ids of {counted(len(found), 'scenario')}; choose one:{listed}{more}"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command, but for those of QEMU."""
    parser.add_argument("folder", metavar="RESULTS", type=Path, help="the folder of the run")
    parser.add_argument(
        "scenario",
        metavar="SCENARIO",
        help="the scenario: a part of its id that no other has, or its number in the plan, from 1",
    )
    parser.add_argument(
        "--times",
        metavar="N",
        type=_times,
        default=1,
        help="try up to N times, each on a new machine, until it shows again: for a race (default: 1)",
    )
    parser.add_argument(
        "--kit",
        metavar="FILE",
        type=Path,
        help="boot nothing, and write a kit to FILE instead: one file that does it again with QEMU alone",
    )


def _software(
    store: Store, progress: Progress, facts: Mapping[str, object], request: Request
) -> TestedSoftware:
    """Return the software of a run, from the cache.  Raises UsageError if its kernel is not there."""
    kernel = _kernel(store, facts)
    log = store.path("logs", "reproduce.log")
    log.unlink(missing_ok=True)
    accelerator = choose(store, request.accel, request.qemu, kernel.bzimage)
    return TestedSoftware(
        kernel=kernel,
        image=image.build(store, progress, log),
        actor=build_actor(store, kernel.headers, log),
        dialect=str(facts.get("dialect", "base")),
        interfaces=Interfaces.of(kernel.headers),
        accelerator=replace(accelerator, time_scale=accelerator.time_scale * kernel.time_scale),
        importer=CachedModule(module_in_cache(store, kernel)),
    )


def _kernel(store: Store, facts: Mapping[str, object]) -> Kernel:
    identity = str(facts.get("kernel", ""))
    if (found := build.kernel_in_cache(store, identity)) is not None:
        return found
    selection = facts.get("selection")
    words = [str(word) for word in selection] if isinstance(selection, list) else []
    options = _options(words)
    if options.kernel is None or options.headers is None:
        if not identity:
            raise UsageError("The run built no kernel, so none of its scenarios can be done again.")
        raise UsageError(
            f"The kernel of the run ({identity[:12]}) is not in the cache any more. Build it, and try again: "
            f"{_build_command(words)}"
        )
    directory = Path(str(facts.get("directory", "")))
    kernel = build.prebuilt(directory / options.kernel, directory / options.headers)
    if kernel.identity != identity:
        raise UsageError(f"{options.kernel} (--kernel of the run) is another file now than in the run.")
    return kernel


def _options(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of a run that choose its kernel."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("kernel", "headers", "series", "revision", "patches", "mutant", "tree", "base"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--kconfig", action="append", default=[])
    return parser.parse_known_args(words)[0]


def _build_command(words: Sequence[str]) -> str:
    """Return the command that builds the kernel of a run, from the options of the run."""
    parts = ["python", "-m", "harness", "build"]
    for name, value in vars(_options(words)).items():
        for one in value if isinstance(value, list) else [value]:
            parts += [f"--{name}", str(one)] if one is not None else []
    return shlex.join(parts)


def _head(result: Result) -> str:
    rules = requirements.load().requirements
    sentences = [f"{name}: {rules[name].sentence}" for name in result.entry.requirements if name in rules]
    lines = [result.entry.id, *(f"  {one}" for one in sentences)]
    if result.reason:
        lines.append(f"  in the run: {one_line(visible(result.reason))}")
    return "\n".join(lines)


def _tail(claim: Claim, result: Result, attempt: Attempt, tries: int) -> str:
    lines = []
    for one in attempt.differences:
        if one.step.line != claim.line:
            lines.append(f"line {one.step.line}: {_mark(one.step.actor)} {_shown(one.step.text)}")
            lines += [f"  recorded: {_shown(one.step.reply)}", f"  now:      {_shown(one.now)}"]
    last = attempt.played[-1] if attempt.played else None
    if claim.line and last is not None and last.step.line == claim.line:
        deviation = result.deviation
        wanted = last.step.wanted or (deviation.expected if deviation is not None else "")
        lines.append(f"line {claim.line}: {_mark(last.step.actor)} {_shown(last.step.text)}")
        lines += [f"expected: {_shown(wanted)}", f"recorded: {_shown(last.step.reply)}"]
        lines.append(f"now: {_shown(last.now)}")
    then, now = ([one.title for one in side.complaints if one.fault] for side in (result, attempt.result))
    if then or now:
        lines.append(f"expected of the kernel: {COMPLAINT}")
        lines.append(f"recorded: {_shown('; '.join(then) or COMPLAINT)}")
        lines.append(f"now: {_shown('; '.join(now) or COMPLAINT)}")
    lines.append(f"Console and transcript: {attempt.folder}")
    often = f" in try {tries}" if tries > 1 and attempt.outcome is Outcome.SHOWN else ""
    often = often or (f" in {tries} tries" if tries > 1 else "")
    lines.append(f"{_SENTENCES[attempt.outcome]}{often}. {one_line(visible(attempt.sentence))}")
    return "\n".join(lines)


def _mark(actor: int) -> str:
    return ">" if actor else "!"


def _shown(text: str | None) -> str:
    """Return a guest's text on one line, cut to a limit."""
    return "nothing" if text is None else shortened(one_line(visible(text)), _LONGEST)
