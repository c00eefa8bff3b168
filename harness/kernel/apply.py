"""Apply a series to a base in a bare repository."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.kernel.base import Base
from harness.kernel.tree import Tree
from harness.lib import command, git, text
from harness.lib.cache import Store
from harness.lib.command import CommandError
from harness.lib.errors import ApplyError, HarnessError
from harness.lib.progress import Progress
from harness.series import diff, mbox
from harness.series.series import Series, check


def apply_series(store: Store, progress: Progress, base: Base, series: Series | None, log: Path) -> Tree:
    """The tree that git am makes of ``series`` on ``base``; without patches, the base itself.

    git am demands every context line, so there is no fuzz; a hunk may have
    moved.  Raises ApplyError that names patch, file and hunk.
    """
    if series is None or not series.patches:
        return _tree(base, base.commit, series)
    with progress.stage("apply") as stage:
        touched = check(series)
        ref = _ref(base, series)
        with store.lock(f"apply-{series.digest[:32]}"):
            commit = git.resolve(base.repository, ref)
            if commit is None:
                done = _done(base, series)
                stage.update(f"{len(series.patches) - done.count} patches")
                with AmSession(store, base, series, touched, log, done) as workshop:
                    commit = workshop.apply()
                git.query(["update-ref", ref, commit], env=git.environment(base.repository))
    return _tree(base, commit, series)


def _ref(base: Base, series: Series) -> str:
    return f"refs/patchproof/series/{base.commit}/{series.digest}"


def _done(base: Base, series: Series) -> Done:
    """What need not be done again: a series may be another one and a patch more."""
    before = replace(series, patches=series.patches[:-1])
    commit = git.resolve(base.repository, _ref(base, before)) if before.patches else None
    return Done(base.commit, 0) if commit is None else Done(commit, len(before.patches))


def _tree(base: Base, commit: str, series: Series | None) -> Tree:
    tree_id = git.resolve(base.repository, f"{commit}^{{tree}}")
    if tree_id is None:
        raise HarnessError(
            f"The cached repository {base.repository} lacks {commit}. Delete it and try again."
        )
    return Tree(base.repository, commit, tree_id, base, series)


@dataclass(frozen=True)
class Done:
    """The first ``count`` patches of a series are in ``commit``."""

    commit: str
    count: int


class AmSession:
    """A throw-away repository that shares the objects of the base's and has no files.

    git am takes every file it patches from the index, so 90000 others need not
    be written first.  It is not a git worktree of the base's repository: that
    would leave its records there when a run is killed.
    """

    def __init__(
        self,
        store: Store,
        base: Base,
        series: Series,
        touched: Sequence[Sequence[diff.FileDiff]],
        log: Path,
        done: Done,
    ) -> None:
        self.base, self.log, self.start = base, log, done.commit
        self.patches, self.touched = series.patches[done.count :], touched[done.count :]
        prefix = f"apply.{series.digest[:16]}."
        room = store.path("work", prefix).parent
        for leftover in room.glob(f"{prefix}*"):
            shutil.rmtree(leftover, ignore_errors=True)  # of a killed run: its lock is ours now
        self.folder = Path(tempfile.mkdtemp(prefix=prefix, dir=room))
        self.files = self.folder / "tree"
        self.git_dir = self.files / ".git"
        self.env = git.environment(
            self.git_dir,
            work_tree=self.files,
            more={"GIT_OBJECT_DIRECTORY": str(base.repository / "objects")},
        )

    def __enter__(self) -> AmSession:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def apply(self) -> str:
        """The commit after the last patch.  Raises ApplyError."""
        git.query(["init", "--quiet", "--template=", str(self.files)], env=git.environment())
        git.query(["update-ref", "--no-deref", "HEAD", self.start], env=self.env)
        git.query(["read-tree", "HEAD"], env=self.env, cwd=self.files)
        mails = []
        for number, patch in enumerate(self.patches, 1):
            path = self.folder / f"{number:04}"
            path.write_bytes(mbox.dated(patch.content))
            mails.append(str(path))
        try:
            command.run(
                ["git", "am", "--patch-format=mbox", "--no-3way", "--no-scissors", *mails],
                log=self.log,
                cwd=self.files,
                env=self.env,
            )
        except CommandError as error:
            raise self._failure(error) from error
        self._verify()
        return git.query(["rev-parse", "HEAD"], env=self.env).decode().strip()

    def _verify(self) -> None:
        """Compare what git did with what was read before: the second fence against hostile patches."""
        commits = git.query(["rev-list", "--count", "HEAD", f"^{self.start}"], env=self.env)
        if int(commits) != len(self.patches):
            raise ApplyError(
                f"git made {int(commits)} commits of {len(self.patches)} patches, not one of each."
            )
        announced = {path for patch in self.touched for file in patch for path in file.paths}
        raw = git.query(["diff-tree", "-r", "-z", "--no-renames", self.start, "HEAD"], env=self.env)
        fields = raw.decode(errors="surrogateescape").split("\0")
        for about, path in zip(fields[::2], fields[1::2], strict=False):
            modes = about.lstrip(":").split(" ")[:2]
            if path not in announced or not set(modes) <= diff.PLAIN_MODES | {"000000"}:
                raise ApplyError(
                    f"The series is refused: applied, it changes {text.printable(path)} (mode {modes[0]} to "
                    f"{modes[1]}), which is not a plain file that its patches name."
                )

    def _failure(self, error: CommandError) -> HarnessError | ApplyError:
        """What git am's failure means: which patch, which file, which hunk, and why."""
        state = self.git_dir / "rebase-apply"
        if not (state / "next").exists():
            return HarnessError("git am could not begin.", log=self.log, tail=error.tail)
        at = int((state / "next").read_text()) - 1
        name = text.printable(self.patches[at].name) if at < len(self.patches) else "the last patch"
        said = [line for line in error.tail.splitlines() if line.startswith(("error:", "fatal:"))]
        tail = "\n".join(text.printable(line) for line in said)
        wheres = [_where(line, self.touched[at]) for line in said] if at < len(self.touched) else []
        where = "; ".join(dict.fromkeys(filter(None, wheres)))
        if self._applies("--reverse", "--cached", str(state / "patch")):
            message = (
                f"The patch {name} is already in the base {self.base.version}, or in a patch before it"
                f"{': ' if where else ''}{where}."
            )
            return ApplyError(message, log=self.log, tail=tail)
        message = f"The patch {name} does not apply to {self.base.version}: {where or 'git am refuses it'}."
        return ApplyError(message, log=self.log, tail=tail)

    def _applies(self, *arguments: str) -> bool:
        try:
            git.query(["apply", "--check", *arguments], env=self.env, cwd=self.files)
        except CommandError:
            return False
        return True


def _where(line: str, files: Sequence[diff.FileDiff]) -> str:
    """File and hunk of one of git's error lines; empty for a line that repeats what another says."""
    failed = re.fullmatch(r"error: patch failed: (.+):(\d+)", line)
    if failed is None:
        about = re.fullmatch(r"error: (.+): (already exists in .*|does not exist in .*|No such file.*)", line)
        return f"{text.printable(about[1])} {about[2]}" if about else ""
    path, first = failed[1], int(failed[2])
    for file in files:
        if path in file.paths and first in file.hunks:
            hunk = f"hunk {file.hunks.index(first) + 1} of {len(file.hunks)}"
            return f"{text.printable(path)}, {hunk} (line {first})"
    return f"{text.printable(path)}, line {first}"
