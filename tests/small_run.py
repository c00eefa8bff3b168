"""Whole runs of the program, as a user starts them, and readers of the results they leave."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from small_kernel import FILES

from harness.lib import locks

PROJECT = Path(__file__).resolve().parent.parent
SUITES = PROJECT / "tests" / "data" / "suites"  # small suites for whole runs
CORE = "drivers/vfio/pci/core.c"
PATIENCE = 600.0  # seconds; only a hang takes longer
WITH_BUILD = 2700.0  # seconds for a run that may compile a whole kernel, on a host with other work

# The targets of a kernel's Makefile that the harness uses.  A file `hold` in the source names another
# file: the build waits as long as that exists, for ever if `hold` is empty.  A file `ballast` makes the
# kernel large.
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
	@while [ -e hold ] && { [ ! -s hold ] || [ -e "$$(cat hold)" ]; }; do sleep 0.1; done
	@mkdir -p $(O)/arch/x86/boot
	@cat $< $(wildcard ballast) > $(O)/vmlinux
	@truncate -s 4096 $(O)/arch/x86/boot/bzImage
	@printf HdrS | dd of=$(O)/arch/x86/boot/bzImage bs=1 seek=514 conv=notrunc status=none

modules:
	@true

headers_install:
	@mkdir -p $(INSTALL_HDR_PATH)/include/linux
	@touch $(INSTALL_HDR_PATH)/include/linux/vfio.h
"""


def make_checkout(folder: Path, **more: str) -> Path:
    """Make a git checkout of a small kernel that can be configured and built, with the files ``more``."""
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
    """Make a folder with one patch that changes line 10 of core.c from ``old`` to ``new``."""
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
    """A running ``python -m harness ARGUMENTS``; its children have ``mark`` in their environment.

    It is started by the command ``under``, which ends in ``exec "$@"``.
    """

    def __init__(
        self, *arguments: str | Path, mark: Path, cache: Path | None = None, under: Sequence[str | Path] = ()
    ) -> None:
        self.mark = mark
        self.log = mark / "output.txt"
        environment = {**os.environ, "PATCHPROOF_TEST_MARK": str(mark)}
        if cache is not None:
            environment["PATCHPROOF_CACHE"] = str(cache)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                # A shell's background job ignores SIGINT, and its children inherit that.
                [
                    *("env", "--default-signal=INT", *map(str, under)),
                    *(sys.executable, "-m", "harness", *map(str, arguments)),
                ],
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
        """Kill the program and its children, so that a failed test leaves nothing running."""
        self.process.kill()
        self.process.wait()
        for number in self.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    @property
    def output(self) -> str:
        """Return standard output and error so far."""
        return self.log.read_text(errors="replace")

    def end(self, patience: float = PATIENCE) -> int:
        """Wait for the end of the program, require that it printed no traceback, and return the exit code."""
        code = self.process.wait(patience)
        assert "Traceback (most recent call last)" not in self.output, self.output
        assert "INTERNALERROR" not in self.output, self.output
        return code

    def qemu(self) -> int | None:
        """Return the process id of its QEMU, None while it has none."""
        for number, command in self.children().items():
            if "qemu-system" in command and "-accel" in command:
                return number
        return None

    def children(self) -> dict[int, str]:
        """Return the processes that it started and that still run, process id to command line."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command, environment = ((folder / name).read_bytes() for name in ("cmdline", "environ"))
            except OSError:
                continue  # the process has just ended
            if str(self.mark).encode() in command + environment and int(folder.name) not in (
                os.getpid(),
                self.process.pid,
            ):
                found[int(folder.name)] = command.decode(errors="replace").replace("\0", " ")
        return found


def run(*arguments: str | Path, mark: Path, cache: Path | None = None) -> tuple[int, str]:
    """Run the program to its end; return exit code and output."""
    with Invocation(*arguments, mark=mark, cache=cache) as invocation:
        return invocation.end(WITH_BUILD), invocation.output


class Built:
    """The kernel of the default series, built into the cache that all runs share."""

    def __init__(self, mark: Path) -> None:
        code, output = run("build", "--series", "reference-feature", mark=mark)
        assert code == 0, output
        lines = dict(line.split(": ", 1) for line in output.splitlines() if line.startswith(("bzI", "heade")))
        self.arguments = [
            *("--kernel", lines["bzImage"], "--headers", lines["headers"]),
            *("--series", "reference-feature", "--accel", "tcg"),
        ]


def make_qemu(path: Path, script: str) -> Path:
    """Write a program that runs ``script`` (sh) in place of QEMU; $qemu is the real one."""
    path.write_text(f"#!/bin/sh\nqemu=qemu-system-x86_64\n{script}\n")
    path.chmod(0o755)
    return path


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Poll until ``condition()`` is true; return its value."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.01)
    return value


def events(results: Path) -> list[dict[str, Any]]:
    """Read the whole lines of the newest run's journal below ``results``."""
    journal = results / "latest" / "events.jsonl"
    if not journal.exists():
        return []
    return [json.loads(line) for line in journal.read_bytes().split(b"\n")[:-1]]


def is_open(results: Path, beginning: str) -> str:
    """Return the stage or scenario in progress if its id starts with ``beginning``, else an empty string."""
    # Machines start and end inside of stages and scenarios.
    told = [event for event in events(results) if not event["event"].startswith("machine-")]
    last = (told or [{}])[-1]
    identity = str(last.get("id", ""))
    return identity if last.get("event") == "started" and identity.startswith(beginning) else ""


def facts(results: Path) -> dict[str, Any]:
    """Read run.json of the newest run."""
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
    """Read junit.xml of the newest run, name of the test case to its content."""
    return cases_of(results / "latest" / "junit.xml")


def cases_of(report: Path) -> dict[str, Case]:
    """Read a report, name of the test case to its content."""
    root = ET.parse(report).getroot()
    return {str(element.get("name")): Case(element) for element in root.iter("testcase")}


def assert_locks_free(cache: Path) -> None:
    """Require that every lock of the cache can be taken at once."""
    for path in [*cache.glob("locks/*.lock"), *cache.glob("workbench/*/*.lock")]:
        with locks.try_hold(path) as free:
            assert free, path


def assert_holds_no_lock(invocation: Invocation, cache: Path) -> None:
    """Require that no lock of a cache which other tests use as well is held by this program."""
    for path in [*cache.glob("locks/*.lock"), *cache.glob("workbench/*/*.lock")]:
        with locks.try_hold(path) as free:
            holder = None if free else locks.holder_of(path)
            assert holder is None or holder.process != invocation.process.pid, path


def leftovers(cache: Path, *kinds: str) -> list[Path]:
    """Return the unfinished entries of the cache."""
    return [path for kind in kinds for path in (cache / kind).glob(".*")]
