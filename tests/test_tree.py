"""Applying a series, reading a checkout, and laying a tree out in a folder."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from small_kernel import CORE, FILES, make_base

from harness.kernel import apply
from harness.kernel import checkout as checkout_module
from harness.kernel.apply import AmSession, AppliedPrefix
from harness.kernel.base import Base
from harness.kernel.tree import Tree
from harness.lib import git
from harness.lib.cache import Store
from harness.lib.errors import ApplyError, UsageError
from harness.lib.progress import Progress
from harness.series.diff import FileDiff
from harness.series.series import Patch, Series

DATA = Path(__file__).parent / "data" / "series"
ACCEPTED = tomllib.loads((DATA / "accepted.toml").read_text())
PLAIN = (DATA / "accepted" / "plain-edit.patch").read_bytes()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def progress(store: Store) -> Progress:
    return Progress(store, io.StringIO())


@pytest.fixture(scope="session")
def base_made_once(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def base(base_made_once: Base, tmp_path: Path) -> Base:
    """A base of the test's own."""
    repository = shutil.copytree(base_made_once.repository, tmp_path / "base.git")
    return Base("6.19.6", "6.19", "a test", base_made_once.commit, repository)


def made_of(*contents: bytes) -> Series:
    patches = tuple(
        Patch(f"{n:04}-change.patch", content, "subject") for n, content in enumerate(contents, 1)
    )
    return Series("test", "a test", "6.19", "auto", patches, {}, "a test")


def make_mail(body: str) -> bytes:
    return f"From: Dev <dev@example.org>\nSubject: [PATCH] change\n\nWhy.\n---\n{body}".encode()


def edit(line: int, old: str, new: str, path: str = "drivers/vfio/pci/core.c") -> str:
    """Make a diff that changes one line of core.c, counted from 1, with three lines of context."""
    before = "".join(f" int line_{at};\n" for at in range(line - 3, line))
    after = "".join(f" int line_{at};\n" for at in range(line + 1, line + 4))
    hunk = f"@@ -{line - 3},7 +{line - 3},7 @@\n{before}-{old}\n+{new}\n{after}"
    return f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n{hunk}"


