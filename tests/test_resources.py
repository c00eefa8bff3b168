"""The resources of a run: what it needs, what the host has, and a refusal before anything begins."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from small_run import SUITES, Invocation, make_checkout

from harness.cli import main
from harness.lib import cgroup, resources
from harness.lib.cache import Store
from harness.lib.errors import ExitCode, HarnessError, UsageError
from harness.lib.resources import MIB, Need, Room
from harness.run import resources as run_resources
from harness.run import snapshots
from harness.run.needs import LARGEST, USUAL, Needs
from harness.run.request import AUTO, Request
from harness.run.schedule import Job
from harness.vm import qemu_memory
from harness.vm.pci_devices import Layout


def files(root: Path, **contents: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (root / name.replace("__", ".")).write_text(content)


@pytest.fixture
def version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of control groups of version 1, with this process in /ci/job."""
    (tmp_path / "membership").write_text("8:pids:/\n4:memory:/ci/job\n0::/\n")
    monkeypatch.setattr(cgroup.folders, "__defaults__", (tmp_path, tmp_path / "membership"))
    top = tmp_path / "memory"
    files(top, memory__limit_in_bytes="9223372036854771712\n", memory__usage_in_bytes="0\n")
    files(top / "ci", memory__limit_in_bytes="3000\n", memory__usage_in_bytes="1000\n")
    files(top / "ci" / "job", memory__limit_in_bytes="5000\n", memory__usage_in_bytes="1000\n")
    files(top / "ci", memory__stat="cache 7\ninactive_file 300\ntotal_inactive_file 9\n")
    return tmp_path


def test_memory_left_is_that_of_the_tightest_group(version_1: Path) -> None:
    assert cgroup.memory_left() == 2300
    files(version_1 / "memory" / "ci" / "job", memory__limit_in_bytes="1500\n")
    assert cgroup.memory_left() == 500


def test_version_2_is_read_with_its_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "membership").write_text("0::/ci\n")
    monkeypatch.setattr(cgroup.folders, "__defaults__", (tmp_path, tmp_path / "membership"))
    files(tmp_path, cgroup__controllers="memory pids\n")
    files(tmp_path / "ci", memory__max="max\n", memory__current="70\n", pids__max="20\n", pids__current="5\n")
    assert cgroup.memory_left() is None
    assert cgroup.processes_left() == 15
    files(tmp_path / "ci", memory__max="100\n", memory__events="low 0\noom 3\noom_kill 1000000000\n")
    assert cgroup.memory_left() == 30
    assert cgroup.out_of_memory_kills() == 1000000000


def test_memory_of_the_host_is_bounded_by_its_group(version_1: Path) -> None:
    meminfo = "MemTotal:  64 kB\nMemFree: 1 kB\nMemAvailable:   32 kB\n"
    assert resources.memory_available(meminfo) == 2300
    files(version_1 / "memory" / "ci", memory__limit_in_bytes="300000\n")
    files(version_1 / "memory" / "ci" / "job", memory__limit_in_bytes="300000\n")
    assert resources.memory_available(meminfo) == 32 * 1024


def test_rooms_of_one_file_system_are_added_up(tmp_path: Path) -> None:
    (need,) = resources.disk([Room(tmp_path / "a" / "b", 3 * MIB, "one"), Room(tmp_path, 1, "two")])
    assert (need.subject, need.amount) == ("disk", 4)
    assert need.met
    assert f"one 3 ({tmp_path}/a/b), two 1 ({tmp_path})" in str(need)


def test_rooms_of_two_file_systems_are_two_needs(tmp_path: Path) -> None:
    needs = resources.disk([Room(tmp_path, MIB, "one"), Room(Path("/proc/self"), MIB, "two")])
    assert [need.subject for need in needs] == [f"disk of {tmp_path}", "disk of /proc/self"]
    assert [need.met for need in needs] == [True, False]


def test_unmet_needs_are_all_named_with_advice() -> None:
    held = Need("memory", 5, 5, "MiB", "guest", "End others.")
    short = Need("disk", 9, 8, "MiB", "cache 9", "Make room.")
    free = Need("processes", 9, None, "processes", "make", "Raise it.")
    resources.require([held, free])
    with pytest.raises(
        HarnessError, match=r"disk: 9 MiB needed, 8 available: cache 9\. Make room\."
    ) as caught:
        resources.require([held, short, free])
    assert "memory" not in caught.value.message


