"""Whole runs of the program, as a user starts them, and what they leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from small_kernel import FILES

PROJECT = Path(__file__).resolve().parent.parent
SUITES = PROJECT / "tests" / "data" / "suites"  # small suites for whole runs
CORE = "drivers/vfio/pci/core.c"
PATIENCE = 600.0  # seconds; a deadline that only a hang meets

# What a kernel's Makefile does, as far as the harness can see it.  A file `hold` in the source names
# one whose existence keeps the build from ending; a file `ballast` makes the kernel large.
MAKEFILE = r"""VERSION = 6
PATCHLEVEL = 19
SUBLEVEL = 6
EXTRAVERSION =
NAME = Small

allnoconfig:
	@cp $(KCONFIG_ALLCONFIG) $(O)/.config

$(O)/core.o: drivers/vfio/pci/core.c
	@echo "  CC      drivers/vfio/pci/core.o"
	@$(CC) -c -o $@ $<

bzImage: $(O)/core.o
	@while [ -e hold ] && [ -e "$$(cat hold)" ]; do sleep 0.1; done
	@mkdir -p $(O)/arch/x86/boot
	@cat $< $(wildcard ballast) > $(O)/vmlinux
	@truncate -s 4096 $(O)/arch/x86/boot/bzImage
	@printf HdrS | dd of=$(O)/arch/x86/boot/bzImage bs=1 seek=514 conv=notrunc status=none

headers_install:
	@mkdir -p $(INSTALL_HDR_PATH)/include/linux
	@touch $(INSTALL_HDR_PATH)/include/linux/vfio.h
"""


def make_checkout(folder: Path, **more: str) -> Path:
    """A git checkout of a small kernel that can be configured and built, with the files ``more``."""
    for name, (mode, content) in {**FILES, "Makefile": (0o644, MAKEFILE)}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(mode)
    for name, content in more.items():
        (folder / name).write_text(content)
    who = ["-c", "user.name=Dev", "-c", "user.email=dev@example.org"]
    for command in (["init", "--quiet"], ["add", "--all"], [*who, "commit", "--quiet", "--message", "base"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def make_series(folder: Path, old: str, new: str, name: str = "0001-change.patch") -> Path:
    """A folder with one patch that changes line 10 of core.c from ``old`` to ``new``."""
    folder.mkdir(parents=True)
    around = [f" int line_{number};\n" for number in range(7, 14)]
    around[3] = f"-{old}\n+{new}\n"
    hunk = f"@@ -7,7 +7,7 @@\n{''.join(around)}"
    (folder / name).write_text(
        "From: Dev <dev@example.org>\nDate: Mon, 2 Mar 2026 10:00:00 +0000\nSubject: [PATCH] change\n\n"
        f"Why.\n---\ndiff --git a/{CORE} b/{CORE}\n--- a/{CORE}\n+++ b/{CORE}\n{hunk}"
    )
    return folder


class Invocation:
    """``python -m harness ARGUMENTS``, running; ``mark`` is found in the environment of all it starts."""

    def __init__(self, *arguments: str | Path, mark: Path, cache: Path | None = None) -> None:
        self.mark = mark
        self.log = mark / "output.txt"
        environment = {**os.environ, "PATCHPROOF_TEST_MARK": str(mark)}
        if cache is not None:
            environment["PATCHPROOF_CACHE"] = str(cache)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                # A shell's background job ignores Ctrl-C, and what it starts inherits that.
                ["env", "--default-signal=INT", sys.executable, "-m", "harness", *map(str, arguments)],
                cwd=PROJECT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Invocation:
        return self

    def __exit__(self, *_: object) -> None:
        """A test that failed half-way leaves nothing running."""
        self.process.kill()
        self.process.wait()
        for number in self.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    @property
    def output(self) -> str:
        """Standard output and error so far."""
        return self.log.read_text(errors="replace")

    def end(self) -> int:
        """Wait for its end; the exit code.  Nobody ever sees a traceback."""
        code = self.process.wait(PATIENCE)
        assert "Traceback (most recent call last)" not in self.output, self.output
        assert "INTERNALERROR" not in self.output, self.output
        return code

    def children(self) -> dict[int, str]:
        """What it started and is still there: process id to command line."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command, environment = ((folder / name).read_bytes() for name in ("cmdline", "environ"))
            except OSError:
                continue  # it has just ended
            if str(self.mark).encode() in command + environment and int(folder.name) not in (
                os.getpid(),
                self.process.pid,
            ):
                found[int(folder.name)] = command.decode(errors="replace").replace("\0", " ")
        return found


