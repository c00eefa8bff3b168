"""The test importer's module: built with its kernel, blamed on whom it concerns, loaded and unloaded."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from small_kernel import SmallKernel, bzimage, headers

from harness.actor import load
from harness.guest.guest import Guest
from harness.journal.results_folder import ResultsFolder
from harness.kernel import build, module
from harness.kernel.build import Kernel, build_kernel
from harness.kernel.tree import Tree
from harness.lib.errors import BuildError, HarnessError
from harness.lib.progress import Progress
from harness.run import importer_module
from harness.run import machines as machine_module
from harness.run.error_to_verdict import NotApplicableError, observation_of
from harness.run.importer_module import ImporterModule
from harness.run.machines import Machines
from harness.run.request import Request
from harness.verdict.verdict import Verdict
from harness.vm.ssh import Completed

REFUSES: dict[str, str | None] = {"drivers/no-modules": ""}


@pytest.fixture
def small(tmp_path: Path) -> SmallKernel:
    made = SmallKernel(tmp_path)
    made.fragment.write_text("CONFIG_PCI=y\nCONFIG_VFIO_PCI=y\nCONFIG_MODULES=y\n")
    return made


def kernel_and_module(small: SmallKernel, tree: Tree) -> tuple[Kernel, Path]:
    progress, fragments = Progress(small.store, io.StringIO()), [small.fragment]
    kernel = build_kernel(small.store, progress, tree, fragments, small.log)
    return kernel, module.build_module(small.store, progress, tree, kernel, fragments, small.log)


class TestBuild:
    def test_module_is_built_after_its_kernel(self, small: SmallKernel) -> None:
        _, path = kernel_and_module(small, small.tree())
        assert path.name == "patchproof_importer.ko"
        assert "CONFIG_MODULES=y\n" in path.read_text()
        log = small.log.read_text()
        assert log.count("  LD      vmlinux\n") == log.count("  CC [M]  main.o\n") == 1
        started = [line for line in log.splitlines() if line.startswith("$ ")]
        configured = [line for line in started if line.endswith(" allnoconfig")]
        assert len(configured) == 1  # the kernel was not made once more for it

    def test_module_comes_from_the_cache(self, small: SmallKernel) -> None:
        _, first = kernel_and_module(small, small.tree())
        small.log.unlink()
        _, again = kernel_and_module(small, small.tree())
        assert again == first
        assert not small.log.exists()

    def test_module_is_rebuilt_if_its_source_changes(
        self, small: SmallKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, first = kernel_and_module(small, small.tree())
        changed = tmp_path / "Kbuild"
        changed.write_text("# another\n")
        monkeypatch.setattr(module, "sources", lambda: [changed])
        _, other = kernel_and_module(small, small.tree())
        assert other != first
        assert other.read_text().endswith("# another\n")

    def test_kernel_is_made_again_if_its_folder_moved_on(self, small: SmallKernel) -> None:
        progress, fragments = Progress(small.store, io.StringIO()), [small.fragment]
        old, new = small.tree(), small.tree({"drivers/core.c": "int other;\n"})
        kernel = build_kernel(small.store, progress, old, fragments, small.log)
        build_kernel(small.store, progress, new, fragments, small.log)
        small.log.unlink()
        module.build_module(small.store, progress, old, kernel, fragments, small.log)
        assert small.compiled() == ["[M]", "drivers/core.o"]

    def test_module_is_built_early_beside_its_kernel(self, small: SmallKernel) -> None:
        progress, fragments, tree = Progress(small.store, io.StringIO()), [small.fragment], small.tree()
        early = module.build_early(small.store, progress, tree, fragments, small.log)
        kernel = build_kernel(small.store, progress, tree, fragments, small.log, early)
        build_kernel(small.store, progress, small.tree(REFUSES), fragments, small.log)  # of another run
        small.log.unlink()
        assert module.build_module(small.store, progress, tree, kernel, fragments, small.log).is_file()
        assert not small.log.exists()  # nothing was compiled for it now

    def test_error_of_an_early_module_is_left_for_later(self, small: SmallKernel) -> None:
        progress, fragments, tree = (
            Progress(small.store, io.StringIO()),
            [small.fragment],
            small.tree(REFUSES),
        )
        early = module.build_early(small.store, progress, tree, fragments, small.log)
        kernel = build_kernel(small.store, progress, tree, fragments, small.log, early)
        assert "no modules here" in small.log.read_text()
        assert not module.is_built(small.store, kernel)

    def test_removed_module_is_built_again(self, small: SmallKernel) -> None:
        kernel, path = kernel_and_module(small, small.tree())
        module.remove_from_cache(small.store, kernel)
        assert not path.exists()
        assert kernel_and_module(small, small.tree())[1] == path
        assert path.exists()

    def test_module_that_does_not_compile_is_a_build_error(self, small: SmallKernel) -> None:
        with pytest.raises(BuildError, match="test importer failed with 1 error") as caught:
            kernel_and_module(small, small.tree(REFUSES))
        assert "main.c:1:2: error: no modules here" in caught.value.tail


class TestFault:
    """The fault for a module that cannot be had."""

    @pytest.fixture
    def results(self, tmp_path: Path) -> ResultsFolder:
        return ResultsFolder.create(tmp_path / "results", "x")

    def built_with(
        self, small: SmallKernel, results: ResultsFolder, tree: Tree, *, no_base: bool = False
    ) -> ImporterModule:
        progress = Progress(small.store, io.StringIO())
        kernel = build_kernel(small.store, progress, tree, [small.fragment], small.log)
        request = Request(kconfig=(small.fragment,), no_base=no_base)
        return ImporterModule(small.store, progress, request, results, kernel, tree)

    @pytest.fixture(autouse=True)
    def only_the_fragment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Request, "fragments", property(lambda request: request.kconfig))

    def test_kernel_without_modules_is_not_applicable(
        self, small: SmallKernel, results: ResultsFolder
    ) -> None:
        with pytest.raises(NotApplicableError, match="and so needs CONFIG_MODULE_UNLOAD, which is off"):
            self.built_with(small, results, small.tree()).path()

    def test_prebuilt_kernel_is_not_applicable(
        self, small: SmallKernel, results: ResultsFolder, tmp_path: Path
    ) -> None:
        kernel = build.prebuilt(bzimage(tmp_path / "bzImage"), headers(tmp_path / "include"))
        progress = Progress(small.store, io.StringIO())
        one = ImporterModule(small.store, progress, Request(), results, kernel, None)
        with pytest.raises(NotApplicableError, match=r"built elsewhere \(--kernel\)"):
            one.path()

    @pytest.fixture
    def unloadable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Kernel, "absent", lambda self, option: "")

    @pytest.mark.usefixtures("unloadable")
    def test_module_is_built_once(
        self, small: SmallKernel, results: ResultsFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = self.built_with(small, results, small.tree())
        path = one.path()
        monkeypatch.setattr(importer_module, "build_module", None)
        assert one.path() == path

    @pytest.mark.usefixtures("unloadable")
    def test_series_that_breaks_the_module_violates(self, small: SmallKernel, results: ResultsFolder) -> None:
        one = self.built_with(small, results, small.tree(REFUSES))
        with pytest.raises(BuildError, match=r"compiles for 6\.19\.6, and not for the series") as caught:
            one.path()
        assert observation_of(caught.value, "").verdict is Verdict.VIOLATES

    @pytest.mark.usefixtures("unloadable")
    def test_module_that_the_base_breaks_is_an_error(
        self, small: SmallKernel, results: ResultsFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = self.built_with(small, results, small.tree({"drivers/core.c": "int other;\n"}))

        def fail(*_: object) -> Path:
            raise BuildError("It does not compile.")

        monkeypatch.setattr(importer_module, "build_module", fail)
        with pytest.raises(HarnessError, match="compiles neither for the series nor for"):
            one.path()

    @pytest.mark.usefixtures("unloadable")
    def test_base_that_breaks_the_module_is_an_error(
        self, small: SmallKernel, results: ResultsFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = self.built_with(small, results, small.tree())

        def fail(*_: object) -> Path:
            raise BuildError("It does not compile.")

        monkeypatch.setattr(importer_module, "build_module", fail)
        with pytest.raises(HarnessError, match=r"does not compile for 6\.19\.6"):
            one.path()

    @pytest.mark.usefixtures("unloadable")
    def test_without_a_base_the_error_is_kept(self, small: SmallKernel, results: ResultsFolder) -> None:
        one = self.built_with(small, results, small.tree(REFUSES), no_base=True)
        with pytest.raises(BuildError, match=r"^The build of the test importer failed"):
            one.path()


class FakeConsole:
    log = Path("console.log")

    def mark(self) -> int:
        return 0

    def since(self, mark: int) -> str:
        return "patchproof_importer: version magic differs\n"


class FakeMachine:
    name = "machine-1"
    console = FakeConsole()

    def close(self) -> None:
        pass

    class accelerator:  # noqa: N801 - as the attribute of a machine
        time_scale = 0.01


class FakeGuest:
    """A guest whose module has these reference counts, one after the other."""

    machine = FakeMachine()

    def __init__(self, *counts: str, answer: bytes = b"ok\n") -> None:
        self.counts = list(counts)
        self.answer = answer
        self.lines: list[bytes] = []

    def script(self, text: str, *arguments: str) -> Completed:
        count = self.counts.pop(0) if len(self.counts) > 1 else self.counts[0]
        return Completed(0, f"{count}\n".encode(), b"")

    def push(self, local: Path, remote: str, mode: int = 0o755) -> str:
        return remote

    def run(self, argv: list[str], stdin: bytes = b"") -> Completed:
        self.lines.append(stdin)
        return Completed(0, self.answer, b"")


KO = Path("patchproof_importer.ko")


def as_guest(fake: FakeGuest) -> Guest:
    return cast(Guest, fake)


class TestLoad:
    def test_module_is_loaded_once(self) -> None:
        absent, present = FakeGuest("absent"), FakeGuest("0")
        load.load(as_guest(absent), Path("actor"), KO)
        load.load(as_guest(present), Path("actor"), KO)
        assert absent.lines == [b"loadmodule /run/patchproof_importer.ko\n"]
        assert present.lines == []

    def test_module_that_does_not_load_is_a_sentence(self) -> None:
        fake = FakeGuest("absent", answer=b"error ENOEXEC loadmodule: Exec format error\n")
        with pytest.raises(HarnessError, match="could not be loaded: error ENOEXEC") as caught:
            load.load(as_guest(fake), Path("actor"), KO)
        assert caught.value.tail == "patchproof_importer: version magic differs"

    def test_module_is_unloaded_by_its_name(self) -> None:
        fake, absent = FakeGuest("0"), FakeGuest("absent")
        load.unload(as_guest(fake), Path("actor"), KO)
        load.unload(as_guest(absent), Path("actor"), KO)
        assert fake.lines == [b"unloadmodule patchproof_importer\n"]
        assert absent.lines == []

    def test_files_of_an_ended_actor_are_waited_for(self) -> None:
        load.require_unused(as_guest(FakeGuest("2", "1", "0")), KO)

    def test_module_that_stays_in_use_is_an_error(self) -> None:
        with pytest.raises(HarnessError, match="still holds 2 files or fences"):
            load.require_unused(as_guest(FakeGuest("2")), KO)

    def test_unreadable_reference_count_is_an_error(self) -> None:
        with pytest.raises(HarnessError, match="cannot be read: 'x'"):
            load.require_unused(as_guest(FakeGuest("x")), KO)


class TestMachines:
    """The module on a machine: loaded for its first user, and unloaded when the machine is given up."""

    @pytest.fixture
    def machines(self, tmp_path: Path) -> Machines:
        results = ResultsFolder.create(tmp_path / "results", "x")
        journal = results.journal()
        journal.plan([])
        made = Machines(Request(), results, journal)
        self.results = results
        software = SimpleNamespace(actor=Path("actor"), importer=SimpleNamespace(path=lambda: KO))
        made.software = cast(machine_module.TestedSoftware, software)
        return made

    def ended(self, machines: Machines) -> tuple[str, str]:
        """Give the machine up; return its verdict, if any, and the reason."""
        machines.retire("all is well")
        last = json.loads((self.results.dir / "events.jsonl").read_text().splitlines()[-1])
        return str(last.get("verdict", "")), str(last["reason"])

    def test_module_is_unloaded_at_the_end(self, machines: Machines) -> None:
        fake = FakeGuest("absent", "0")
        machines.guest = as_guest(fake)
        assert machines.load_importer() == KO
        assert self.ended(machines) == ("", "all is well")
        assert fake.lines == [
            b"loadmodule /run/patchproof_importer.ko\n",
            b"unloadmodule patchproof_importer\n",
        ]

    def test_machine_without_the_module_unloads_nothing(self, machines: Machines) -> None:
        fake = FakeGuest("0")
        machines.guest = as_guest(fake)
        assert self.ended(machines) == ("", "all is well")
        assert fake.lines == []

    def test_module_that_does_not_unload_is_an_error(self, machines: Machines) -> None:
        fake = FakeGuest("absent", "1")
        machines.guest = as_guest(fake)
        machines.load_importer()
        fake.answer = b"error EAGAIN unloadmodule: Resource temporarily unavailable\n"
        verdict, reason = self.ended(machines)
        assert verdict == "harness-error"
        assert "could not be unloaded: error EAGAIN" in reason

    def test_module_needs_a_machine(self, machines: Machines) -> None:
        with pytest.raises(HarnessError, match="no machine runs"):
            machines.load_importer()
