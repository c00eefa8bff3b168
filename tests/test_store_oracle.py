"""The oracle of stores, on the host: a memfd in place of the BAR, a mapping of it as the owner's view."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from actors import PAGE, Client

from harness.actor.actor import Actor
from harness.actor.handles import Buffer
from harness.actor.mismatch import Mismatch
from harness.actor.session import Wire
from harness.actor.transcript import Transcript
from harness.lib.errors import HarnessError
from harness.vm.ram_bar import RamBar
from suites.support.store_oracle import OURS, THEIRS, Oracle


@pytest.fixture
def client() -> Iterator[Client]:
    with Client("actor") as one:
        assert one.ask("map buf1 length=16K") == "ok map1"
        yield one


class TestOracle:
    """The memfd stands for the BAR, a mapping of it for the owner's view."""

    @pytest.fixture
    def owner(self, client: Client, tmp_path: Path) -> Actor:
        return Actor(Wire(client, Transcript(tmp_path / "transcript.txt")))

    @pytest.fixture
    def host(self, client: Client) -> Iterator[RamBar]:
        with RamBar(Path(f"/proc/self/fd/{client.file}")) as bar:
            yield bar

    @pytest.mark.parametrize(
        ("stride", "count", "seen"),
        [
            (4, "1 of 2048 words", "the owner sees offset=0x1000 value=0xbad0beef"),
            (PAGE, "1 of 2 pages", "the owner sees 0xbad0beef at offset 0x1000 instead of 0x600d0a3e"),
        ],
    )
    def test_oracle_sees_a_store_that_arrives(
        self, owner: Actor, host: RamBar, stride: int, count: str, seen: str
    ) -> None:
        buffer = Buffer(owner, "buf1", 4 * PAGE, None)
        lent = owner.map(buffer, 2 * PAGE, PAGE)
        oracle = Oracle(owner.map(buffer, 2 * PAGE, PAGE), host, PAGE, stride)
        hammer = lent.hammer(THEIRS, stride=stride)
        oracle.require_reach(hammer)
        with pytest.raises(Mismatch, match=r"of the range could still be written by the client\.$"):
            oracle.require_undisturbed()
        hammer.stop()
        assert oracle.view.fill(OURS) is None
        oracle.require_undisturbed()
        host.write(2 * PAGE, THEIRS.to_bytes(4, "little"))
        with pytest.raises(Mismatch) as raised:
            oracle.require_undisturbed()
        assert str(raised.value) == f"{count} of the range could still be written by the client."
        assert raised.value.deviation.seen == seen

    def test_oracle_without_a_store_to_see_is_an_error(self, owner: Actor, host: RamBar) -> None:
        oracle = Oracle(owner.map(Buffer(owner, "buf1", 4 * PAGE, None)), host, 0)
        elsewhere = owner.map(owner.make("memfd", 4 * PAGE)).hammer(THEIRS)
        with pytest.raises(HarnessError, match="the host sees 0x00000000 at offset 0x0 instead of 0xbad"):
            oracle.require_reach(elsewhere)

    def test_oracle_reports_a_word_only_the_host_sees(self, owner: Actor, host: RamBar) -> None:
        view = owner.map(owner.make("memfd", 4 * PAGE))
        assert view.fill(OURS) is None
        with pytest.raises(Mismatch, match="did not keep what the owner wrote") as raised:
            Oracle(view, host, 0).require_undisturbed()
        assert raised.value.deviation.seen.startswith("the host sees 0x00000000 at offset 0x0 ")
