"""From what ended a scenario to its verdict; and machines that change, on the real kernel."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from small_run import Invocation, events, junit, make_qemu, run, until

from harness.actor.actor import NotOfferedError
from harness.actor.reply import ActorDiedError, DeadlineError, Refused
from harness.guest.guest import HeldDeviceError
from harness.lib.errors import BootError, ExitCode, HarnessError
from harness.run.observation import KernelDiedError, UnhealthyKernelError, observation_of
from harness.verdict.words import Verdict
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
            "The operation `revoke dev1 buf1` did not end within 10 s; the actor gave it up.",
        ),
        (HeldDeviceError("did not let go"), Verdict.VIOLATES, "did not let go"),
        (UnhealthyKernelError("the kernel said: WARNING"), Verdict.VIOLATES, "the kernel said: WARNING"),
        (KernelDiedError("The kernel died: panic"), Verdict.KERNEL_DIED, "The kernel died: panic"),
        (BootError("The kernel panicked."), Verdict.KERNEL_DIED, "The kernel panicked."),
        (skipped("no such device here"), Verdict.NOT_APPLICABLE, "no such device here"),
        (NotOfferedError("no such call"), Verdict.NOT_APPLICABLE, "no such call"),
        # What says nothing about the kernel is our own fault until the kernel's is shown.
        (ActorDiedError("The actor ended."), Verdict.HARNESS_ERROR, "The actor ended."),
        (SshLostError("gone"), Verdict.HARNESS_ERROR, "gone"),
        (SshTimeoutError("late"), Verdict.HARNESS_ERROR, "late"),
        (HarnessError("no such role"), Verdict.HARNESS_ERROR, "no such role"),
        (KeyError("bar"), Verdict.HARNESS_ERROR, "KeyError: 'bar'"),
    ],
)
def test_what_an_exception_means(error: BaseException, verdict: Verdict, reason: str) -> None:
    seen = observation_of(error, "the evidence")
    assert (seen.verdict, seen.reason) == (verdict, reason)
    assert seen.details == ("" if verdict is Verdict.NOT_APPLICABLE else "the evidence")


SCENARIOS = """
import pytest

from harness.guest.guest import Guest
from harness.plugin.markers import machine
from harness.plugin.markers import requirement
from harness.plugin.items import RUN


def say(guest: Guest, what: str, path: str) -> None:
    guest.run(["sh", "-c", f"echo {what} >{path}"])


@requirement("MAP-01")
@machine(alone=True)
def test_panics(guest: Guest) -> None:
    say(guest, "c", "/proc/sysrq-trigger")
    raise AssertionError("the guest lives")


@requirement("MAP-02")
@machine(alone=True)
def test_leaves_a_warning(guest: Guest) -> None:
    assert guest.read("/sys/kernel/warn_count") == "2\\n"  # those of the control
    say(guest, "WARNING", "/sys/kernel/debug/provoke-crash/DIRECT")


@requirement("REV-01")
@machine(kernel="patchproof.word")
def test_has_a_word_on_the_command_line(guest: Guest) -> None:
    assert "patchproof.word" in guest.read("/proc/cmdline").split()


@requirement("REV-02")
@machine(big_ram=True)
def test_has_the_big_bar(guest: Guest) -> None:
    assert guest.devices["bigram"].bars[2] == 1 << 30


@requirement("LIFE-01")
def test_leaves_a_file(guest: Guest) -> None:
    assert "bigram" not in guest.devices
    say(guest, "x", "/run/used")


@requirement("LIFE-02")
def test_finds_the_file(guest: Guest) -> None:
    assert guest.read("/run/used") == "x\\n"


@requirement("LIFE-03")
@machine(fresh=True)
def test_finds_nothing(guest: Guest) -> None:
    assert guest.run(["test", "-e", "/run/used"]).status == 1


@pytest.fixture
def clumsy(guest: Guest):
    yield
    say(guest, "WARNING", "/sys/kernel/debug/provoke-crash/DIRECT")


@requirement("LIFE-04")
def test_warns_while_it_cleans_up(clumsy: None) -> None:
    pass


@requirement("LIFE-05")
def test_goes_on(guest: Guest) -> None:
    assert guest.read("/sys/kernel/warn_count") == "2\\n"  # those of the control


@pytest.fixture
def fatal(guest: Guest):
    say(guest, "c", "/proc/sysrq-trigger")


@requirement("LIFE-06")
def test_dies_before_it_begins(fatal: None) -> None:
    pass


@requirement("LIFE-07")
def test_goes_on_again(guest: Guest) -> None:
    assert guest.read("/sys/kernel/warn_count") == "2\\n"  # those of the control


