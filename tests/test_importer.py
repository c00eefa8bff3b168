"""The handles of the test importer, and the operations behind them as far as no module is needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from actors import Client

from harness.actor.actor import Actor, NotOfferedError
from harness.actor.handles import Buffer
from harness.actor.importer import Counts, Entry, Event, Importer, Span, prime
from harness.actor.reply import Refused
from harness.actor.session import Wire
from harness.actor.transcript import Transcript

PLAIN = "6,8805747629,notified,0,59,actor,0,r,?"
WITH_LOCKDEP = "7,9,mapped,95,60,actor,-1,rRm,&vdev->memory_lock:w+reservation_ww_class_mutex:w"


class TestParse:
    def test_event_without_lockdep(self) -> None:
        event = Event.parse(PLAIN)
        assert (event.sequence, event.time, event.what, event.errno) == (6, 8805747629, "notified", 0)
        assert (event.process, event.name, event.power) == (59, "actor", 0)
        assert (event.reservation, event.mmap_lock, event.locks) == (True, False, None)

    def test_event_with_lockdep(self) -> None:
        event = Event.parse(WITH_LOCKDEP)
        assert (event.errno, event.power, event.mmap_lock) == (95, -1, True)
        assert event.locks == ("&vdev->memory_lock:w", "reservation_ww_class_mutex:w")

    def test_lock_of_another_is_not_held_says_lockdep(self) -> None:
        event = Event.parse("7,9,notified,0,60,actor,0,r,")
        assert not event.reservation
        assert event.locks == ()

    @pytest.mark.parametrize("word", ["", "6,7", PLAIN + ",", "x" + PLAIN])
    def test_other_words_are_errors(self, word: str) -> None:
        with pytest.raises(ValueError, match=r"unpack|invalid literal"):
            Event.parse(word)

    def test_entry(self) -> None:
        assert Entry.parse("0xf8004000:0x1000") == Entry(0xF8004000, 0x1000)

    def test_counts(self) -> None:
        reply = "is_attached=1 is_mapped=0 pins=2 fences=3 lost=4 attached=1 notified=5"
        assert Counts.parse(reply) == Counts(True, False, 2, 3, 4, {"attached": 1, "notified": 5})


@pytest.fixture
def actor(tmp_path: Path) -> Iterator[Actor]:
    with Client("actor") as client:
        yield Actor(Wire(client, Transcript(tmp_path / "transcript.txt")))


class TestOperations:
    def test_importer_without_its_module_is_refused(self, actor: Actor) -> None:
        with pytest.raises(Refused, match="ENOENT"):
            Importer.open(actor)

    def test_buffer_is_no_importer(self, actor: Actor) -> None:
        assert (
            actor.raw("impmap buf1") == "error usage: impmap: 'buf1' does not name an importer of this actor"
        )

    @pytest.mark.parametrize(
        ("words", "reason"),
        [
            ("impattach imp1 buf1 as=other", "as=other is not dynamic, static, nop2p or nocallback"),
            ("impattach imp1 buf1 as=7", "as=7 is not dynamic, static, nop2p or nocallback"),
            ("impattach imp1 buf1 device=02:00.0", "device=02:00.0 is not like 0000:02:00.0"),
            ("implan imp1 stall=60001", "stall= is at most 60000 ms, or never"),
            ("implan imp1 fence=exclusive", "fence=exclusive is not kernel, write, read or bookkeep"),
            ("implan imp1 fence=4", "fence=4 is not kernel, write, read or bookkeep"),
            ("impmap imp1 direction=3", "direction=3 is not both, to or from"),
            ("impwait imp1 ended", "'ended' is no event of an importer"),
        ],
    )
    def test_unknown_word_is_a_usage_error(self, actor: Actor, words: str, reason: str) -> None:
        operation = words.split()[0]
        assert actor.raw(words) == f"error usage: {operation}: {reason}"

    def test_clock_has_the_time_of_the_operation_before(self, actor: Actor) -> None:
        actor.say("version")
        first = Span.of_last(actor)
        second = Span.of_last(actor)
        assert 0 < first.began <= first.ended <= second.began <= second.ended

    def test_module_without_a_file_is_refused(self, actor: Actor) -> None:
        with pytest.raises(Refused, match="ENOENT"):
            actor.say("loadmodule", "/nonexistent")

    def test_prime_needs_vgem(self, actor: Actor) -> None:
        actor.absent = lambda option: f"needs CONFIG_{option}"
        with pytest.raises(NotOfferedError, match="needs CONFIG_DRM_VGEM"):
            prime(Buffer(actor, "buf1", 4096, None))
