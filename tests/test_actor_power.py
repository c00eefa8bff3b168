"""Power, resets, importers and memory types, as far as a host without VFIO shows what the actor does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from actors import Client


@pytest.fixture
def client() -> Iterator[Client]:
    """The C actor with a memfd as buf1."""
    with Client("actor") as one:
        yield one


@pytest.mark.parametrize(
    "line",
    [
        "lowpower buf1 enter",
        "wakeups buf1",
        "hotreset buf1 by=buf1",
        "join buf1 0000:01:00.1",
        "import buf1 buf1 length=0x1000 iova=0x1000",
    ],
)
def test_what_is_no_device_is_named(client: Client, line: str) -> None:
    assert "'buf1' does not name a device" in client.ask(line)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("resource ../../etc 0", "error usage: resource: wants"),
        ("resource 0000:ff:1f.7 6", "error usage: resource: wants"),
        ("resource 0000:ff:1f.7 0", "error ENOENT resource: "),
        ("resource 0000:ff:1f.7 0 wc=1", "error ENOENT resource: "),
        ("count no_kernel_has_this", "error ENOENT count: "),
        ("counted", "error usage: counted: nothing is counted"),
        ("fence", "ok"),
    ],
)
def test_what_is_said_without_a_device(client: Client, line: str, said: str) -> None:
    assert client.ask(line).startswith(said)
    assert client.ask("fence") == "ok"
