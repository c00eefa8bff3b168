"""The verdict on an error that ended a phase of a scenario."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.actor.actor import NotOfferedError
from harness.actor.reply import ActorDiedError, DeadlineError, Refused
from harness.actor.transcript import Transcript
from harness.guest.guest import UnbindTimeoutError
from harness.lib.errors import BootError, HarnessError
from harness.plugin import pytest_report
from harness.run.error_to_verdict import KernelDiedError, UnhealthyKernelError, observation_of
from harness.verdict.verdict import Verdict
from harness.vm.ssh import SshLostError, SshTimeoutError


def skipped(reason: str) -> BaseException:
    return pytest.skip.Exception(reason)


def failed(reason: str) -> BaseException:
    return pytest.fail.Exception(reason)


@pytest.mark.parametrize(
    ("error", "verdict", "reason"),
    [
        (AssertionError("assert 1 == 2"), Verdict.VIOLATES, "assert 1 == 2"),
        (AssertionError(), Verdict.VIOLATES, "The assertion does not hold."),
        (failed("DID NOT RAISE Refused"), Verdict.VIOLATES, "DID NOT RAISE Refused"),
        (Refused("EINVAL", "map", "Invalid argument"), Verdict.VIOLATES, "map: EINVAL (Invalid argument)"),
        (
            DeadlineError("revoke dev1 buf1", 10, answered=True),
            Verdict.VIOLATES,
            "The operation `revoke dev1 buf1` did not end within 10 s; the actor reported the timeout.",
        ),
        (UnbindTimeoutError("did not let go"), Verdict.VIOLATES, "did not let go"),
        (UnhealthyKernelError("the kernel said: WARNING"), Verdict.VIOLATES, "the kernel said: WARNING"),
        (KernelDiedError("The kernel died: panic"), Verdict.KERNEL_DIED, "The kernel died: panic"),
        (BootError("The kernel panicked."), Verdict.KERNEL_DIED, "The kernel panicked."),
        (skipped("no such device here"), Verdict.NOT_APPLICABLE, "no such device here"),
        (NotOfferedError("no such call"), Verdict.NOT_APPLICABLE, "no such call"),
        # An error that says nothing about the kernel is ours until the kernel's fault is shown.
        (ActorDiedError("The actor ended."), Verdict.HARNESS_ERROR, "The actor ended."),
        (SshLostError("gone"), Verdict.HARNESS_ERROR, "gone"),
        (SshTimeoutError("late"), Verdict.HARNESS_ERROR, "late"),
        (HarnessError("no such role"), Verdict.HARNESS_ERROR, "no such role"),
        (KeyError("bar"), Verdict.HARNESS_ERROR, "KeyError: 'bar'"),
    ],
)
def test_observation_of_an_error_has_its_verdict(
    pytestconfig: pytest.Config, error: BaseException, verdict: Verdict, reason: str
) -> None:
    seen = observation_of(pytest_report.error_of(error, pytestconfig), "the evidence")
    assert (seen.verdict, seen.reason) == (verdict, reason)
    assert seen.details == ("" if verdict is Verdict.NOT_APPLICABLE else "the evidence")


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        ("map buf1 length=0x1000", "After revoke returned, mmap() was refused with EINVAL."),
        ("map buf2 length=0x1000", "map buf2 length=0x1000: EINVAL (Invalid argument)"),
    ],
)
def test_refusal_is_told_with_its_moment(tmp_path: Path, operation: str, reason: str) -> None:
    """The latest operation is another one if the clean-up of the scenario did one."""
    transcript = Transcript(tmp_path / "transcript.txt")
    actor = transcript.actor("c")
    for line, reply in (("revoke dev1 buf1", "ok"), ("map buf1 length=0x1000", "error EINVAL map: x")):
        transcript.operation(line, actor, "c")
        transcript.reply(reply)
    transcript.close()
    assert observation_of(Refused("EINVAL", operation, "Invalid argument"), "").reason == reason