def test_ports_that_are_free_are_counted() -> None:
    assert resources.loopback_ports(3) == 3


def test_a_larger_machine_needs_more_memory() -> None:
    assert qemu_memory.needed(LARGEST) - qemu_memory.needed(USUAL) == 1024 * MIB
    assert sum(qemu_memory.parts(USUAL).values()) == qemu_memory.needed(USUAL)


def test_a_run_without_a_build_needs_less(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")

    def of(request: Request) -> dict[str, int]:
        found = run_resources.needs(store, request, "6.19", [USUAL, LARGEST])
        return {need.subject: need.amount for need in found}

    built = of(Request(series="baseline", results=tmp_path))
    given = of(Request(kernel=tmp_path, headers=tmp_path, results=tmp_path))
    source, folder = 600, 2048
    assert built["disk"] - given["disk"] == source + folder + 256
    assert built["processes"] - given["processes"] == 12 * len(os.sched_getaffinity(0))
    assert built["memory"] == given["memory"] > qemu_memory.needed(LARGEST) // MIB


def test_what_the_cache_has_is_not_needed_again(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def of() -> int:
        return next(
            n.amount for n in run_resources.needs(store, Request(series="x"), "6.19") if "disk" in n.subject
        )

    before = of()
    (tmp_path / "workbench" / "6.19" / "src").mkdir(parents=True)
    assert before - of() == 2048


def test_dry_run_says_the_resources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["run", "--dry-run"]) == ExitCode.OK
    said = capsys.readouterr().out
    for subject in ("memory", "disk", "processes", "open files", "ports"):
        assert f"\n# {subject}" in said


def test_qemu_starts_under_its_limits(tmp_path: Path) -> None:
    script = f"ulimit -v; ulimit -f; ulimit -c; yes | head -c 20M >{tmp_path}/log; echo survived"
    argv = qemu_memory.limited(Layout(), ["bash", "-c", script])
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    space = (qemu_memory.needed(Layout()) + qemu_memory.ADDRESS_SPACE) // 1024
    assert done.stdout.split() == [str(space), str(qemu_memory.MESSAGES_LIMIT // 1024), "0", "survived"]
    assert (tmp_path / "log").stat().st_size == qemu_memory.MESSAGES_LIMIT


# The only port that programs may be given is taken, by the program itself.
ONE_PORT = """
import os, socket, sys
open("/proc/sys/net/ipv4/ip_local_port_range", "w").write("40000 40000")
taken = socket.create_server(("127.0.0.1", 40000))
taken.set_inheritable(True)
os.execvp(sys.argv[1], sys.argv[1:])
"""
# Each begins the run in a place that lacks one resource; "$@" is the program.
LACKING = {
    "memory": 'exec prlimit --as=1500000000 "$@"',
    "open files": 'exec prlimit --nofile=200:200 "$@"',
    "ports": f"exec unshare --map-root-user --net python3 -c '{ONE_PORT}' \"$@\"",
    "file size": 'exec prlimit --fsize=67108864 "$@"',
    "disk of": """
        mount='mount -t tmpfs -o size=64m none "$0" && exec "$@"'
        exec unshare --map-root-user --mount sh -c "$mount" "$results" "$@"
    """,
}


@pytest.mark.parametrize("lacking", LACKING)
def test_run_that_lacks_a_resource_ends_before_it_begins(tmp_path: Path, lacking: str) -> None:
    results, cache = tmp_path / "results", tmp_path / "cache"
    results.mkdir()
    program = tmp_path / "start"
    program.write_text(f"#!/bin/sh\nresults={results}\n{LACKING[lacking]}\n")
    program.chmod(0o755)
    tree = make_checkout(tmp_path / "linux")
    arguments: list[str | Path] = ["run", "--tree", tree, "--results", results, SUITES / "idle.py"]
    with Invocation(*arguments, mark=tmp_path, cache=cache, under=[program]) as invocation:
        assert invocation.end() == ExitCode.HARNESS
        said = invocation.output
    assert f"\n{lacking}" in said
    assert " needed, " in said
    assert "nothing was begun" in said
    assert list(results.iterdir()) == []
    assert not (cache / "workbench").exists()


def job(seconds: float, needs: Needs | None = None) -> Job:
    return Job(f"{seconds}", needs or Needs(), seconds)


@pytest.fixture
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(resources, "memory_available", lambda: 64 << 30)


@pytest.mark.parametrize(
    ("request_", "seconds", "machines"),
    [
        (Request(machines=AUTO), [30.0, 30.0], 2),
        (Request(machines=AUTO), [60.0], 1),
        (Request(machines=AUTO), [60.0] * 9, 3),
        (Request(machines=AUTO), [1.0] * 30, 1),
        (Request(machines=2), [1.0, 1.0], 2),
        (Request(machines=3), [1.0, 1.0], 2),
        (Request(machines=1), [100.0] * 9, 1),
        (Request(until_violated=True, machines=AUTO), [100.0] * 9, 1),
        (Request(until_violated=True, machines=2), [100.0] * 9, 2),
        (Request(keep_vm=True, machines=AUTO), [100.0] * 9, 1),
        (Request(machines=2), [], 1),
        (Request(machines=AUTO, series="s", coverage=True), [100.0] * 9, 1),
    ],
)
def test_machines_at_once_are_worth_their_boot(
    two_processors: None, request_: Request, seconds: list[float], machines: int
) -> None:
    jobs = [job(100.0, Needs(quiet=True)), *map(job, seconds)]
    assert run_resources.machines_at_once(request_, jobs) == machines


def test_coverage_with_several_machines_is_refused() -> None:
    with pytest.raises(UsageError, match="one machine after the other: leave --machines out"):
        Request(series="s", coverage=True, machines=2)


def test_machines_at_once_have_enough_memory(two_processors: None, monkeypatch: pytest.MonkeyPatch) -> None:
    one = qemu_memory.needed(USUAL) + run_resources.OWN_MEMORY
    for available, machines in ((9 * one, 3), (3 * one - 1, 2), (2 * one, 2), (2 * one - 1, 1), (0, 1)):
        monkeypatch.setattr(resources, "memory_available", lambda size=available: size)
        assert run_resources.machines_at_once(Request(machines=AUTO), [job(100.0)] * 9) == machines


def test_big_machine_has_others_beside_it_if_memory_allows(
    two_processors: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = qemu_memory.needed(LARGEST) + qemu_memory.needed(USUAL) + 2 * run_resources.OWN_MEMORY
    for available, beside in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(resources, "memory_available", lambda size=available: size)
        assert run_resources.big_beside(2) is beside


def test_memory_is_that_of_all_machines_side_by_side(two_processors: None, tmp_path: Path) -> None:
    store = Store(tmp_path)
    amounts = [
        run_resources.needs(store, Request(machines=number), "6.19", run_resources.WHOLE_SUITE)[0].amount
        for number in (1, 2, 3)
    ]
    own, usual = (run_resources.OWN_MEMORY + snapshots.LIMIT) // MIB, qemu_memory.needed(USUAL) // MIB
    assert amounts == [own + qemu_memory.needed(LARGEST) // MIB, 2 * own + 2 * usual, 3 * own + 3 * usual]


@pytest.mark.parametrize(
    ("options", "lacking", "saved"),
    [
        ({}, 0, 2 * snapshots.LIMIT),
        ({}, 1, 0),
        ({"no_snapshots": True}, 0, 0),
        ({"keep_vm": True}, 0, 0),
    ],
)
def test_memory_has_snapshots_if_the_host_has_room(
    two_processors: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: dict[str, Any],
    lacking: int,
    saved: int,
) -> None:
    running = 2 * (run_resources.OWN_MEMORY + qemu_memory.needed(USUAL))
    monkeypatch.setattr(resources, "memory_available", lambda: running + 2 * snapshots.LIMIT - lacking)
    request = Request(machines=2, **options)
    memory = run_resources.needs(Store(tmp_path), request, "6.19", run_resources.WHOLE_SUITE)[0]
    assert memory.met
    assert memory.amount == (running + saved) // MIB
    assert (f"snapshots of up to {saved // MIB}" if saved else "without snapshots") in memory.parts
