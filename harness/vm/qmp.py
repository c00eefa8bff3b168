"""QEMU's machine protocol: commands to QEMU, events from it.

The package ``qemu.qmp`` needs asyncio, which the rest of the harness does not use.
So each Monitor runs an event loop in a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

from qemu.qmp import EventListener, Message, QMPClient, QMPError, Runstate

from harness.lib import interruption
from harness.lib.errors import HarnessError


class Monitor:
    """The QMP connection of one machine, on the connected socket ``sock``, which the monitor owns.

    The monitor's thread calls ``event`` with the name and the data of every event.
    """

    def __init__(self, sock: socket.socket, event: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._event = event
        self._client = QMPClient("patchproof")
        self._loop = asyncio.new_event_loop()
        self._connected = threading.Event()
        self._close_requested = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(sock,), name="qmp", daemon=True)
        self._thread.start()

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, timeout: float = 5.0
    ) -> object:
        """Execute a command and return the value of its ``return``.

        Raises HarnessError if QEMU has ended, refuses, or does not answer in ``timeout`` seconds.
        """
        return self._finish(lambda: self._client.execute(command, dict(arguments or {})), command, timeout)

    def give(self, name: str, descriptor: int, timeout: float = 5.0) -> None:
        """Give QEMU a copy of a file descriptor, as ``name``.  Raises HarnessError as execute() does."""

        async def call() -> object:
            self._client.send_fd_scm(descriptor)
            return await self._client.execute("getfd", {"fdname": name})

        self._finish(call, "getfd", timeout)

    def _finish(
        self, call: Callable[[], Coroutine[Any, Any, object]], command: str, timeout: float
    ) -> object:
        if not interruption.until(self._connected.wait, timeout) or not self._thread.is_alive():
            raise HarnessError(
                f"The command `{command}` cannot be sent to QEMU: its monitor is not connected."
            )
        future = asyncio.run_coroutine_threadsafe(call(), self._loop)
        if not interruption.until(partial(_is_done, future), timeout):
            future.cancel()
            raise HarnessError(f"QEMU did not answer `{command}` within {timeout:.0f} s.")
        try:
            return future.result()
        except (QMPError, EOFError, OSError) as error:
            raise HarnessError(f"QEMU did not carry out `{command}`: {error}") from error

    def wait_closed(self, timeout: float = 5.0) -> None:
        """Wait at most ``timeout`` seconds until all events were delivered.  Call it when QEMU has ended."""
        self._thread.join(timeout)

    def close(self) -> None:
        """Close the connection."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._close_requested.set)
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
                return  # QEMU ended before it sent a greeting; its exit status explains why
            self._connected.set()
            delivery = asyncio.ensure_future(self._deliver_all(listener))
            await self._until_closed()
            delivery.cancel()
            for message in listener.clear():
                self._deliver(message)
            with contextlib.suppress(QMPError, OSError, EOFError):  # QEMU may have closed it first
                await self._client.disconnect()
        finally:
            sock.close()

    async def _deliver_all(self, listener: EventListener) -> None:
        async for message in listener:
            self._deliver(message)

    async def _until_closed(self) -> None:
        """Wait until close() is called or QEMU closes the connection."""
        closed = asyncio.ensure_future(self._close_requested.wait())
        try:
            while self._client.runstate == Runstate.RUNNING and not closed.done():
                changed = asyncio.ensure_future(self._client.runstate_changed())
                await asyncio.wait({closed, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
        finally:
            closed.cancel()

    def _deliver(self, message: Message) -> None:
        data = message.get("data")
        self._event(str(message["event"]), data if isinstance(data, dict) else {})


def _is_done(future: Future[object], seconds: float) -> bool:
    """Wait at most ``seconds`` for a result; return whether it is there."""
    return bool(wait([future], seconds).done)
