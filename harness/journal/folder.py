"""The results folder of one run, ``results/<series>-<UTC time>/``, and what lies in it.

===================  =========================================================
``plan.json``        what was to be done, written before the first machine starts
``events.jsonl``     what happened, see ``harness.journal``
``run.json``         digests and versions, see ``Facts``
``junit.xml``        the report for a CI system, made from the files above
``transcripts/``     one file per scenario: every operation of every actor
``machine-N/``       each machine: its console from power-on, QEMU's command line
                     (``qemu.txt``, an option to a line) and messages; what its
                     kernel has lost (``leaks.txt``), if kmemleak found anything
``stacks/``          what the kernel complained of, by fingerprint, with source
                     lines where vmlinux has them
``console.log``, ``qemu.txt``  point to the newest machine's
``*.log``            one file per stage
===================  =========================================================

``results/latest`` points to the newest folder.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict, Unpack

from harness import __version__
from harness.journal.writer import PLAN, JournalWriter
from harness.lib.errors import HarnessError
from harness.lib.files import digest, write_atomically

RUN = "run.json"
LATEST = "latest"
CONSOLE = "console.log"
QEMU = "qemu.txt"
CONTROL = "control.txt"
LEAKS = "leaks.txt"
STACKS = "stacks"
#: The facts that make a run what it is, in words.
IDENTITY = {
    "series": "the name of the series",
    "digest": "the digest of the series",
    "tree": "the git tree of the kernel",
    "kernel": "the identity of the kernel",
    "config_digest": "the digest of its configuration",
}
NAME_LIMIT = 80  # characters of a foreign name that go into a file name


class Facts(TypedDict, total=False):
    """The members of ``run.json``: what exactly was tested, and with what.

    They come in as the stages go by; a run that does not get far lacks some.
    """

    harness: str  # version of this program
    series: str  # name
    title: str
    origin: str  # where the series was read from
    dialect: str
    digest: str  # of the series, 64 hex digits
    program: str  # digest of suites, probes and harness
    base_wanted: str  # "6.19"
    base: str  # what was used instead, if it had to be: "6.19.6"
    base_source: str  # where the base came from
    tree: str  # git tree id of base plus series
    kernel_release: str  # uname -r
    kernel: str  # identity of the built kernel
    config_digest: str
    compiler: str
    warnings: list[str]  # compile warnings that the series adds
    image: str  # identity of the root file system
    accelerator: str
    accelerator_reason: str
    qemu: str  # version
    qemu_command: list[str]
    selection: list[str]  # what the user asked for: options and arguments
    directory: str  # where; their paths are relative to it
    repeat: int  # how often each scenario runs
    random_order: str  # the seed, empty if the scenarios stand as in the suites
    resumed: list[str]  # when the run was resumed, UTC


@dataclass
class ResultsFolder:
    """The results folder of one run.

    ``before`` are the facts that were true when it was resumed, ``held`` those that
    are not any more and wait for accept().
    """

    dir: Path
    before: Mapping[str, object] = field(default_factory=dict)
    held: dict[str, object] | None = None

    @classmethod
    def create(cls, root: Path, series: str, now: datetime | None = None) -> ResultsFolder:
        """Make a new folder below ``root`` and let ``latest`` point to it.

        Two runs that start in the same second get two folders.  Raises
        HarnessError if ``root`` cannot be written to.
        """
        when = (now if now is not None else datetime.now(UTC)).astimezone(UTC)
        name = f"{_safe(series) or 'series'}-{when:%Y%m%dT%H%M%SZ}"
        try:
            root.mkdir(parents=True, exist_ok=True)
            results = cls(_new_folder(root.absolute(), name))
            (results.dir / "transcripts").mkdir()
            _point(results.dir.parent / LATEST, results.dir.name)
        except OSError as error:
            raise HarnessError(
                f"The results folder {root / name} cannot be made: {error.filename}: {error.strerror}. "
                "Choose another with --results DIR."
            ) from error
        results.write_run(harness=__version__, series=series)
        return results

    @classmethod
    def reopen(cls, folder: Path) -> ResultsFolder:
        """The folder of an earlier run, in which nothing else may be tested.

        HarnessError if it is none, or its ``run.json`` is damaged.
        """
        place = folder.resolve()
        if not (place / PLAN).is_file():
            raise HarnessError(
                f"{folder} cannot be resumed: it holds no {PLAN}, so it is not the results folder of a run, "
                "or the run was ended before its plan was made. Start a new run."
            )
        return cls(place, read_facts(place), {})

    def sweep(self) -> None:
        """Remove what a killed run was about to put in its place."""
        for unfinished in self.dir.glob(".*.*"):
            unfinished.unlink()

    def journal(self) -> JournalWriter:
        """The journal of this run."""
        return JournalWriter(self.dir)

    def transcript(self, scenario_id: str) -> Path:
        """The transcript file of a scenario; two ids never share one, whatever they hold."""
        name = _safe(scenario_id.rsplit("::", 1)[-1])
        tail = digest(scenario_id.encode(errors="surrogatepass"))[:8]
        return self.dir / "transcripts" / f"{name}-{tail}.txt"

    def stack(self, fingerprint: str) -> Path:
        """The file of a complaint of the kernel; its folder is made."""
        (self.dir / STACKS).mkdir(exist_ok=True)
        return self.dir / STACKS / f"{fingerprint}.txt"

    def log(self, stage: str) -> Path:
        """The log file of a stage."""
        return self.dir / f"{stage}.log"

    def write_run(self, **facts: Unpack[Facts]) -> None:
        """Add facts to ``run.json``.  HarnessError if one says that something else is tested now."""
        self.require(**facts)
        known = dict(facts)
        if self.held is not None:
            changed = {name for name in known if self.before.get(name, known[name]) != known[name]}
            self.held |= {name: known.pop(name) for name in changed}
        merged = {**read_facts(self.dir), **known}
        write_atomically(self.dir / RUN, json.dumps(merged, indent=1, default=str) + "\n")

    def accept(self) -> None:
        """Let the facts that have changed since the run was resumed be written: it goes on."""
        changed, self.held = self.held, None
        if changed:
            merged = {**read_facts(self.dir), **changed}
            write_atomically(self.dir / RUN, json.dumps(merged, indent=1, default=str) + "\n")

    def require(self, **facts: Unpack[Facts]) -> None:
        """Raise HarnessError if one of these facts says that something else is tested than before."""
        for name, words in IDENTITY.items():
            then, now = self.before.get(name), facts.get(name)
            if then is not None and now is not None and then != now:
                raise HarnessError(
                    f"The run in {self.dir} cannot be resumed, because {words} is {now} now, and was "
                    f"{then} then. Start a new run."
                )

    def machine(self, name: str) -> Path:
        """The folder of a machine; ``console.log`` and ``qemu.txt`` point to the newest one's."""
        for file in (CONSOLE, QEMU):
            _point(self.dir / file, f"{name}/{file}")
        return self.dir / name


def read_facts(directory: Path) -> Mapping[str, object]:
    """The facts in ``run.json``, none if there is no such file; HarnessError if it is damaged."""
    path = directory / RUN
    try:
        facts = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise HarnessError(f"{path} is not JSON ({error}).") from error
    if not isinstance(facts, dict):
        raise HarnessError(f"{path} holds no JSON object.")
    return facts


def _point(link: Path, target: str) -> None:
    """Let the symbolic link ``link`` lead to ``target``, in one step."""
    unfinished = link.with_name(f".{link.name}.{secrets.token_hex(8)}")
    unfinished.symlink_to(target)
    try:
        unfinished.replace(link)
    except OSError:
        unfinished.unlink()
        raise


def _new_folder(root: Path, name: str) -> Path:
    number = 1
    while True:
        folder = root / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _safe(name: str) -> str:
    """``name`` as part of a file name: no separators, no leading dot or dash, not too long."""
    return re.sub(r"[^A-Za-z0-9._+]+", "-", name).strip("-.")[:NAME_LIMIT]
