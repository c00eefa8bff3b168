"""The results folder of one run, ``results/<series>-<UTC time>/``, and its files.

===================  =========================================================
``plan.json``        the planned entries, written before the first machine starts
``events.jsonl``     the events, see ``harness.journal.writer``
``run.json``         digests and versions, see ``Facts``
``junit.xml``        the report for a CI system, made from the files above
``transcripts/``     one file per scenario: every operation of every actor
``machine-N/``       each machine: its console from power-on, QEMU's command line
                     (``qemu.txt``, one option per line) and messages; the leaks
                     that kmemleak found, if any (``leaks.txt``)
``stacks/``          one file per fingerprint of a splat, with source lines where
                     vmlinux has them
``console.log``, ``qemu.txt``  symbolic links to those of the newest machine
``*.log``            one file per stage
===================  =========================================================

``results/latest`` is a symbolic link to the newest folder.
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
#: The facts that stay equal in all parts of a resumed run, and their descriptions for a message.
IDENTITY = {
    "series": "the name of the series",
    "digest": "the digest of the series",
    "tree": "the git tree of the kernel",
    "kernel": "the identity of the kernel",
    "config_digest": "the digest of its configuration",
}
NAME_LIMIT = 80  # characters of a series' or scenario's name in a file name


class Facts(TypedDict, total=False):
    """The members of ``run.json``: what exactly was tested, and with what.

    Each stage adds its facts, so a run that ended early lacks some.
    """

    harness: str  # version of this program
    series: str  # name
    title: str
    origin: str  # where the series was read from
    dialect: str
    digest: str  # of the series, 64 hex digits
    program: str  # digest of suites, probes and harness
    base_wanted: str  # "6.19"
    base: str  # the version that was used, "6.19.6" if 6.19 was not available
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
    selection: list[str]  # the options and arguments that the user gave
    directory: str  # the working directory, to which paths in ``selection`` are relative
    repeat: int  # the number of repetitions of each scenario
    random_order: str  # the seed; empty if the scenarios run in the order of the suites
    resumed: list[str]  # UTC times at which the run was resumed


@dataclass
class ResultsFolder:
    """The results folder of one run.

    In a resumed run ``before`` are the facts of the earlier parts, and ``held`` those
    that have changed since; accept() writes them.  ``held`` is None in a new run and
    after accept().
    """

    dir: Path
    before: Mapping[str, object] = field(default_factory=dict)
    held: dict[str, object] | None = None

    @classmethod
    def create(cls, root: Path, series: str, now: datetime | None = None) -> ResultsFolder:
        """Make a new folder below ``root``, and make ``latest`` a link to it.

        Two runs that start in the same second get two folders.

        Raises HarnessError if the folder cannot be made.
        """
        when = (now if now is not None else datetime.now(UTC)).astimezone(UTC)
        name = f"{_file_name(series) or 'series'}-{when:%Y%m%dT%H%M%SZ}"
        try:
            root.mkdir(parents=True, exist_ok=True)
            results = cls(_new_folder(root.absolute(), name))
            (results.dir / "transcripts").mkdir()
            _replace_link(results.dir.parent / LATEST, results.dir.name)
        except OSError as error:
            raise HarnessError(
                f"The results folder {root / name} cannot be made: {error.filename}: {error.strerror}. "
                "Choose another with --results DIR."
            ) from error
        results.write_run(harness=__version__, series=series)
        return results

    @classmethod
    def reopen(cls, folder: Path) -> ResultsFolder:
        """Return the folder of an earlier run, in which require() allows only the same kernel.

        Raises HarnessError if ``folder`` has no plan, or its ``run.json`` is damaged.
        """
        path = folder.resolve()
        if not (path / PLAN).is_file():
            raise HarnessError(
                f"{folder} cannot be resumed: it holds no {PLAN}, so it is not the results folder of a run, "
                "or the run was ended before its plan was made. Start a new run."
            )
        return cls(path, read_facts(path), {})

    def sweep(self) -> None:
        """Remove the temporary files and links that a killed run left."""
        for temporary in self.dir.glob(".*.*"):
            temporary.unlink()

    def journal(self) -> JournalWriter:
        """Return a writer of this run's journal."""
        return JournalWriter(self.dir)

    def transcript(self, scenario_id: str) -> Path:
        """Return the path of a scenario's transcript; no two ids share one, whatever characters they hold."""
        name = _file_name(scenario_id.rsplit("::", 1)[-1])
        tail = digest(scenario_id.encode(errors="surrogatepass"))[:8]
        return self.dir / "transcripts" / f"{name}-{tail}.txt"

    def stack(self, fingerprint: str) -> Path:
        """Return the path of a splat's file, and make its folder."""
        (self.dir / STACKS).mkdir(exist_ok=True)
        return self.dir / STACKS / f"{fingerprint}.txt"

    def log(self, stage: str) -> Path:
        """Return the path of a stage's log."""
        return self.dir / f"{stage}.log"

    def write_run(self, **facts: Unpack[Facts]) -> None:
        """Add facts to ``run.json``.

        In a resumed run the facts that differ from those of the earlier parts are held back
        until accept().  Raises HarnessError as require() does.
        """
        self.require(**facts)
        known = dict(facts)
        if self.held is not None:
            changed = {name for name in known if self.before.get(name, known[name]) != known[name]}
            self.held |= {name: known.pop(name) for name in changed}
        merged = {**read_facts(self.dir), **known}
        write_atomically(self.dir / RUN, json.dumps(merged, indent=1, default=str) + "\n")

    def accept(self) -> None:
        """Write the facts that were held back, because the resumed run now continues."""
        changed, self.held = self.held, None
        if changed:
            merged = {**read_facts(self.dir), **changed}
            write_atomically(self.dir / RUN, json.dumps(merged, indent=1, default=str) + "\n")

    def require(self, **facts: Unpack[Facts]) -> None:
        """Raise HarnessError if a fact of IDENTITY differs from that of the earlier parts of the run."""
        for name, words in IDENTITY.items():
            then, now = self.before.get(name), facts.get(name)
            if then is not None and now is not None and then != now:
                raise HarnessError(
                    f"The run in {self.dir} cannot be resumed, because {words} is {now} now, and was "
                    f"{then} then. Start a new run."
                )

    def machine(self, name: str) -> Path:
        """Return the folder of a new machine, and link ``console.log`` and ``qemu.txt`` to its files."""
        for file in (CONSOLE, QEMU):
            _replace_link(self.dir / file, f"{name}/{file}")
        return self.dir / name


def read_facts(directory: Path) -> Mapping[str, object]:
    """Return the facts in ``run.json``, none without that file; raise HarnessError if it is damaged."""
    path = directory / RUN
    try:
        facts = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise HarnessError(f"The facts of the run cannot be read: {path} is not JSON ({error}).") from error
    if not isinstance(facts, dict):
        raise HarnessError(f"The facts of the run cannot be read: {path} holds no JSON object.")
    return facts


def _replace_link(link: Path, target: str) -> None:
    """Make ``link`` a symbolic link to ``target``; an older one is replaced in one step."""
    temporary = link.with_name(f".{link.name}.{secrets.token_hex(8)}")
    temporary.symlink_to(target)
    try:
        temporary.replace(link)
    except OSError:
        temporary.unlink()
        raise


def _new_folder(root: Path, name: str) -> Path:
    """Make ``root/NAME``, or ``root/NAME-2`` and so on if it exists, and return it."""
    number = 1
    while True:
        folder = root / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _file_name(name: str) -> str:
    """Return ``name`` as part of a file name: no separators, no leading dot or dash, at most NAME_LIMIT."""
    return re.sub(r"[^A-Za-z0-9._+]+", "-", name).strip("-.")[:NAME_LIMIT]
