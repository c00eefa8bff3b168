"""Operations for raw ioctls, and for every call that a mapping or a descriptor may get."""

from __future__ import annotations

import os
import re
import socket
import struct
import termios
from collections.abc import Iterator

import pytest
from actors import PAGE, PROBES, Client

BOTH = pytest.mark.parametrize("kind", ["actor", "python"])
FIONBIO = termios.FIONBIO  # takes an int, of any file


@pytest.fixture
def client(kind: str) -> Iterator[Client]:
    with Client(kind) as one:
        yield one


@pytest.fixture
def mapped() -> Iterator[Client]:
    """A C actor with a mapping `map1` of four pages, stamped 7 and up."""
    with Client("actor") as one:
        assert one.ask(f"map buf1 length={4 * PAGE:#x}") == "ok map1"
        assert one.ask("stamp map1 seed=7") == "ok pages=4"
        yield one


class TestRawCalls:
    @BOTH
    def test_ioctl_argument_is_pointer_number_or_absent(self, client: Client) -> None:
        assert client.ask(f"ioctl buf1 {FIONBIO:#x} data=01000000") == "ok 0x0 data=01000000"
        assert client.ask(f"ioctl buf1 {FIONBIO:#x} argument=1").startswith("error EFAULT ioctl")
        assert client.ask(f"ioctl buf1 {FIONBIO:#x}").startswith("error EFAULT ioctl")
        assert client.ask("ioctl buf1 0x6204 data=").startswith("error ENOTTY ioctl")

    @BOTH
    def test_ioctl_data_is_followed_by_zeros_or_a_guard(self, client: Client) -> None:
        """FIONBIO reads four bytes: after two given ones it finds zeros, or a guard page."""
        assert client.ask(f"ioctl buf1 {FIONBIO:#x} data=0000") == "ok 0x0 data=0000"
        assert client.ask(f"ioctl buf1 {FIONBIO:#x} data=0000 guard=1").startswith("error EFAULT ioctl")
        assert client.ask(f"ioctl buf1 {FIONBIO:#x} data=00000000 guard=1") == "ok 0x0 data=00000000"

    @BOTH
    def test_ioctl_name_in_data_is_its_descriptor(self, client: Client) -> None:
        reply = client.ask(f"ioctl buf1 {FIONBIO:#x} data=00000000,buf1,ff")
        data = bytes.fromhex(reply.removeprefix("ok 0x0 data="))
        (number,) = struct.unpack("=i", data[4:8])
        assert (data[:4], data[8:]) == (bytes(4), b"\xff")
        assert client.ask(f"hold {number}") == f"ok buf2 size={4 * PAGE:#x}"

    @BOTH
    def test_ioctl_on_a_number_uses_that_descriptor(self, client: Client) -> None:
        assert client.ask(f"ioctl 0xffffffff {FIONBIO:#x} data=00").startswith("error EBADF ioctl")
        assert client.ask(f"ioctl 1000 {FIONBIO:#x} data=00").startswith("error EBADF ioctl")
        assert client.ask(f"ioctl 0 {FIONBIO:#x} data=00") == "ok 0x0 data=00"
        assert client.ask(f"ioctl 0x100000000 {FIONBIO:#x}").startswith("error usage: ioctl")

    @BOTH
    @pytest.mark.parametrize("kind_of_file", ["memfd", "eventfd"])
    def test_make_other_files_than_dmabufs(self, client: Client, kind_of_file: str) -> None:
        assert client.ask(f"make {kind_of_file} length={PAGE}") == f"ok buf2 size={PAGE:#x}"
        assert client.ask("ioctl buf2 0x6204").startswith("error ENOTTY ioctl")

    @BOTH
    @pytest.mark.parametrize(
        "options", ["data=0", "data=zz", "data=buf9", "data=buf1/0", "data=00 argument=1"]
    )
    def test_ioctl_malformed_argument_is_refused(self, client: Client, options: str) -> None:
        assert client.ask(f"ioctl buf1 {FIONBIO:#x} {options}").startswith("error usage: ioctl")

    @BOTH
    def test_footprint_counts_descriptors(self, client: Client) -> None:
        def descriptors() -> int:
            first, *_ = client.ask("footprint").removeprefix("ok ").split()
            return int(first.removeprefix("fds="))

        before = descriptors()
        assert client.ask("dup buf1") == "ok buf2"
        assert descriptors() == before + 1

    def test_footprint_leaves_out_the_same_in_both(self) -> None:
        c = re.findall(r'^\t"(.*)",\s+/\* (\S+) \*/$', (PROBES / "ioctl.c").read_text(), re.MULTILINE)
        python = re.findall(r'^    b"(.*)",  # (\S+)$', (PROBES / "probe.py").read_text(), re.MULTILINE)
        assert ("hrtimer: ", "kernel/time/hrtimer.c") in c
        assert c == python
        _, _, listed = (PROBES / "PROTOCOL.md").read_text().partition("slow host causes: ")
        left_out = re.findall(r"`(.*?)`", listed)
        assert left_out[: len(c)] == [prefix for prefix, _ in c]

    @BOTH
    def test_hold_of_no_file_is_ebadf(self, client: Client) -> None:
        assert client.ask("hold 999").startswith("error EBADF hold")


