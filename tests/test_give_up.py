"""What is given up after machine upon machine was lost, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_run import SUITES, Built, junit, run

from harness.actor.reply import DeadlineError
from harness.actor.scene import Operation
from harness.actor.transcript import Transcript
from harness.guest.guest import UnbindTimeoutError
from harness.lib.errors import BootError, ExitCode, HarnessError
from harness.run.error_to_verdict import KernelDiedError, NotReachedError, UnhealthyKernelError
from harness.run.give_up import LIMIT, Cause, Doings, GiveUp, cause_of
from harness.vm.pci_devices import Layout
from harness.vm.ssh import SshTimeoutError

HANG = Cause("unbind", "the kernel did not unbind a device")
USUAL, OTHER = Layout(), Layout(rng=True)
EXPORTED = frozenset({"open", "export", "map"})


class Run:
    """A run in which machines are lost; ``told`` are its sentences."""

    def __init__(self, *, enabled: bool = True) -> None:
        self.told: list[str] = []
        self.give_up = GiveUp(self.told.append, enabled=enabled)

    def lose(self, times: int, done: frozenset[str] = EXPORTED, layout: Layout = USUAL) -> None:
        for _ in range(times):
            self.give_up.lost(HANG, layout, done)

    def refuses(self, upcoming: str, *done: str, layout: Layout = USUAL) -> str:
        """Return why an operation is not done, empty if it is."""
        try:
            self.give_up.check(layout, frozenset(done), upcoming)
        except NotReachedError as error:
            return error.message
        return ""


@pytest.fixture
def lost() -> Run:
    """A run that has lost three machines to one cause."""
    run = Run()
    run.lose(LIMIT)
    return run


def test_give_up_cuts_off_before_the_last_operation(lost: Run) -> None:
    reason = lost.refuses("export", "open", "map")
    assert reason == (
        "Given up, as 3 machines in a row were lost to one cause: the kernel did not unbind a device."
    )
    assert not lost.refuses("export", "open")  # the map is still to come
    assert not lost.refuses("close", "open", "map")


def test_give_up_tells_the_cause_once(lost: Run) -> None:
    lost.lose(2)
    (sentence,) = lost.told
    assert "3 machines in a row were lost to one cause: the kernel did not unbind a device." in sentence
    assert "scenarios that do all of this are not run: export, map, open. --no-give-up runs them." in sentence


def test_give_up_needs_three_machines() -> None:
    run = Run()
    run.lose(LIMIT - 1)
    assert not run.refuses("export", "open", "map")
    assert run.told == []


def test_give_up_needs_one_cause() -> None:
    run = Run()
    run.lose(LIMIT - 1)
    run.give_up.lost(Cause("splat", "the kernel said: WARNING"), USUAL, EXPORTED)
    assert not run.refuses("export", "open", "map")


def test_give_up_ends_a_row_if_the_same_went_well() -> None:
    run = Run()
    run.lose(LIMIT - 1)
    run.give_up.kept(EXPORTED | {"load32"})
    run.lose(LIMIT - 1)
    assert not run.refuses("export", "open", "map")
    run.lose(1)
    assert run.refuses("export", "open", "map")


def test_give_up_goes_on_with_a_row_if_less_went_well() -> None:
    run = Run()
    run.lose(LIMIT - 1)
    run.give_up.kept(EXPORTED - {"export"} | {"export EINVAL"})
    run.lose(1)
    assert run.refuses("export", "open", "map")


def test_give_up_learns_what_the_lost_have_in_common(lost: Run) -> None:
    lost.lose(1, frozenset({"open", "export", "revoke"}))
    assert lost.refuses("export", "open")
    assert len(lost.told) == 2
    assert lost.told[1].startswith("Given up: 4 machines in a row were lost")


def test_give_up_is_not_widened_to_what_goes_well(lost: Run) -> None:
    """What was lost once more has only operations in common that others do and keep their machine."""
    for _ in range(LIMIT):
        lost.give_up.kept(frozenset({"open", "export", "load32"}))
    lost.lose(1, frozenset({"open", "cycle"}))
    lost.lose(1, frozenset({"open", "cycle", "map"}))
    assert lost.refuses("export", "open", "map")
    assert not lost.refuses("cycle", "open")
    assert not lost.refuses("export", "open")
    lost.lose(1, frozenset({"open", "cycle", "map"}))
    assert lost.refuses("cycle", "open")


def test_give_up_is_widened_if_most_are_lost(lost: Run) -> None:
    for _ in range(LIMIT - 1):
        lost.give_up.kept(frozenset({"open", "export", "load32"}))
    lost.lose(1, frozenset({"open", "cycle"}))
    assert lost.refuses("open")


def test_give_up_of_another_layout_needs_one_more(lost: Run) -> None:
    assert not lost.refuses("export", "open", "map", layout=OTHER)
    lost.lose(1, layout=OTHER)
    assert lost.refuses("export", "open", "map", layout=OTHER)


def test_give_up_of_a_refused_operation_awaits_no_answer() -> None:
    run = Run()
    run.lose(LIMIT, frozenset({"open", "revoke EINVAL"}))
    assert run.refuses("revoke", "open")
    run = Run()
    run.lose(LIMIT, frozenset({"open", "revokeall"}))
    assert not run.refuses("revoke", "open")


def test_no_give_up_runs_everything() -> None:
    run = Run(enabled=False)
    run.lose(LIMIT + 1)
    for _ in range(LIMIT):
        run.give_up.not_booted(USUAL, HarnessError("It did not come up."))
    run.give_up.check_boot(USUAL)
    assert not run.refuses("export", "open", "map")
    assert run.told == []
    worker = GiveUp(run.told.append)
    worker.follow(run.give_up.given_up())
    worker.check_boot(USUAL)


def test_give_up_boots_no_layout_that_fails() -> None:
    run = Run()
    for _ in range(LIMIT):
        run.give_up.check_boot(USUAL)
        run.give_up.not_booted(USUAL, BootError("The kernel panicked."))
    with pytest.raises(
        NotReachedError, match=r"3 machines in a row with the layout usual.*: The kernel panic"
    ):
        run.give_up.check_boot(USUAL)
    run.give_up.check_boot(OTHER)
    assert len(run.told) == 1


def test_give_up_forgets_failed_boots_after_a_good_one() -> None:
    run = Run()
    for _ in range(LIMIT):
        run.give_up.not_booted(USUAL, BootError("The kernel panicked."))
        run.give_up.booted(USUAL)
    run.give_up.check_boot(USUAL)


@pytest.mark.parametrize(
    ("error", "clause"),
    [
        (KernelDiedError("The kernel died: it"), "the kernel died without a word during `revoke`"),
        (UnhealthyKernelError("x", changes=("2 DMABUFs are left over",)), "2 DMABUFs are left over"),
        (UnbindTimeoutError("late"), "the kernel did not unbind a device from its driver"),
        (DeadlineError("revoke dev1", 10, answered=False), "the operation `revoke` did not end"),
        (SshTimeoutError("late"), "the operation `revoke` did not end"),
    ],
)
def test_cause_of_a_lost_machine_has_its_clause(error: Exception, clause: str) -> None:
    cause = cause_of(error, Operation("@client revoke dev1", call="revoke dev1"), [])
    assert cause is not None
    assert cause.clause == clause


def test_cause_of_a_fault_of_the_host_is_none() -> None:
    assert cause_of(HarnessError("QEMU was killed"), Operation(), []) is None


def test_cause_does_not_depend_on_numbers() -> None:
    one, other = (
        cause_of(UnhealthyKernelError("x", changes=(f"{n} DMABUFs are left over",)), Operation(), [])
        for n in (1, 12)
    )
    assert one is not None
    assert other is not None
    assert one.key == other.key


@pytest.fixture
def transcript(tmp_path: Path) -> Callable[[Doings], Transcript]:
    def make(doings: Doings) -> Transcript:
        made = Transcript(tmp_path / "transcript.txt", observer=doings)
        made.step("guest bind 0000:01:00.0 vfio-pci")
        made.actor("c")
        for line, reply in (("open 0000:01:00.0", "ok dev1"), ("@a revoke buf1", "error EINVAL no")):
            made.operation(line, 1, "c")
            made.reply(reply)
        return made

    return make


def test_doings_are_operations_with_their_errno(transcript: Callable[[Doings], Transcript]) -> None:
    doings = Doings(lambda *_: None)
    made = transcript(doings)
    made.operation("&b map buf1", 1, "c")
    before = {"guest bind 0000:01:00.0 vfio-pci", "open", "revoke EINVAL"}
    assert doings.all == {*before, "map"}
    made.step("guest restore 0000:01:00.0 -")
    made.step("guest read /proc/cmdline")
    assert doings.all == {*before, "map"}


def test_doings_forbid_an_operation_before_it_is_done(transcript: Callable[[Doings], Transcript]) -> None:
    def forbid(done: frozenset[str], upcoming: str) -> None:
        if upcoming == "map" and "open" in done:
            raise NotReachedError("Given up.")

    doings = Doings(forbid)
    made = transcript(doings)
    with pytest.raises(NotReachedError):
        made.operation("map buf1", 1, "c")
    assert doings.cut_off is not None
    made.operation("map buf1", 1, "c")  # of the clean-up
    made.close()
    assert made.path.read_text().count("> map") == 1


@pytest.mark.vm
@pytest.mark.parametrize("option", [(), ("--no-give-up",)])
def test_run_gives_up_what_loses_machines(tmp_path: Path, option: tuple[str, ...]) -> None:
    """After three machines the other scenarios that would warn are not-reached, and all others run."""
    results = tmp_path / "results"
    options = (*Built(tmp_path).arguments, "--no-base", *option)
    code, output = run("run", *options, "--results", results, SUITES / "lost_machines.py", mark=tmp_path)
    assert code == ExitCode.SERIES, output
    cases = {name: case for name, case in junit(results).items() if name.startswith("test_")}
    verdicts = [case.verdict for name, case in cases.items() if name.startswith("test_warns")]
    assert verdicts == ["violates"] * 6 if option else ["violates"] * 3 + ["not-reached"] * 3
    assert "xfailed" not in output
    assert {case.verdict for name, case in cases.items() if "reads" in name} == {"conforms"}
    sentence = "3 machines in a row were lost to one cause: the kernel said: WARNING:"
    assert (sentence in output) == (not option)
    assert [sentence in case.text for case in cases.values()].count(True) == (0 if option else 3)
    assert (sentence in (results / "latest" / "report.html").read_text()) == (not option)
