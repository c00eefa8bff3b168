"""The base of a run without the series: its verdicts beside a violation, its build beside a failed one.

A violation is the fault of the series only if the base does not do the same.  So the
scenarios that violated are run on the base alone, by another process of this program,
with a results folder ``base/`` inside of the run's own.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.actor.build import build_actor
from harness.journal.base_verdicts import BaseVerdicts
from harness.journal.facts import read_facts
from harness.journal.reader import read
from harness.journal.results_folder import newest_run
from harness.kernel.apply import apply_series
from harness.kernel.base import Base
from harness.kernel.build import Kernel, build_kernel
from harness.lib import command, paths
from harness.lib.errors import BootError, BuildError, HarnessError, PatchproofError
from harness.lib.files import digest, file_digest, write_atomically
from harness.lib.text import counted
from harness.run.machines import Machines
from harness.run.parts import RunParts
from harness.run.request import Request, RunInput
from harness.run.selftests import answer_key, entry_of
from harness.series import series
from harness.series.selftest import Program
from harness.verdict.comparison import BaseAnswer
from harness.verdict.record import Record, Result
from harness.verdict.verdict import STAGES, Verdict
from harness.vm import machine
from harness.vm.pci_devices import Layout

COMMAND = "ask-base"
FOLDER = "base"  # in the results folder
BASE = "base.json"
QUESTION = "question.json"
OUTPUT = "output.txt"
TRIED = ("build", "probes", "boot")  # the stages that are tried with the base when they fail
OUTSIDE = "a scenario outside of suites/ is not part of the program digest, so the base is not asked"
ELSEWHERE = "a kernel that was built elsewhere (--kernel) has no base here"


@dataclass(frozen=True)
class Question:
    """The scenarios or test programs to run on a base alone, and the machine to run them on.

    Its file is how one process of this program passes it to another.
    """

    base: Base
    request: Request
    scenarios: tuple[str, ...]
    selftests: tuple[Program, ...] = ()

    @classmethod
    def of(
        cls,
        base: Base,
        asked: Request,
        folder: Path,
        scenarios: Iterable[str],
        selftests: Iterable[Program] = (),
    ) -> Question:
        """Return the question for the base of the run that ``asked`` is the request of."""
        # A name without a slash is looked up in PATH; another is relative to the user's directory.
        qemu = str(Path(asked.qemu).absolute()) if "/" in asked.qemu else asked.qemu
        kconfig = tuple(path.absolute() for path in asked.kconfig)
        request = Request(
            kconfig=kconfig,
            accel=asked.accel,
            sandbox=asked.sandbox,
            qemu=qemu,
            results=folder,
            no_base=True,
            no_give_up=asked.no_give_up,
        )
        return cls(base, request, tuple(scenarios), tuple(selftests))

    def write(self, path: Path) -> None:
        """Write the question to a file."""
        asked = self.request
        content = {
            "base": _members(self.base),
            "kconfig": [str(one) for one in asked.kconfig],
            "accel": asked.accel,
            "sandbox": asked.sandbox,
            "qemu": asked.qemu,
            "results": str(asked.results),
            "no_give_up": asked.no_give_up,
            "scenarios": self.scenarios,
            "selftests": [asdict(one) for one in self.selftests],
        }
        write_atomically(path, json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Question:
        """Read the file of write().  Raises HarnessError."""
        try:
            content = json.loads(path.read_bytes())
            request = Request(
                kconfig=tuple(Path(one) for one in content["kconfig"]),
                accel=content["accel"],
                sandbox=content["sandbox"],
                qemu=content["qemu"],
                results=Path(content["results"]),
                no_base=True,
                no_give_up=bool(content["no_give_up"]),
            )
            programs = tuple(Program.read(one) for one in content["selftests"])
            return cls(_base(content["base"]), request, tuple(map(str, content["scenarios"])), programs)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HarnessError(
                f"{path} is not a question to a base ({error!r}). A run writes this file, and starts "
                f"`{COMMAND}` with it; there is no need to start that by hand."
            ) from error

    def run_input(self) -> RunInput:
        """Return the input of the run that answers it."""
        alone = series.unpatched(f"base-{self.base.version}", "auto")
        return RunInput(self.request, alone, base=self.base, selftests=self.selftests)


class BaseAlone:
    """The base of a run, alone; remember() makes it known."""

    def __init__(self, parts: RunParts) -> None:
        self._request = parts.run_input.request
        self._patched = bool(parts.run_input.series.patches)
        self._store = parts.store
        self._progress = parts.progress
        self._results = parts.results
        self._journal = parts.journal

    @property
    def _folder(self) -> Path:
        return self._results.dir / FOLDER

    def remember(self, base: Base) -> None:
        """Keep the base in the results folder, also for a resumed run, and its tree in run.json."""
        fragments = digest(*(path.read_bytes() for path in self._request.uncounted_fragments))
        qemu = shutil.which(self._request.qemu)
        self._results.write_run(qemu_digest=file_digest(Path(qemu)) if qemu is not None else "")
        self._results.write_run(base_tree=base.tree_of(base.commit), fragments=fragments)
        if self._patched:
            write_atomically(self._folder / BASE, json.dumps(_members(base), indent=1) + "\n")

    def known(self) -> Base | None:
        """Return the remembered base, None if the run did not get that far."""
        path = self._folder / BASE
        try:
            return _base(json.loads(path.read_bytes())) if path.is_file() else None
        except (ValueError, TypeError, KeyError) as error:
            raise HarnessError(f"{path} is damaged ({error!r}). Start a new run.") from error

    # -- the verdicts of the base --------------------------------------------------------

    def compare(self, before: Callable[[], None], programs: Sequence[Program] = ()) -> None:
        """Record the base's result of each scenario that violated, unless it was recorded before.

        So are those of the test ``programs``.  ``before`` is called before the base is asked, if it is.
        """
        request = self._request
        if request.no_base or request.until_violated or not (self._patched or request.kernel is not None):
            return
        record = read(self._results.dir)
        self._compare_selftests(
            [one for one in record.selftests if one.violated and one.base is None], programs, before
        )
        violated = [one for one in record.scenarios if one.violated and one.base is None]
        if not violated:
            return
        names = list(dict.fromkeys(one.entry.scenario for one in violated))
        if request.kernel is not None:
            answers = dict.fromkeys(names, BaseAnswer(Verdict.NOT_REACHED, ELSEWHERE))
        else:
            answers = self._answers(names, before)
        for one in violated:
            self._journal.compared(one.entry.id, answers[one.entry.scenario])

    def _compare_selftests(
        self, violated: Sequence[Result], programs: Sequence[Program], before: Callable[[], None]
    ) -> None:
        """Record the base's result of each test program that violated."""
        known = {entry_of(one).id: one for one in programs}
        asked = {one.entry.id: known[one.entry.id] for one in violated if one.entry.id in known}
        base = self.known()
        if not asked or base is None:
            return
        cache = BaseVerdicts(self._store, read_facts(self._results.dir))
        missing = [one for one in asked.values() if cache.get(answer_key(one)) is None]
        record: Record | None = None
        if missing:
            before()
            with self._progress.stage(FOLDER) as stage:
                stage.update(f"{base.version} alone, {counted(len(missing), 'test program')}")
                record = self._ask(base, (), missing)
        for name, program in asked.items():
            answer = cache.get(answer_key(program)) or self._unanswered(name, cache, record)
            self._journal.compared(name, answer)

    def _answers(self, names: Sequence[str], before: Callable[[], None]) -> dict[str, BaseAnswer]:
        """Return the base's result for each of these scenarios, from the cache or asked now."""
        base = self.known()
        if base is None:
            return dict.fromkeys(names, BaseAnswer(Verdict.NOT_REACHED, "the run did not find its base"))
        inside = [name for name in names if name.startswith(f"{paths.SUITES.name}/")]
        unknown = dict.fromkeys(set(names).difference(inside), BaseAnswer(Verdict.NOT_REACHED, OUTSIDE))
        return unknown | self._answers_of(base, inside, before)

    def _answers_of(
        self, base: Base, names: Sequence[str], before: Callable[[], None]
    ) -> dict[str, BaseAnswer]:
        """Return the result of each scenario on this base, from the cache or asked now."""
        cache = BaseVerdicts(self._store, read_facts(self._results.dir))
        answers = {name: answer for name in names if (answer := cache.get(name)) is not None}
        missing = [name for name in names if name not in answers]
        if names:
            self._progress.say("")  # pytest's line of dots is still open
        if answers:
            self._progress.say(f"base: {counted(len(answers), 'scenario')} known of {base.version} alone")
        if missing:
            before()
            with self._progress.stage(FOLDER) as stage:
                stage.note(f"asking {base.version} alone about {counted(len(missing), 'scenario')}")
                stage.update(f"{base.version} alone, {counted(len(missing), 'scenario')}")
                record = self._ask(base, missing)
            for name in missing:
                answers[name] = cache.get(name) or self._unanswered(name, cache, record)
        return answers

    def _ask(self, base: Base, names: Sequence[str], programs: Sequence[Program] = ()) -> Record | None:
        """Run these scenarios or test programs on the base; return the record, None if that did not begin."""
        question = self._folder / QUESTION
        before = newest_run(self._folder)
        Question.of(base, self._request, self._folder, names, programs).write(question)
        with (self._folder / OUTPUT).open("ab") as output:
            command.run_harness([sys.executable, "-m", "harness", COMMAND, str(question)], output)
        newest = newest_run(self._folder)
        return read(newest) if newest is not None and newest != before else None

    def _unanswered(self, name: str, cache: BaseVerdicts, record: Record | None) -> BaseAnswer:
        """Return why the base gave no result for a scenario."""
        log = f"{self._results.dir.name}/{FOLDER}/{OUTPUT}"
        if record is None:
            return BaseAnswer(Verdict.NOT_REACHED, f"the base was not asked: its run did not begin ({log})")
        for result in (*record.scenarios, *record.selftests):
            if result.entry.id == name and result.ended and result.verdict is Verdict.HARNESS_ERROR:
                return BaseAnswer(Verdict.HARNESS_ERROR, result.reason)
        for stage in record.results:
            if stage.entry.kind in STAGES and stage.verdict is not Verdict.CONFORMS:
                return BaseAnswer(Verdict.NOT_REACHED, f"the base was not asked: {_failed(stage)}")
        newest = newest_run(self._folder)
        assert newest is not None  # its record was read
        asked = BaseVerdicts(self._store, read_facts(newest)).conditions
        if changed := [key for key, value in cache.conditions.items() if asked[key] != value]:
            reason = f"the base was asked under other conditions ({', '.join(changed)})"
            return BaseAnswer(Verdict.NOT_REACHED, reason)
        return BaseAnswer(Verdict.NOT_REACHED, f"the base gave no verdict ({log})")

    # -- the build and the boot of the base ----------------------------------------------

    def blame(
        self, error: PatchproofError, stage: str, machines: Machines, layout: Layout
    ) -> PatchproofError:
        """Return the error for a failed ``stage``: ``error``, unless the base alone fails in it, too.

        If the base alone fails, or cannot be tried, nothing is known about the series: the
        result is a HarnessError, which says so.
        """
        judged = stage in TRIED and isinstance(error, (BuildError, BootError))
        if not judged or not self._patched or self._request.no_base:
            return error
        base = self.known()
        if base is None:
            return error
        verb = "boot" if isinstance(error, BootError) else "build"
        try:
            self._progress.say(f"base: does {base.version} alone {verb}?")
            self._try(base, stage, machines, layout)
        except (BuildError, BootError) as own:
            return HarnessError.in_place_of(
                own,
                f"The base {base.version} alone does not {verb} either, so the failure proves nothing about "
                f"the series: {own.message} With the series: {error.message}",
            )
        except HarnessError as trouble:
            return HarnessError.in_place_of(
                trouble,
                f"With the series, the kernel does not {verb}. Whether its base does is not known, because "
                f"that could not be tried: {trouble.message} With the series: {error.message}",
            )
        return error

    def _try(self, base: Base, stage: str, machines: Machines, layout: Layout) -> None:
        """Build the base's kernel, and do the ``stage`` with it.  Raises what the stage would."""
        log = self._results.log("base-build")
        tree = apply_series(self._store, self._progress, base, None, log)
        built: Kernel = build_kernel(
            self._store, self._progress, tree, self._request.uncounted_fragments, log
        )
        if stage == "probes":
            build_actor(self._store, built.headers, self._results.log("base-probes"))
        if stage == "boot":
            software = machines.ready
            folder = self._folder / "machine"
            shutil.rmtree(folder, ignore_errors=True)
            machine.boot(
                built.bzimage,
                software.image,
                run_dir=folder,
                accelerator=software.accelerator,
                qemu=self._request.qemu,
                layout=layout,
            ).close()


def _members(base: Base) -> dict[str, Any]:
    return {**asdict(base), "repository": str(base.repository)}


def _base(members: dict[str, Any]) -> Base:
    return Base(**{**members, "repository": Path(members["repository"])})


def _failed(stage: Result) -> str:
    verb = {"build": "the base alone does not build", "boot": "the base alone does not boot"}
    if stage.verdict is Verdict.VIOLATES and stage.entry.id in verb:
        return f"{verb[stage.entry.id]}: {stage.reason}"
    return f"its stage {stage.entry.id} is {stage.verdict}: {stage.reason}"
