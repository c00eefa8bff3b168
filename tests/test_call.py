"""Operations in flight: what a child begins, whether it has ended it, where it is held, and its reply."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from actors import PAGE, Client

from harness.actor.actor import Actor, NotOfferedError
from harness.actor.call import Call, Place
from harness.actor.handles import Buffer
from harness.actor.reply import ActorDiedError, DeadlineError, Refused, Sigbus, outcome
from harness.actor.session import Wire
from harness.actor.timeline import Timeline
from harness.actor.transcript import Transcript
from harness.lib.errors import HarnessError


@pytest.fixture
def client() -> Iterator[Client]:
    with Client("actor") as one:
        yield one


@pytest.fixture
def transcript(tmp_path: Path) -> Transcript:
    return Transcript(tmp_path / "transcript.txt")


@pytest.fixture
def owner(client: Client, transcript: Transcript) -> Actor:
    return Actor(Wire(client, transcript))


@pytest.fixture
def child(owner: Actor) -> Actor:
    return owner.spawn("child")


@pytest.fixture
def buffer(owner: Actor) -> Buffer:
    return Buffer(owner, "buf1", 4 * PAGE, None)


def begin_recv(child: Actor) -> Call:
    """Have a child wait for a descriptor."""
    return Call.begin(child, lambda: child.say("recv"))


class TestCall:
    def test_call_ends_when_it_has_what_it_waits_for(
        self, owner: Actor, child: Actor, buffer: Buffer
    ) -> None:
        call = begin_recv(child)
        assert not call.ended()
        assert buffer.seek() == 4 * PAGE
        owner.say("send", buffer.name, child.name)
        assert call.result() == "buf1"
        assert child.descriptors() > 0

    def test_call_has_the_outcome_of_the_operation(self, owner: Actor, child: Actor, buffer: Buffer) -> None:
        given = owner.give(buffer, child)
        mapping = child.map(given)
        assert Call.begin(child, lambda: mapping.load32(0)).outcome() == "success"
        assert Call.begin(child, lambda: child.map(given, PAGE, offset=1)).outcome() == "EINVAL"

    def test_call_that_faults_has_the_fault(
        self, client: Client, owner: Actor, child: Actor, buffer: Buffer
    ) -> None:
        mapping = child.map(owner.give(buffer, child))
        client.shrink(1)
        assert Call.begin(child, lambda: mapping.load32(PAGE)).result() == Sigbus("adrerr", PAGE)
        assert Call.begin(child, lambda: mapping.load32(PAGE)).outcome() == "SIGBUS"

    def test_call_of_a_grandchild_is_begun_by_its_parent(self, child: Actor) -> None:
        call = Call.begin(grandchild := child.spawn("grandchild"), grandchild.exit)
        assert child.descriptors() > 0
        assert call.result() == ""

    def test_call_past_its_deadline_is_an_error(self, child: Actor) -> None:
        with pytest.raises(DeadlineError):
            begin_recv(child).result(deadline=1)

    def test_call_of_a_killed_actor_is_an_error(self, owner: Actor, child: Actor) -> None:
        call = begin_recv(child)
        owner.signal(child, "kill")
        with pytest.raises(ActorDiedError):
            call.result()
        assert owner.reap(child) == "signal=9"

    def test_call_is_the_only_operation_of_its_actor(self, child: Actor) -> None:
        begin_recv(child)
        with pytest.raises(HarnessError, match="carries out an operation"):
            child.descriptors()
        with pytest.raises(HarnessError, match="carries out an operation"):
            begin_recv(child)

    def test_call_of_the_first_actor_is_an_error(self, owner: Actor) -> None:
        with pytest.raises(HarnessError, match="has no parent"):
            Call.begin(owner, owner.descriptors)

    def test_call_that_asks_for_nothing_is_an_error(self, child: Actor) -> None:
        with pytest.raises(HarnessError, match="was asked for none"):
            Call.begin(child, lambda: None)
        assert child.descriptors() > 0

    def test_refused_call_names_the_interface(self, child: Actor, transcript: Transcript) -> None:
        """The base is asked about a refusal by the operation, not by the line that fetched its reply."""
        call = Call.begin(child, lambda: child.say("ioctl", "0", 0x3B75, data="00"))
        with pytest.raises(Refused):
            call.result()
        assert list(transcript.refused) == ["ioctl 0 0x3b75 data=00: ENOTTY"]


class TestPlace:
    def test_place_is_parsed(self) -> None:
        assert Place.parse("state=D stack=schedule,down_write") == Place("D", ("schedule", "down_write"))
        assert str(Place.parse("state=R stack=")) == "R in user mode"

    @pytest.fixture(autouse=True)
    def _stacks(self) -> None:
        try:
            Path("/proc/self/stack").read_bytes()
        except OSError:
            pytest.skip("this host does not show kernel stacks")

    def test_held_call_is_inside_the_function(self, child: Actor) -> None:
        place = begin_recv(child).held_in("no_such_function", "__sys_recvmsg")
        assert place is not None
        assert place.state == "S"
        assert "__sys_recvmsg" in place.functions
        assert not any("+" in function for function in place.functions)

    def test_call_that_ends_is_not_held(self, child: Actor) -> None:
        call = Call.begin(child, child.descriptors)
        assert call.held_in("no_such_function") is None
        assert call.outcome() == "success"

    def test_interruptible_sleep_is_not_asleep(self, child: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("harness.actor.call.WINDOW_SECONDS", 1)
        with pytest.raises(HarnessError, match="neither ended nor came to asleep"):
            begin_recv(child).asleep()

    def test_call_held_elsewhere_is_an_error_with_its_place(
        self, child: Actor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("harness.actor.call.WINDOW_SECONDS", 1)
        with pytest.raises(HarnessError, match=r"neither ended nor came to __sys_recv: .* is S in "):
            begin_recv(child).held_in("__sys_recv")


class TestLines:
    @pytest.mark.parametrize(
        "line",
        [
            "ended nobody",
            "finish nobody",
            "held nobody schedule",
            "stack nobody",
            "&nobody version",
            "&child",
            "&",
            "ended child",
            "finish child",
            "held child schedule",
            "attachfence buf1 buf1 sideways",
            "attachfence buf1 buf2 read",
            "attachfence buf1 buf1 read at=0x80000000",
            "advance buf1 by=0x80000000",
        ],
    )
    def test_malformed_line_is_refused(self, client: Client, line: str) -> None:
        assert client.ask("spawn child") == "ok"
        assert client.ask(line).startswith("error usage: ")

    def test_late_reply_keeps_a_call_from_beginning(self, client: Client) -> None:
        """The late reply would be taken for that of the operation in flight."""
        assert client.ask("spawn child") == "ok"
        assert client.ask("signal child stop") == "ok"
        assert client.ask("@child version deadline=1") == "timeout"
        assert client.ask("&child version").startswith("error usage: ")
        assert client.ask("signal child cont") == "ok"
        assert client.ask("@child version").startswith("ok protocol=")
        assert client.ask("&child version") == "ok"
        assert client.ask("finish child").startswith("ok protocol=")


class TestTimeline:
    def test_file_that_is_no_timeline_is_refused(self, buffer: Buffer) -> None:
        timeline = Timeline(buffer.actor, buffer.name)
        assert outcome(timeline.advance) == outcome(lambda: timeline.attach(buffer)) == "ENOTTY"

    def test_kernel_without_sw_sync_offers_no_timeline(self, owner: Actor) -> None:
        owner.absent = lambda option: f"needs CONFIG_{option}" if option == "SW_SYNC" else ""
        with pytest.raises(NotOfferedError, match="needs CONFIG_SW_SYNC"):
            Timeline.of(owner)
