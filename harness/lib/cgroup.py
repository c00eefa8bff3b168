"""Read the control groups of this process: their limits, and how many processes an empty memory has ended."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def folders(controller: str, root: Path = ROOT, membership: Path = MEMBERSHIP) -> list[Path]:
    """Return the folders of this process's groups for ``controller``, the innermost first.

    They are those of version 2 (one hierarchy for all controllers) and of version 1 (one for each).
    Inside of a container a path may not exist; then its nearest folder above stands for it.
    """
    found: list[Path] = []
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            tops = [top for top in (root, root / "unified") if (top / "cgroup.controllers").exists()]
        elif controller in controllers.split(","):
            tops = [top for top in (root / controller, root / controllers) if top.exists()][:1]
        else:
            continue
        for top in tops:
            group = top / path.strip("/")
            found += [one for one in (group, *group.parents) if one.is_relative_to(top) and one.is_dir()]
    return found


def room(controller: str, limit: str, used: str, folder: Path) -> int | None:
    """Return the limit less the use of one group by the names of their files; None without a limit."""
    with contextlib.suppress(OSError, ValueError):
        return int((folder / f"{controller}.{limit}").read_text()) - int(
            (folder / f"{controller}.{used}").read_text()
        )
    return None


def memory_left() -> int | None:
    """Return the bytes that the groups of this process may still allocate; None without a limit.

    The cache of files counts as free as far as the kernel can drop it at once.
    """
    lefts = []
    for folder in folders("memory"):
        for limit, used in (("max", "current"), ("limit_in_bytes", "usage_in_bytes")):
            if (left := room("memory", limit, used, folder)) is not None:
                lefts.append(left + _counts(folder / "memory.stat").get("inactive_file", 0))
    return min(lefts, default=None)


def processes_left() -> int | None:
    """Return how many processes and threads the groups of this process may still start."""
    lefts = (room("pids", "max", "current", folder) for folder in folders("pids"))
    return min((left for left in lefts if left is not None), default=None)


def out_of_memory_kills() -> int:
    """Return how many processes the kernel of this host has killed for lack of memory, since its start.

    A container sees the count of the whole host.  The result is 0 if there is no count.
    """
    return max([0, *_kill_counts()])


def kills_since(before: int) -> str:
    """Return a clause that begins with a comma if memory ran out since out_of_memory_kills() was ``before``.

    It says what is known: which processes the kernel killed is not.
    """
    count = out_of_memory_kills() - before
    if count <= 0:
        return ""
    processes = "a process" if count == 1 else f"{count} processes"
    return f", and meanwhile the kernel of this host has killed {processes} for lack of memory"


def _kill_counts() -> Iterator[int]:
    yield _counts(Path("/proc/vmstat")).get("oom_kill", 0)
    for folder in folders("memory"):
        yield _counts(folder / "memory.events").get("oom_kill", 0)
        yield _counts(folder / "memory.oom_control").get("oom_kill", 0)


def _counts(path: Path) -> dict[str, int]:
    """Return the lines ``NAME NUMBER`` of a file; none if it cannot be read."""
    try:
        text = path.read_text()
    except OSError:
        return {}
    return {name: int(number) for name, number in re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE)}
