"""The results folder of one run, ``results/<series>-<UTC time>/``, and its files.

===================  =========================================================
``plan.json``        the planned entries, written before the first machine starts
``events.jsonl``     the events, see ``harness.journal.writer``
``run.json``         digests and versions, see ``Facts``
``junit.xml``        the report for a CI system, made from the files above
``report.html``      the report for people, made from the same files
``transcripts/``     one file per scenario: every operation of every actor
``machine-N/``       each machine: its console from power-on, QEMU's command line
                     (``qemu.txt``, one option per line) and messages; the leaks
                     that kmemleak found, if any (``leaks.txt``)
``stacks/``          one file per fingerprint of a splat, with source lines where
                     vmlinux has them
``console.log``, ``qemu.txt``  symbolic links to those of the newest machine
``*.log``            one file per stage
===================  =========================================================

``results/latest`` is a symbolic link to the newest folder.  What is no link is left as it is:
CI systems unpack artifacts with a copy of the folder in its place.
"""

from __future__ import annotations

import fcntl
import json
import re
import secrets
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Unpack

from harness import __version__
from harness.journal.facts import IDENTITY, RUN, Facts, read_facts
from harness.journal.plan_file import PLAN
from harness.journal.writer import JournalWriter
from harness.lib import private
from harness.lib.errors import HarnessError
from harness.lib.files import digest, require_room, write_atomically
from harness.lib.text import without_credentials

LATEST = "latest"
BY_MACHINE = ("slowdowns",)  # facts with a member for each machine
CONSOLE = "console.log"
QEMU = "qemu.txt"
CONTROL = "control.txt"
LEAKS = "leaks.txt"
STACKS = "stacks"
_TIME = re.compile(r"-(?P<time>\d{8}T\d{6}Z)(-(?P<number>\d+))?$")  # of a run, in its folder's name
NAME_LIMIT = 80  # characters of a series' or scenario's name in a file name

#: Bytes that the results of one run may have.  An ordinary run of the whole suite has some ten MiB.
LIMIT = 1 << 30
#: Bytes for the transcript and the console of one scenario, and for the files that a machine boots from.
#: The latter are removed with the machine, so less would seem enough after a disk was full.
ROOM = 4 << 20


