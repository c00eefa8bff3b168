"""The tree: the source that is built, as a commit of a base with a series applied to it.

The user's files stay untouched: patches are applied in a temporary repository
that shares the objects of the cached one, and a checkout given with --tree is
only read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.kernel.base import Base
from harness.lib import command, git, locks
from harness.lib.command import CommandError
from harness.lib.progress import Progress
from harness.series.series import Series

_WORKERS = "checkout.workers=2"  # two were fastest on 2 cores and do no harm on more


@dataclass(frozen=True)
class Tree:
    """A base with a series applied (``series`` is None for the base alone).

    ``tree_id``, the git tree of ``commit``, identifies the content: two trees with
    the same id build the same kernel.
    """

    repository: Path
    commit: str
    tree_id: str
    base: Base
    series: Series | None

    @property
    def untrusted(self) -> Tree | None:
        """The tree itself if its patches came in a mail, which anybody can write; else None."""
        return self if self.series is not None and self.series.untrusted and self.series.patches else None

    def content(self, path: str) -> bytes:
        """Return the content of the file ``path`` in the tree.  Raises CommandError if there is none."""
        return git.query(["show", f"{self.commit}:{path}"], env=git.environment(self.repository))

    def check_out(self, directory: Path, progress: Progress) -> None:
        """Write exactly this tree into ``directory``; a file that does not differ keeps its time stamp.

        git's index of the files and the lock are beside ``directory``.  A killed
        run leaves files that do not match the index, and the next run writes these again.
        """
        directory.mkdir(parents=True, exist_ok=True)
        index, lock = (directory.with_name(directory.name + suffix) for suffix in (".index", ".lock"))
        with (
            locks.hold(lock, "source", progress.waiting),
            progress.stage("checkout", "again" if index.exists() else "new"),
        ):
            # The lock file of a killed git: this call holds a lock of its own.
            index.with_name(index.name + ".lock").unlink(missing_ok=True)
            env = git.environment(self.repository, work_tree=directory, index=index)
            # A git that outlived a killed run would write into the folder beside the git of the next.
            git_argv = ["setpriv", "--pdeathsig", "KILL", "git"]
            read = [*git_argv, "-c", _WORKERS, "read-tree", "--reset", "-u", self.commit]
            try:
                command.run(read, env=env, cwd=directory)
            except CommandError:
                if not index.exists():
                    raise
                index.unlink()  # it may be damaged; without an index every file is written
                command.run(read, env=env, cwd=directory)
            command.run([*git_argv, "clean", "-ffdxq"], env=env, cwd=directory)


def without_series(tree: Tree) -> Tree:
    """Return the base of ``tree`` alone."""
    env = git.environment(tree.base.repository)
    tree_id = git.query(["rev-parse", f"{tree.base.commit}^{{tree}}"], env=env).decode().strip()
    return Tree(tree.base.repository, tree.base.commit, tree_id, tree.base, None)