class TestDescriptors:
    @BOTH
    def test_reopen_has_the_asked_mode(self, client: Client) -> None:
        assert client.ask("reopen buf1 open_flags=rdonly") == "ok buf2"
        assert client.ask("setfl buf2 rdwr") == "ok"
        assert client.ask(f"map buf2 length={PAGE}").startswith("error EACCES map")
        assert client.ask("reopen buf1 open_flags=path") == "ok buf3"
        assert client.ask(f"map buf3 length={PAGE} prot=r").startswith("error EBADF map")

    def test_fdio_moves_bytes_in_every_way(self, mapped: Client) -> None:
        for way in ("read", "write", "pread", "pwrite", "spliceout", "splicein", "sendfile", "copy"):
            assert mapped.ask(f"fdio buf1 {way}") == "ok 16", way
        assert mapped.ask("fdio buf1 punch") == "ok 0"
        assert mapped.ask("load32 map1 0") == "ok 0x00000000"
        assert mapped.ask("fdio buf1 truncate") == "ok 0"
        assert os.fstat(mapped.file).st_size == 0

    @BOTH
    def test_mapped_lists_the_new_mapping(self, client: Client) -> None:
        before = client.ask("mapped").split()
        assert client.ask(f"map buf1 length={2 * PAGE}") == "ok map1"
        fresh = set(client.ask("mapped").split()) - set(before)
        assert fresh == {f"/memfd:buffer:{2 * PAGE:#x}"}

    @BOTH
    def test_mapfile_opens_the_mapped_file(self, client: Client) -> None:
        assert client.ask(f"map buf1 length={PAGE} offset={PAGE}") == "ok map1"
        assert client.ask("stamp map1 seed=9") == "ok pages=1"
        reply = client.ask("mapfile map1")
        if "EPERM" in reply:
            pytest.skip(f"this host forbids it: {reply}")
        assert reply == "ok buf2"
        assert client.ask(f"map buf2 length={2 * PAGE}") == "ok map2"
        assert client.ask("loadpages map2") == "ok 0x00000000 0x00000009"


class TestMappings:
    def test_mremap_moves_and_duplicates(self, mapped: Client) -> None:
        assert mapped.ask(f"mremap map1 {4 * PAGE} flags=maymove,fixed") == "ok"
        assert mapped.ask("load32 map1 0x1000") == "ok 0x00000008"
        assert mapped.ask(f"mremap map1 {4 * PAGE} duplicate=1") == "ok map2"
        assert mapped.ask("store32 map2 0x1000 0x99") == "ok"
        assert mapped.ask("load32 map1 0x1000") == "ok 0x00000099"
        assert mapped.ask(f"mremap map1 {5 * PAGE} flags=dontunmap").startswith("error EINVAL")

    def test_mapover_replaces_a_page(self, mapped: Client) -> None:
        assert mapped.ask("mapover map1 buf1 offset=0x1000 length=0x1000 from=0x3000") == "ok"
        assert mapped.ask("loadpages map1") == "ok 0x00000007 0x0000000a 0x00000009 0x0000000a"
        assert mapped.ask("mapover map1 buf1 noreplace=1").startswith("error EEXIST")

    def test_mapat_uses_the_address(self, mapped: Client) -> None:
        assert mapped.ask("mapat buf1 0x20000000000 length=0x1000 offset=0x2000") == "ok map2"
        assert mapped.ask("load32 map2 0") == "ok 0x00000009"
        assert mapped.ask("mapat buf1 0x20000000000 length=0x1000").startswith("error EEXIST")

    def test_remapfile_shows_another_page(self, mapped: Client) -> None:
        assert mapped.ask("remapfile map1 3 length=0x1000") == "ok"
        assert mapped.ask("loadpages map1") == "ok 0x0000000a 0x00000008 0x00000009 0x0000000a"

    def test_mlock_counts_as_locked(self, mapped: Client) -> None:
        def locked() -> str:
            return mapped.ask("memory").removeprefix("ok ").split()[0]

        assert locked() == "locked=0"
        assert mapped.ask("mlock map1") == "ok"
        assert locked() == "locked=16"
        assert mapped.ask("mlockall none") == "ok"
        assert locked() == "locked=0"

    def test_msync_takes_every_flag(self, mapped: Client) -> None:
        for how in ("async", "sync", "invalidate"):
            assert mapped.ask(f"msync map1 {how}") == "ok"
        assert mapped.ask("msync map1 never").startswith("error usage")

    @pytest.mark.parametrize("how", ["vmsplice", "uring", "futex"])
    def test_pinpages_pins_ordinary_pages(self, mapped: Client, how: str) -> None:
        reply = mapped.ask(f"pinpages map1 {how}")
        if "EPERM" in reply or "ENOSYS" in reply:
            pytest.skip(f"this host forbids it: {reply}")
        assert reply == ("ok 16384" if how == "vmsplice" else "ok 0")