@dataclass
class ResultsFolder:
    """The results folder of one run.

    In a resumed run ``earlier_facts`` are the facts of the earlier parts, and ``changed_facts`` those
    that have changed since; write_changed_facts() writes them.  ``changed_facts`` is None in a new run
    and after write_changed_facts().  ``note`` is a sentence for the report about how the folder was
    made, or empty.
    """

    dir: Path
    earlier_facts: Mapping[str, object] = field(default_factory=dict)
    changed_facts: dict[str, object] | None = None
    note: str = ""

    @classmethod
    def create(cls, root: Path, series: str, now: datetime | None = None) -> ResultsFolder:
        """Make a new folder below ``root``, and make ``latest`` a link to it.

        Two runs that start in the same second get two folders.  If ``latest`` is a file or a
        folder, it stays, and ``note`` of the result says so.

        Raises HarnessError if the folder cannot be made.
        """
        when = (now if now is not None else datetime.now(UTC)).astimezone(UTC)
        name = f"{_file_name(series) or 'series'}-{when:%Y%m%dT%H%M%SZ}"
        try:
            root.mkdir(parents=True, exist_ok=True)
            results = cls(_new_folder(root.absolute(), name))
            (results.dir / "transcripts").mkdir()
            latest = results.dir.parent / LATEST
            if latest.is_symlink() or not latest.exists():
                _replace_link(latest, results.dir.name)
            else:
                results.note = (
                    f"{root / LATEST} is no link, so it was left as it is: it is not this run, which is in "
                    f"{root / results.dir.name}."
                )
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
        """Remove the temporary files and links that a killed run left, and the keys of its machine."""
        for temporary in self.dir.glob(".*.*"):
            temporary.unlink()
        for machine in self.dir.glob("machine-*/"):
            private.remove(machine)

    def require_within_limit(self) -> None:
        """Raise HarnessError if the run has written more than LIMIT, because the disk is for others, too."""
        size = sum(_size(path) for path in self.dir.rglob("*"))
        if size > LIMIT:
            raise HarnessError(
                f"The results in {self.dir} have {size >> 20} MiB, and {LIMIT >> 20} MiB is the limit of a "
                "run, so it ends here. What was reached keeps its verdict. Look for the largest file; if "
                "nothing is wrong with it, move it away, and go on with --resume."
            )

    def require_room(self) -> None:
        """Raise HarnessError unless there is room for the files of one more scenario."""
        require_room(self.dir, ROOM, "results", "Make room, and go on with --resume.")

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
        until write_changed_facts().  Raises HarnessError as require() does.
        """
        self.require(**facts)
        known = dict(facts)
        if self.changed_facts is not None:
            changed = {name for name in known if self.earlier_facts.get(name, known[name]) != known[name]}
            self.changed_facts |= {name: known.pop(name) for name in changed}
        self._merge(known)

    def write_changed_facts(self) -> None:
        """Write the facts that were held back, because the resumed run now continues."""
        changed, self.changed_facts = self.changed_facts, None
        if changed:
            self._merge(changed)

    def _merge(self, facts: Mapping[str, object]) -> None:
        """Add facts to ``run.json``; of those by machine, the other machines stay.

        Processes of one run do so in turns.
        """
        with ExitStack() as stack:
            if (plan := self.dir / PLAN).exists():
                fcntl.flock(stack.enter_context(plan.open("rb")), fcntl.LOCK_EX)
            merged: dict[str, object] = {**read_facts(self.dir)}
            for name, value in facts.items():
                before = merged.get(name)
                if name in BY_MACHINE and isinstance(before, dict) and isinstance(value, dict):
                    value = {**before, **value}
                merged[name] = value
            write_atomically(self.dir / RUN, _json(merged))

    def require(self, **facts: Unpack[Facts]) -> None:
        """Raise HarnessError if a fact of IDENTITY differs from that of the earlier parts of the run."""
        for name, words in IDENTITY.items():
            then, now = self.earlier_facts.get(name), facts.get(name)
            if then is not None and now is not None and then != now:
                raise HarnessError(
                    f"The run in {self.dir} cannot be resumed, because {words} is {now} now, and was "
                    f"{then} then. Start a new run."
                )

    def claim_machine(self, after: int) -> int:
        """Return the number of a new machine, which is larger than ``after``, and make its folder.

        No two processes of a run get the same one.
        """
        number = after + 1
        while True:
            try:
                (self.dir / f"machine-{number}").mkdir(mode=0o700)
            except FileExistsError:
                number += 1
            else:
                return number

    def machine(self, name: str) -> Path:
        """Return the folder of a new machine, and link ``console.log`` and ``qemu.txt`` to its files."""
        for file in (CONSOLE, QEMU):
            _replace_link(self.dir / file, f"{name}/{file}")
        return self.dir / name


def _json(facts: Mapping[str, object]) -> str:
    return without_credentials(json.dumps(facts, indent=1, default=str)) + "\n"


def newest_run(root: Path) -> Path | None:
    """Return the folder of the newest run below ``root``; None if there is none.

    It is the one that ``latest`` links to.  If ``latest`` is no link, it is the folder with the latest
    time in its name.
    """
    latest = root / LATEST
    if latest.is_symlink():
        return latest.resolve() if latest.exists() else None
    runs = {path: _TIME.search(path.name) for path in root.glob("*Z*") if path.is_dir()}
    started = {path: (each["time"], int(each["number"] or 1)) for path, each in runs.items() if each}
    return max(started, key=lambda path: started[path], default=None)


def _size(path: Path) -> int:
    """Return the bytes of a file; 0 if another process has just removed it."""
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


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