@pytest.fixture
def careless(guest: Guest):
    yield
    say(guest, "64", "/proc/sys/kernel/tainted")


@requirement("REV-03")
def test_taints_the_kernel_in_silence_while_it_cleans_up(careless: None) -> None:
    pass


@requirement("REV-04")
def test_has_a_kernel_that_is_not_tainted(guest: Guest) -> None:
    assert guest.read("/proc/sys/kernel/tainted") == "512\\n"  # that of the control


@requirement("REV-05")
def test_warns_where_nobody_looks(request) -> None:
    say(request.config.stash[RUN].pipeline.guest, "WARNING", "/sys/kernel/debug/provoke-crash/DIRECT")


@requirement("REV-06")
def test_has_a_kernel_of_its_own(guest: Guest) -> None:
    pass


@requirement("REV-07")
def test_loses_messages_where_nobody_looks(request) -> None:
    say(request.config.stash[RUN].pipeline.guest, "'<4>** 12 printk messages dropped **'", "/dev/kmsg")


@requirement("LIFE-08")
def test_of_which_only_the_console_tells(guest: Guest) -> None:
    say(guest, "'<3>INFO: task x:1 blocked for more than 9 seconds.'", "/dev/kmsg")


@requirement("LIFE-09")
def test_whose_console_is_not_whole(guest: Guest) -> None:
    say(guest, "'<4>** 12 printk messages dropped **'", "/dev/kmsg")
"""

CONFORMING = "REV-01 REV-02 LIFE-01 LIFE-02 LIFE-03 LIFE-05 LIFE-07 REV-04 REV-05 REV-06 REV-07"


@pytest.mark.vm
def test_machines_change_as_scenarios_ask(tmp_path: Path) -> None:
    """Layouts, fresh machines, kernels that die or complain: each gets its verdict, and the rest goes on."""
    suite = tmp_path / "test_machines.py"
    suite.write_text(SCENARIOS)
    results = tmp_path / "results"
    code, output = run("run", "--series", "baseline", "--results", results, suite, mark=tmp_path)
    assert code == ExitCode.SERIES, output
    cases = [case for case in junit(results).values() if case.properties.get("requirements")]
    assert {case.properties["requirements"]: case.verdict for case in cases} == {
        # The manifest of the base expects nothing to conform.
        **dict.fromkeys(CONFORMING.split(), "unexpectedly-conforms"),
        **dict.fromkeys(("MAP-01", "LIFE-06"), "kernel-died"),
        **dict.fromkeys(("MAP-02", "LIFE-04", "LIFE-08", "REV-03"), "violates"),
        "LIFE-09": "harness-error",
    }, output
    said = {case.properties["requirements"]: case.text for case in cases}
    assert "sysrq triggered crash" in said["MAP-01"]
    assert "WARNING: " in said["MAP-02"]
    assert "WARNING: " in said["LIFE-04"]
    assert "INFO: task x:1 blocked" in said["LIFE-08"]
    assert "12 printk messages dropped" in said["LIFE-09"]
    assert "new taint bit 6 " in said["REV-03"]
    told = events(results)
    layouts = [event["layout"] for event in told if event["event"] == "machine-started"]
    big, word = "bigram=1073741824", "arguments=('patchproof.word',)"
    # One for LIFE-01 and LIFE-02, fresh ones for LIFE-03, LIFE-05, LIFE-07, REV-04, REV-06, LIFE-08 and
    # LIFE-09, one for each layout, two for the lonely.
    assert layouts == ["usual"] * 8 + [word, big] + ["usual"] * 2
    loud, lossy = (case for name, case in junit(results).items() if name.startswith("machine-"))
    assert (loud.outcome, loud.verdict) == ("failure", "violates")
    assert "the kernel said: WARNING: " in loud.text
    assert (lossy.outcome, lossy.verdict) == ("error", "harness-error")
    assert "may have been missed: ** 12 printk messages dropped **" in lossy.text
    # Only the console told of these, so what they are without it is kept for judging them again.
    silent = {str(event["id"]).rpartition("::")[2]: event["silent"] for event in told if "silent" in event}
    assert silent == {
        "test_of_which_only_the_console_tells": "conforms",
        "test_whose_console_is_not_whole": "conforms",
    }
    # This kernel has no line numbers, so each call trace is kept as it is.
    stacks = [path.read_text() for path in (results / "latest" / "stacks").iterdir()]
    assert all(text.startswith("# not decoded: the kernel was built without line numbers") for text in stacks)
    assert sum("lkdtm_WARNING+0x" in text for text in stacks) == 1  # of three, all the same
    for number in range(1, len(layouts) + 1):
        for file in ("console.log", "qemu.txt"):
            assert (results / "latest" / f"machine-{number}" / file).stat().st_size


IDLE = """
from harness.plugin.markers import requirement


