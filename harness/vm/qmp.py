"""QEMU's machine protocol: commands to QEMU, events from it.

``qemu.qmp`` is written for asyncio; the rest of the harness is not.  A thread
of its own runs its loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from qemu.qmp import EventListener, Message, QMPClient, QMPError, Runstate

from harness.lib.errors import HarnessError


class Monitor:
    """The QMP connection of one machine on the connected socket ``sock``, which it takes over.

    ``event`` is called, in the monitor's thread, with the name and the data of
    every event.
    """

    def __init__(self, sock: socket.socket, event: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._event = event
        self._client = QMPClient("patchproof")
        self._loop = asyncio.new_event_loop()
        self._connected = threading.Event()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(sock,), name="qmp", daemon=True)
        self._thread.start()

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, timeout: float = 5.0
    ) -> object:
        """Execute a command and return its answer.

        Raises HarnessError if QEMU is gone, refuses, or is silent for ``timeout`` seconds.
        """
        if not self._connected.wait(timeout) or not self._thread.is_alive():
            raise HarnessError(f"QEMU cannot be asked for `{command}`: its monitor is not connected.")
        call = self._client.execute(command, dict(arguments or {}))
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result(timeout)
        except FutureTimeoutError as error:
            future.cancel()
            raise HarnessError(f"QEMU did not answer `{command}` within {timeout:.0f} s.") from error
        except (QMPError, EOFError, OSError) as error:
            raise HarnessError(f"QEMU did not carry out `{command}`: {error}") from error

    def wait_closed(self, timeout: float = 5.0) -> None:
        """Wait until QEMU, which has ended, has been heard to the end."""
        self._thread.join(timeout)

    def close(self) -> None:
        """Hang up.  Call it when QEMU has ended, or no more is wanted of it."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join()

    def _run(self, sock: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve(sock))
        finally:
            self._loop.close()

    async def _serve(self, sock: socket.socket) -> None:
        listener = EventListener()
        self._client.register_listener(listener)
        try:
            try:
                await self._client.connect(sock)
            except (QMPError, OSError, EOFError):
                return  # QEMU ended before it spoke; whoever waits for its exit knows why
            self._connected.set()
            pump = asyncio.ensure_future(self._pump(listener))
            await self._over()
            pump.cancel()
            for message in listener.clear():
                self._tell(message)
            with contextlib.suppress(QMPError, OSError, EOFError):  # QEMU may have hung up first
                await self._client.disconnect()
        finally:
            sock.close()

    async def _pump(self, listener: EventListener) -> None:
        async for message in listener:
            self._tell(message)

    async def _over(self) -> None:
        """Wait until close() is called or QEMU hangs up."""
        closed = asyncio.ensure_future(self._ended.wait())
        try:
            while self._client.runstate == Runstate.RUNNING and not closed.done():
                changed = asyncio.ensure_future(self._client.runstate_changed())
                await asyncio.wait({closed, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
        finally:
            closed.cancel()

    def _tell(self, message: Message) -> None:
        data = message.get("data")
        self._event(str(message["event"]), data if isinstance(data, dict) else {})
