"""Interruptions: asked for at any moment, taken at points that the program has chosen.

A signal handler that raises an exception does so between any two steps: also in a
constructor, or between the start of a process and the note of its id.  So a signal
raises nothing here.  It is noted, and the main thread looks at the note at its points:
check(), and each wait (until(), call()).  There it raises Interruption, once.  What follows is
clean-up, whose own waits are not interrupted.

Whatever else ends a run early, such as a limit of time, calls request() and is taken at the
same points.

A second Ctrl-C ends the program at once, without a clean-up.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from types import FrameType
from typing import NoReturn, ParamSpec, TypeVar

from harness.lib.errors import ExitCode

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Seconds of a wait between two looks at whether there is an interruption.
SLICE = 0.25
#: Seconds after a request in which SIGINT is the same Ctrl-C: tox gets it too, and passes it on.
SAME_CTRL_C = 2.0
_NUDGE = signal.SIGURG  # sent to the main thread alone; ignored by default

Parameters = ParamSpec("Parameters")
Value = TypeVar("Value")


class Interruption(KeyboardInterrupt):
    """The program ends early; ``reason`` is the name of a signal, or the word given to request().

    A KeyboardInterrupt, as pytest and hypothesis stop for that.
    """

    __module__ = "builtins"  # so that pytest's closing line names it without the module

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _State:
    """The request, if there is one, and whether the main thread has taken it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reason = ""
        self.since = 0.0
        self.taken = False
        self.anywhere = False
        self.waker = -1  # a descriptor that wakes the thread of _watch()
        self.workers: set[int] = set()
        self.at_end: list[Callable[[], None]] = []


_state = _State()


def install() -> None:
    """Let SIGINT, SIGTERM and SIGHUP ask for an interruption, also where the caller ignored SIGINT.

    The shell of a script starts its background jobs with SIGINT ignored.  SIGHUP stays ignored below nohup.
    """
    _start_watch(obeyed=SIGNALS)
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _noted)
    signal.signal(_NUDGE, _nudged)


def begin_anew() -> None:
    """Let a process that was just forked take only what request() asks for: signals are for its parent."""
    global _state
    at_end = _state.at_end
    _state = _State()
    _state.at_end = at_end
    _start_watch(obeyed=())


def close() -> None:
    """Ignore further signals, as the exit code is decided, and do what was registered for the end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for action in _state.at_end:
        action()


def request(reason: str) -> None:
    """Ask for an interruption, from any thread; the first reason counts."""
    with _state.lock:
        if not _state.reason:
            _state.since = time.monotonic()
            _state.reason = reason
    if _state.waker >= 0:
        os.write(_state.waker, b"\0")


def taken() -> str:
    """Return the reason of the interruption that was raised, empty if there was none."""
    return _state.reason if _state.taken else ""


def check() -> None:
    """Raise Interruption if one was asked for and not taken: a point where the main thread may end.

    In a worker() it is raised every time.  Any other thread goes on.
    """
    if _state.reason and _may_end():
        if threading.current_thread() is threading.main_thread():
            _state.taken = True
        raise Interruption(_state.reason)


def again() -> None:
    """Raise Interruption once more if it was taken: an error of the clean-up may have replaced it."""
    if _state.taken:
        raise Interruption(_state.reason)


@contextlib.contextmanager
def anywhere() -> Iterator[None]:
    """Let an interruption be taken at any step of the body: foreign code, which knows no points.

    The body must make nothing that has to be undone.
    """
    check()
    _state.anywhere = True
    try:
        yield
    finally:
        _state.anywhere = False
    check()


def dismiss() -> None:
    """Forget the interruption: it has ended what it was meant for, and the program goes on."""
    with _state.lock:
        _state.reason = ""
        _state.taken = False


def until(wait: Callable[[float], Value], timeout: float | None = None) -> Value:
    """Call ``wait(seconds)`` until its result is true, at most ``timeout`` seconds in all; return the result.

    Each call gets at most SLICE seconds.  Raises Interruption.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        check()
        left = SLICE if deadline is None else min(SLICE, max(deadline - time.monotonic(), 0.0))
        if (result := wait(left)) or (deadline is not None and time.monotonic() >= deadline):
            return result


def call(function: Callable[Parameters, Value], *args: Parameters.args, **kwargs: Parameters.kwargs) -> Value:
    """Call a function that may block for long, such as a look-up of a name, and return its result.

    It runs in a thread of its own, which an interruption leaves behind.  Raises Interruption.
    """
    if not _may_end():
        return function(*args, **kwargs)
    done = threading.Event()
    values: list[Value] = []
    errors: list[BaseException] = []

    def work() -> None:
        with worker():
            try:
                values.append(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - raised below
                errors.append(error)
        done.set()

    threading.Thread(target=work, name="call", daemon=True).start()
    until(done.wait)
    if errors:
        raise errors[0]
    return values[0]


@contextlib.contextmanager
def worker() -> Iterator[None]:
    """Make this thread one that an interruption ends, too: the body is left without an error."""
    own = threading.get_ident()
    _state.workers.add(own)
    try:
        with contextlib.suppress(Interruption):
            yield
    finally:
        _state.workers.discard(own)


def at_end(action: Callable[[], None]) -> None:
    """Register what is done at the end of the program, also after a second Ctrl-C."""
    _state.at_end.append(action)


def _may_end() -> bool:
    if threading.current_thread() is threading.main_thread():
        return not _state.taken
    return threading.get_ident() in _state.workers


def _noted(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the thread of _watch() has noted the signal."""


def _nudged(_number: int, _frame: FrameType | None) -> None:
    """Take the interruption between two steps of foreign code; the kernel ends its system call."""
    if _state.anywhere and _state.reason:
        _state.anywhere = False
        check()


def _start_watch(obeyed: Collection[int]) -> None:
    """Start the thread of _watch()."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    _state.waker = writing
    # The C part of Python writes the number of each signal there, whatever the main thread does.
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading, obeyed), name="signals", daemon=True).start()


def _watch(reading: int, obeyed: Collection[int]) -> None:
    """Note each signal that is ``obeyed``, and nudge the main thread as long as it is in foreign code."""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    while True:
        waits = bool(_state.reason) and not _state.taken
        for number in os.read(reading, 64) if poll.poll(SLICE * 1000 if waits else None) else b"":
            again = bool(_state.reason) and time.monotonic() - _state.since > SAME_CTRL_C
            if number not in obeyed:
                continue
            if again and number == signal.SIGINT:
                _end_loudly()
            request(signal.Signals(number).name)
        if _state.reason and _state.anywhere:
            # More than once: it may come just before the system call that it is to end.
            signal.pthread_kill(threading.main_thread().ident or 0, _NUDGE)


def end_at_once() -> NoReturn:
    """End the program without a clean-up, except for what was registered by at_end()."""
    for action in _state.at_end:
        action()
    os._exit(ExitCode.INTERRUPTED)


def _end_loudly() -> NoReturn:
    show_cursor = "\x1b[?25h" if sys.stderr is not None and sys.stderr.isatty() else ""
    message = f"{show_cursor}\npatchproof: ended at once, by a second Ctrl-C\n"
    with contextlib.suppress(OSError):
        os.write(2, message.encode())
    end_at_once()