def run(*arguments: str | Path, mark: Path, cache: Path | None = None) -> tuple[int, str]:
    """Run the program to its end: exit code and output."""
    with Invocation(*arguments, mark=mark, cache=cache) as invocation:
        return invocation.end(), invocation.output


class Built:
    """The kernel of the default series, in the cache that all runs share."""

    def __init__(self, mark: Path) -> None:
        code, output = run("build", "--series", "reference-feature", mark=mark)
        assert code == 0, output
        lines = dict(line.split(": ", 1) for line in output.splitlines() if line.startswith(("bzI", "heade")))
        self.arguments = [
            *("--kernel", lines["bzImage"], "--headers", lines["headers"]),
            *("--series", "reference-feature", "--accel", "tcg"),
        ]


def make_qemu(path: Path, script: str) -> Path:
    """A QEMU for which ``script`` (sh) decides what the real one, $qemu, is asked to do."""
    path.write_text(f"#!/bin/sh\nqemu=qemu-system-x86_64\n{script}\n")
    path.chmod(0o755)
    return path


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Poll until ``condition()`` is true; its value."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)
    return value


def events(results: Path) -> list[dict[str, Any]]:
    """The whole lines of the newest run's journal below ``results``."""
    journal = results / "latest" / "events.jsonl"
    if not journal.exists():
        return []
    return [json.loads(line) for line in journal.read_bytes().split(b"\n")[:-1]]


def is_open(results: Path, beginning: str) -> str:
    """The stage or scenario in progress if its id starts with ``beginning``, else nothing."""
    # Machines come and go inside of stages and scenarios.
    told = [event for event in events(results) if not event["event"].startswith("machine-")]
    last = (told or [{}])[-1]
    identity = str(last.get("id", ""))
    return identity if last.get("event") == "started" and identity.startswith(beginning) else ""


def facts(results: Path) -> dict[str, Any]:
    """run.json of the newest run."""
    loaded: dict[str, Any] = json.loads((results / "latest" / "run.json").read_text())
    return loaded


class Case:
    """A test case of junit.xml."""

    def __init__(self, element: ET.Element) -> None:
        self.outcome = next((e.tag for e in element if e.tag in ("failure", "error", "skipped")), "passed")
        self.properties = {p.get("name"): p.get("value", "") for p in element.iter("property")}
        self.verdict = self.properties["verdict"]
        self.text = "".join(
            " ".join([e.get("message", ""), e.text or ""])
            for e in element
            if e.tag in ("failure", "error", "skipped")
        )


def junit(results: Path) -> dict[str, Case]:
    """junit.xml of the newest run: name of the test case to what it says."""
    root = ET.parse(results / "latest" / "junit.xml").getroot()
    return {str(element.get("name")): Case(element) for element in root.iter("testcase")}


def assert_locks_free(cache: Path) -> None:
    """Whoever comes next gets every lock at once."""
    for path in [*cache.glob("locks/*.lock"), *cache.glob("workbench/*.lock")]:
        FileLock(path).acquire(timeout=0).lock.release()


def leftovers(cache: Path, *kinds: str) -> list[Path]:
    """Unfinished entries of the cache."""
    return [path for kind in kinds for path in (cache / kind).glob(".*")]
