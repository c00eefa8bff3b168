"""Apply a series to a base in a bare repository."""

from __future__ import annotations

import itertools
import operator
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.kernel import am_failure, base_choice
from harness.kernel.base import Base
from harness.kernel.tree import Tree
from harness.lib import command, files, git, text
from harness.lib.cache import Store
from harness.lib.command import CommandError
from harness.lib.errors import ApplyError, HarnessError, PatchproofError
from harness.lib.progress import Progress
from harness.series import diff, mailinfo, mbox
from harness.series.series import Series, check

_ROOM = 1 << 20  # bytes, for git's files beside the mails


def apply_series(store: Store, progress: Progress, base: Base, series: Series | None, log: Path) -> Tree:
    """Return the tree that git am makes of ``series`` on ``base``; without patches, the base itself.

    git am requires every context line, so nothing is applied with fuzz; a hunk may
    apply at another line.  Raises ApplyError that names patch, file and hunk.
    """
    if series is None or not series.patches:
        return _tree(base, base.commit, series)
    with progress.stage("apply") as stage:
        touched = check(series)
        ref = _ref(base, series)
        with store.lock(f"apply-{series.digest[:32]}"):
            commit = git.resolve(base.repository, ref)
            if commit is None:
                done = _longest_applied(base, series)
                stage.update(f"{len(series.patches) - done.count} patches")
                try:
                    with AmSession(store, base, series, touched, log, done) as session:
                        commit = session.apply()
                except ApplyError as error:
                    error.message += base_choice.advice(series, base)
                    raise
                git.query(["update-ref", ref, commit], env=git.environment(base.repository))
    return _tree(base, commit, series)


def _ref(base: Base, series: Series) -> str:
    return f"refs/patchproof/series/{base.commit}/{series.digest}"


def _longest_applied(base: Base, series: Series) -> AppliedPrefix:
    """Return how much of ``series`` is applied already: all patches but the last (a mutant), or none."""
    before = replace(series, patches=series.patches[:-1])
    commit = git.resolve(base.repository, _ref(base, before)) if before.patches else None
    return AppliedPrefix(base.commit, 0) if commit is None else AppliedPrefix(commit, len(before.patches))


def _tree(base: Base, commit: str, series: Series | None) -> Tree:
    return Tree(base.repository, commit, base.tree_of(commit), base, series)


@dataclass(frozen=True)
class AppliedPrefix:
    """The ``commit`` that has the first ``count`` patches of a series."""

    commit: str
    count: int


class AmSession:
    """A git am in a temporary repository that shares the objects of the base's and has no files.

    git am takes every file that it patches from the index, so the 90000 others need
    not be written first.  The repository is not a git worktree of the base's, since
    the records of a worktree would stay behind in the base's when a run is killed.
    """

    def __init__(
        self,
        store: Store,
        base: Base,
        series: Series,
        touched: Sequence[Sequence[diff.FileDiff]],
        log: Path,
        done: AppliedPrefix,
    ) -> None:
        self.base, self.log, self.start = base, log, done.commit
        self.patches, self.touched = series.patches[done.count :], touched[done.count :]
        prefix = f"apply.{series.digest[:16]}."
        work = store.path("work", prefix).parent
        for leftover in work.glob(f"{prefix}*"):
            shutil.rmtree(leftover, ignore_errors=True)  # of a killed run: this process holds its lock now
        self.folder = Path(tempfile.mkdtemp(prefix=prefix, dir=work))
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
        """Apply the patches, and return the last commit.

        Raises ApplyError for a fault of a patch, UsageError for a mail that git cannot
        commit, HarnessError if git fails otherwise.
        """
        git.query(["init", "--quiet", "--template=", str(self.files)], env=git.environment())
        git.query(["update-ref", "--no-deref", "HEAD", self.start], env=self.env)
        git.query(["read-tree", "HEAD"], env=self.env, cwd=self.files)
        files.require_room(self.folder, 4 * sum(len(patch.content) for patch in self.patches) + _ROOM)
        mails: list[tuple[tuple[str, ...], str]] = []
        for number, patch in enumerate(self.patches, 1):
            path = self.folder / f"{number:04}"
            path.write_bytes(mbox.with_date(patch.content))
            mails.append((mailinfo.decode(patch.name, patch.content).options, str(path)))
        for options, alike in itertools.groupby(mails, key=operator.itemgetter(0)):
            argv = ["git", "am", "--patch-format=mbox", "--no-3way", "--no-scissors", *options]
            try:
                command.run([*argv, *(path for _, path in alike)], log=self.log, cwd=self.files, env=self.env)
            except CommandError as error:
                raise self._failure(error) from error
        self._verify()
        return git.query(["rev-parse", "HEAD"], env=self.env).decode().strip()

    def _verify(self) -> None:
        """Raise ApplyError unless git changed only what diff.read() found in the patches."""
        commits = self._commits()
        if commits < len(self.patches):
            raise HarnessError(
                f"git am succeeded, but made only {commits} commits of {len(self.patches)} patches.",
                log=self.log,
            )
        if commits > len(self.patches):
            raise ApplyError(f"git made {commits} commits of {len(self.patches)} patches, not one of each.")
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

    def _commits(self) -> int:
        return int(git.query(["rev-list", "--count", "HEAD", f"^{self.start}"], env=self.env))

    def _failure(self, error: CommandError) -> PatchproofError:
        """Return the error for a failed git am."""
        done = self._commits()
        if done >= len(self.patches):
            return am_failure.of_the_host(error, "after the last patch", self.base)
        attempt = am_failure.Attempt(
            self.base, self.patches[done], self.touched[done], self.folder, self.files, self.env
        )
        return attempt.explain(error)
