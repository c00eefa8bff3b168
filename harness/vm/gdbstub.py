"""QEMU's debugger port: stop processors at an address, and let only some of them go on.

The protocol is that of gdb (gdb manual, appendix "GDB Remote Serial Protocol"), as far as
QEMU's gdbstub needs it here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from harness.lib import interruption, private
from harness.lib.errors import HarnessError

SECONDS = 5.0  # for one answer of QEMU, before the accelerator's time scale

_INTERRUPT = b"\x03"
_SOFTWARE, _HARDWARE = 0, 1  # kinds of breakpoints
_WORD = 8  # bytes of a register
# The order of QEMU's `g` answer (gdb-xml/i386-64bit.xml, the feature org.gnu.gdb.i386.core).
_RSP, _RIP = 7, 16
_CS_AT = 17 * _WORD + 4  # rip is followed by eflags and the segments, of 4 bytes each
_STOP = re.compile(rb"T([0-9a-f]{2})(?:.*?)thread:(?:p[0-9a-f]+\.)?([0-9a-f]+);")
_LIMIT = 1 << 20  # bytes of one packet


class DebuggerError(HarnessError):
    """QEMU did not obey its debugger's port; the machine may be left stopped, and must be given up."""


@dataclass(frozen=True)
class Stop:
    """A stop of the machine: the ``processor`` that caused it, and the ``signal`` (5 at a breakpoint)."""

    processor: int
    signal: int


@dataclass(frozen=True)
class Registers:
    """Some registers of a processor.  ``in_kernel`` is true while it executes kernel code."""

    rsp: int
    rip: int
    in_kernel: bool

    @classmethod
    def parse(cls, answer: bytes) -> Registers:
        """Parse the answer to ``g``.  Raises ValueError."""
        content = bytes.fromhex(answer.decode("ascii"))
        if len(content) < _CS_AT + 4:
            raise ValueError("too short for the registers of an x86-64 processor")

        def word(number: int) -> int:
            return int.from_bytes(content[number * _WORD : (number + 1) * _WORD], "little")

        selector = int.from_bytes(content[_CS_AT : _CS_AT + 4], "little")
        return cls(word(_RSP), word(_RIP), selector & 3 == 0)