def content_of(made: Tree, path: str) -> str:
    return git.query(
        ["cat-file", "blob", f"{made.commit}:{path}"], env=git.environment(made.repository)
    ).decode()


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    """Read everything below ``folder`` except .git: relative path to mode and content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] != ".git" and (path.is_symlink() or path.is_file()):
            text = str(path.readlink()) if path.is_symlink() else path.read_text()
            found[str(name)] = (path.lstat().st_mode & 0o111, text)
    return found


# --- applying


def test_apply_without_patches_is_the_base(
    store: Store, progress: Progress, base: Base, tmp_path: Path
) -> None:
    for series in (None, made_of()):
        made = apply.apply_series(store, progress, base, series, tmp_path / "log")
        assert (made.commit, made.series) == (base.commit, series)


@pytest.mark.parametrize("case", ACCEPTED)
def test_apply_takes_an_honest_patch(
    store: Store, progress: Progress, base: Base, tmp_path: Path, case: str
) -> None:
    patch = (DATA / "accepted" / f"{case}.patch").read_bytes()
    made = apply.apply_series(store, progress, base, made_of(patch), tmp_path / "log")
    raw = git.query(
        ["diff-tree", "-r", "-z", "--name-only", base.commit, made.commit],
        env=git.environment(base.repository),
    )
    changed = set(raw.decode().rstrip("\0").split("\0"))
    named = {path for paths in ACCEPTED[case] for path in paths}
    assert changed <= named
    assert changed


def test_apply_gives_the_same_commit_everywhere(
    store: Store, progress: Progress, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = made_of(
        make_mail(edit(10, "int line_10;", "one;")),
        make_mail(edit(10, "one;", "two;")),
        make_mail(edit(40, "int line_40;", "x;")),
    )
    made = apply.apply_series(store, progress, base, series, tmp_path / "log")
    assert content_of(made, "drivers/vfio/pci/core.c") == CORE.replace("int line_10;", "two;").replace(
        "int line_40;", "x;"
    )
    # Another user on another host, with a configuration of their own, below a git hook.
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "applypatch-msg").write_text("#!/bin/sh\nexit 1\n")
    (hooks / "applypatch-msg").chmod(0o755)
    settings = tmp_path / "gitconfig"
    settings.write_text(f"[am]\n\tkeepcr = true\n[core]\n\thooksPath = {hooks}\n[user]\n\tname = other\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere")
    other = make_base(tmp_path / "other")
    again = apply.apply_series(Store(tmp_path / "cache2"), progress, other, series, tmp_path / "log")
    assert again.commit == made.commit
    env = git.environment(made.repository)
    dates = git.query(["log", "-3", "--format=%at %ct", made.commit], env=env)
    assert (
        dates.decode().split() == ["0"] * 6
    )  # these mails have no date, and the time of day must not be used


def test_apply_again_comes_from_the_cache(
    store: Store, progress: Progress, base: Base, tmp_path: Path
) -> None:
    first = apply.apply_series(store, progress, base, made_of(PLAIN), tmp_path / "first.log")
    second = apply.apply_series(store, progress, base, made_of(PLAIN), tmp_path / "second.log")
    assert first == second
    assert (tmp_path / "first.log").exists()
    assert not (tmp_path / "second.log").exists()


def test_apply_removes_leftovers(store: Store, progress: Progress, base: Base, tmp_path: Path) -> None:
    series = made_of(PLAIN)
    leftover = store.path("work", f"apply.{series.digest[:16]}.killed", "tree", "x")
    leftover.write_text("x")
    apply.apply_series(store, progress, base, series, tmp_path / "log")
    assert list((store.root / "work").iterdir()) == []
    with pytest.raises(ApplyError):
        apply.apply_series(store, progress, base, made_of(PLAIN, PLAIN), tmp_path / "log")
    assert list((store.root / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("patches", "says"),
    [
        (
            [make_mail(edit(10, "int line_10;", "x;") + edit(40, "int other;", "y;").split("\n", 3)[3])],
            "0001-change.patch does not apply to 6.19.6: drivers/vfio/pci/core.c, hunk 2 of 2 (line 37)",
        ),
        (
            [PLAIN, make_mail(edit(20, "int gone;", "x;"))],
            "0002-change.patch does not apply to 6.19.6: drivers/vfio/pci/core.c, hunk 1 of 1 (line 17)",
        ),
        (
            [
                make_mail(edit(10, "int line_10;", "x;").replace(" int line_9;", " int line_nine;"))
            ],  # applies only with fuzz
            "drivers/vfio/pci/core.c, hunk 1 of 1 (line 7)",
        ),
        (
            [make_mail(edit(10, "int line_10;", "x;", "drivers/vfio/gone.c"))],
            "drivers/vfio/gone.c does not exist in index",
        ),
        (
            [
                make_mail(
                    "diff --git a/Kconfig b/Kconfig\nnew file mode 100644\n"
                    "--- /dev/null\n+++ b/Kconfig\n@@ -0,0 +1 @@\n+x\n"
                )
            ],
            "Kconfig already exists in index",
        ),
        (
            [PLAIN, PLAIN],
            "0002-change.patch is already in the base 6.19.6, or in a patch before it: "
            "drivers/vfio/pci/core.c, hunk 1 of 1 (line 7).",
        ),
        (
            [
                make_mail(
                    "diff --git a/Kconfig b/Kconfig\n--- a/Kconfig\n+++ b/Kconfig\n"
                    f"@@ -1 +1 @@\n-x\n+{FILES['Kconfig'][1]}"
                )
            ],
            "is already in the base 6.19.6, or in a patch before it: Kconfig, hunk 1 of 1 (line 1).",
        ),
    ],
)
def test_apply_failure_names_patch_file_and_hunk(
    store: Store, progress: Progress, base: Base, tmp_path: Path, patches: list[bytes], says: str
) -> None:
    with pytest.raises(ApplyError) as failure:
        apply.apply_series(store, progress, base, made_of(*patches), tmp_path / "log")
    assert says in failure.value.message
    assert failure.value.log == tmp_path / "log"


def test_apply_refuses_to_change_a_symlink_as_a_file(
    store: Store, progress: Progress, base: Base, tmp_path: Path
) -> None:
    link = "include/dt-bindings"
    end = "\\ No newline at end of file\n"
    patch = make_mail(
        f"diff --git a/{link} b/{link}\n--- a/{link}\n+++ b/{link}\n"
        f"@@ -1 +1 @@\n-../scripts\n{end}+/etc\n{end}"
    )
    with pytest.raises(ApplyError, match=r"it changes include/dt-bindings \(mode 120000 to 120000\)"):
        apply.apply_series(store, progress, base, made_of(patch), tmp_path / "log")


def test_apply_of_one_more_patch_begins_at_the_series(
    store: Store, progress: Progress, base: Base, tmp_path: Path
) -> None:
    one, two, three = (make_mail(edit(line, f"int line_{line};", "int changed;")) for line in (10, 30, 50))
    apply.apply_series(store, progress, base, made_of(one, two), tmp_path / "log")
    more = apply.apply_series(store, progress, base, made_of(one, two, three), tmp_path / "more")
    assert (tmp_path / "log").read_text().count("Applying:") == 2
    assert (tmp_path / "more").read_text().count("Applying:") == 1
    assert content_of(more, "drivers/vfio/pci/core.c").count("int changed;") == 3
    wrong = make_mail(edit(10, "int line_10;", "int changed;"))
    with pytest.raises(ApplyError, match=r"patch 0003-change\.patch is already in the base"):
        apply.apply_series(store, progress, base, made_of(one, two, wrong), tmp_path / "log")


def test_apply_refuses_a_file_the_reader_did_not_see(
    store: Store, progress: Progress, base: Base, tmp_path: Path
) -> None:
    """git and harness.series.diff may read a patch differently; then it is refused."""
    misread = [[FileDiff(paths={"Makefile"})]]
    nothing = AppliedPrefix(base.commit, 0)
    with (
        AmSession(store, base, made_of(PLAIN), misread, tmp_path / "log", nothing) as workshop,
        pytest.raises(ApplyError, match=r"it changes drivers/vfio/pci/core\.c"),
    ):
        workshop.apply()


def test_apply_does_not_write_through_a_symlink(
    store: Store, progress: Progress, base: Base, tmp_path: Path
) -> None:
    path = "include/dt-bindings/x"
    patch = make_mail(
        f"diff --git a/{path} b/{path}\nnew file mode 100644\n"
        f"--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n"
    )
    with pytest.raises(ApplyError, match=r"does not apply"):
        apply.apply_series(store, progress, base, made_of(patch), tmp_path / "log")


# --- laying out


def test_files_into_writes_only_what_differs(
    store: Store, progress: Progress, base: Base, tmp_path: Path
) -> None:
    plain = apply.apply_series(store, progress, base, None, tmp_path / "log")
    patched = apply.apply_series(store, progress, base, made_of(PLAIN), tmp_path / "log")
    folder = tmp_path / "build" / "src"
    plain.check_out(folder, progress)
    expected = {name: (mode & 0o111, text) for name, (mode, text) in FILES.items()}
    expected["include/dt-bindings"] = (0o111, "../scripts")
    assert contents(folder) == expected
    times = {path: path.lstat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    patched.check_out(folder, progress)
    changed = {
        str(path.relative_to(folder)) for path, time in times.items() if path.lstat().st_mtime_ns != time
    }
    assert changed == {"drivers/vfio/pci/core.c"}

    # Somebody changed, deleted and added files, ignored ones as well, and a repository.
    (folder / "Makefile").write_text("all:\n")
    (folder / "scripts" / "tool.sh").unlink()
    (folder / "scripts" / "extra.o").write_text("x")
    (folder / "nested" / ".git").mkdir(parents=True)
    (folder / "nested" / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    plain.check_out(folder, progress)
    assert contents(folder) == expected
    assert not (folder / "nested").exists()


def test_files_into_ignores_the_users_attributes(
    store: Store, progress: Progress, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config" / "git").mkdir(parents=True)
    (tmp_path / "config" / "git" / "attributes").write_text("* text eol=crlf\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    apply.apply_series(store, progress, base, None, tmp_path / "log").check_out(tmp_path / "src", progress)
    assert (tmp_path / "src" / "Kconfig").read_bytes() == FILES["Kconfig"][1].encode()


@pytest.mark.parametrize("damage", ["half written", "stale lock", "broken index", "no index"])
def test_files_into_repairs_a_damaged_folder(
    store: Store, progress: Progress, base: Base, tmp_path: Path, damage: str
) -> None:
    plain = apply.apply_series(store, progress, base, None, tmp_path / "log")
    patched = apply.apply_series(store, progress, base, made_of(PLAIN), tmp_path / "log")
    folder = tmp_path / "src"
    plain.check_out(folder, progress)
    expected = contents(folder)
    index = tmp_path / "src.index"
    if damage == "half written":  # files of the new tree, index of the old one
        before = index.read_bytes()
        patched.check_out(folder, progress)
        index.write_bytes(before)
        (folder / "Makefile").write_text(FILES["Makefile"][1][:10])
    elif damage == "stale lock":
        (tmp_path / "src.index.lock").write_text("")
    elif damage == "broken index":
        index.write_bytes(b"DIRC" + os.urandom(100))
    else:
        index.unlink()
    plain.check_out(folder, progress)
    assert contents(folder) == expected
    assert not (tmp_path / "src.index.lock").exists()


# --- a checkout of the user


def run_git(folder: Path, *arguments: str) -> str:
    identity = {"GIT_AUTHOR_NAME": "u", "GIT_AUTHOR_EMAIL": "u@example.org"}
    identity |= {"GIT_COMMITTER_NAME": "u", "GIT_COMMITTER_EMAIL": "u@example.org"}
    argv = ["git", "-c", "protocol.file.allow=always", *arguments]
    done = subprocess.run(
        argv, cwd=folder, env={**os.environ, **identity}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A user's kernel checkout with two commits."""
    folder = tmp_path / "checkout kernel"
    for name, (mode, text) in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    run_git(folder, "init", "--quiet", "--initial-branch=main")
    run_git(folder, "add", "Makefile")
    run_git(folder, "commit", "--quiet", "-m", "one")
    run_git(folder, "add", ".")
    run_git(folder, "commit", "--quiet", "-m", "two")
    return folder


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Read every byte and time stamp below ``folder``, .git included.

    Time stamps of objects are left out: git renews them on use, so that the objects are not pruned.
    """
    return {
        str(path.relative_to(folder)): (
            0 if "objects" in path.parts else path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in folder.rglob("*")
    }


def test_checkout_includes_uncommitted_changes(
    store: Store, progress: Progress, checkout: Path, tmp_path: Path
) -> None:
    (checkout / "Makefile").write_text(FILES["Makefile"][1].replace("EXTRAVERSION =", "EXTRAVERSION = -rc3"))
    run_git(checkout, "add", "Makefile")
    (checkout / "drivers/vfio/pci/core.c").write_text("changed;\n")
    (checkout / "Kconfig").write_text("mainmenu 'other'\n")
    (checkout / "scripts/tool.sh").unlink()
    (checkout / "new.c").write_text("new;\n")
    (checkout / "ignored.o").write_text("object\n")
    (checkout / ".git/info/exclude").write_text("*.private\n")
    (checkout / "x.private").write_text("secret\n")
    before = state_of(checkout)
    found = checkout_module.checkout(store, progress, checkout)
    assert state_of(checkout) == before
    head = run_git(checkout, "rev-parse", "HEAD")
    assert (found.version, found.note) == ("6.19.6-rc3", "")
    assert found.source == f"{checkout} at {head[:12]} with uncommitted changes"
    made = apply.apply_series(store, progress, found, None, tmp_path / "log")
    made.check_out(tmp_path / "src", progress)
    expected = contents(checkout)
    del expected["ignored.o"], expected["x.private"]
    assert contents(tmp_path / "src") == expected


def test_checkout_that_is_clean_is_its_head(
    store: Store, progress: Progress, checkout: Path, tmp_path: Path
) -> None:
    found = checkout_module.checkout(store, progress, checkout)
    made = apply.apply_series(store, progress, found, None, tmp_path / "log")
    assert made.tree_id == run_git(checkout, "rev-parse", "HEAD^{tree}")
    assert found.source == f"{checkout} at {run_git(checkout, 'rev-parse', 'HEAD')[:12]}"
    assert checkout_module.checkout(store, progress, checkout) == found


def test_apply_on_top_of_a_checkout(store: Store, progress: Progress, checkout: Path, tmp_path: Path) -> None:
    (checkout / "Kconfig").write_text("mainmenu 'other'\n")
    before = state_of(checkout)
    found = checkout_module.checkout(store, progress, checkout)
    made = apply.apply_series(store, progress, found, made_of(PLAIN), tmp_path / "log")
    assert content_of(made, "drivers/vfio/pci/core.c") == CORE.replace("int line_10;", "long line_10;")
    assert content_of(made, "Kconfig") == "mainmenu 'other'\n"
    assert state_of(checkout) == before


@pytest.mark.parametrize("kind", ["worktree", "shallow", "sparse", "split index", "no index", "unborn"])
def test_checkout_of_any_kind_is_read(
    store: Store, progress: Progress, checkout: Path, tmp_path: Path, kind: str
) -> None:
    folder = checkout
    if kind == "worktree":
        folder = tmp_path / "linked"
        run_git(checkout, "worktree", "add", "--quiet", str(folder), "HEAD")
    elif kind == "shallow":
        folder = tmp_path / "shallow"
        run_git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{checkout}", str(folder))
    elif kind == "sparse":
        run_git(checkout, "sparse-checkout", "set", "--cone", "--sparse-index", "drivers")
        assert not (checkout / "scripts").exists()
    elif kind == "split index":
        run_git(checkout, "update-index", "--split-index")
    elif kind == "no index":
        (checkout / ".git/index").unlink()
    else:
        shutil.rmtree(checkout / ".git")
        run_git(checkout, "init", "--quiet")
    found = checkout_module.checkout(store, progress, folder)
    made = apply.apply_series(store, progress, found, made_of(PLAIN), tmp_path / "log")
    for name, (_, text) in FILES.items():
        if not name.endswith("core.c"):
            assert content_of(made, name) == text


def test_checkout_runs_no_configured_program(
    store: Store, progress: Progress, checkout: Path, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/has_run\ncat\n")
    trap.chmod(0o755)
    (checkout / ".gitattributes").write_text("*.c filter=trap diff=trap\n")
    for key in (
        "core.fsmonitor",
        "filter.trap.clean",
        "filter.trap.smudge",
        "filter.trap.process",
        "diff.trap.textconv",
    ):
        run_git(checkout, "config", key, str(trap))
    run_git(checkout, "config", "core.hooksPath", str(tmp_path / "hooks"))
    (tmp_path / "hooks").mkdir()
    for hook in (
        "post-index-change",
        "post-checkout",
        "reference-transaction",
        "applypatch-msg",
        "pre-applypatch",
    ):
        shutil.copy(trap, tmp_path / "hooks" / hook)
    (checkout / "drivers/vfio/pci/new.c").write_text("new;\n")
    found = checkout_module.checkout(store, progress, checkout)
    # Hooks and configuration of the cached repository are not run, either.
    shutil.copytree(tmp_path / "hooks", found.repository / "hooks")
    run_git(found.repository, "config", "core.fsmonitor", str(trap))
    made = apply.apply_series(store, progress, found, made_of(PLAIN), tmp_path / "log")
    made.check_out(tmp_path / "src", progress)
    assert checkout_module.checkout(store, progress, checkout) == found
    assert (tmp_path / "src/drivers/vfio/pci/new.c").read_text() == "new;\n"
    assert not (tmp_path / "has_run").exists()


def test_checkout_of_no_kernel_is_a_usage_error(
    store: Store, progress: Progress, checkout: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="not a kernel source"):
        checkout_module.checkout(store, progress, tmp_path / "nowhere")
    plain = tmp_path / "unpacked"
    shutil.copytree(checkout, plain, ignore=shutil.ignore_patterns(".git"))
    with pytest.raises(UsageError, match="not a git checkout"):
        checkout_module.checkout(store, progress, plain)
    inner = checkout / "inner"
    inner.mkdir()
    for name in ("Makefile", "Kconfig"):
        shutil.copy(checkout / name, inner)
    with pytest.raises(UsageError, match=f"that is {re.escape(str(checkout))}"):
        checkout_module.checkout(store, progress, inner)
