"""The stages in order, and the journal of a stage that fails."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, cast

import pytest
from mails import mail, patch
from small_kernel import bzimage, headers
from small_run import CORE, make_checkout, make_series

from harness.journal.facts import read_facts, read_mails
from harness.journal.reader import read
from harness.journal.results_folder import ResultsFolder
from harness.journal.writer import JournalWriter
from harness.kernel import build
from harness.lib import git
from harness.lib.cache import Store
from harness.lib.errors import (
    ApplyError,
    BootError,
    BootTimeoutError,
    BuildError,
    ExitCode,
    HarnessError,
    PatchproofError,
    UsageError,
)
from harness.lib.files import digest
from harness.lib.progress import Progress
from harness.report import junit, terminal
from harness.run import base_alone, run, stages
from harness.run.base_alone import BaseAlone
from harness.run.machines import Machines
from harness.run.needs import Needs
from harness.run.parts import RunParts
from harness.run.request import Request, RunInput, load
from harness.run.stages import Stages
from harness.series.series import Series
from harness.verdict.record import Entry, Record
from harness.verdict.verdict import Kind, Verdict
from harness.vm import image, machine
from harness.vm.image import Image
from harness.vm.pci_devices import Layout


class Prepared:
    """The stages over a small kernel, with its results folder."""

    def __init__(self, folder: Path, request: Request) -> None:
        self.store = Store(folder / "cache")
        self.results = ResultsFolder.create(folder / "results", "test")
        self.journal = JournalWriter(self.results.dir)
        self.journal.plan(stages.stages_of(request))
        self.journal.run_started()
        self.machines = Machines(request, self.results, self.journal)
        self.output = io.StringIO()
        progress = Progress(self.store, self.output)
        parts = RunParts(load(request), self.store, progress, self.results, self.journal)
        self._stages = Stages(parts, BaseAlone(parts))

    def prepare(self) -> None:
        self._stages.prepare(self.machines, Layout())

    def record(self) -> Record:
        self.journal.run_ended()
        return read(self.results.dir)

    def verdicts(self) -> dict[str, Verdict]:
        return {result.entry.id: result.verdict for result in self.record().results}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "linux")


def test_stages_of_a_given_kernel_have_no_build() -> None:
    given = Request(kernel=Path("bzImage"), headers=Path("include"))
    assert [entry.id for entry in stages.stages_of(given)] == ["interface", "image", "probes", "boot"]
    assert [entry.id for entry in stages.stages_of(Request(series="baseline"))] == [
        *("fetch", "apply", "build", "interface", "image", "probes", "boot")
    ]


def test_stages_fetch_and_image_blame_the_harness() -> None:
    kinds = {entry.id: entry.kind for entry in stages.STAGES}
    assert {name for name, kind in kinds.items() if kind is Kind.HARNESS} == {"fetch", "image"}


@pytest.mark.parametrize(
    "request_", [Request(tree=Path("/src/my linux")), Request(kernel=Path("my linux"), headers=Path("h"))]
)
def test_load_series_of_a_tree_has_no_patches(request_: Request) -> None:
    tested = load(request_).series
    assert (tested.patches, tested.dialect) == ((), "auto")
    assert "my linux" in tested.title


def test_check_refuses_a_qemu_without_edu(qemu_without_edu: Path) -> None:
    with pytest.raises(HarnessError, match=r"does not have the device edu\. .*--qemu PATH"):
        stages.check(Request(series="baseline", qemu=str(qemu_without_edu)))


@pytest.fixture
def qemu_without_edu(tmp_path: Path) -> Path:
    wrapper = tmp_path / "qemu"
    wrapper.write_text(
        '#!/bin/sh\ncase "$*" in\n*"-device help")\n'
        """    qemu-system-x86_64 -device help | grep -v '^name "edu"' ;;\n"""
        '*)\n    exec qemu-system-x86_64 "$@" ;;\nesac\n'
    )
    wrapper.chmod(0o755)
    return wrapper


def test_check_refuses_a_kernel_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(b"\x7fELF" + bytes(4096))
    with pytest.raises(UsageError, match="is not an x86 bzImage"):
        stages.check(Request(kernel=tmp_path / "vmlinux", headers=tmp_path))


def test_stage_apply_fails_with_the_patch_and_hunk(checkout: Path, tmp_path: Path) -> None:
    series = make_series(tmp_path / "series", "int nowhere;", "int line_0;")
    run = Prepared(tmp_path, Request(series=str(series), tree=checkout))
    with pytest.raises(ApplyError):
        run.prepare()
    assert run.verdicts() == {
        "fetch": Verdict.CONFORMS,
        "apply": Verdict.VIOLATES,
        **dict.fromkeys(("build", "interface", "image", "probes", "boot"), Verdict.NOT_REACHED),
    }
    (apply,) = [result for result in run.record().results if result.entry.id == "apply"]
    for part in ("0001-change.patch", CORE, "hunk 1 of 1"):
        assert part in apply.reason
    assert run.record().exit_code is ExitCode.SERIES


def test_stage_build_fails_with_the_compilers_error(checkout: Path, tmp_path: Path) -> None:
    series = make_series(tmp_path / "series", "int line_10;", "int line_10")
    run = Prepared(tmp_path, Request(series=str(series), tree=checkout))
    with pytest.raises(BuildError):
        run.prepare()
    assert run.verdicts() == {
        **dict.fromkeys(("fetch", "apply"), Verdict.CONFORMS),
        "build": Verdict.VIOLATES,
        **dict.fromkeys(("interface", "image", "probes", "boot"), Verdict.NOT_REACHED),
    }
    (build,) = [result for result in run.record().results if result.entry.id == "build"]
    assert f"{CORE}:10:12: error: expected" in build.details
    assert (run.results.dir / build.transcript).read_text().count("error: expected")
    assert run.record().exit_code is ExitCode.SERIES


def test_stages_record_what_the_mails_state(checkout: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cover = mail("[RFC v2 0/1] vfio: all", f"v1: https://example.org/1\nbase-commit: {commit}\n", name="c")
    broken = mail("[RFC v2 1/1] vfio: a", patch(10).replace("line_9", "nowhere"), name="p", to="c")
    extra = mail("[PATCH] vfio: more", patch(20), name="e", to="p")
    box = tmp_path / "thread.mbox"
    box.write_bytes(cover + broken + extra)
    run = Prepared(tmp_path, Request(series=str(box), tree=checkout))
    with pytest.raises(ApplyError):
        run.prepare()
    facts = read_facts(run.results.dir)
    assert (facts["message_id"], facts["revision"], facts["base_commit"]) == ("c@example.org", "RFC2", commit)
    assert (facts["previous"], facts["manifest"]) == (["https://example.org/1"], "")
    assert [one["message_id"] for one in read_mails(facts)] == ["c@example.org", "p@example.org"]
    notes = run.record().notes
    assert "The mails are revision RFC2, Message-ID <c@example.org>." in notes
    assert any("Left out: the patch '[PATCH] vfio: more'" in note for note in notes)


def break_core(checkout: Path) -> None:
    """Make line 5 of core.c one that does not compile."""
    core = checkout / CORE
    core.write_text(core.read_text().replace("int line_5;", "int line_5"))


def test_build_that_fails_on_the_base_too_is_no_violation(checkout: Path, tmp_path: Path) -> None:
    break_core(checkout)
    series = make_series(tmp_path / "series", "int line_10;", "long line_10;")
    run = Prepared(tmp_path, Request(series=str(series), tree=checkout))
    with pytest.raises(HarnessError, match=r"The base 6\.19\.6 alone does not build either") as failed:
        run.prepare()
    assert f"{CORE}:" in failed.value.tail
    assert failed.value.log == run.results.dir / "base-build.log"
    assert run.verdicts()["build"] is Verdict.HARNESS_ERROR
    assert run.record().exit_code is ExitCode.HARNESS


def test_build_that_fails_without_base_is_a_violation(checkout: Path, tmp_path: Path) -> None:
    break_core(checkout)
    series = make_series(tmp_path / "series", "int line_10;", "long line_10;")
    run = Prepared(tmp_path, Request(series=str(series), tree=checkout, no_base=True))
    with pytest.raises(BuildError):
        run.prepare()
    assert not (run.results.dir / "base-build.log").exists()
    assert run.record().exit_code is ExitCode.SERIES


def test_build_that_fails_with_an_unknown_base_blames_nobody(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> NoReturn:
        raise HarnessError("The disk is full.")

    monkeypatch.setattr(base_alone, "build_kernel", fails)
    series = make_series(tmp_path / "series", "int line_10;", "int line_10")
    run = Prepared(tmp_path, Request(series=str(series), tree=checkout))
    with pytest.raises(HarnessError, match=r"could not be tried: The disk is full\. With the series: "):
        run.prepare()
    assert run.record().exit_code is ExitCode.HARNESS


@pytest.mark.parametrize(
    ("base_boots", "error", "code"),
    [(True, BootError, ExitCode.SERIES), (False, HarnessError, ExitCode.HARNESS)],
)
def test_boot_that_fails_is_tried_with_the_base(
    checkout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    base_boots: bool,
    error: type[Exception],
    code: ExitCode,
) -> None:
    booted: list[bytes] = []

    class Machine:
        def close(self) -> None: ...

    def boot(bzimage: Path, *_: object, **__: object) -> Machine:
        booted.append((bzimage.parent / "vmlinux").read_bytes())
        if base_boots and len(booted) == 2:
            return Machine()
        raise BootError("The kernel panicked.")

    given = Path("given")
    monkeypatch.setattr(image, "build", lambda *_: Image(given, given, ""))
    monkeypatch.setattr(stages, "build_actor", lambda *_: given)
    monkeypatch.setattr(machine, "boot", boot)
    series = make_series(tmp_path / "series", "int line_10;", "int line_10 = 7;")
    run = Prepared(tmp_path, Request(series=str(series), tree=checkout, accel="tcg"))
    with pytest.raises(error, match="The kernel panicked"):
        run.prepare()
    assert len(set(booted)) == len(booted) == 2
    assert run.record().exit_code is code


def test_stages_write_facts_of_what_is_tested(checkout: Path, tmp_path: Path) -> None:
    series = make_series(tmp_path / "series", "int line_10;", "long line_10;")
    run = Prepared(tmp_path, Request(series=str(series), tree=checkout))
    (run.store.root / "image").touch()  # a file where a folder belongs: the stage image fails
    with pytest.raises(HarnessError):
        run.prepare()
    assert run.verdicts()["build"] is Verdict.CONFORMS
    facts = read_facts(run.results.dir)
    assert facts["base"] == facts["base_wanted"] == "6.19.6"
    assert str(checkout) in str(facts["base_source"])
    patched = load(Request(series=str(series))).series
    assert (facts["identity"], facts["digest"]) == (patched.identity, patched.digest)
    assert facts["checkout"] == git.resolve(checkout / ".git", "HEAD^{tree}") != facts["tree"]
    assert [facts["kernel"]] == [path.name for path in (run.store.root / "kernel").iterdir()]
    assert str(facts["compiler"]).startswith("gcc ")
    assert facts["warnings"] == []
    assert facts["config_digest"] == digest((run.results.dir / ".config").read_bytes())


def test_stage_refused_by_the_host_is_a_harness_error(checkout: Path, tmp_path: Path) -> None:
    run = Prepared(tmp_path, Request(tree=checkout))
    (tmp_path / "cache" / "trees").write_text("not a folder")
    with pytest.raises(HarnessError, match=r"This host refused .*: File exists") as failed:
        run.prepare()
    assert str(tmp_path / "cache" / "trees") in failed.value.message
    assert run.verdicts()["fetch"] is Verdict.HARNESS_ERROR
    assert run.record().exit_code is ExitCode.HARNESS


def test_guest_before_the_kernel_is_a_harness_error(checkout: Path, tmp_path: Path) -> None:
    run = Prepared(tmp_path, Request(tree=checkout))
    with pytest.raises(HarnessError, match="before the stages had built its kernel"):
        run.machines.guest_for(Needs())
    run.machines.end("there is none")
    run.machines.close()


def test_late_boot_after_a_first_boot_blames_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: object, **__: object) -> NoReturn:
        raise BootTimeoutError("The guest did not come up within 45 s.")

    given = Path("given")
    monkeypatch.setattr(image, "build", lambda *_: Image(given, given, ""))
    monkeypatch.setattr(stages, "build_actor", lambda *_: given)
    monkeypatch.setattr(machine, "boot", late)
    kernel, include = bzimage(tmp_path / "bzImage"), headers(tmp_path / "include")
    run = Prepared(tmp_path, Request(kernel=kernel, headers=include, accel="tcg"))
    with pytest.raises(BootTimeoutError):
        run.prepare()
    with pytest.raises(HarnessError, match=r"could be used before .* within 45 s\. .* host is busy"):
        run.machines.guest_for(Needs())


@pytest.mark.parametrize(
    ("missing", "error"),
    [({}, BootError), ({"UDMABUF": "CONFIG_UDMABUF=y: no such option"}, BootError),
     ({"VIRTIO_BLK": "CONFIG_VIRTIO_BLK=y: no such option"}, HarnessError)],
)  # fmt: skip
def test_no_boot_of_a_base_without_needed_options_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: dict[str, str], error: type[PatchproofError]
) -> None:
    """Only an option that the guest needs to start excuses a kernel that does not boot."""

    def dead(*_: object, **__: object) -> NoReturn:
        raise BootError("The kernel died while it booted.")

    given = Path("given")
    monkeypatch.setattr(image, "build", lambda *_: Image(given, given, ""))
    monkeypatch.setattr(stages, "build_actor", lambda *_: given)
    monkeypatch.setattr(machine, "boot", dead)
    kernel, include = bzimage(tmp_path / "bzImage"), headers(tmp_path / "include")
    built = replace(build.prebuilt(kernel, include), missing=missing)
    monkeypatch.setattr(build, "prebuilt", lambda *_: built)
    run = Prepared(tmp_path, Request(kernel=kernel, headers=include, accel="tcg"))
    with pytest.raises(error, match="The kernel died while it booted") as caught:
        run.prepare()
    assert type(caught.value) is error
    assert ("VIRTIO_BLK" in caught.value.message) == (error is HarnessError)
    assert read_facts(run.results.dir)["missing_options"] == list(missing)
    notes = [note for note in run.record().notes if "built without" in note]
    assert notes == [f"The kernel is built without {reason}." for reason in missing.values()]


@pytest.fixture
def booting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Prepared]:
    """Go through the stages with a prebuilt kernel whose header has this text, and no machine."""
    given = Path("given")
    monkeypatch.setattr(image, "build", lambda *_: Image(given, given, ""))
    monkeypatch.setattr(stages, "build_actor", lambda *_: given)
    monkeypatch.setattr(Machines, "boot_first", lambda *_: None)
    kernel, include = bzimage(tmp_path / "bzImage"), headers(tmp_path / "include")

    def prepare(header: str) -> Prepared:
        (include / "linux" / "vfio.h").write_text(header)
        run = Prepared(tmp_path, Request(kernel=kernel, headers=include, accel="tcg"))
        run.prepare()
        return run

    return prepare


def test_unknown_interface_is_a_harness_error_and_the_run_goes_on(
    booting: Callable[[str], Prepared],
) -> None:
    run = booting("#define VFIO_DEVICE_FEATURE_DMABUF_REVOKE 13\n")
    assert run.verdicts() == {
        "interface": Verdict.HARNESS_ERROR,
        **dict.fromkeys(("image", "probes", "boot"), Verdict.CONFORMS),
    }
    assert run.machines.ready.dialect == read_facts(run.results.dir)["dialect"] == "map"
    (entry,) = [result for result in run.record().results if result.entry.id == "interface"]
    assert "VFIO_DEVICE_FEATURE_DMABUF_REVOKE = 13 (linux/vfio.h)" in entry.reason
    assert run.record().exit_code is ExitCode.HARNESS


def test_interfaces_are_told_with_their_constants(booting: Callable[[str], Prepared]) -> None:
    run = booting("#define VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE 14\n")
    assert run.verdicts()["interface"] is Verdict.CONFORMS
    told = "revoke: feature 14 (VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE in linux/vfio.h); memory attributes: none"
    facts = read_facts(run.results.dir)
    assert (facts["dialect"], facts["interfaces"]) == ("feature", told)
    assert f"interfaces: {told}" in run.output.getvalue()
    shown = io.StringIO()
    terminal.show(run.results.dir, shown)
    assert f"Dialect feature; {told}." in " ".join(shown.getvalue().split())
    assert f'name="interfaces" value="{told}"' in junit.render(run.results.dir).decode()


def test_entry_after_a_stage_that_only_reports_has_its_reason(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path)
    journal.plan([*stages.STAGES, Entry("test_a", Kind.SCENARIO, "")])
    for entry in stages.STAGES:
        journal.started(entry.id)
        journal.ended(entry.id, Verdict.HARNESS_ERROR if entry.id == "interface" else Verdict.CONFORMS)
    assert read(tmp_path).results[-1].reason == "The run ended before it."


@pytest.mark.parametrize("content", ['{"build": null}', '{"build": []}', "{", "[]"])
def test_damaged_durations_of_stages_end_no_run(tmp_path: Path, content: str) -> None:
    store = Store(tmp_path)
    kept = store.path("durations.json")
    kept.write_text(content)
    with Progress(store, io.StringIO()).stage("build") as stage:
        assert stage.estimate is None
    assert "build" in json.loads(kept.read_text())


def test_programs_are_not_run_after_a_failed_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    class FailedRun:
        def __init__(self, *_: object) -> None:
            self.failures: list[PatchproofError] = []

        def prepare(self) -> bool:
            self.failures.append(BootError("It panics."))
            return False

        def run_selftests(self) -> None:
            pytest.fail("a kernel that does not boot has no answers of its programs")

        def finish(self, interrupted: str) -> ExitCode:
            return self.failures[0].exit_code

    monkeypatch.setattr(run, "Run", FailedRun)
    base = RunInput(Request(series="s"), series=cast(Series, None))
    assert run.run_without_scenarios(base) == ExitCode.SERIES
