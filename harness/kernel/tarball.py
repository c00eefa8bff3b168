"""Import a kernel tarball into git as one commit, without unpacking it to files."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from harness.lib import git, interruption
from harness.lib.errors import HarnessError
from harness.lib.process import end_group, has_ended
from harness.lib.progress import Stage

REF = "refs/patchproof/base"


def import_tarball(tarball: Path, repository: Path, message: str, stage: Stage) -> str:
    """Import ``tarball`` as one commit into ``repository``, which is made as a bare repository.

    It is a .tar.xz, or a Debian package (.deb) ``linux-source-VERSION``, which holds one.
    Returns the commit's id, which depends on the content and ``message`` alone.
    Raises HarnessError when the tarball is damaged, when it has a member that is
    neither a file nor a link inside the tree, or when the disk is full.
    """
    # The pack is read once per build and never sent: light compression and no deltas halve the time.
    git.query(["init", "--quiet", "--bare", "--template=", str(repository)], env=git.environment())
    for key, value in (("core.compression", "1"), ("gc.auto", "0")):
        git.query(["config", key, value], env=git.environment(repository))
    stderr: list[bytes] = []
    try:
        with contextlib.ExitStack() as stack:
            content: IO[bytes] | None = None
            running: dict[str, subprocess.Popen[bytes]] = {}
            for argv in _readers(tarball):
                running[argv[0]] = stack.enter_context(_program(argv, stderr, stdin=content))
                content = running[argv[0]].stdout
            importing = ["git", "fast-import", "--quiet", "--depth=0"]
            importer = stack.enter_context(_program(importing, stderr, repository=repository))
            assert content is not None
            assert importer.stdin is not None
            with tarfile.open(fileobj=content, mode="r|") as members:
                interruption.call(_commit, members, importer.stdin, message, stage)
            while interruption.call(content.read, 1 << 20):
                pass  # the padding after the last member: xz ends only when it is read
            importer.stdin.close()
            running["git fast-import"] = importer
            for process in running.values():
                interruption.until(partial(has_ended, process))
            failed = [name for name, process in running.items() if process.returncode != 0]
            if failed:
                raise HarnessError(f"{' and '.join(failed)} failed")
    except (OSError, tarfile.TarError, HarnessError) as error:
        raise HarnessError(
            f"The tarball {tarball.name} could not be imported into git: {error}.",
            tail=b"".join(stderr).decode(errors="replace").strip(),
        ) from error
    commit = git.resolve(repository, REF)
    if commit is None:
        raise HarnessError(f"The tarball {tarball.name} was imported, but git shows no commit.")
    return commit


def _readers(tarball: Path) -> list[list[str]]:
    """Return the commands that, one piped into the next, write the uncompressed source tarball."""
    unpack = ["xz", "--decompress", "--stdout", "--threads=0"]
    if tarball.suffix != ".deb":
        return [[*unpack, str(tarball)]]
    package = tarball.name.partition("_")[0]
    return [
        ["dpkg-deb", "--fsys-tarfile", str(tarball)],
        ["tar", "--extract", "--to-stdout", f"./usr/src/{package}.tar.xz"],
        unpack,
    ]


@contextlib.contextmanager
def _program(
    argv: list[str], stderr: list[bytes], *, stdin: IO[bytes] | None = None, repository: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program with pipes at both ends; at the end of the block it is terminated.

    It reads ``stdin``, the output of the program before it, or a pipe from this process.

    Its error output is appended to ``stderr``, not to a file, since the disk may be full.
    """
    whole = {**os.environ, **git.environment(repository)}
    process = subprocess.Popen(
        argv,
        stdin=stdin or subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: value for name, value in whole.items() if value is not None},
        start_new_session=True,
    )
    if stdin is not None:
        stdin.close()  # the program has it now, and the one before it learns when this one ends
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        yield process
    except BaseException:
        end_group(process)  # first: a thread may still write to it, or read from it
        raise
    finally:
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # the program ended before it read everything
                process.stdin.close()
        process.stdout.close()
        if process.poll() is None:
            end_group(process)
        stderr.append(process.stderr.read())
        process.stderr.close()


def _commit(members: tarfile.TarFile, out: IO[bytes], message: str, stage: Stage) -> None:
    """Write the members as a stream for git fast-import, see git-fast-import(1)."""
    text = message.encode()
    # "feature done" makes a stream that breaks off an error instead of a short tree.
    out.write(f"feature done\ncommit {REF}\ncommitter {git.IDENTITY} {git.DATE}\n".encode())
    out.write(b"data %d\n%s\n" % (len(text), text))
    top, files = "", 0
    for member in members:
        interruption.check()
        first, _, path = member.name.partition("/")
        top = top or first
        if member.isdir() and first == top:
            continue
        if first != top or not _is_plain(path):
            raise HarnessError(f"its member {member.name!r} leads out of the source tree")
        if member.isreg():
            content = members.extractfile(member)
            assert content is not None
            mode, data = b"100755" if member.mode & 0o100 else b"100644", content.read()
        elif member.issym() and _stays_inside(path, member.linkname):
            mode, data = b"120000", member.linkname.encode()
        else:
            raise HarnessError(f"its member {member.name!r} is neither a file nor a link inside the tree")
        out.write(b"M %s inline %s\ndata %d\n" % (mode, path.encode(), len(data)))
        out.write(data)
        out.write(b"\n")
        files += 1
        if files % 256 == 0:
            stage.update(f"into git: {files} files")
    out.write(b"done\n")


def _is_plain(path: str) -> bool:
    """Return whether ``path`` is a plain name inside the tree; fast-import would unquote a leading quote."""
    return (
        path.isprintable()
        and not path.startswith('"')
        and all(part not in ("", ".", "..") and part.casefold() != ".git" for part in path.split("/"))
    )


def _stays_inside(path: str, target: str) -> bool:
    """Return whether the ``target`` of a symbolic link at ``path`` is inside the tree."""
    depth = len(PurePosixPath(path).parent.parts)
    for part in target.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            return False
    return target.isprintable() and not target.startswith("/")
