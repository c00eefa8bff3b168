"""The probes on this host: their protocol, the faults they report, and their replies to bad input."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import actors
import pytest
from actors import HEADERS, PAGE, PROBES, Client, Local, actor, argv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.actor.reply import Fault, word_or_fault
from harness.kernel.dialect import CONSTANTS
from harness.run.scenario import revoke_via

KINDS = ["actor", "python"]
ABI_OF_THE_HEADERS = [
    ("abi", "ok revoke=14 export=11"),
    ("abi revoke=14", "ok revoke=14 export=11"),
    ("abi revoke=13", "error usage: abi: the headers have another revoke"),
    ("abi memattr=15", "error usage: abi: the headers have another memattr"),
]
PIDFD_GETFD = 438  # the number of the system call
BOTH = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def client(kind: str) -> Iterator[Client]:
    with Client(kind) as one:
        yield one


def ask(program: Local, *lines: str) -> list[str]:
    return [program.ask(line) for line in lines]


def socket_of(process: int) -> socket.socket:
    """Take the standard output of a process, which is a socket."""
    pidfd = os.pidfd_open(process)
    descriptor = ctypes.CDLL(None).syscall(PIDFD_GETFD, pidfd, 1, 0)
    os.close(pidfd)
    return socket.socket(fileno=descriptor)


@pytest.fixture(params=KINDS)
def program(request: pytest.FixtureRequest) -> Iterator[Local]:
    one = Local(argv(request.param))
    yield one
    one.close()


def operations(program: list[str]) -> list[str]:
    said = subprocess.run([*program, "--help"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^  ([a-z]\S*(?: .*)?)$", said.partition("operations:")[2], re.MULTILINE)


def described() -> dict[str, bool]:
    """Read the usages that PROTOCOL.md describes, and whether the Python probe has to have them."""
    table: dict[str, bool] = {}
    for row in re.findall(r"^\| (`.*?`) \| (yes|) ?\|", (PROBES / "PROTOCOL.md").read_text(), re.MULTILINE):
        first, *others = (usage.replace("\\|", "|") for usage in re.findall("`(.*?)`", row[0]))
        words = first.partition(" ")[2]
        for usage in (first, *(f"{other} {words}" for other in others)):
            table[usage] = row[1] == "yes"
    assert len(table) > 40
    return table


class TestHelp:
    def test_help_lists_the_operations_of_the_protocol(self) -> None:
        assert sorted(operations(argv("actor"))) == sorted(described())

    def test_help_of_python_lists_the_operations_of_its_column(self) -> None:
        ours = {usage.split()[0] for usage, yes in described().items() if yes}
        assert {usage.split()[0] for usage in operations(argv("python"))} == ours

    @BOTH
    def test_unknown_argument_is_refused(self, kind: str) -> None:
        done = subprocess.run([*argv(kind), "--nonsense"], capture_output=True, text=True)
        assert done.returncode == 2
        assert "--help" in done.stderr


class TestLines:
    @pytest.mark.parametrize(
        "line",
        [
            "nonsense",
            "open",
            "open vfio",
            "open vfio ../../../etc",
            "open vfio 0000:01:00.0/../..",
            "open vfio 0000:01:00",
            "open vfio 0000:01:00.0 via=sideways",
            "open file 0000:01:00.0",
            "load32 map1 0",
            "load32 map1",
            "version extra",
            "version extra=1",
            "spawn Name",
            "spawn parent",
            "spawn a/b",
            "spawn " + "n" * 24,
            "recv",
            "send buf1 parent",
            "close map1",
            "export dev1 bar=0",
            "ioas buf1",
            "iomap dev1 3 buf1",
            "type1map dev1 map1 iova=0 length=4096",
            "type1unmap dev1 iova=0",
            "@nobody version",
            "@",
            "@ version",
            "version deadline=0",
            "version deadline=x",
            "version deadline=99999999999999999999",
            "=",
            "\x01\x02",
            "é",
        ],
    )
    def test_malformed_line_gets_one_usage_error(self, program: Local, line: str) -> None:
        reply = program.ask(line)
        assert reply.startswith("error usage: ")
        assert reply.isprintable()
        assert program.ask("version").startswith("ok protocol=1 ")

    def test_blank_line_and_comment_get_no_reply(self, program: Local) -> None:
        program.write(b"\n   \n# comment\n\t\nversion\n")
        assert program.read_line().startswith(b"ok protocol=")

    def test_line_without_newline_is_ignored(self) -> None:
        done = subprocess.run(argv("actor"), input=b"version\nversi", capture_output=True, check=True)
        assert done.stdout.count(b"\n") == 1

    @pytest.mark.parametrize(("size", "fits"), [(1 << 22, True), ((1 << 22) + (1 << 18), False)])
    def test_line_over_the_limit_is_refused(self, size: int, fits: bool) -> None:
        one = Local(argv("actor"))
        reply = one.ask(b"ioctl buf1 1 data=" + b"0" * (size - 18))
        assert ("'buf1' is no device" in reply) == fits
        assert ("at most" in reply) == (not fits)
        assert one.ask("version").startswith("ok ")
        one.close()

    @pytest.mark.parametrize("word", ["word ", "a=b "])
    def test_line_of_many_words_is_refused(self, program: Local, word: str) -> None:
        for count in (15, 16, 17, 5000):
            assert program.ask("version " + word * count).startswith("error usage: ")
        assert program.ask("version").startswith("ok ")

    def test_line_with_nul_is_refused(self) -> None:
        one = Local(argv("actor"))
        assert one.ask(b"version\0 and more").startswith("error usage: a line has at most")
        one.close()

    def test_exit_is_answered(self, program: Local) -> None:
        assert program.ask("exit") == "ok"
        assert program.wait(10) == 0

    def test_end_of_input_ends_the_probe(self, program: Local) -> None:
        program.close()
        assert program.process.returncode == 0


@BOTH
class TestNumbers:
    @pytest.mark.parametrize("text", ["0x1000", "4096", "4K", "0x4K"])
    def test_number_in_any_notation_is_read(self, client: Client, text: str) -> None:
        assert client.ask(f"seek buf1 whence=set offset={text}") == "ok 0x1000"

    @pytest.mark.parametrize(
        "text",
        [
            *("", "-1", "+1", "0x", "x10", "10q", "1KK", "0x0x1", "0x-1", "1_0", "1e3", "\u0661"),
            *("18446744073709551616", "0x1ffffffffffffffffK", "17179869184G"),
        ],
    )
    def test_number_malformed_is_refused(self, client: Client, text: str) -> None:
        assert client.ask(f"seek buf1 whence=set offset={text}").startswith("error usage: seek: ")


@BOTH
class TestMemory:
    def test_access_of_every_width_reaches_the_file(self, client: Client) -> None:
        os.pwrite(client.file, bytes(range(1, 17)), 16)
        assert ask(client, "map buf1 length=4K", "load8 map1 16", "load16 map1 16", "load32 map1 16") == [
            "ok map1",
            "ok 0x01",
            "ok 0x0201",
            "ok 0x04030201",
        ]
        assert client.ask("load64 map1 24") == "ok 0x100f0e0d0c0b0a09"
        stores = ["store8 map1 0 0xaa", "store16 map1 2 0xbbcc", "store32 map1 4 0xdddddddd"]
        assert ask(client, *stores, "store64 map1 8 0x1122334455667788") == ["ok"] * 4
        assert os.pread(client.file, 16, 0).hex() == "aa00ccbbdddddddd8877665544332211"

    @pytest.mark.parametrize("line", ["store8 map1 0 256", "store32 map1 0 0x100000000", "load32 map1 4093"])
    def test_access_that_does_not_fit_is_refused(self, client: Client, line: str) -> None:
        client.ask("map buf1 length=4K")
        assert client.ask(line).startswith("error usage: ")

    @pytest.mark.parametrize("offset", ["0xffffffffffffffff", "0xfffffffffffffffc", "0x8000000000000000"])
    def test_offset_near_2_to_64_does_not_wrap(self, client: Client, offset: str) -> None:
        client.ask("map buf1 length=4K")
        assert client.ask(f"load32 map1 {offset}").startswith("error usage: ")
        assert client.ask(f"unmap map1 offset={offset}").startswith("error usage: ")
        assert client.ask(f"loadpages map1 offset=0x800 length={offset}").startswith("error usage: ")

    def test_map_refused_by_the_kernel_has_its_errno(self, client: Client) -> None:
        lines = ["length=0", "length=4K offset=1", "length=0xffffffffffffffff", "length=4K flags=0"]
        assert ask(client, *(f"map buf1 {line}" for line in lines)) == [
            "error EINVAL map: Invalid argument",
            "error EINVAL map: Invalid argument",
            "error ENOMEM map: Cannot allocate memory",
            "error EINVAL map: Invalid argument",
        ]

    @pytest.mark.parametrize(
        "option", ["flags=fixed", "flags=0x11", "flags=shared,", "bar=0", "prot=wx", "prot="]
    )
    def test_map_with_unknown_words_is_a_usage_error(self, client: Client, option: str) -> None:
        assert client.ask(f"map buf1 length=4K {option}").startswith("error usage: map: ")

    def test_fault_has_its_offset(self, client: Client) -> None:
        client.ask("map buf1 length=16K")
        os.truncate(client.file, PAGE)
        lines = ["load32 map1 0", "load32 map1 0x1008", "store8 map1 0x3fff 1", "load32 map1 0"]
        assert ask(client, *lines) == [
            "ok 0x00000000",
            "sigbus code=adrerr offset=0x1008",
            "sigbus code=adrerr offset=0x3fff",
            "ok 0x00000000",
        ]

    def test_forbidden_access_is_sigsegv(self, client: Client) -> None:
        assert ask(client, "map buf1 length=4K prot=r", "store32 map1 8 1", "load32 map1 8") == [
            "ok map1",
            "sigsegv code=accerr offset=0x8",
            "ok 0x00000000",
        ]
        assert (
            ask(client, "map buf1 length=4K prot=none", "load32 map2 0")[1]
            == "sigsegv code=accerr offset=0x0"
        )

    def test_access_to_an_unmapped_part_is_sigsegv(self, client: Client) -> None:
        client.ask("map buf1 length=16K")
        assert ask(
            client, "unmap map1 offset=0x1000 length=0x1000", "load32 map1 0x1000", "load32 map1 0x2000"
        ) == [
            "ok",
            "sigsegv code=maperr offset=0x1000",
            "ok 0x00000000",
        ]
        assert ask(client, "unmap map1", "load32 map1 0")[0] == "ok"
        assert client.ask("load32 map1 0").startswith("error usage: ")

    def test_loadpages_lists_every_page(self, client: Client) -> None:
        client.ask("map buf1 length=16K")
        assert ask(
            client, "stamp map1 seed=0x10", "loadpages map1", "loadpages map1 offset=4K length=8K"
        ) == [
            "ok pages=4",
            "ok 0x00000010 0x00000011 0x00000012 0x00000013",
            "ok 0x00000011 0x00000012",
        ]
        os.truncate(client.file, 2 * PAGE)
        assert ask(client, "loadpages map1", "stamp map1") == [
            "ok 0x00000010 0x00000011 sigbus:adrerr:0x2000 sigbus:adrerr:0x3000",
            "sigbus code=adrerr offset=0x2000",
        ]

    def test_names_are_never_reused(self, client: Client) -> None:
        assert ask(
            client, "map buf1 length=4K", "unmap map1", "map buf1 length=4K", "dup buf1", "close buf2"
        ) == [
            "ok map1",
            "ok",
            "ok map2",
            "ok buf2",
            "ok",
        ]
        assert client.ask("dup buf1") == "ok buf3"

    @pytest.mark.parametrize("via", ["group", "cdev", "node"])
    def test_refused_open_uses_up_no_name(self, client: Client, via: str) -> None:
        refused = client.ask(f"open vfio ffff:ff:1f.7 via={via}")
        assert refused.startswith("error ENO")
        socket.send_fds(client.parcels, [b"d"], [client.file])
        assert client.ask("recv") == "ok dev1"

    @pytest.mark.parametrize("via", ["cdev", "node"])
    def test_open_without_vfio_dev_is_enodev(self, client: Client, via: str) -> None:
        assert client.ask(f"open vfio ffff:ff:1f.7 via={via}").startswith("error ENODEV open: ")
        assert client.ask("open vfio ffff:ff:1f.7").startswith("error ENOENT open: ")

    def test_mapping_outlives_its_descriptor(self, client: Client) -> None:
        client.ask("map buf1 length=4K")
        assert ask(client, "close buf1", "store32 map1 0 7", "seek buf1")[:2] == ["ok", "ok"]
        assert os.pread(client.file, 1, 0) == b"\x07"

    def test_seek_moves_and_refuses(self, client: Client) -> None:
        assert ask(client, "seek buf1", "seek buf1 whence=set offset=0") == ["ok 0x4000", "ok 0x0"]
        assert client.ask("seek buf1 whence=sideways").startswith("error usage: ")
        assert client.ask("seek buf1 whence=0xfffffffffffffff0").startswith("error ")
        assert (
            client.ask("seek buf1 whence=set offset=0xffffffffffffffff")
            == "error EINVAL seek: Invalid argument"
        )


@BOTH
class TestLimits:
    def test_rlimit_of_descriptors_is_emfile(self, client: Client) -> None:
        before = int(client.ask("fds").removeprefix("ok "))
        assert ask(client, "dup buf1", "fds") == ["ok buf2", f"ok {before + 1}"]
        assert ask(client, "setrlimit nofile=3", "dup buf1", "seek buf1") == [
            "ok",
            "error EMFILE dup: Too many open files",
            "ok 0x4000",
        ]

    def test_rlimit_above_the_hard_limit_is_eperm(self, client: Client) -> None:
        assert client.ask("setrlimit nofile=0xffffffffffffffff").startswith("error EPERM setrlimit")


@BOTH
class TestChildren:
    def test_spawned_child_has_only_what_it_is_sent(self, client: Client) -> None:
        client.ask("spawn c1")
        assert client.ask("@c1 seek buf1").startswith("error usage: ")
        assert ask(client, "send buf1 c1", "@c1 recv", "@c1 seek buf1") == ["ok", "ok buf1", "ok 0x4000"]

    def test_spawned_child_inherits_no_mapping_and_no_descriptor(self, client: Client) -> None:
        ask(client, "map buf1 length=16K", "spawn c1")
        (child,) = Path(f"/proc/{client.process.pid}/task/{client.process.pid}/children").read_text().split()
        assert "/memfd:buffer" in Path(f"/proc/{client.process.pid}/maps").read_text()
        assert "/memfd:buffer" not in Path(f"/proc/{child}/maps").read_text()
        files = {str(path.readlink()) for path in Path(f"/proc/{child}/fd").iterdir()}
        assert not {file for file in files if not file.startswith(("socket:", "pipe:"))}

    def test_child_sends_a_buffer_back(self, client: Client) -> None:
        ask(client, "spawn c1", "send buf1 c1", "@c1 recv")
        assert ask(client, "@c1 send buf1 parent", "recv c1", "seek buf2") == ["ok", "ok buf2", "ok 0x4000"]

    def test_grandchild_receives_a_buffer(self, client: Client) -> None:
        lines = ["spawn c1", "@c1 spawn c2", "send buf1 c1", "@c1 recv", "@c1 send buf1 c2", "@c1 @c2 recv"]
        assert ask(client, *lines, "@c1 @c2 seek buf1")[-2:] == ["ok buf1", "ok 0x4000"]

    def test_child_that_ended_is_reported_and_reaped(self, client: Client) -> None:
        assert ask(client, "spawn c1", "@c1 exit", "@c1 version", "@c1 version", "reap c1", "spawn c1") == [
            "ok",
            "ok",
            "died c1 exit=0",
            "died c1 exit=0",
            "ok exit=0",
            "ok",
        ]

    @pytest.mark.parametrize("made", ["spawn", "fork"])
    def test_signal_to_a_child_told_as_ended_is_died(self, client: Client, made: str) -> None:
        assert ask(client, f"{made} c1", "signal c1 kill", "@c1 version") == ["ok", "ok", "died c1 signal=9"]
        assert ask(client, "signal c1 kill", "signal c1 stop", "reap c1") == [
            "died c1 signal=9",
            "died c1 signal=9",
            "ok signal=9",
        ]

    def test_wait_past_its_deadline_drops_the_late_reply(self, client: Client) -> None:
        client.ask("spawn c1")
        assert ask(client, "@c1 recv deadline=1", "send buf1 c1", "@c1 recv") == ["timeout", "ok", "ok buf1"]

    def test_child_stopped_past_a_deadline_drops_its_reply(self, client: Client) -> None:
        client.ask("spawn c1")
        task = Path(f"/proc/{client.process.pid}/task/{client.process.pid}")
        os.kill(int((task / "children").read_text()), signal.SIGSTOP)
        assert client.ask("@c1 version deadline=1") == "timeout"
        os.kill(int((task / "children").read_text()), signal.SIGCONT)
        assert client.ask("@c1 seek buf1").startswith("error usage: ")

    @pytest.mark.parametrize("made", ["spawn", "fork"])
    def test_silent_child_that_lives_has_not_died(self, client: Client, made: str) -> None:
        assert ask(client, f"{made} c1", "signal c1 stop") == ["ok", "ok"]
        task = Path(f"/proc/{client.process.pid}/task/{client.process.pid}")
        with socket_of(int((task / "children").read_text())) as line:
            line.shutdown(socket.SHUT_RDWR)
        assert client.ask("@c1 version deadline=1") == "timeout"
        assert ask(client, "signal c1 kill", "@c1 version") == ["ok", "died c1 signal=9"]
        assert client.ask("reap c1") == "ok signal=9"


class TestPythonAlone:
    """The Python probe in this process, with accesses that end in a way of their own."""

    @pytest.fixture
    def probe(self) -> Iterator[ModuleType]:
        spec = importlib.util.spec_from_file_location("probe", PROBES / "probe.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        handler = signal.getsignal(signal.SIGALRM)
        assert module.name_object(module.Mapping(1 << 32, PAGE, 1)) == "map1"
        yield module
        signal.signal(signal.SIGALRM, handler)
        module.guarded.close()

    @pytest.mark.parametrize(
        ("address", "place", "word"),
        [
            ((1 << 32) + 8, "offset=0x8", "0x8"),
            ((1 << 32) - PAGE, "address=0xfffff000", "0xfffffffffffff000"),
            ((1 << 32) + PAGE, "address=0x100001000", "0x1000"),
        ],
    )
    def test_fault_outside_the_mapping_has_its_address(
        self, probe: ModuleType, monkeypatch: pytest.MonkeyPatch, address: int, place: str, word: str
    ) -> None:
        def fault(*_: object) -> int:
            raise probe.FaultError(signal.SIGBUS, 2, address)

        monkeypatch.setattr(probe.Guarded, "__call__", fault)
        assert probe.execute("load32 map1 0") == f"sigbus code=adrerr {place}"
        assert probe.execute("loadpages map1") == f"ok sigbus:adrerr:{word}"
        assert isinstance(word_or_fault(f"sigbus:adrerr:{word}"), Fault)

    @pytest.mark.parametrize(
        ("end", "told"), [("os._exit(3)", "exit=3"), ("os.kill(os.getpid(), 9)", "signal=9")]
    )
    def test_access_that_reports_nothing_is_no_fault(
        self, probe: ModuleType, monkeypatch: pytest.MonkeyPatch, end: str, told: str
    ) -> None:
        monkeypatch.setattr(probe, "access", lambda *_: eval(end))
        reply = probe.execute("store32 map1 0 1")
        assert reply == f"error usage: store32: the process for the access ended without a report: {told}"


class TestActorAlone:
    """Operations of the C actor alone."""

    def test_tally_of_an_errno_without_a_name_is_e524(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = tmp_path / "ioctl.c"
        source.write_text(
            "#include <errno.h>\nint __wrap_ioctl(int fd, unsigned long request, void *argument);\n"
            "int __wrap_ioctl(int fd, unsigned long request, void *argument)\n"
            "{ (void)fd, (void)request, (void)argument; errno = 524; return -1; }\n"
        )
        settings = [f"HEADERS={HEADERS}", f"OUT={tmp_path / 'actor'}", "CC=gcc"]
        flags = f"CFLAGS=-Wl,--wrap=ioctl {source}"
        subprocess.run(["make", "-s", "-C", PROBES, *settings, flags], check=True)
        monkeypatch.setattr(actors, "actor", lambda: tmp_path / "actor")
        with Client("actor") as client:
            socket.send_fds(client.parcels, [b"d"], [client.file])
            assert client.ask("recv") == "ok dev1"
            assert client.ask("attempts dev1 bar=0 length=4K count=2") == "ok E524=2"
            assert client.ask("reset dev1").startswith("error E524 reset: ")

    def test_overlong_reply_of_a_child_is_told(self) -> None:
        with Client("actor") as client:
            ask(client, "map buf1 length=860M", "fork f1")
            reply = client.ask("@f1 loadpages map1 deadline=25")
            assert reply == "error usage: the reply of the actor 'f1' has a NUL, or more than 4194304 bytes"
            assert client.ask("@f1 load32 map1 0") == "ok 0x00000000"

    def test_fork_shares_the_mappings(self) -> None:
        with Client("actor") as client:
            ask(client, "map buf1 length=4K", "store32 map1 0 5")
            assert ask(client, "fork f1", "@f1 load32 map1 0", "@f1 store32 map1 0 6", "load32 map1 0") == [
                "ok",
                "ok 0x00000005",
                "ok",
                "ok 0x00000006",
            ]
            assert ask(client, "@f1 recv deadline=1", "@f1 exit", "reap f1") == ["timeout", "ok", "ok exit=0"]

    def test_stopped_child_answers_after_it_continues(self) -> None:
        with Client("actor") as client:
            ask(client, "spawn c1", "signal c1 stop")
            assert ask(client, "@c1 seek buf9 deadline=1", "signal c1 cont", "@c1 fds") == [
                "timeout",
                "ok",
                "ok 4",
            ]
            assert ask(client, "signal c1 kill", "reap c1") == ["ok", f"ok signal={signal.SIGKILL.value}"]

    def test_child_of_another_user_has_no_other_ids(self) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root can become somebody else")
        with Client("actor") as client:
            ask(client, "spawn c1 uid=65534", "send buf1 c1", "@c1 recv")
            (child,) = (
                Path(f"/proc/{client.process.pid}/task/{client.process.pid}/children").read_text().split()
            )
            status = Path(f"/proc/{child}/status").read_text()
            assert re.findall(r"^[UG]id:\t(.*)$", status, re.MULTILINE) == ["\t".join(["65534"] * 4)] * 2
            assert re.search(r"^Groups:\t *$", status, re.MULTILINE)
            assert client.ask("@c1 map buf1 length=4K") == "ok map1"

    def test_interrupted_call_is_a_timeout(self) -> None:
        with Client("actor") as client:
            assert ask(client, "recv deadline=1", "version")[0] == "timeout"

    def test_map_congruent_has_the_asked_address(self) -> None:
        with Client("actor", pages=2048) as client:
            assert client.ask("map buf1 length=4M align=2M congruent=0x5000") == "ok map1"
            assert client.ask("stamp map1") == "ok pages=1024"
            assert client.ask("vmas map1").count(" 0x0-0x400000,rw-s,0x0,") == 1
            (line,) = re.findall(r".*/memfd:buffer.*", Path(f"/proc/{client.process.pid}/maps").read_text())
            assert int(line.split("-")[0], 16) % (2 << 20) == 0x5000
            for bad in ("align=3M", "align=2048", "align=2M congruent=1"):
                assert client.ask(f"map buf1 length=4M {bad}").startswith("error usage: ")
            assert client.ask("map buf1 length=0xfffffffffff00000 align=2M").startswith("error ENOMEM ")

    def test_compare_finds_the_first_difference(self) -> None:
        with Client("actor") as client:
            ask(client, "map buf1 length=8K")
            assert ask(client, "fill map1 0xabcd", "compare map1 0xabcd", "store32 map1 0x1004 1") == [
                "ok words=2048",
                "ok equal",
                "ok",
            ]
            assert client.ask("compare map1 0xabcd") == "ok differs offset=0x1004 value=0x00000001"
            assert client.ask("compare map1 0xabcd offset=0x1008") == "ok equal"
            assert client.ask("fill map1 1 offset=2").startswith("error usage: ")

    def test_mprotect_madvise_and_mremap_take_effect(self) -> None:
        with Client("actor") as client:
            client.ask("map buf1 length=8K")
            assert ask(client, "mprotect map1 r offset=4K", "store32 map1 0 1", "store32 map1 4K 1") == [
                "ok",
                "ok",
                "sigsegv code=accerr offset=0x1000",
            ]
            said = client.ask("vmas map1")
            assert re.fullmatch(r"ok 0x0-0x1000,rw-s,0x0,\S+,\S+ 0x1000-0x2000,r--s,0x1000,\S+,\S+", said)
            assert ask(client, "madvise map1 dontneed", "madvise map1 999", "madvise map1 nonsense")[:2] == [
                "ok",
                "error EINVAL madvise: Invalid argument",
            ]
            assert ask(client, "map buf1 length=4K", "mremap map2 16K", "load32 map2 0x3000")[1:] == [
                "ok",
                "ok 0x00000000",
            ]

    def test_raw_access_past_the_end_faults(self) -> None:
        with Client("actor") as client:
            ask(client, "map buf1 length=16K", "unmap map1 offset=8K")
            assert client.ask("load32 map1 8K") == "sigsegv code=maperr offset=0x2000"
            ask(client, "map buf1 length=4K prot=none")
            assert client.ask("load8 map2 0xffff800000000000 raw=1").startswith("sigsegv code=")

    def test_ioctl_of_any_number_is_made(self) -> None:
        with Client("actor") as client:
            assert client.ask("ioctl buf1 0x6204") == "error ENOTTY ioctl: Inappropriate ioctl for device"
            # FIONREAD of a file: bytes until its end, as an int
            assert client.ask("ioctl buf1 0x541b data=00000000") == "ok 0x0 data=00400000"
            for bad in ("0", "0g", "0011 0", "00" * 4097):
                assert client.ask(f"ioctl buf1 0x541b data={bad}").startswith("error usage: ")

    @pytest.mark.parametrize(
        ("defines", "way"),
        [
            ((), "none"),
            (("DMA_BUF_IOCTL_REVOKE=0x6204",), "ioctl"),
            (("DMA_BUF_IOCTL_REVOKE=0x6204", "VFIO_DEVICE_PCI_DMABUF_REVOKE=0x3b7a"), "device-ioctl"),
            (("VFIO_DEVICE_PCI_DMABUF_REVOKE=0x3b7a", "VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE=13"), "feature"),
        ],
    )
    def test_version_tells_the_way_to_revoke_in_the_headers(self, defines: tuple[str, ...], way: str) -> None:
        done = subprocess.run([actor(*defines)], input=b"version\n", capture_output=True, check=True)
        assert f" revoke={way} memattr=none\n" in done.stdout.decode()

    @pytest.mark.parametrize(("line", "reply"), ABI_OF_THE_HEADERS)
    def test_abi_of_the_c_actor_is_that_of_the_headers(self, line: str, reply: str) -> None:
        argument = [actor("VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE=0xe")]
        done = subprocess.run(argument, input=f"{line}\n".encode(), capture_output=True, check=True)
        assert done.stdout.decode().startswith(reply)

    @pytest.mark.parametrize(
        ("line", "reply"),
        [
            ("abi", "ok export=11"),
            ("abi revoke=0xe memattr=15", "ok revoke=14 memattr=15 export=11"),
            ("abi revoke=0x10000", "error usage: abi"),
            ("abi export=3", "error usage: abi"),
        ],
    )
    def test_abi_of_the_python_probe_is_what_it_is_told(self, line: str, reply: str) -> None:
        with Client("python") as client:
            assert client.ask(line).startswith(reply)

    def test_python_probe_tells_its_children_the_numbers(self) -> None:
        with Client("python") as client:
            assert client.ask("abi revoke=14").startswith("ok ")
            assert client.ask("spawn a") == client.ask("fork b") == "ok"
            assert client.ask("@a abi") == client.ask("@b abi") == "ok revoke=14 export=11"
            assert client.ask("@a exec").startswith("ok vmas=0")
            assert client.ask("@a abi") == "ok revoke=14 export=11"

    @BOTH
    @pytest.mark.parametrize("dialect", [dialect for dialect, _, _ in CONSTANTS])
    def test_revoke_takes_the_call_of_every_dialect(self, client: Client, dialect: str) -> None:
        """A memfd is neither a device nor a DMABUF, so that no kernel revokes it."""
        socket.send_fds(client.parcels, [b"d"], [client.file])
        assert client.ask("recv") == "ok dev1"
        assert client.ask(f"revoke dev1 buf1 via={revoke_via(dialect)}").startswith("error ENOTTY revoke")
        assert client.ask("revoke dev1 buf1 via=pci").startswith("error usage: revoke")

    def test_python_probe_without_a_number_does_not_revoke(self) -> None:
        """A number of its own may be another feature of this kernel."""
        with Client("python") as client:
            socket.send_fds(client.parcels, [b"d"], [client.file])
            assert client.ask("recv") == "ok dev1"
            assert client.ask("revoke dev1 buf1").startswith("error ENOTTY revoke: the number")


WORDS = st.sampled_from(
    [usage.split()[0] for usage in operations(argv("actor"))]
    + [
        "buf1",
        "map1",
        "dev1",
        "c1",
        "parent",
        "vfio",
        "0",
        "4096",
        "0x1000",
        "0xffffffffffffffff",
        "rw",
        "-1",
    ]
    + [
        "offset=0",
        "length=0xfffffffffffff000",
        "bar=0",
        "ranges=",
        "ranges=0:1,",
        "data=00",
        "raw=1",
        "deadline=1",
    ]
)
# Left out: words that end the probe, wait, reach other processes, or go past the end on purpose.
LINES = st.one_of(
    st.lists(WORDS, min_size=1, max_size=6).map(" ".join).map(str.encode),
    st.binary(max_size=300).map(lambda raw: raw.replace(b"\n", b" ")),
    st.text(alphabet="@#=>:,. \t01xKabcdefmpu", max_size=60).map(str.encode),
).filter(
    lambda raw: (
        not re.search(
            rb"exit|exec|abort|orphan|recv|reap|spawn|fork|signal|raw|setrlimit|ioctl|hold|unshare|^\s*(#|$)",
            raw,
        )
    )
)


@BOTH
class TestFuzz:
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(lines=st.lists(LINES, max_size=8))
    def test_any_line_leaves_the_probe_running(self, client: Client, lines: list[bytes]) -> None:
        for line in lines:
            if line.strip():
                client.write(line + b"\n")
        client.write(b"version\n")
        while not (reply := client.read_line()).startswith(b"ok protocol="):
            assert re.match(rb"(ok|error [A-Z0-9a-z]+:?|sigbus|sigsegv)( |$)", reply)
        assert client.process.poll() is None