class Debugger:
    """A connection to the debugger's port of a machine, the UNIX socket ``path``, which stops the machine.

    As a context manager it always detaches, which lets every processor go on.  Processors
    are numbered from 0, as by the guest.  Every method raises DebuggerError if QEMU does not
    answer in time, refuses, or has ended.
    """

    def __init__(self, path: Path, time_scale: float = 1.0) -> None:
        self._seconds = SECONDS * time_scale
        self._buffer = b""
        self._breakpoints: dict[int, int] = {}  # address to kind
        self._running = False
        try:
            self._socket = private.connect(path, self._seconds)
        except OSError as error:
            raise DebuggerError(
                f"The debugger's port of QEMU, {path}, cannot be reached: {error}. "
                "Only one debugger can use it at a time."
            ) from error
        try:
            # A new connection stops the machine, and QEMU reports that without a request.
            self.wait_stop()
            features = self._ask("qSupported:multiprocess+;hwbreak+;vContSupported+")
            if b"PacketSize=" not in features or b"c" not in self._ask("vCont?").split(b";"):
                raise DebuggerError(f"QEMU's debugger port does not continue single processors: {features!r}")
        except BaseException:
            self._socket.close()
            raise

    def insert(self, address: int) -> None:
        """Insert a breakpoint at a kernel address, on every processor.

        An emulated processor takes any number of them without a change of memory.  KVM has four
        of the processor's own; those beyond are int3 instructions.
        """
        kind = _HARDWARE
        if self._ask(f"Z{kind},{address:x},1") != b"OK":
            kind = _SOFTWARE
            self._require_ok(f"Z{kind},{address:x},1")
        self._breakpoints[address] = kind

    def remove(self, address: int) -> None:
        """Remove a breakpoint."""
        self._require_ok(f"z{self._breakpoints[address]},{address:x},1")
        del self._breakpoints[address]

    def resume(self, processors: Iterable[int] | None = None) -> None:
        """Let these processors go on, by default all; the others stay where they are."""
        self._send(
            "vCont;" + ";".join(f"c:p1.{number + 1:x}" for number in processors)
            if processors is not None
            else "vCont;c"
        )
        self._running = True

    def step(self, processor: int) -> Stop:
        """Execute one instruction on a processor while the others stand."""
        self._send(f"vCont;s:p1.{processor + 1:x}")
        self._running = True
        return self.wait_stop()

    def wait_stop(self, seconds: float | None = None) -> Stop:
        """Wait until the machine stops, at most ``seconds`` of the host's clock."""
        packet = self._receive(self._seconds if seconds is None else seconds)
        found = _STOP.match(packet)
        if found is None:
            raise DebuggerError(f"QEMU reported {packet[:200]!r} where its machine was to stop.")
        self._running = False
        return Stop(int(found[2], 16) - 1, int(found[1], 16))

    def stopped(self, seconds: float) -> Stop | None:
        """Return the stop of the machine if it stops within ``seconds``, else None."""
        try:
            return self.wait_stop(seconds)
        except _LateError:
            return None

    def interrupt(self) -> Stop:
        """Stop every processor."""
        self._write(_INTERRUPT)
        return self.wait_stop()

    def registers(self, processor: int) -> Registers:
        """Return registers of a processor.  Call it while the machine is stopped."""
        self._require_ok(f"Hgp1.{processor + 1:x}")
        answer = self._ask("g")
        try:
            return Registers.parse(answer)
        except ValueError as error:
            raise DebuggerError(f"QEMU answered {answer[:80]!r} instead of registers: {error}.") from error

    def memory(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes of the memory of the processor that registers() looked at last."""
        answer = self._ask(f"m{address:x},{length:x}")
        try:
            content = bytes.fromhex(answer.decode("ascii"))
        except ValueError:
            content = b""
        if len(content) != length:
            raise DebuggerError(f"QEMU answered {answer[:80]!r} to a read of memory at {address:#x}.")
        return content

    def detach(self) -> None:
        """Let every processor go on without breakpoints, and close the connection."""
        try:
            if self._running:
                self.interrupt()
            for address in list(self._breakpoints):
                self.remove(address)
            self._require_ok("D;1")
        finally:
            self._socket.close()

    def __enter__(self) -> Debugger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def _require_ok(self, request: str) -> None:
        answer = self._ask(request)
        if answer != b"OK":
            raise DebuggerError(f"QEMU's debugger port answered `{request}` with {answer[:80]!r}.")

    def _ask(self, request: str) -> bytes:
        self._send(request)
        return self._receive(self._seconds)

    def _send(self, request: str) -> None:
        data = request.encode("ascii")
        self._write(b"$" + data + b"#" + f"{sum(data) & 0xFF:02x}".encode())

    def _write(self, data: bytes) -> None:
        self._socket.settimeout(self._seconds)
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise DebuggerError(f"The debugger's port of QEMU does not take a request: {error}.") from error

    def _receive(self, seconds: float) -> bytes:
        """Return the next packet, acknowledged."""
        deadline = time.monotonic() + seconds
        while (packet := self._cut()) is None:
            left = max(deadline - time.monotonic(), 0.0)
            if self._buffer and not left:
                raise _LateError(f"The debugger's port of QEMU sent no whole packet for {seconds:.0f} s.")
            self._socket.settimeout(min(left, interruption.SLICE) + 0.001)
            interruption.check()
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError as error:
                if left > interruption.SLICE:
                    continue
                raise _LateError(f"The debugger's port of QEMU was silent for {seconds:.0f} s.") from error
            except OSError as error:
                raise DebuggerError(f"The connection to QEMU's debugger port broke: {error}.") from error
            if not data:
                raise DebuggerError("QEMU has closed its debugger port.")
            self._buffer += data
            if len(self._buffer) > _LIMIT:
                raise DebuggerError(f"QEMU's debugger port sent more than {_LIMIT} bytes without a packet.")
        self._write(b"+")
        return packet

    def _cut(self) -> bytes | None:
        """Cut the first whole packet off what has arrived; None if there is none."""
        found = re.search(rb"\$([^#$]*)#([0-9a-f]{2})", self._buffer)
        if found is None:
            return None
        self._buffer = self._buffer[found.end() :]
        if sum(found[1]) & 0xFF != int(found[2], 16):
            raise DebuggerError(f"QEMU's debugger port sent a damaged packet: {found[0][:80]!r}.")
        return found[1]


class _LateError(DebuggerError):
    """QEMU has not answered yet."""
