"""The client of QEMU's debugger port, against a recorded conversation with QEMU 7.2 and against bad answers.

The recording is of a machine with three processors, of which number 2 calls do_sys_openat2().
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.lib import private
from harness.lib.errors import HarnessError
from harness.vm.gdbstub import Debugger, Registers, Stop

RECORDED = Path(__file__).resolve().parent / "data/gdbstub/qemu-7.2.txt"
OPEN = 0xFFFFFFFF81394990  # do_sys_openat2 in the recording
HELLO = b"$T02thread:01;#04"
SUPPORTED = b"+$PacketSize=1000;vContSupported+;multiprocess+#9d"
TINY = 0.01  # a time scale: 50 ms for an answer

Turn = tuple[bytes, bytes]  # what the client sends, and what QEMU answers


def packet(content: str) -> bytes:
    data = content.encode()
    return b"$" + data + f"#{sum(data) & 0xFF:02x}".encode()


def conversation() -> list[Turn]:
    """Read the recording: QEMU speaks first."""
    turns: list[Turn] = []
    request = b""
    for line in RECORDED.read_text().splitlines():
        text = line[2:].replace("^C", "\x03").encode("latin-1")
        if line.startswith(">"):
            request = text
        else:
            turns.append((request, text))
            request = b""
    return turns


class Qemu:
    """A server that expects the requests of a conversation and sends the recorded answers."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.path = Path(self._folder.name, "debugger")
        self._server = private.listen(self.path)
        self.unexpected: list[bytes] = []
        self._turns = turns
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        client, _ = self._server.accept()
        with client:
            received = b""
            for request, answer in self._turns:
                while request not in received:
                    data = client.recv(4096)
                    if not data:
                        self.unexpected.append(received)
                        return
                    received += data
                at = received.index(request)
                if received[:at].strip(b"+"):
                    self.unexpected.append(received[:at])
                received = received[at + len(request) :]
                client.sendall(answer)
            while data := client.recv(4096):
                received += data
            if received.strip(b"+"):
                self.unexpected.append(received)

    def close(self) -> None:
        self._thread.join(10)
        self._server.close()
        self._folder.cleanup()


@contextmanager
def qemu(*turns: Turn) -> Iterator[Qemu]:
    one = Qemu(turns)
    yield one
    one.close()


GREETING = [
    (b"", HELLO),
    (packet("qSupported:multiprocess+;hwbreak+;vContSupported+"), b"+" + packet("PacketSize=1000")),
    (packet("vCont?"), b"+" + packet("vCont;c;C;s;S")),
]
GOODBYE = (packet("D;1"), b"+" + packet("OK"))


def test_recorded_conversation_is_understood() -> None:
    with qemu(*conversation()) as server:
        with Debugger(server.path) as debugger:
            debugger.insert(OPEN)
            debugger.resume()
            assert debugger.wait_stop() == Stop(processor=2, signal=5)
            registers = debugger.registers(2)
            assert registers == Registers(0xFFFF8880022D3F10, OPEN, in_kernel=True)
            assert debugger.memory(registers.rsp, 8) == bytes.fromhex("574d3981ffffffff")
            debugger.remove(OPEN)
            assert debugger.step(2) == Stop(processor=2, signal=5)
            assert debugger.registers(2).rip == OPEN + 2
            debugger.resume([0, 1])
            assert debugger.stopped(0.01) is None
            assert debugger.interrupt() == Stop(processor=2, signal=2)
            debugger.resume()
        assert server.unexpected == []


def test_detaching_removes_the_breakpoints_first() -> None:
    turns = [
        *GREETING,
        (packet("Z1,1000,1"), b"+" + packet("OK")),
        (packet("z1,1000,1"), b"+" + packet("OK")),
        GOODBYE,
    ]
    with qemu(*turns) as server:
        with Debugger(server.path) as debugger:
            debugger.insert(0x1000)
        server.close()
        assert server.unexpected == []


