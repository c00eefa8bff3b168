"""Threads that keep storing (hammer), system calls that copy, and the oracle, on the host with a memfd."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from actors import PAGE, Client, Local, argv

from harness.actor.actor import Actor
from harness.actor.hammer import Counts
from harness.actor.handles import Buffer
from harness.actor.reply import DeadlineError, Refused
from harness.actor.session import Wire
from harness.actor.transcript import Transcript
from harness.lib.errors import HarnessError
from suites.support.store_oracle import THEIRS, landed


@pytest.fixture
def client() -> Iterator[Client]:
    with Client("actor") as one:
        assert one.ask("map buf1 length=16K") == "ok map1"
        yield one


def counts(reply: str) -> list[dict[str, int]]:
    assert reply.startswith("ok cpu=")
    return [
        {key: int(value) for key, value in (pair.split("=") for pair in word.split(","))}
        for word in reply.split()[1:]
    ]


def ask(program: Local, *lines: str) -> list[str]:
    return [program.ask(line) for line in lines]


def words(client: Client) -> set[bytes]:
    content = os.pread(client.file, 4 * PAGE, 0)
    return {content[at : at + 4] for at in range(0, len(content), 4)}


class TestHammer:
    def test_hammer_stores_everywhere_until_it_is_stopped(self, client: Client) -> None:
        assert client.ask("hammer map1 value=0x11223344") == "ok ham1"
        (blows,) = counts(client.ask("hammered ham1 more=4096"))
        assert blows["stored"] > 4096
        assert words(client) == {b"\x44\x33\x22\x11"}
        (last,) = counts(client.ask("unhammer ham1"))
        assert last["stored"] >= blows["stored"]
        os.pwrite(client.file, bytes(4 * PAGE), 0)
        assert client.ask("hammered ham1").startswith("error usage: ")
        assert words(client) == {bytes(4)}

    def test_hammer_counts_a_fault_and_goes_on(self, client: Client) -> None:
        client.ask("hammer map1 value=1")
        client.shrink(1)
        before = counts(client.ask("hammered ham1 more=1"))[0]
        after = counts(client.ask("hammered ham1 more=8192"))[0]
        assert after["stored"] - before["stored"] >= 1024
        assert after["sigbus"] - before["sigbus"] >= 3 * 1024
        client.shrink(0)
        before = counts(client.ask("hammered ham1 more=1"))[0]
        after = counts(client.ask("hammered ham1 more=1000"))[0]
        assert after["stored"] == before["stored"]
        assert after["sigbus"] - before["sigbus"] > 1000
        assert (after["loaded"], after["sigsegv"], after["other"]) == (0, 0, 0)

    def test_hammered_more_counts_from_its_line_on(self, client: Client) -> None:
        client.ask("hammer map1")
        seen = [sum(counts(client.ask("hammered ham1 more=100000"))[0].values()) for _ in range(3)]
        assert seen[2] > seen[1] + 100000 > seen[0] + 200000

    @pytest.mark.parametrize(
        ("access", "stored", "loaded"), [("store", True, False), ("load", False, True), ("both", True, True)]
    )
    def test_hammer_access_chooses_loads_or_stores(
        self, client: Client, access: str, stored: bool, loaded: bool
    ) -> None:
        client.ask(f"hammer map1 value=7 access={access}")
        (blows,) = counts(client.ask("hammered ham1 more=100"))
        assert (blows["stored"] > 0, blows["loaded"] > 0) == (stored, loaded)
        assert (b"\7\0\0\0" in words(client)) == stored

    def test_hammer_counts_a_forbidden_store_as_sigsegv(self, client: Client) -> None:
        ask(client, "mprotect map1 r", "hammer map1 access=both")
        (blows,) = counts(client.ask("hammered ham1 more=1000"))
        assert (blows["stored"], blows["sigbus"], blows["other"]) == (0, 0, 0)
        assert abs(blows["sigsegv"] - blows["loaded"]) <= 1

    @pytest.mark.parametrize(("width", "value"), [(8, "61"), (16, "6162"), (64, "6162636465666768")])
    def test_hammer_stores_with_the_asked_width(self, client: Client, width: int, value: str) -> None:
        number = int.from_bytes(bytes.fromhex(value), "little")
        client.ask(f"hammer map1 value={number:#x} width={width} offset=8 length=16")
        client.ask("hammered ham1 more=100")
        assert os.pread(client.file, 32, 0).hex() == "00" * 8 + value * (256 // len(value) // 8) + "00" * 8

    def test_hammer_stores_at_the_asked_stride(self, client: Client) -> None:
        client.ask("hammer map1 value=9 stride=4K threads=3")
        client.ask("hammered ham1 more=4")
        assert ask(client, "loadpages map1", "compare map1 0 offset=4 length=4092") == [
            "ok" + " 0x00000009" * 4,
            "ok equal",
        ]

    def test_hammer_threads_have_their_cpus(self, client: Client) -> None:
        cpus = sorted(os.sched_getaffinity(0))
        assert client.ask("hammer map1 threads=3") == "ok ham1"
        assert [one["cpu"] for one in counts(client.ask("hammered ham1"))] == [
            cpus[-1 - n % len(cpus)] for n in range(3)
        ]
        client.ask(f"hammer map1 threads=2 cpus={cpus[0]}")
        assert [one["cpu"] for one in counts(client.ask("hammered ham2 more=10"))] == [cpus[0]] * 2
        allowed = [
            re.search(r"^Cpus_allowed_list:\t(.*)$", (task / "status").read_text(), re.MULTILINE)[1]  # type: ignore[index]
            for task in sorted(Path(f"/proc/{client.process.pid}/task").iterdir(), key=lambda t: int(t.name))
        ]
        assert allowed[-2:] == [str(cpus[0])] * 2
        assert len(allowed) == 6

    def test_deadline_of_a_line_leaves_threads_running(self, client: Client) -> None:
        client.ask("hammer map1 value=3")
        assert client.ask("hammered ham1 more=0xffffffff deadline=1") == "timeout"
        before = counts(client.ask("hammered ham1"))[0]
        assert counts(client.ask("hammered ham1 more=1000"))[0]["stored"] > before["stored"] + 1000
        assert client.ask("unhammer ham1").startswith("ok cpu=")

    def test_hammer_leaves_the_actors_own_faults(self, client: Client) -> None:
        client.ask("hammer map1 threads=2")
        client.shrink(0)
        assert ask(client, "load32 map1 4", "hammered ham1 more=100", "store8 map1 0x3fff 1")[::2] == [
            "sigbus code=adrerr offset=0x4",
            "sigbus code=adrerr offset=0x3fff",
        ]

    def test_hammered_mapping_cannot_be_unmapped(self, client: Client) -> None:
        client.ask("hammer map1")
        for line in ("unmap map1", "unmap map1 offset=4K length=4K", "mremap map1 4K"):
            assert "unhammer it first" in client.ask(line)
        assert ask(client, "hammer map1", "unhammer ham1")[0] == "ok ham2"
        assert client.ask("unmap map1").startswith("error usage: ")
        client.ask("unhammer ham2")
        assert client.ask("unmap map1") == "ok"

    def test_forked_child_has_no_hammer(self, client: Client) -> None:
        client.ask("hammer map1 value=5")
        assert client.ask("fork f1") == "ok"
        assert client.ask("@f1 hammered ham1").startswith("error usage: hammered: 'ham1' does not name")
        client.ask("hammered ham1 more=4096")
        assert ask(client, "@f1 load32 map1 0", "@f1 unmap map1") == ["ok 0x00000005", "ok"]
        assert counts(client.ask("hammered ham1 more=100"))[0]["stored"] > 100

    def test_hammer_of_a_stopped_child_stops(self, client: Client) -> None:
        lines = ["spawn c1", "send buf1 c1", "@c1 recv", "@c1 map buf1 length=16K"]
        ask(client, *lines, "@c1 hammer map1 value=8 threads=2", "@c1 hammered ham1 more=4096")
        assert words(client) == {b"\x08\0\0\0"}
        assert client.ask("signal c1 stop") == "ok"
        os.pwrite(client.file, bytes(4 * PAGE), 0)
        assert client.ask("signal c1 stop") == "ok"
        assert words(client) == {bytes(4)}
        assert client.ask("signal c1 cont") == "ok"
        assert client.ask("@c1 hammered ham1 more=4096").startswith("ok cpu=")
        assert words(client) == {b"\x08\0\0\0"}

    def test_held_hammer_does_not_store(self, client: Client) -> None:
        assert client.ask("hammer map1 value=6 threads=2 held=1") == "ok ham1"
        assert client.ask("hammered ham1 more=1 deadline=1") == "timeout"
        assert words(client) == {bytes(4)}
        assert [one["stored"] for one in counts(client.ask("unhammer ham1"))] == [0, 0]

    def test_exit_with_a_hammer_ends_the_actor(self, client: Client) -> None:
        ask(client, "hammer map1", "hammered ham1 more=10")
        assert client.ask("exit") == "ok"
        assert client.wait(10) == 0

    def test_child_with_a_hammer_can_be_killed(self, client: Client) -> None:
        ask(client, "spawn c1", "send buf1 c1", "@c1 recv", "@c1 map buf1 length=16K", "@c1 hammer map1")
        assert ask(client, "signal c1 term", "reap c1") == ["ok", f"ok signal={signal.SIGTERM.value}"]

    @pytest.mark.parametrize(
        "line",
        [
            *("hammer", "hammer buf1", "hammer map2", "hammer map1 value=-1", "hammer map1 access=erase"),
            *("hammer map1 access=4", "hammer map1 access=0"),
            *("hammer map1 threads=0", "hammer map1 threads=65"),
            *("hammer map1 width=12", "hammer map1 width=0", "hammer map1 width=8 value=256"),
            *("hammer map1 value=0x100000000", "hammer map1 offset=2", "hammer map1 length=0"),
            *("hammer map1 length=6", "hammer map1 offset=16K", "hammer map1 offset=17K"),
            *("hammer map1 stride=0", "hammer map1 stride=6", "hammer map1 length=0xffffffffffffffff"),
            *("hammer map1 cpus=", "hammer map1 cpus=x", "hammer map1 cpus=0,", "hammer map1 cpus=1024"),
            *(
                "hammer map1 held=x",
                "hammered",
                "hammered ham1",
                "hammered map1",
                "unhammer",
                "unhammer ham1",
            ),
            *("pin x", "pin 0,", "pin 1024", "pin 0 1"),
            *("reclaim dev1 buf1 map1", "reclaim dev1 buf1 map1 0", "reclaim dev1 buf1 map1 0x100000000"),
            *("reclaim dev1 buf1 map1 0 stride=2", "reclaim dev1 buf1 map1 0 offset=2"),
            *("reclaim dev1 buf1 buf1 0", "reclaim buf1 buf1 map1 0"),
            *("syscopy", "syscopy map1", "syscopy map1 up", "syscopy map1 out bytes=0"),
            *("syscopy map1 out bytes=4097", "syscopy map1 in offset=16K"),
            "syscopy map1 in value=0x100000000",
            *("make", "make memfd", "make paper length=4K", "make memfd length="),
            *("lowpower dev1 enter", "lowpower buf1 enter", "hotreset dev1", "dup buf1 via=magic"),
        ],
    )
    def test_malformed_line_starts_no_thread(self, client: Client, line: str) -> None:
        assert client.ask(line).startswith("error usage: ")
        assert len(list(Path(f"/proc/{client.process.pid}/task").iterdir())) == 1

    def test_absent_cpu_is_einval(self, client: Client) -> None:
        assert client.ask("hammer map1 cpus=1023").startswith("error EINVAL hammer: ")
        assert client.ask("pin 1023").startswith("error EINVAL pin: ")
        assert client.ask("unmap map1") == "ok"


class TestPin:
    def test_pin_tells_and_sets_the_cpus(self) -> None:
        one, cpus = Local(argv("actor")), sorted(os.sched_getaffinity(0))
        listed = ",".join(map(str, cpus))
        assert ask(one, "pin", f"pin {cpus[0]}", "pin", f"pin {listed}") == [
            f"ok {listed}",
            f"ok {cpus[0]}",
            f"ok {cpus[0]}",
            f"ok {listed}",
        ]
        one.close()


class TestForeignBuffers:
    def test_memfd_is_a_buffer(self) -> None:
        one = Local(argv("actor"))
        assert ask(one, "make memfd length=8K", "seek buf1", "map buf1 length=8K", "stamp map1 seed=1") == [
            "ok buf1 size=0x2000",
            "ok 0x2000",
            "ok map1",
            "ok pages=2",
        ]
        one.close()

    @pytest.mark.parametrize("kind", ["udmabuf", "heap"])
    def test_buffer_kind_the_host_lacks_is_refused(self, kind: str) -> None:
        one = Local(argv("actor"))
        reply = one.ask(f"make {kind} length=4K")
        assert re.fullmatch(r"ok buf1 size=0x1000|error E[A-Z]+ make: .*", reply)
        assert one.ask("fds") == ("ok 5" if reply.startswith("ok") else "ok 4")
        one.close()


class TestCopies:
    def test_syscopy_copies_out_and_in(self, client: Client) -> None:
        os.pwrite(client.file, bytes(range(1, 9)), PAGE)
        assert client.ask("syscopy map1 out offset=0x1002") == "ok 4 data=03040506"
        assert client.ask("syscopy map1 in offset=1 bytes=6 value=0x64636261") == "ok 6"
        assert os.pread(client.file, 8, 0) == b"\0abcdab\0"

    def test_syscopy_of_an_absent_page_is_efault(self, client: Client) -> None:
        client.shrink(1)
        said = "error EFAULT syscopy: Bad address"
        assert ask(client, "syscopy map1 out offset=4K", "syscopy map1 in offset=8K bytes=4K") == [said, said]
        assert client.ask("syscopy map1 out bytes=4K").startswith("ok 4096 data=")
        assert client.ask("fds") == "ok 5"


class TestValues:
    @pytest.fixture
    def owner(self, client: Client, tmp_path: Path) -> Actor:
        return Actor(Wire(client, Transcript(tmp_path / "transcript.txt")))

    @pytest.fixture
    def buffer(self, owner: Actor) -> Buffer:
        return Buffer(owner, "buf1", 4 * PAGE, None)

    def test_hammer_counts_are_values(self, client: Client, owner: Actor, buffer: Buffer) -> None:
        mapping = owner.map(buffer)
        hammer = mapping.hammer(THEIRS, access="both", threads=2, cpus=owner.cpus()[:1], offset=PAGE)
        assert hammer.accesses_per_round == 2 * 3 * 1024
        first, second = hammer.counts(more=hammer.accesses_per_round)
        assert first.cpu == second.cpu == owner.cpus()[0]
        assert landed((first, second)) == first.stored + first.loaded + second.stored + second.loaded
        client.shrink(0)
        before, after = hammer.counts(more=1), hammer.counts(more=500)
        assert landed(after) == landed(before)
        assert all(one.sigbus > 500 for one in hammer.stop())
        with pytest.raises(HarnessError, match="does not name a hammer"):
            hammer.counts()

    def test_hammer_past_its_deadline_is_an_error(self, owner: Actor, buffer: Buffer) -> None:
        hammer = owner.map(buffer).hammer()
        with pytest.raises(DeadlineError):
            hammer.counts(more=0xFFFFFFFF, deadline=1)
        hammer.stop()

    @pytest.mark.parametrize("said", ["", "cpu=1", "cpu=1,stored=x,loaded=0,sigbus=0,sigsegv=0,other=0", "x"])
    def test_malformed_hammer_reply_is_refused(self, said: str) -> None:
        with pytest.raises((ValueError, LookupError)):
            Counts.parse(said)

    def test_copies_are_values(self, client: Client, owner: Actor, buffer: Buffer) -> None:
        mapping = owner.map(buffer)
        assert mapping.copy_in(PAGE, 0x64636261) == 4
        assert mapping.copy_out(PAGE, 6) == b"abcd\0\0"
        client.shrink(0)
        with pytest.raises(Refused, match="EFAULT"):
            mapping.copy_out(0)

    def test_buffer_is_given_and_taken_back(self, owner: Actor, buffer: Buffer) -> None:
        child = owner.spawn("child")
        back = owner.take(owner.give(buffer, child))
        assert (back.actor, back.name, back.seek()) == (owner, "buf2", 4 * PAGE)
        assert [buffer.dup(via).name for via in (None, "dup", "fcntl")] == ["buf3", "buf4", "buf5"]
        assert owner.make("memfd", PAGE).seek() == PAGE