class TestOthers:
    @pytest.mark.parametrize("via", ["mem", "ptrace", "vm"])
    def test_peek_and_poke_reach_another_process(self, mapped: Client, via: str) -> None:
        assert mapped.ask("fork other") == "ok"
        reply = mapped.ask(f"peek other map1 0x1000 via={via}")
        if "EPERM" in reply:
            pytest.skip(f"this host forbids it: {reply}")
        assert reply == "ok 0x00000008"
        assert mapped.ask(f"poke other map1 0x1000 0x1234 via={via}") == "ok"
        assert mapped.ask("load32 map1 0x1000") == "ok 0x00001234"
        assert mapped.ask("@other version").startswith("ok ")

    def test_released_process_continues(self, mapped: Client) -> None:
        assert mapped.ask("fork other") == "ok"
        assert mapped.ask("@other hammer map1 value=1") == "ok ham1"
        reply = mapped.ask("seize other")
        if "EPERM" in reply:
            pytest.skip(f"this host forbids it: {reply}")
        assert reply == "ok"
        assert mapped.ask("fill map1 5") == "ok words=4096"
        assert mapped.ask("compare map1 5") == "ok equal"
        assert mapped.ask("release other") == "ok"
        assert mapped.ask("@other hammered ham1 more=4096").startswith("ok cpu=")

    @pytest.mark.parametrize("station", ["thread", "handler", "clone"])
    def test_hammer_in_any_context_counts_faults(self, mapped: Client, station: str) -> None:
        mapped.shrink(2)
        assert mapped.ask(f"hammer map1 value=3 in={station} threads=2") == "ok ham1"
        for thread in mapped.ask("hammered ham1 more=4096").removeprefix("ok ").split():
            counts = dict(word.split("=") for word in thread.split(","))
            assert int(counts["sigbus"]) > 1000
            assert int(counts["stored"]) > 1000
            assert (counts["sigsegv"], counts["other"]) == ("0", "0")
        assert mapped.ask("unhammer ham1").startswith("ok cpu=")
        assert mapped.ask("hammer map1 in=bed").startswith("error usage: hammer")

    @BOTH
    @pytest.mark.parametrize("made", ["fork", "spawn"])
    def test_orphan_keeps_its_mappings(self, client: Client, made: str) -> None:
        assert client.ask(f"{made} other") == "ok"
        assert client.ask("send buf1 other") == "ok"
        name = client.ask("@other recv").removeprefix("ok ")
        assert client.ask(f"@other map {name} length={4 * PAGE:#x}") == "ok map1"
        assert client.ask("@other stamp map1 seed=7") == "ok pages=4"
        assert client.ask("@other orphan") == "ok"
        assert client.ask("@other load32 map1 0x1000") == "ok 0x00000008"
        assert client.ask(f"@other send {name} parent") == "ok"
        assert client.ask("recv other") == "ok buf2"
        assert client.ask("reap other") == "ok exit=0"

    @BOTH
    def test_forked_child_shares_its_parents_mappings(self, client: Client) -> None:
        assert client.ask(f"map buf1 length={PAGE}") == "ok map1"
        assert client.ask("fork child") == "ok"
        assert client.ask("@child store32 map1 0 0x77") == "ok"
        assert client.ask("load32 map1 0") == "ok 0x00000077"
        assert client.ask("@child fork child") == "ok"
        assert client.ask("@child @child load32 map1 0") == "ok 0x00000077"
        assert client.ask("signal child kill") == "ok"
        assert client.ask("reap child") == "ok signal=9"

    @BOTH
    def test_stopped_child_does_not_answer(self, client: Client) -> None:
        assert client.ask("fork child") == "ok"
        assert client.ask("signal child stop") == "ok"
        assert client.ask("@child version deadline=1") == "timeout"
        assert client.ask("signal child cont") == "ok"
        assert client.ask("@child version").startswith("ok ")


def test_forked_python_child_has_a_socket_of_its_own() -> None:
    """A forked Python child receives descriptors on a socket of its own, not on its parent's."""
    with Client("python") as client:
        assert client.ask("fork child") == "ok"
        assert client.ask("send buf1 child") == "ok"
        assert client.ask("@child recv") == "ok buf2"
        assert client.ask("@child send buf2 parent") == "ok"
        assert client.ask("recv child") == "ok buf2"
        client.parcels.setblocking(False)
        with pytest.raises(BlockingIOError):
            socket.recv_fds(client.parcels, 1, 1)