def test_breakpoint_that_the_processor_lacks_is_an_instruction() -> None:
    """KVM refuses Z1 once the processor's own breakpoints are in use."""
    turns = [
        *GREETING,
        (packet("Z1,1000,1"), b"+" + packet("OK")),
        (packet("Z1,2000,1"), b"+" + packet("E22")),
        (packet("Z0,2000,1"), b"+" + packet("OK")),
        (packet("z0,2000,1"), b"+" + packet("OK")),
        (packet("z1,1000,1"), b"+" + packet("OK")),
        GOODBYE,
    ]
    with qemu(*turns) as server:
        with Debugger(server.path) as debugger:
            debugger.insert(0x1000)
            debugger.insert(0x2000)
            debugger.remove(0x2000)
        server.close()
        assert server.unexpected == []


def test_refused_breakpoint_is_a_harness_error() -> None:
    refused = [(packet(f"Z{kind},1000,1"), b"+" + packet("E22")) for kind in (1, 0)]
    with (
        qemu(*GREETING, *refused, GOODBYE) as server,
        pytest.raises(HarnessError, match=r"answered `Z0,1000,1` with b'E22'"),
        Debugger(server.path) as debugger,
    ):
        debugger.insert(0x1000)


def test_user_space_is_no_kernel() -> None:
    content = bytearray(560)
    content[16 * 8 : 17 * 8] = (0x401000).to_bytes(8, "little")
    content[17 * 8 + 4] = 0x33  # arch/x86/include/asm/segment.h, __USER_CS
    assert Registers.parse(content.hex().encode()) == Registers(0, 0x401000, in_kernel=False)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([(b"", b"")], "was silent for"),
        ([(b"", b"$T02thread:01;#05")], "damaged packet"),
        ([(b"", packet("E22"))], r"reported b'E22' where its machine was to stop"),
        ([(b"", b"x" * (1 << 20) + b"xx")], "without a packet"),
        ([*GREETING[:2], (packet("vCont?"), b"+" + packet(""))], "does not continue single processors"),
        ([*GREETING[:1], (GREETING[1][0], b"+" + packet(""))], "does not continue single processors"),
    ],
    ids=["silence", "checksum", "no stop", "flood", "no vCont", "no qSupported"],
)
def test_bad_greeting_is_a_harness_error(turns: list[Turn], message: str) -> None:
    with qemu(*turns) as server, pytest.raises(HarnessError, match=message) as caught:
        Debugger(server.path, TINY if "silent" in message else 1.0)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("request_", "answer", "message"),
    [
        ("m1000,8", "E14", "to a read of memory at 0x1000"),
        ("m1000,8", "00", "to a read of memory at 0x1000"),
    ],
)
def test_refused_request_is_a_harness_error(request_: str, answer: str, message: str) -> None:
    with (
        qemu(*GREETING, (packet(request_), b"+" + packet(answer)), GOODBYE) as server,
        pytest.raises(HarnessError, match=message),
        Debugger(server.path) as debugger,
    ):
        debugger.memory(0x1000, 8)


@pytest.mark.parametrize("answer", ["", "zz", "00" * 100])
def test_bad_registers_are_a_harness_error(answer: str) -> None:
    turns = [(packet("Hgp1.1"), b"+" + packet("OK")), (packet("g"), b"+" + packet(answer)), GOODBYE]
    with (
        qemu(*GREETING, *turns) as server,
        pytest.raises(HarnessError, match="instead of registers"),
        Debugger(server.path) as debugger,
    ):
        debugger.registers(0)


def test_end_of_qemu_is_a_harness_error(tmp_path: Path) -> None:
    server = private.listen(tmp_path / "debugger")

    def hang_up() -> None:
        client, _ = server.accept()
        client.close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    with pytest.raises(
        HarnessError, match=r"has closed its debugger port|connection to QEMU's debugger port broke"
    ):
        Debugger(tmp_path / "debugger")
    thread.join()
    server.close()


def test_closed_port_is_a_harness_error(tmp_path: Path) -> None:
    path = tmp_path / "debugger"
    private.listen(path).close()
    with pytest.raises(HarnessError, match=re.escape(f"of QEMU, {path}, cannot be reached")):
        Debugger(path)