@requirement("MAP-01")
def test_conforms(guest) -> None:
    pass
"""


@pytest.mark.vm
def test_what_was_only_set_up_conforms_to_nothing(tmp_path: Path) -> None:
    """On a QEMU that crashed once, which the report says."""
    suite = tmp_path / "test_idle.py"
    suite.write_text(IDLE)
    crash = f"test -e {tmp_path}/crashed || {{ >{tmp_path}/crashed; kill -SEGV $$; }}"
    qemu = make_qemu(tmp_path / "qemu", f'case $1$2 in -acceltcg*) {crash} ;; esac\nexec $qemu "$@"')
    results = tmp_path / "results"
    asked = ("--series", "baseline", "--setup-only", "--qemu", qemu, "--results", results)
    code, output = run("run", *asked, suite, mark=tmp_path)
    assert code == ExitCode.HARNESS, output
    assert junit(results)["test_conforms"].verdict == "harness-error"
    assert "It was set up and not run" in output
    assert "machine-1: QEMU crashed before the guest came up (SIGSEGV). It was started again." in output


def test_interrupted_before_there_is_a_plan(tmp_path: Path) -> None:
    suite = tmp_path / "test_slow.py"
    suite.write_text(f"open({str(tmp_path / 'here')!r}, 'w').close()\nimport time\ntime.sleep(600)\n")
    with Invocation("run", "--series", "baseline", "--results", tmp_path, suite, mark=tmp_path) as slow:
        until((tmp_path / "here").exists, "the suite")
        slow.process.send_signal(signal.SIGINT)
        assert slow.end() == ExitCode.INTERRUPTED


def test_a_suite_that_cannot_be_read(tmp_path: Path) -> None:
    suite = tmp_path / "test_broken.py"
    suite.write_text("import nothing_of_that_name\n")
    code, output = run("run", "--series", "baseline", "--results", tmp_path, suite, mark=tmp_path)
    assert code == ExitCode.HARNESS, output


TOLD = '''
import pytest

from harness.guest.guest import Guest
from harness.plugin.markers import requirement


@requirement("ATTR-04")
def test_is_told(guest: Guest, finding) -> None:
    """The page table says WC."""
    finding(f"The taint is {guest.read('/proc/sys/kernel/tainted').strip()}.")
    assert "PCD" == "PWT"


@requirement("MAP-12")
def test_conforms_where_nothing_is_expected(guest: Guest) -> None:
    """The default is uncached."""


@requirement("ATTR-04", "MAP-01")
def test_is_binding(guest: Guest, finding) -> None:
    """It maps."""
    finding("It said EINVAL.")
    raise AssertionError("EINVAL")
'''


@pytest.mark.vm
def test_what_is_not_binding_is_told_and_judged_by_nobody(tmp_path: Path) -> None:
    """Each with its verdict, and exit code 0; the same again from the stored run."""
    suite = tmp_path / "test_told.py"
    suite.write_text(TOLD)
    results = tmp_path / "results"
    code, output = run("run", "--series", "baseline", "--results", results, suite, mark=tmp_path)
    assert code == ExitCode.OK, output
    told = "Findings:\n  ATTR-04          The taint is 512.\n  ATTR-04          violates: The page table "
    assert told in output
    assert "\n  ATTR-04, MAP-01  It said EINVAL.\n" in output
    cases = {name: case for name, case in junit(results).items() if name.startswith("test_")}
    assert {name: (case.outcome, case.verdict) for name, case in cases.items()} == {
        "test_is_told": ("passed", "violates"),
        "test_conforms_where_nothing_is_expected": ("passed", "conforms"),
        "test_is_binding": ("failure", "violates"),
    }
    assert cases["test_is_told"].properties["strength"] == "info"
    assert cases["test_is_binding"].properties["strength"] == "must"
    assert cases["test_is_binding"].properties["findings"] == "It said EINVAL."
    document = (results / "latest" / "junit.xml").read_text()
    code, judged = run("judge", results / "latest", mark=tmp_path)
    assert code == ExitCode.OK
    assert (results / "latest" / "junit.xml").read_text() == document
    told = output.partition("Findings:")[2].partition("Results:")[0]
    assert judged.partition("Findings:")[2].partition("Results:")[0] == told
