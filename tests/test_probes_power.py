"""Power, resets, importers and memory types: the replies on a host without VFIO."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from actors import PAGE, Client


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """The C actor, or the probe of the test's parameter, with a memfd as buf1."""
    with Client(getattr(request, "param", "actor")) as one:
        yield one


@pytest.mark.parametrize("client", ["actor", "python"], indirect=True)
def test_lowpower_needs_a_device(client: Client) -> None:
    for how in ("enter", "exit"):
        assert "'buf1' does not name a device" in client.ask(f"lowpower buf1 {how}")
    socket.send_fds(client.parcels, [b"d"], [client.file])
    assert client.ask("recv") == "ok dev1"
    assert client.ask("lowpower dev1 enter").startswith("error ENOTTY lowpower: ")
    assert client.ask("lowpower dev1 exit").startswith("error ENOTTY lowpower: ")
    assert client.ask("lowpower dev1 sideways").startswith("error usage: lowpower: 'sideways' is not enter")


@pytest.mark.parametrize(
    "line",
    [
        "lowpower buf1 enter",
        "wakeups buf1",
        "hotreset buf1 by=buf1",
        "join buf1 0000:01:00.1",
        "resets buf1 count=1",
        "ioas buf1",
    ],
)
def test_operation_without_a_device_names_the_object(client: Client, line: str) -> None:
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
        ("resetsdone", "error usage: resetsdone: no resets before"),
        ("loadeach map1:0", "error usage: loadeach: 'map1' is no mapping"),
        ("fence", "ok"),
    ],
)
def test_operation_without_a_device_has_its_reply(client: Client, line: str, said: str) -> None:
    assert client.ask(line).startswith(said)
    assert client.ask("fence") == "ok"


def test_loadeach_loads_from_several_mappings(client: Client) -> None:
    os.pwrite(client.file, (0x11).to_bytes(4, "little"), 0)
    os.pwrite(client.file, (0x22).to_bytes(4, "little"), PAGE + 8)
    assert client.ask(f"map buf1 length={2 * PAGE}") == "ok map1"
    assert client.ask(f"map buf1 length={PAGE} offset={PAGE}") == "ok map2"
    client.shrink(2)
    assert client.ask(f"map buf1 length={PAGE} offset={3 * PAGE}") == "ok map3"
    said = client.ask(f"loadeach map2:8,map1:0,map3:0x10,map1:{PAGE + 8}")
    assert said == "ok 0x00000022 0x00000011 sigbus:adrerr:0x10 0x00000022"


@pytest.mark.parametrize("places", ["map1", "map1:", "map1:0x1000", "map1:0xffd", "buf1:0", "map1:0,,map1:0"])
def test_loadeach_of_a_malformed_place_is_refused(client: Client, places: str) -> None:
    assert client.ask(f"map buf1 length={PAGE}") == "ok map1"
    assert client.ask(f"loadeach {places}").startswith("error usage: loadeach: ")
