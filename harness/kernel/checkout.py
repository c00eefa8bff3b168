"""Read a user's kernel checkout into the cache, uncommitted changes included."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from harness.kernel.base import Base
from harness.lib import command, git
from harness.lib.cache import Store
from harness.lib.command import CommandError
from harness.lib.errors import HarnessError, UsageError
from harness.lib.files import digest
from harness.lib.progress import Progress
from harness.lib.text import printable


def checkout(store: Store, progress: Progress, directory: Path) -> Base:
    """Return the base in ``directory``, with uncommitted changes and new files that are not ignored.

    The checkout is only read: index and objects are written to the cache, and
    nothing that its configuration names (hooks, filters, fsmonitor) is run.  But git
    renews the time stamp of the objects it uses, so that they are not pruned.
    Raises UsageError when it is not the top of a git checkout of a kernel.
    """
    version = kernel_version(directory)
    top, git_dir, common = _locate(directory)
    if top != directory.resolve():
        raise UsageError(f"{directory} is not the top of a git checkout; that is {top}. Give --tree {top}.")
    with (
        progress.stage("fetch", "tree") as stage,
        store.lock(f"tree-{digest(str(top))[:32]}"),
    ):
        stage.update(f"reading {top}")
        repository = store.path("trees", f"{digest(str(top))[:16]}.git")
        if not (repository / "HEAD").exists():
            git.query(["init", "--quiet", "--bare", "--template=", str(repository)], env=git.environment())
        (repository / "info").mkdir(exist_ok=True)
        (repository / "objects" / "info").mkdir(parents=True, exist_ok=True)
        (repository / "objects" / "info" / "alternates").write_text(f"{common / 'objects'}\n")
        excluded = common / "info" / "exclude"
        shutil.copyfile(excluded if excluded.exists() else "/dev/null", repository / "info" / "exclude")
        for leftover in [*repository.glob("index*"), *repository.glob("sharedindex.*")]:
            leftover.unlink()
        # With their time stamps, by which git knows the files that it need not read again.
        for shared in git_dir.glob("sharedindex.*"):
            shutil.copy2(shared, repository / shared.name)
        index = repository / "index"
        if (git_dir / "index").exists():
            shutil.copy2(git_dir / "index", index)
        env = git.environment(repository, work_tree=top, index=index)
        settings = _settings_of_files(git_dir, common)
        log = store.path("logs", f"checkout-{digest(str(top))[:16]}.log")
        log.unlink(missing_ok=True)
        try:
            command.run(["git", *settings, "add", "--all", "--", "."], log=log, cwd=top, env=env)
            tree_id = git.query(["write-tree"], env=env).decode().strip()
            head = git.resolve(git_dir, "HEAD") or "an unborn branch"
            # Without a parent: a shallow checkout has no history, and nothing here reads it.
            message = f"Linux {version}\n\nChecked out: {head}\n".encode()
            commit = git.query(["commit-tree", tree_id], env=env, stdin=message).decode().strip()
            git.query(["update-ref", "refs/patchproof/base", commit], env=env)
        except CommandError as error:
            raise HarnessError(
                f"The checkout {top} could not be read into git.", log=log, tail=error.tail
            ) from error
        changed = git.resolve(git_dir, "HEAD^{tree}") != tree_id
    source = f"{top} at {head if ' ' in head else head[:12]}{' with uncommitted changes' if changed else ''}"
    return Base(version, version, source, commit, repository)


def kernel_version(directory: Path) -> str:
    """Return the version in the Makefile of a kernel source, such as 6.19.6.  Raises UsageError."""
    makefile = directory / "Makefile"
    text = makefile.read_text(errors="replace")[:4096] if makefile.is_file() else ""
    parts = [
        found[1] if (found := re.search(rf"^{key}\s*=[ \t]*(\S*)$", text, re.MULTILINE)) else None
        for key in ("VERSION", "PATCHLEVEL", "SUBLEVEL", "EXTRAVERSION")
    ]
    version, patchlevel, sublevel, extra = parts
    if not (version and patchlevel) or not (directory / "Kconfig").is_file():
        raise UsageError(
            f"{directory} is not a kernel source: it has no Makefile with a kernel's version and Kconfig."
        )
    small = f".{sublevel}" if sublevel and sublevel != "0" else ""
    return printable(f"{version}.{patchlevel}{small}{extra or ''}", 60)


def _locate(directory: Path) -> tuple[Path, Path, Path]:
    """Return top folder, git folder and common git folder; the last two differ in a linked worktree."""
    wanted = ("--show-toplevel", "--git-dir", "--git-common-dir")
    try:
        output = git.query(
            ["rev-parse", "--path-format=absolute", *wanted], env=git.environment(), cwd=directory
        )
    except CommandError as error:
        raise UsageError(
            f"{directory} is not a git checkout, so its uncommitted changes cannot be found.", tail=error.tail
        ) from error
    top, git_dir, common = (Path(line) for line in output.decode().splitlines())
    return top.resolve(), git_dir.resolve(), common.resolve()


def _settings_of_files(git_dir: Path, common: Path) -> list[str]:
    """Return the user's core.fileMode and core.excludesFile, which affect the content, as git options."""
    result: list[str] = []
    for key, kind in (("core.fileMode", "bool"), ("core.excludesFile", "path")):
        env = git.environment(git_dir)
        for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM"):
            del env[name]  # the user's own, for reading only
        try:
            value = (
                git.query(["config", f"--type={kind}", "--get", key], env=env, cwd=common).decode().strip()
            )
        except CommandError:
            continue  # not set
        result += ["-c", f"{key}={value}"]
    return result
