"""What the host refuses is the host's fault, wherever it shows."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.lib.errors import HarnessError
from harness.lib.host import OUT_OF_RESOURCES, host_errors
from harness.run.error_to_verdict import observation_of
from harness.verdict.verdict import Verdict
from harness.vm.ssh import Ssh, SshLostError
from harness.vm.ssh_keys import KeyPair
from harness.vm.ssh_limits import BoundedSocket

OF_A_FOLDER = ("ENOSPC", "EDQUOT", "EROFS", "EIO")
KEY = KeyPair.generate()


@pytest.mark.parametrize("number", sorted(OUT_OF_RESOURCES), ids=lambda number: errno.errorcode[number])
def test_host_error_is_a_sentence_with_the_reason(number: int) -> None:
    with pytest.raises(HarnessError, match="This host refused") as caught, host_errors(Path("/somewhere")):
        raise OSError(number, os.strerror(number), "/file")
    assert os.strerror(number) in caught.value.message
    assert ("/somewhere" in caught.value.message) is (errno.errorcode[number] in OF_A_FOLDER)
    assert ("doctor" in caught.value.message) is (errno.errorcode[number] not in OF_A_FOLDER)


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_lack_of_threads_or_memory_is_a_host_error(error: Exception) -> None:
    with (
        pytest.raises(HarnessError, match=r"(no thread could|Cannot allocate memory).*doctor"),
        host_errors(),
    ):
        raise error


def test_another_runtime_error_is_no_host_error() -> None:
    with pytest.raises(RuntimeError, match="a defect"), host_errors():
        raise RuntimeError("a defect")


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """Leave this process no descriptor to open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_login_without_a_free_descriptor_blames_the_host() -> None:
    with pytest.raises(HarnessError, match="Too many open files"), no_more_files():
        Ssh(1, KEY, KEY, 1.0)


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EADDRNOTAVAIL, HarnessError), (errno.ECONNREFUSED, SshLostError)]
)
def test_login_without_a_free_port_blames_the_host(
    number: int, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(_socket: BoundedSocket, _address: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(BoundedSocket, "connect", connect)
    with pytest.raises(kind, match=os.strerror(number)):
        Ssh(1, KEY, KEY, 1.0)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), RuntimeError("can't start new thread")]
)
def test_scenario_that_the_host_refused_something_says_so(error: Exception) -> None:
    seen = observation_of(error, "")
    assert seen.verdict is Verdict.HARNESS_ERROR
    assert seen.reason.startswith("This host refused something that the run needs: ")
