"""The agent of the guest, on this host, and the harness's side of it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.lib.paths import PROBES, VMIMAGE
from harness.vm import agent as agents
from harness.vm.agent import Agent
from harness.vm.image import CFLAGS
from harness.vm.ssh import SshLostError, SshOutputError, SshTimeoutError, Stream

PATIENCE = 20.0
SOON = 0.3


class Channel:
    """One end of a socket with the interface of a paramiko.Channel, as far as the Agent uses it."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def settimeout(self, seconds: float) -> None:
        self._seconds = seconds

    def recv(self, size: int) -> bytes:
        if not select.select([self._socket], [], [], self._seconds)[0]:
            raise TimeoutError
        return self._socket.recv(size)

    def recv_stderr_ready(self) -> bool:
        return False

    def sendall(self, data: bytes) -> None:
        self._socket.sendall(data)

    def close(self) -> None:
        self._socket.close()


class Host:
    """A connection to this host, on which the agent is started as in a guest."""

    def __init__(self, binary: Path) -> None:
        self.agents: list[subprocess.Popen[bytes]] = []
        self.connected = True
        self.port = free_port()
        self._binary = binary

    def channel(self, argv: list[str], timeout: float) -> Channel:
        ours, its = socket.socketpair()
        with its:
            command = [str(self._binary), str(self.port)]
            self.agents.append(subprocess.Popen(command, stdin=its.fileno(), stdout=its.fileno()))
        return Channel(ours)

    def alive(self) -> bool:
        return self.connected


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent, compiled as for the guest."""
    made = tmp_path_factory.mktemp("agent") / "agent"
    subprocess.run(["gcc", *CFLAGS, "-o", made, VMIMAGE / "agent.c"], check=True)
    return made


@pytest.fixture
def host(binary: Path) -> Iterator[Host]:
    made = Host(binary)
    yield made
    for one in made.agents:
        one.kill()
        one.wait()


@pytest.fixture
def agent(host: Host) -> Agent:
    return Agent(host, host.port)  # type: ignore[arg-type]


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Return whether a process runs, a moment from now at the latest."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.01)
    return True


def sh(agent: Agent, script: str) -> Stream:
    """Start a shell script."""
    return agent.stream(["sh", "-c", script], PATIENCE)


class TestPrograms:
    def test_program_is_read_line_by_line(self, agent: Agent) -> None:
        stream = sh(agent, "while read x; do echo got $x; echo note >&2; done; exit 3")
        for number in range(3):
            stream.write(b"%d\n" % number)
            assert stream.read_line(PATIENCE) == b"got %d" % number
        with pytest.raises(SshTimeoutError, match="printed nothing"):
            stream.read_line(SOON)
        stream.write(b"more\n")
        assert stream.read_line(PATIENCE) == b"got more"
        assert stream.running()
        stream.end_input()
        with pytest.raises(EOFError):
            stream.read_line(PATIENCE)
        assert stream.wait(PATIENCE) == 3
        assert not stream.running()
        assert stream.read_errors() == b"note\n" * 4

    def test_many_programs_share_one_agent(self, host: Host, agent: Agent) -> None:
        streams = [agent.stream(["cat"], PATIENCE) for _ in range(30)]
        for number, stream in enumerate(streams):
            stream.write(b"%d\n" % number)
        assert [int(stream.read_line(PATIENCE)) for stream in reversed(streams)] == list(range(29, -1, -1))
        for stream in streams:
            stream.end_input()
            assert stream.wait(PATIENCE) == 0
            stream.close()
        assert len(host.agents) == 1
        assert not children(host.agents[0].pid)

    def test_signal_is_a_negative_status(self, agent: Agent) -> None:
        assert sh(agent, "kill -9 $$").wait(PATIENCE) == -signal.SIGKILL

    def test_absent_program_says_so(self, agent: Agent) -> None:
        stream = agent.stream(["/nonexistent/program"], PATIENCE)
        assert stream.wait(PATIENCE) == 127
        assert stream.read_errors() == b"/nonexistent/program: No such file or directory\n"

    def test_output_before_the_end_is_whole(self, agent: Agent) -> None:
        stream = sh(agent, "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i + 1)); done")
        assert stream.wait(PATIENCE) == 0
        for number in range(20000):
            assert stream.read_line(PATIENCE) == b"line %d" % number

    def test_program_has_a_session_and_signals_anew(self, agent: Agent) -> None:
        stream = sh(
            agent,
            "read -r _ _ _ _ _ session _ </proc/self/stat; echo $session $$; grep Sig /proc/self/status",
        )
        session, own = stream.read_line(PATIENCE).split()
        assert session == own
        states = dict(stream.read_line(PATIENCE).split() for _ in range(5))
        usual = (1 << 31) - 1  # the C library keeps two others to itself
        assert int(states[b"SigBlk:"], 16) & usual == int(states[b"SigIgn:"], 16) & usual == 0

    def test_program_gets_no_descriptor_of_another(self, agent: Agent) -> None:
        streams = [sh(agent, "read x; exec ls /proc/self/fd") for _ in range(3)]
        for stream in streams:
            stream.write(b"\n")
            assert [stream.read_line(PATIENCE) for _ in range(4)] == [b"0", b"1", b"2", b"3"]  # 3 is of ls
            assert stream.wait(PATIENCE) == 0
            with pytest.raises(EOFError):
                stream.read_line(PATIENCE)


class TestTemplate:
    TEMPLATE = (sys.executable, "-IS", str(PROBES / "probe.py"), "--template")

    def test_probes_of_a_template_are_like_new_ones(self, agent: Agent) -> None:
        probes = [agent.fork(self.TEMPLATE, PATIENCE) for _ in range(2)]
        probes.append(agent.stream(self.TEMPLATE[:-1], PATIENCE))
        said = []
        for one in probes:
            one.write(b"fds\nmake memfd length=4096\nload32 buf1 0\nexit\n")
            said.append([one.read_line(PATIENCE) for _ in range(4)])
            with pytest.raises(EOFError):
                one.read_line(PATIENCE)
            assert one.wait(PATIENCE) == 0
        assert said[0] == said[1] == said[2]
        assert said[0][1] == b"ok buf1 size=0x1000"

    def test_probe_of_a_template_that_is_killed_has_its_status(self, host: Host, agent: Agent) -> None:
        one, other = (agent.fork(self.TEMPLATE, PATIENCE) for _ in range(2))
        for probe in (one, other):
            probe.write(b"version\n")
            assert probe.read_line(PATIENCE).startswith(b"ok protocol=")
        (template,) = children(host.agents[0].pid)
        os.kill(children(template)[0], signal.SIGKILL)
        assert one.wait(PATIENCE) == -signal.SIGKILL
        other.end_input()
        assert other.wait(PATIENCE) == 0

    def test_template_that_ends_is_a_lost_agent(self, agent: Agent) -> None:
        with pytest.raises(SshLostError, match="is gone"):
            agent.fork(["false"], PATIENCE).wait(PATIENCE)


class TestHoldUps:
    def test_program_that_reads_nothing_holds_up_nobody(self, agent: Agent) -> None:
        deaf, other = sh(agent, "sleep 100"), agent.stream(["cat"], PATIENCE)
        with pytest.raises(SshTimeoutError, match="has not read its input"):
            deaf.write(bytes(1 << 26), SOON)
        other.write(b"x\n")
        assert other.read_line(PATIENCE) == b"x"
        deaf.close()

    def test_program_that_nobody_reads_holds_up_nobody(self, agent: Agent) -> None:
        loud, other = sh(agent, "head -c 4000000 /dev/zero"), agent.stream(["cat"], PATIENCE)
        other.write(b"x\n")
        assert other.read_line(PATIENCE) == b"x"
        loud.close()

    def test_closed_program_that_prints_holds_up_nobody(self, agent: Agent) -> None:
        loud, other = sh(agent, "yes"), agent.stream(["cat"], PATIENCE)
        assert loud.read_line(PATIENCE) == b"y"
        loud.close()
        other.write(b"x\n")
        assert other.read_line(PATIENCE) == b"x"

    def test_output_that_others_make_extends_no_deadline(self, agent: Agent) -> None:
        loud, silent = sh(agent, "while :; do echo; sleep 0.01; done"), agent.stream(["cat"], PATIENCE)
        begun = time.monotonic()
        with pytest.raises(SshTimeoutError):
            silent.read_line(SOON)
        assert time.monotonic() - begun < PATIENCE / 2
        loud.close()

    def test_child_that_goes_on_printing_ends_with_its_stream(self, agent: Agent) -> None:
        stream = sh(agent, "yes & echo $!; exit 4")
        child = int(stream.read_line(PATIENCE))
        assert stream.wait(PATIENCE) == 4
        stream.close()
        assert not alive(child)

    def test_stopped_agent_holds_up_no_running_program(self, host: Host, agent: Agent) -> None:
        stream = agent.stream(["cat"], PATIENCE)
        stream.write(b"x\n")
        assert stream.read_line(PATIENCE) == b"x"
        host.agents[0].send_signal(signal.SIGSTOP)
        stream.write(b"y\n")
        assert stream.read_line(PATIENCE) == b"y"
        stream.end_input()
        with pytest.raises(SshTimeoutError, match="did not end within"):
            stream.wait(SOON)
        other = agent.stream(["cat"], PATIENCE)
        with pytest.raises(SshTimeoutError, match="printed nothing"):
            other.read_line(SOON)
        host.agents[0].send_signal(signal.SIGCONT)
        assert stream.wait(PATIENCE) == 0

    def test_connection_that_hangs_up_ends_every_wait(self, host: Host, agent: Agent) -> None:
        stream = agent.stream(["cat"], PATIENCE)
        host.connected = False
        with pytest.raises(SshLostError, match="the SSH connection broke"):
            stream.read_line(PATIENCE)


class TestVisitors:
    @pytest.mark.parametrize(
        "said",
        [
            bytes(agents.SECRET) + struct.pack("<cII", b"S", 1, 6) + b"touch\0",
            b"x" * 100_000,
            b"GET / HTTP/1.1\r\n" + bytes(100),
        ],
    )
    def test_visitor_without_the_secret_is_refused(self, host: Host, agent: Agent, said: bytes) -> None:
        agent.stream(["true"], PATIENCE).wait(PATIENCE)
        visitor = socket.create_connection(("127.0.0.1", host.port), PATIENCE)
        with visitor, contextlib.suppress(ConnectionError):
            visitor.sendall(said)
            assert visitor.recv(1) == b""
        assert not children(host.agents[0].pid)

    def test_visitors_that_say_nothing_keep_nobody_out(self, host: Host, agent: Agent) -> None:
        agent.stream(["true"], PATIENCE).wait(PATIENCE)
        with contextlib.ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(socket.create_connection(("127.0.0.1", host.port), PATIENCE))
            assert agent.stream(["true"], PATIENCE).wait(PATIENCE) == 0
            assert len(list(Path(f"/proc/{host.agents[0].pid}/fd").iterdir())) < 100


class TestLostAgent:
    def test_killed_agent_is_a_lost_connection(self, host: Host, agent: Agent) -> None:
        stream = agent.stream(["cat"], PATIENCE)
        host.agents[0].kill()
        with pytest.raises(SshLostError, match="is gone"):
            stream.wait(PATIENCE)
        # Its program may have ended meanwhile, and then that is seen first.
        with pytest.raises((SshLostError, EOFError), match=r"is gone|has closed its output"):
            stream.read_line(PATIENCE)
        assert not stream.running()
        stream.close()
        again = agent.stream(["cat"], PATIENCE)
        again.write(b"x\n")
        assert again.read_line(PATIENCE) == b"x"
        assert len(host.agents) == 2

    @pytest.mark.parametrize("connected", [True, False])
    def test_guest_of_a_lost_agent_lives_if_its_login_does(
        self, host: Host, agent: Agent, connected: bool
    ) -> None:
        agent.stream(["true"], PATIENCE).wait(PATIENCE)
        host.agents[0].kill()
        # The login learns of the end of QEMU a moment later than the program's connection.
        later = threading.Timer(SOON / 10, setattr, (host, "connected", connected))
        later.start()
        assert agent.alive() is connected
        later.join()

    def test_programs_end_with_the_connection_of_the_agent(self, host: Host, agent: Agent) -> None:
        stream = sh(agent, "echo $$; exec sleep 100")
        program = int(stream.read_line(PATIENCE))
        host.agents[0].terminate()
        with pytest.raises(EOFError):
            stream.read_line(PATIENCE)
        assert not alive(program)

    @pytest.mark.parametrize(
        "frame",
        [
            struct.pack("<cII", b"R", 1, agents.FRAME_LIMIT + 1),
            struct.pack("<cII", b"R", 1, 0xFFFFFFFF),
            struct.pack("<cII", b"X", 1, 3) + b"abc",
            struct.pack("<cII", b"Z", 1, 0),
            b"\xff" * 1000,
        ],
    )
    def test_agent_that_lies_is_lost(self, frame: bytes) -> None:
        with lying(frame) as stream, pytest.raises(SshLostError, match="it sent"):
            stream.wait(PATIENCE)

    def test_frames_for_nobody_are_dropped(self) -> None:
        frames = struct.pack("<cII", b"Z", 99, 3) + b"abc" + struct.pack("<cIIi", b"X", 1, 4, 7)
        with lying(frames) as stream:
            assert stream.wait(PATIENCE) == 7

    def test_half_a_frame_ends_by_deadline(self) -> None:
        with lying(b"X\1\0\0") as stream, pytest.raises(SshTimeoutError):
            stream.wait(SOON)

    def test_agent_that_never_listens_ends_by_deadline(self) -> None:
        with pytest.raises(SshTimeoutError, match="could not be started"), lying(b"", listens=False):
            pass

    def test_errors_that_nobody_reads_end_at_a_limit(
        self, agent: Agent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(agents, "WINDOW", 1 << 20)
        stream = sh(agent, "exec yes >&2")
        with pytest.raises(SshLostError, match="that nobody has read"):
            stream.wait(PATIENCE)

    def test_line_without_end_ends_at_its_limit(self, agent: Agent) -> None:
        with pytest.raises(SshOutputError, match="without a newline"):
            sh(agent, "tr '\\0' x </dev/zero").read_line(PATIENCE, 1 << 20)

    def test_line_that_trickles_ends_by_deadline(self, agent: Agent) -> None:
        with pytest.raises(SshTimeoutError, match="did not end its line"):
            sh(agent, "while :; do printf x; sleep 0.01; done").read_line(SOON)

    def test_input_that_is_never_taken_ends_by_deadline(self, agent: Agent) -> None:
        stream = sh(agent, "sleep 100")
        with pytest.raises(SshTimeoutError, match="has not read its input"):
            stream.write(bytes(1 << 26), SOON)


@contextlib.contextmanager
def lying(frames: bytes, *, listens: bool = True) -> Iterator[Stream]:
    """Start the program 1 by an agent that then sends these frames; the program never says anything."""
    ours, its = socket.socketpair()
    listening = struct.pack("<cII", b"L", 0, 0)
    links: list[socket.socket] = []

    def take_over() -> None:
        links.append(server.accept()[0])
        links[0].sendall(listening)

    with ours, its, contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        if listens:
            its.sendall(listening)
            taker = threading.Thread(target=take_over)
            taker.start()
            stack.callback(taker.join)
        connection = SimpleNamespace(channel=lambda *_: Channel(ours), alive=lambda: True)
        agent = Agent(connection, server.getsockname()[1])  # type: ignore[arg-type]
        stream = agent.stream(["cat"], PATIENCE if listens else SOON)
        taker.join()
        with links[0]:
            links[0].sendall(frames)
            yield stream


class TestTakeOver:
    """An agent in a snapshot, whose first host is gone."""

    @pytest.fixture
    def later(self, host: Host, agent: Agent) -> Agent:
        """Another host's side of the agent, after a program of the first one."""
        self.older = sh(agent, "echo $$; exec cat")
        self.pid = int(self.older.read_line(PATIENCE))
        handover = agent.handover()
        assert handover is not None
        later = Agent(host, host.port)  # type: ignore[arg-type]
        later.take_over(handover)
        return later

    def test_agent_taken_over_starts_programs(self, host: Host, later: Agent) -> None:
        stream = sh(later, "echo note >&2; exit 3")
        assert (stream.wait(PATIENCE), stream.read_errors()) == (3, b"note\n")
        assert len(host.agents) == 1

    def test_older_programs_are_killed(self, later: Agent) -> None:
        assert sh(later, "exit 0").wait(PATIENCE) == 0
        assert not alive(self.pid)

    def test_agent_ends_with_its_new_host(self, host: Host, later: Agent) -> None:
        stream = sh(later, "echo $$; exec cat")
        pid = int(stream.read_line(PATIENCE))
        assert later.alive()
        host.agents[0].kill()
        assert not later.alive()
        stream.close()
        assert not alive(pid)

    def test_another_secret_takes_nothing_over(self, host: Host, agent: Agent) -> None:
        assert sh(agent, "exit 0").wait(PATIENCE) == 0
        other = Agent(host, host.port)  # type: ignore[arg-type]
        other.take_over(agents.Handover(b"x" * agents.SECRET, 7))
        with pytest.raises(SshLostError):
            other.stream(["true"], PATIENCE)
        assert sh(agent, "exit 4").wait(PATIENCE) == 4

    def test_agent_that_was_not_started_has_no_handover(self, agent: Agent) -> None:
        assert agent.handover() is None
