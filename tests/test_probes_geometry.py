"""Operations about the place of pages and their faults, ranges of an export, and exec()."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest
from actors import Client, Local, argv


def ask(program: Local, *lines: str) -> list[str]:
    return [program.ask(line) for line in lines]


BOTH = pytest.mark.parametrize("client", ["actor", "python"], indirect=True)


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    with Client(getattr(request, "param", "actor"), pages=4) as one:
        yield one


def test_loadlist_keeps_the_order_of_its_offsets(client: Client) -> None:
    ask(client, "map buf1 length=16K", "stamp map1 seed=0x10")
    assert client.ask("loadlist map1 0x3000,0x1000,0,4,0x1000") == (
        "ok 0x00000013 0x00000011 0x00000010 0x00000000 0x00000011"
    )


def test_loadlist_reports_each_fault_in_its_place(client: Client) -> None:
    client.ask("map buf1 length=16K")
    ask(client, "stamp map1", "mprotect map1 none offset=4K length=4K")
    client.shrink(3)
    assert client.ask("loadlist map1 0x3008,0,0x1004") == (
        "ok sigbus:adrerr:0x3008 0x00000000 sigsegv:accerr:0x1004"
    )


@pytest.mark.parametrize("places", ["", "0,", "0x4000", "0x3ffd", "-4", "0;4", "0xffffffffffffffff"])
def test_loadlist_outside_the_mapping_is_refused(client: Client, places: str) -> None:
    client.ask("map buf1 length=16K")
    assert client.ask(f"loadlist map1 {places}").startswith("error usage: loadlist")


def test_touch_counts_page_faults(client: Client) -> None:
    ask(client, "map buf1 length=16K", "stamp map1", "map buf1 length=16K")
    assert ask(client, "madvise map2 dontneed", "touch map2 value=7 offset=4K length=4K")[1] == (
        "ok pages=1 faults=1"
    )
    assert client.ask("touch map2 offset=4K length=4K") == "ok pages=1 faults=0"
    assert client.ask("loadpages map1") == "ok 0x00000000 0x00000007 0x00000002 0x00000003"


def test_touch_that_faults_reports_the_signal(client: Client) -> None:
    client.ask("map buf1 length=16K")
    client.shrink(2)
    assert client.ask("touch map1") == "sigbus code=adrerr offset=0x2000"
    for bad in ("offset=1", "length=1", "value=0x100000000", "offset=20K"):
        assert client.ask(f"touch map1 {bad}").startswith("error usage: touch")


@pytest.fixture(params=["actor", "python"])
def memfd_device(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A probe whose dev1 is a memfd: lines are checked as for a device, then the kernel says ENOTTY."""
    with Client(request.param) as one:
        socket.send_fds(one.parcels, [b"d"], [one.file])
        assert one.ask("recv") == "ok dev1"
        yield one


@pytest.mark.parametrize(
    "ranges",
    ["0:4K*0", "0:4K*", "0:4K*-1", "0*2:4K", "0:4K*1048577", "0:4K*0x100000,0:4K", "0:4K*1*1", "4K*2"],
)
def test_export_of_malformed_ranges_is_refused(memfd_device: Client, ranges: str) -> None:
    assert memfd_device.ask(f"export dev1 bar=0 ranges={ranges}").startswith("error usage: export")


@pytest.mark.parametrize("ranges", ["", "0:4K", "0:4K*1", "0x1000:4K*16385,0:1", "0:4K*0x100000"])
def test_export_of_wellformed_ranges_reaches_the_kernel(memfd_device: Client, ranges: str) -> None:
    assert memfd_device.ask(f"export dev1 bar=0 ranges={ranges}").startswith("error ENOTTY export")


@BOTH
def test_exec_keeps_only_descriptors_without_cloexec(client: Client) -> None:
    before = int(client.ask("fds").removeprefix("ok "))
    ask(client, "map buf1 length=16K", "dup buf1")
    assert client.ask("exec") == "ok vmas=0"
    loaded, closed, left = ask(client, "loadpages map1", "close buf2", "fds")
    assert loaded == "error usage: loadpages: 'map1' does not name a mapping of this actor"
    assert closed.startswith("error usage: close: 'buf2' does not name a device or a buffer")
    assert left == f"ok {before - 1}"


@BOTH
def test_exec_ends_the_deadline_of_its_line(client: Client) -> None:
    assert client.ask("exec deadline=1") == "ok vmas=0"
    with pytest.raises(subprocess.TimeoutExpired):
        client.process.wait(1.5)  # the time at which it would be killed
    assert client.ask("version").startswith("ok protocol=1")


@BOTH
def test_fork_after_exec_makes_a_child_that_answers(client: Client) -> None:
    assert client.ask("exec") == "ok vmas=0"
    assert ask(client, "fork child", "@child exit", "reap child") == ["ok", "ok", "ok exit=0"]


@pytest.mark.parametrize("kind", ["actor", "python"])
def test_exec_and_orphan_without_a_parent_are_refused(kind: str) -> None:
    one = Local(argv(kind))
    try:
        for operation in ("exec", "orphan"):
            assert one.ask(operation).startswith(f"error usage: {operation}: this actor has no parent")
        assert one.ask("spawn child") == "ok"
        assert one.ask("@child exec") == "ok vmas=0"
        assert one.ask("@child version").startswith("ok protocol=1")
    finally:
        one.close()


@BOTH
def test_fdflags_tells_cloexec_and_mode(client: Client) -> None:
    assert client.ask("fdflags buf1") == "ok cloexec=1 mode=rdwr"
    assert ask(client, "dup buf1 via=dup", "fdflags buf2") == ["ok buf2", "ok cloexec=0 mode=rdwr"]
    assert (
        ask(client, "reopen buf1 open_flags=rdonly,cloexec", "fdflags buf3")[1] == "ok cloexec=1 mode=rdonly"
    )
    assert client.ask("fdflags map1").startswith("error usage: ")
