"""Shards of one selection that are put together, and what cannot be put together."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.journal.facts import read_facts
from harness.journal.merge import merge
from harness.journal.reader import read
from harness.journal.results_folder import ResultsFolder
from harness.journal.writer import EVENTS, JournalWriter
from harness.lib.errors import ExitCode, PatchproofError
from harness.lib.shard import Shard
from harness.verdict.comparison import BaseAnswer
from harness.verdict.detector import Detector, State
from harness.verdict.record import ConsoleRange, Entry, Record
from harness.verdict.verdict import Kind, Verdict

STAGES = (
    Entry("fetch", Kind.HARNESS, "The base source is at hand"),
    Entry("build", Kind.STAGE, "The patched kernel builds"),
    Entry("boot", Kind.STAGE, "The kernel boots to a shell"),
)
SELFTEST = Entry("selftests/vfio/a", Kind.SELFTEST, "A test program", shard=1)
SPLAT = (
    "[    5.000000] ------------[ cut here ]------------\n"
    "[    5.000001] WARNING: CPU: 0 PID: 77 at lib/refcount.c:28 refcount_warn_saturate+0xba/0x110\n"
    "[    5.000002] Call Trace:\n"
    "[    5.000003]  <TASK>\n"
    "[    5.000004]  vfio_device_put+0x12/0x40\n"
    "[    5.000005]  </TASK>\n"
    "[    5.000006] ---[ end trace 0000000000000000 ]---\n"
)
FACTS: dict[str, Any] = {
    "series": "v4",
    "digest": "d" * 64,
    "base": "7.1.3",
    "kernel": "k",
    "config_digest": "c",
    "program": "p" * 64,
    "accelerator": "tcg",
}


def scenario(name: str, shard: int) -> Entry:
    return Entry(f"suites/test_x.py::{name}", Kind.SCENARIO, f"Scenario {name}", ("MAP-01",), shard=shard)


WHOLE = (*STAGES, scenario("a", 1), scenario("b", 1), scenario("c", 2), scenario("d", 2), SELFTEST)
THREE = (scenario("a", 1), scenario("b", 2), scenario("c", 3))
Verdicts = Mapping[str, Verdict]


class OneShard:
    """The run of one shard, written as a run writes it; each scenario has a machine of its own."""

    def __init__(
        self, root: Path, number: int, total: int = 2, *, whole: tuple[Entry, ...] = WHOLE, **facts: Any
    ) -> None:
        self.shard = Shard(number, total)
        self.results = ResultsFolder.create(root / str(number), "v4")
        self.folder = self.results.dir
        self.results.write_run(**{**FACTS, **facts})
        self.results.write_run(selection=["--series", "v4.mbox", "--shard", f"{number}/{total}"], resumed=[])
        self.journal = self.results.journal()
        self.journal.plan(whole, self.shard)
        self.own = read(self.folder).results
        self.machines = 0

    def run(self, verdicts: Verdicts | None = None, *, end: bool = True) -> Path:
        """Run all entries; they conform, but for ``verdicts`` by id or last letter."""
        if self.own:
            self.journal.run_started()
            self.journal.note("The base is 7.1: the mails name it.")
        for result in self.own:
            entry = result.entry
            verdict = (verdicts or {}).get(entry.id.rpartition("::")[2], Verdict.CONFORMS)
            if entry.kind in (Kind.HARNESS, Kind.STAGE):
                self.journal.started(entry.id)
                log = self.results.log(entry.id)
                log.write_text(f"{entry.id} of shard {self.shard}\n")
                self.journal.ended(
                    entry.id, verdict, reason="It broke." * (verdict != "conforms"), transcript=log
                )
                if verdict is not Verdict.CONFORMS:
                    break
            else:
                self._scenario(entry, verdict)
        if end:
            self.end()
        return self.folder

    def _scenario(self, entry: Entry, verdict: Verdict) -> None:
        self.machines += 1
        machine = f"machine-{self.machines}"
        self.results.machine(machine).mkdir()
        said = SPLAT if verdict is Verdict.VIOLATES else f"quiet, for {entry.id}\n"
        (self.folder / machine / "console.log").write_text(said)
        self.journal.machine_started(machine)
        self.journal.machine_up(machine, 1.0)
        self.journal.detectors(machine, [Detector("taint", State.PROVEN, "")])
        self.journal.note(f"{machine}: it was started again.")
        self.journal.started(entry.id)
        transcript = self.results.transcript(entry.id)
        transcript.write_text(f"> {entry.id}\n")
        self.journal.ended(
            entry.id,
            verdict,
            reason=f"It died on {machine}." if verdict is Verdict.VIOLATES else "",
            transcript=transcript,
            console=ConsoleRange(f"{machine}/console.log", 0, len(said)),
        )
        if verdict is Verdict.VIOLATES:
            self.results.stack("abc").write_text("the same splat\n")
            self.journal.compared(entry.id, BaseAnswer(Verdict.CONFORMS, ""))
        self.journal.machine_ended(machine, "the next scenario needs another")

    def end(self) -> None:
        self.journal.run_ended()
        self.journal.unlock()


def both(root: Path, first: Verdicts | None = None, second: Verdicts | None = None) -> list[Path]:
    return [OneShard(root, 1).run(first), OneShard(root, 2).run(second)]


def verdicts_of(record: Record) -> dict[str, str]:
    return {result.entry.id.rpartition("::")[2]: result.verdict for result in record.results}


def test_merge_of_two_shards_is_the_whole_run(tmp_path: Path) -> None:
    shards = both(tmp_path, {"b": Verdict.VIOLATES}, {"c": Verdict.VIOLATES})
    folder = merge(shards[::-1], tmp_path / "whole")
    record = read(folder)
    assert not record.damage
    assert [result.entry for result in record.results] == list(WHOLE)
    assert verdicts_of(record) == {
        **dict.fromkeys(("fetch", "build", "boot", "a", "d", SELFTEST.id), "conforms"),
        **dict.fromkeys("bc", "violates"),
    }
    assert (record.exit_code, record.complete) == (ExitCode.SERIES, True)
    assert record.machines == tuple(f"machine-{number}" for number in range(1, 6))
    assert record.started == min(read(one).started for one in shards)
    later = next(result for result in record.results if result.entry.id.endswith("::c"))
    assert later.reason == "It died on machine-4."
    assert later.base is not None
    assert later.console is not None
    assert later.console.file == "machine-4/console.log"
    assert [one.title for one in later.complaints]
    assert (folder / later.transcript).read_text() == f"> {later.entry.id}\n"
    assert "machine-4: it was started again." in record.notes
    assert len(set(record.notes)) == len(record.notes)
    assert (folder / "console.log").readlink() == Path("machine-5/console.log")
    assert (folder / "stacks" / "abc.txt").read_text() == "the same splat\n"
    assert (folder / "build.log").read_text() == "build of shard 1/2\n"
    assert (folder / "shard-2" / "build.log").read_text() == "build of shard 2/2\n"
    facts = read_facts(folder)
    assert facts["selection"] == ["--series", "v4.mbox"]
    assert facts["shards"] == [one.name for one in shards]


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ({}, {}, ExitCode.OK),
        ({}, {"d": Verdict.VIOLATES}, ExitCode.SERIES),
        ({"a": Verdict.HARNESS_ERROR}, {}, ExitCode.HARNESS),
        (dict.fromkeys("ab", Verdict.NOT_APPLICABLE), {}, ExitCode.OK),
        (
            dict.fromkeys("ab", Verdict.NOT_APPLICABLE),
            dict.fromkeys("cd", Verdict.NOT_APPLICABLE),
            ExitCode.NOTHING_APPLICABLE,
        ),
    ],
)
def test_report_merge_has_the_exit_code_of_the_whole(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], first: Verdicts, second: Verdicts, code: ExitCode
) -> None:
    whole = tmp_path / "whole"
    names = [str(folder) for folder in both(tmp_path, first, second)]
    assert main(["report", "--merge", *names, "-o", str(whole)]) == code
    assert str(whole) in capfd.readouterr().out
    assert (whole / "junit.xml").is_file()
    assert (whole / "report.html").is_file()
    assert main(["judge", str(whole)]) == code


def test_merge_keeps_the_gravest_result_of_a_stage(tmp_path: Path) -> None:
    folder = merge(both(tmp_path, {}, {"boot": Verdict.HARNESS_ERROR}), tmp_path / "whole")
    record = read(folder)
    assert not record.damage
    boot = next(result for result in record.results if result.entry.id == "boot")
    assert (boot.verdict, boot.reason, boot.transcript) == ("harness-error", "It broke.", "shard-2/boot.log")
    left = next(result for result in record.results if result.entry.id.endswith("::c"))
    assert left.reason == "Shard 2/2: The run did not get past the stage boot (harness-error)."
    assert verdicts_of(record)["a"] == "conforms"
    assert record.exit_code == ExitCode.HARNESS


def test_merge_with_an_empty_shard_is_whole(tmp_path: Path) -> None:
    whole = (*STAGES, scenario("a", 1), scenario("c", 3))
    shards = [OneShard(tmp_path, number, 3, whole=whole).run() for number in (1, 2, 3)]
    assert read(shards[1]).exit_code == ExitCode.NOTHING_APPLICABLE
    record = read(merge(shards, tmp_path / "whole"))
    assert record.exit_code == ExitCode.OK
    assert verdicts_of(record) == dict.fromkeys(("fetch", "build", "boot", "a", "c"), "conforms")


def test_merge_of_a_resumed_shard_keeps_its_parts(tmp_path: Path) -> None:
    """A scenario in which the first part was interrupted stays a harness-error; later ones ran."""
    shard = OneShard(tmp_path, 2)
    shard.journal.run_started()
    for stage in STAGES:
        shard.journal.started(stage.id)
        shard.journal.ended(stage.id, Verdict.CONFORMS)
    shard.journal.started(scenario("c", 2).id)
    shard.journal.interrupted("SIGINT")
    shard.end()
    again = JournalWriter(shard.folder)
    again.resume(read(shard.folder))
    again.started(scenario("d", 2).id)
    again.ended(scenario("d", 2).id, Verdict.CONFORMS)
    again.run_ended()
    again.unlock()
    record = read(merge([OneShard(tmp_path, 1).run(), shard.folder], tmp_path / "whole"))
    assert not record.damage
    assert (verdicts_of(record)["c"], verdicts_of(record)["d"]) == ("harness-error", "conforms")
    assert (record.exit_code, len(record.resumed)) == (ExitCode.HARNESS, 1)


def test_merge_notes_different_accelerators(tmp_path: Path) -> None:
    shards = [OneShard(tmp_path, 1).run(), OneShard(tmp_path, 2, accelerator="kvm").run()]
    notes = read(merge(shards, tmp_path / "whole")).notes
    assert "The shards differ in the accelerator: tcg in shard 1/2, kvm in shard 2/2." in notes


def test_merge_numbers_machines_on_from_the_largest(tmp_path: Path) -> None:
    first, second = (OneShard(tmp_path, number, slowdowns={"machine-1": number}) for number in (1, 2))
    first.run()
    (first.folder / "machine-7").mkdir()  # that of a run that was killed before it could say so
    (first.folder / "machine-7" / "console.log").write_text("killed")
    second.journal.machine_up("machine-2", 1.0, "machine-1")
    second.run(end=False)
    second.end()
    whole = merge([first.folder, second.folder], tmp_path / "whole")
    record = read(whole)
    assert record.machines == tuple(f"machine-{number}" for number in (1, 2, 3, 8, 9))
    assert (whole / "machine-7" / "console.log").read_text() == "killed"
    assert read_facts(whole)["slowdowns"] == {"machine-1": 1, "machine-8": 2}
    events = [json.loads(line) for line in (whole / EVENTS).read_text().splitlines()]
    assert [one["machine"] for one in events if one.get("snapshot") == "machine-8"] == ["machine-9"]


def test_merge_renumbers_machines_in_reasons(tmp_path: Path) -> None:
    first, second = OneShard(tmp_path, 1), OneShard(tmp_path, 2)
    first.run()
    second.journal.run_started()
    for entry in STAGES:
        second.journal.started(entry.id)
        second.journal.ended(entry.id, Verdict.CONFORMS)
    second.machines += 1
    given_up = WHOLE[5]
    second.journal.started(given_up.id)
    second.journal.not_reached(given_up.id, "Given up after machine-1.")
    second.end()
    record = read(merge([first.folder, second.folder], tmp_path / "whole", incomplete=True))
    (reason,) = {one.reason for one in record.results if one.entry.id == given_up.id}
    assert "Given up after machine-4." in reason


# --- what is refused


def refused(folders: list[Path], into: Path) -> str:
    """Return the sentence of the refusal, after which nothing has been written."""
    with pytest.raises(PatchproofError) as refusal:
        merge(folders, into)
    assert not into.exists()
    assert refusal.value.exit_code == ExitCode.HARNESS
    return refusal.value.message


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"series": "v3"}, "the name of the series is v4 in the one, and v3 in the other"),
        ({"digest": "e" * 64}, "the digest of the series is d"),
        ({"base": "7.2"}, "the version of the base is 7.1.3 in the one"),
        ({"config_digest": "x"}, "the digest of its configuration is c in the one"),
        ({"program": "q"}, "the digest of suites, probes and harness is p"),
    ],
)
def test_merge_of_shards_that_differ_is_refused(tmp_path: Path, facts: dict[str, Any], words: str) -> None:
    shards = [OneShard(tmp_path, 1).run(), OneShard(tmp_path, 2, **facts).run()]
    message = refused(shards, tmp_path / "whole")
    assert "are not parts of one run" in message
    assert words in message


def test_merge_compares_facts_that_the_first_part_lacks(tmp_path: Path) -> None:
    kernels = ("k", "another")
    shards = [OneShard(tmp_path, 1, 3, whole=(*STAGES, *THREE), kernel=None).run()]
    shards += [
        OneShard(tmp_path, number, 3, whole=(*STAGES, *THREE), kernel=kernel).run()
        for number, kernel in enumerate(kernels, 2)
    ]
    message = refused(shards, tmp_path / "whole")
    assert f"{shards[1]} and {shards[2]} are not parts of one run" in message


def test_merge_of_other_selections_is_refused(tmp_path: Path) -> None:
    shards = [OneShard(tmp_path, 1).run(), OneShard(tmp_path, 2, whole=WHOLE[:-1]).run()]
    assert "shard 2/2 of 7" in refused(shards, tmp_path / "whole")


def test_merge_of_overlapping_shards_is_refused(tmp_path: Path) -> None:
    shards = [OneShard(tmp_path / "x", 1).run(), *both(tmp_path)]
    assert "overlap: both are shard 1/2" in refused(shards, tmp_path / "whole")
    assert "overlap" in refused([shards[0], shards[0]], tmp_path / "whole")


def test_merge_without_a_shard_names_the_missing(tmp_path: Path) -> None:
    whole = (*STAGES, *(scenario(name, number) for number, name in enumerate("abcd", 1)))
    shards = [OneShard(tmp_path, number, 4, whole=whole).run() for number in (2, 3)]
    assert "these are missing: 1/4, 4/4. Give" in refused(shards, tmp_path / "whole")
    record = read(merge(shards, tmp_path / "whole", incomplete=True))
    assert not record.damage
    assert {name: verdicts_of(record)[name] for name in "abcd"} == {
        "a": "not-reached",
        "b": "conforms",
        "c": "conforms",
        "d": "not-reached",
    }
    last = record.results[-1]
    assert last.reason == "The results of shard 4/4 are missing: they were not put together with the others."
    assert record.exit_code == ExitCode.HARNESS


def test_merge_of_a_cut_off_shard_is_refused(tmp_path: Path) -> None:
    cut_off = OneShard(tmp_path, 2)
    cut_off.run({"d": Verdict.NOT_APPLICABLE}, end=False)
    journal = cut_off.folder / EVENTS
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-2]) + lines[-2][:20])  # killed while it wrote the end of `d`
    cut_off.journal.unlock()
    shards = [OneShard(tmp_path, 1).run(), cut_off.folder]
    message = refused(shards, tmp_path / "whole")
    assert "(shard 2/2) was cut off" in message
    assert f"run --resume {cut_off.folder}" in message
    record = read(merge(shards, tmp_path / "whole", incomplete=True))
    assert (verdicts_of(record)["c"], verdicts_of(record)["d"]) == ("conforms", "kernel-died")
    assert record.exit_code == ExitCode.HARNESS
    assert "The run of shard 2/2 was cut off." in record.notes


def test_merge_of_an_interrupted_shard_is_no_interruption(tmp_path: Path) -> None:
    stopped = OneShard(tmp_path, 2)
    stopped.journal.run_started()
    stopped.journal.started("fetch")
    stopped.journal.interrupted("SIGINT")
    stopped.end()
    shards = [OneShard(tmp_path, 1).run(), stopped.folder]
    assert "was cut off" in refused(shards, tmp_path / "whole")
    record = read(merge(shards, tmp_path / "whole", incomplete=True))
    assert (record.interrupted, record.exit_code) == ("", ExitCode.HARNESS)
    left = next(result for result in record.results if result.entry.id.endswith("::c"))
    assert left.reason == "Shard 2/2: The run was interrupted by Ctrl-C (SIGINT) before it."


def test_merge_of_a_run_that_goes_on_is_refused(tmp_path: Path) -> None:
    running = OneShard(tmp_path, 2)
    running.run(end=False)
    assert "is still going on" in refused([OneShard(tmp_path, 1).run(), running.folder], tmp_path / "whole")


def test_merge_of_no_shard_is_refused(tmp_path: Path) -> None:
    one = OneShard(tmp_path, 1).run()
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "it is not the results folder of a run" in refused([one, empty], tmp_path / "whole")
    whole = merge([one, OneShard(tmp_path, 2).run()], tmp_path / "first")
    assert "it was run without --shard" in refused([one, whole], tmp_path / "whole")


def test_merge_of_a_changed_plan_is_refused(tmp_path: Path) -> None:
    one, two = both(tmp_path)
    plan = two / "plan.json"
    content = json.loads(plan.read_text())
    content["entries"][-2]["expected"] = "violates"
    plan.write_text(json.dumps(content))
    assert "was changed: its digest is another" in refused([one, two], tmp_path / "whole")


@pytest.mark.parametrize(
    "shard", [{"number": 2, "total": 10**9}, {"number": 0, "total": 2}, {"number": 1}, 1]
)
def test_merge_of_a_shard_that_cannot_be_is_refused(tmp_path: Path, shard: object) -> None:
    one, two = both(tmp_path)
    plan = two / "plan.json"
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "shard": shard}))
    assert "is not a plan that this version" in refused([one, two], tmp_path / "whole")


def test_merge_of_a_note_without_a_text_goes_on(tmp_path: Path) -> None:
    one, two = both(tmp_path)
    with (two / EVENTS).open("a") as stream:
        stream.write('{"event": "note"}\n{"event": "note", "text": ["a"]}\n')
    assert read(merge([one, two], tmp_path / "whole")).exit_code == ExitCode.OK


def test_merge_of_a_contradictory_journal_is_refused(tmp_path: Path) -> None:
    one, two = both(tmp_path)
    with (two / EVENTS).open("a") as stream:
        stream.write("not json\n")
    assert "its journal contradicts itself" in refused([one, two], tmp_path / "whole")


def test_merge_into_a_folder_with_files_is_refused(tmp_path: Path) -> None:
    one, two = both(tmp_path)
    with pytest.raises(PatchproofError, match="exists already"):
        merge([one, two], two.parent)
    assert "is inside of" in refused([one, two], two / "whole")


def test_merge_copies_no_file_from_elsewhere(tmp_path: Path) -> None:
    """A results folder of another machine may hold links; only regular files are copied."""
    one, two = both(tmp_path)
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    (two / "transcripts" / "link.txt").symlink_to(secret / "key")
    (two / "base").symlink_to(secret)
    os.mkfifo(two / "pipe")
    events = (two / EVENTS).read_text()
    (two / EVENTS).write_text(events.replace('"transcript": "transcripts/', '"transcript": "../../secret/'))
    folder = merge([one, two], tmp_path / "whole")
    copied = [path for path in folder.rglob("*") if path.is_file()]
    assert copied
    assert not any("secret" in path.read_text() for path in copied if path.name != EVENTS)
    assert not (folder / "shard-2" / "base").exists()
