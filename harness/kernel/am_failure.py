"""Find out why git am failed: because of the patch, of its mail, or of this host.

The words of git am are no evidence alone: a full disk, a killed git or a repository
that belongs to another user end it as well.  So the patch is checked once more, by
git apply, in an index of its own and without writing an object.  Only if this check
fails, and each of its complaints is one about a patch, the patch does not apply.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.kernel.base import Base
from harness.lib import git
from harness.lib.command import CommandError
from harness.lib.errors import ApplyError, HarnessError, PatchproofError, UsageError
from harness.lib.text import printable
from harness.series import diff, mailinfo
from harness.series.series import Patch

# What git apply says of a patch (apply.c); every other complaint is one of the host.
_ABOUT_THE_PATCH = re.compile(
    r"error: (?:"
    r"patch failed: .+:\d+"
    r"|.+: (?:patch does not apply|does not exist in index|already exists in index|does not match index"
    r"|wrong type|patch with only garbage)"
    r"|.+: already exists in working directory"
    r"|.+ has type \d+, expected \d+"
    r"|affected file '.+' is beyond a symbolic link"
    r"|new mode \(\d+\) of .+ does not match old mode \(\d+\).*"
    r"|(?:new file .+ depends on old contents|deleted file .+ still has contents)"
    r"|(?:removal patch leaves file contents|path .+ has been renamed/deleted)"
    r"|(?:corrupt patch|patch fragment without header|git diff header lacks) .*"
    r"|(?:git apply: bad git-diff|inconsistent header|invalid path|No valid patches in input).*"
    r")"
)
_ABOUT_THE_AUTHOR = re.compile(r"empty ident name|disallowed characters|invalid date format|email was given")


@dataclass(frozen=True)
class Attempt:
    """A patch that git am did not commit, on the HEAD of the repository that ``env`` names.

    ``touched`` are the patch's files; ``folder`` can hold other files, ``files`` is the work tree.
    """

    base: Base
    patch: Patch
    touched: Sequence[diff.FileDiff]
    folder: Path
    files: Path
    env: Mapping[str, str | None]

    def explain(self, error: CommandError) -> PatchproofError:
        """Return the error to raise for ``error``, the failure of git am.

        It is an ApplyError if the patch does not apply, a UsageError if git cannot commit
        the mail's author, and else a HarnessError.
        """
        name = printable(self.patch.name)
        if error.signal:
            return of_the_host(error, f"at the patch {name}", self.base)
        mail = mailinfo.decode(self.patch.name, self.patch.content)
        complaints = self._check(mail.patch)
        if complaints:
            return self._does_not_apply(mail.patch, complaints, error.log)
        words = self._author_refused(mail)
        if words:
            return UsageError(
                f"The patch {name} names no author that git can read ({words}). An archive may have changed "
                "its From: or Date: line; take the mail as it was sent, or from git format-patch.",
                log=error.log,
            )
        return of_the_host(error, f"at the patch {name}, which does apply", self.base)

    def _does_not_apply(self, patch: bytes, complaints: Sequence[str], log: Path | None) -> ApplyError:
        """Return the error that names patch, file and hunk."""
        name, version = printable(self.patch.name), self.base.version
        found = [_location(line, self.touched) for line in complaints]
        location = "; ".join(dict.fromkeys(filter(None, found)))
        if not self._check(patch, "--reverse"):
            message = (
                f"The patch {name} is already in the base {version}, or in a patch before it"
                f"{': ' if location else ''}{location}."
            )
        else:
            message = f"The patch {name} does not apply to {version}: {location or 'git apply refuses it'}."
        return ApplyError(message, log=log, tail="\n".join(map(printable, complaints)))

    def _check(self, patch: bytes, *options: str) -> list[str]:
        """Return what git apply has against ``patch``, nothing if it applies.

        Raises HarnessError if git apply fails for a reason that is not the patch's.
        """
        path = self.folder / "patch"
        path.write_bytes(patch)
        env = {**self.env, "GIT_INDEX_FILE": str(self.folder / "index")}
        git.query(["read-tree", "HEAD"], env=env, cwd=self.files)
        try:
            git.query(["apply", "--check", "--cached", *options, str(path)], env=env, cwd=self.files)
        except CommandError as error:
            complaints = [line for line in error.tail.splitlines() if line.startswith(("error:", "fatal:"))]
            if not error.signal and complaints and all(map(_ABOUT_THE_PATCH.fullmatch, complaints)):
                return complaints
            raise of_the_host(error, f"at the patch {printable(self.patch.name)}", self.base) from error
        return []

    def _author_refused(self, mail: mailinfo.Mailinfo) -> str:
        """Return git's words against the author of ``mail``, empty if git accepts it."""
        author = {"GIT_AUTHOR_NAME": mail.author, "GIT_AUTHOR_EMAIL": mail.email}
        date = {"GIT_AUTHOR_DATE": mail.date} if mail.date else {}
        try:
            git.query(["var", "GIT_AUTHOR_IDENT"], env={**self.env, **author, **date}, cwd=self.files)
        except CommandError as error:
            if not _ABOUT_THE_AUTHOR.search(error.tail):
                raise of_the_host(error, f"at the patch {printable(self.patch.name)}", self.base) from error
            return printable(error.tail.splitlines()[-1].removeprefix("fatal: "))
        return ""


def of_the_host(error: CommandError, where: str, base: Base) -> HarnessError:
    """Return the error for a git that failed, ``where`` in the series, through no fault of a patch."""
    number = error.signal
    program = " ".join(error.argv[:2])
    end = f"was killed by signal {number}" if number else "failed on this host"
    lines = error.tail.splitlines()
    complaints = [line for line in lines if line.startswith(("error:", "fatal:", "warning:"))] or lines
    return HarnessError(
        f"{program} {end} {where}, so nothing is said about the series. Check that there is memory "
        f"left, that {base.repository} can be read and written, and that its disk has space left.",
        log=error.log,
        tail="\n".join(map(printable, complaints)),
    )


def _location(line: str, files: Sequence[diff.FileDiff]) -> str:
    """Return file and hunk of one of git's error lines; empty for a line that names neither."""
    failed = re.fullmatch(r"error: patch failed: (.+):(\d+)", line)
    if failed is None:
        about = re.fullmatch(r"error: (.+): (already exists in .*|does not exist in .*|No such file.*)", line)
        return f"{printable(about[1])} {about[2]}" if about else ""
    path, first = failed[1], int(failed[2])
    for file in files:
        if path in file.paths and first in file.hunks:
            hunk = f"hunk {file.hunks.index(first) + 1} of {len(file.hunks)}"
            return f"{printable(path)}, {hunk} (line {first})"
    return f"{printable(path)}, line {first}"
