"""Building a tree, and taking a prebuilt kernel."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from processes import running, until
from small_kernel import DMABUF, SmallKernel, bzimage, headers

from harness.kernel import build, lost_options
from harness.kernel.build import Kernel
from harness.lib import sandbox
from harness.lib.errors import BuildError, HarnessError, UsageError

DATA = Path(__file__).parent / "data" / "kbuild"


@pytest.fixture
def small(tmp_path: Path) -> SmallKernel:
    return SmallKernel(tmp_path)


ALL = ["drivers/core.o", "drivers/dmabuf.o", "lib/piggy.o"]


# A series that takes an option away, with its last use, and a use that stays.
WITHOUT_VFIO_PCI: dict[str, str | None] = {"Kconfig": 'config PCI\n\tbool "PCI"\n'}
USES_VFIO_PCI: dict[str, str | None] = {
    "drivers/dmabuf.c": f"{DMABUF}#ifdef CONFIG_VFIO_PCI\nint more;\n#endif\n"
}


def test_build_makes_a_whole_kernel(small: SmallKernel) -> None:
    built = small.build()
    assert built.release == "6.19.6-small"
    assert (built.headers / "linux" / "vfio.h").is_file()
    assert built.config is not None
    assert built.config.read_text() == "CONFIG_PCI=y\nCONFIG_VFIO_PCI=y\n"
    assert built.vmlinux is not None
    assert built.vmlinux.is_file()
    assert built.compiler.startswith("gcc ")
    assert small.compiled() == ALL
    assert (built.bzimage.parent / "build.log").read_text() == small.log.read_text()


def test_build_again_comes_from_the_cache(small: SmallKernel) -> None:
    first = small.build()
    assert small.build() == first
    assert small.compiled() == []


def test_build_of_another_series_compiles_what_differs(small: SmallKernel) -> None:
    base = small.build()
    changed = small.build({"drivers/dmabuf.c": DMABUF.replace("1", "2")})
    assert changed.identity != base.identity
    assert small.compiled() == ["drivers/dmabuf.o"]
    small.build({"drivers/more.c": "int more(void);\nint more(void) { return 0; }\n"})
    assert small.compiled() == ["drivers/dmabuf.o", "drivers/more.o"]


def test_build_with_a_changed_incbin_is_not_stale(small: SmallKernel) -> None:
    """Only the file that piggy.S includes changes, which ccache does not see."""
    images = []
    for word in ("first", "other", "third"):
        shutil.rmtree(small.build_folder, ignore_errors=True)
        built = small.build({"lib/payload": f"{word}\n"})
        images.append(word.encode() in built.bzimage.read_bytes())
    assert images == [True, True, True]


def test_warnings_of_the_base_are_left_out(small: SmallKernel) -> None:
    assert small.build().warnings == ()
    moved = "/* moved */\n" + (DATA / "tree/drivers/core.c").read_text()
    assert small.build({"drivers/core.c": moved}).warnings == ()
    unused = DMABUF.replace("return", "int added;\n\treturn")
    first = small.build({"drivers/dmabuf.c": unused})
    assert [text.split("warning: ")[1] for text in first.warnings] == [
        "unused variable 'added' [-Wunused-variable]"
    ]
    # The next revision does not change that file: it is not compiled, and its warning is kept.
    second = small.build({"drivers/dmabuf.c": unused, "drivers/core.c": moved + "int x;\n"})
    assert small.compiled() == ["drivers/core.o"]
    assert second.warnings == first.warnings
    assert small.build({"drivers/dmabuf.c": None}).warnings == ()


def test_warnings_of_kconfig_are_new_as_those_of_objects(small: SmallKernel) -> None:
    kconfig = (DATA / "tree/Kconfig").read_text()
    unmet = "#!WARNING: unmet direct dependencies detected for X\n#!  Depends on [n]: Y [=n]\n"
    assert small.build().warnings == ()
    first = small.build({"Kconfig": kconfig + unmet})
    assert first.warnings == ("WARNING: unmet direct dependencies detected for X Depends on [n]: Y [=n]",)
    assert small.build({"Kconfig": kconfig + "\n"}).warnings == ()


def test_build_of_a_broken_tree_blames_the_series(small: SmallKernel) -> None:
    with pytest.raises(BuildError, match=r"failed with 1 error") as caught:
        small.build({"drivers/dmabuf.c": "#error broken\n"})
    assert caught.value.tail == "drivers/dmabuf.c:1:2: error: #error broken"
    assert caught.value.log == small.log
    assert list((small.store.root / "kernel").iterdir()) == []
    small.build({"drivers/dmabuf.c": DMABUF.replace("1", "2")})
    assert "drivers/core.o" not in small.compiled()


def test_build_names_a_vanished_option_with_its_reason(small: SmallKernel) -> None:
    with pytest.raises(
        BuildError, match=r"the series takes away options that its base 6\.19\.6 has"
    ) as caught:
        small.build(WITHOUT_VFIO_PCI | USES_VFIO_PCI)
    assert caught.value.tail == "CONFIG_VFIO_PCI=y: this tree has no such option"
    assert small.build({"drivers/dmabuf.c": DMABUF.replace("1", "2")}).missing == {}


def test_build_without_an_option_that_the_series_removes(small: SmallKernel) -> None:
    built = small.build(WITHOUT_VFIO_PCI)
    assert built.missing == {"VFIO_PCI": "CONFIG_VFIO_PCI, which the series removes"}
    assert built.absent("VFIO_PCI") == "needs CONFIG_VFIO_PCI, which the series removes"


def test_build_without_an_option_that_the_base_lacks(small: SmallKernel) -> None:
    small.fragment.write_text(small.fragment.read_text() + "CONFIG_DMABUF_MOVE_NOTIFY=y\n")
    lost = {"DMABUF_MOVE_NOTIFY": "CONFIG_DMABUF_MOVE_NOTIFY=y: this tree has no such option"}
    patched = small.build({"drivers/dmabuf.c": DMABUF.replace("1", "2")})
    assert patched.missing == lost
    assert patched.options == {"PCI": "y", "VFIO_PCI": "y"}
    assert patched.absent("PCI") == ""
    why = "needs CONFIG_DMABUF_MOVE_NOTIFY, which the base does not have"
    assert patched.absent("DMABUF_MOVE_NOTIFY") == why
    assert patched.absent("UDMABUF") == "needs CONFIG_UDMABUF, which is off in this kernel"
    assert small.build().missing == lost
    again = small.build({"drivers/dmabuf.c": DMABUF.replace("1", "3")})  # the base's options are cached
    assert (again.missing, small.compiled()) == (lost, ["drivers/dmabuf.o"])
    with pytest.raises(BuildError) as caught:
        small.build(WITHOUT_VFIO_PCI | USES_VFIO_PCI)
    assert caught.value.tail == "CONFIG_VFIO_PCI=y: this tree has no such option"


def test_options_of_the_base_are_asked_of_each_compiler(
    small: SmallKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.fragment.write_text(small.fragment.read_text() + "CONFIG_DMABUF_MOVE_NOTIFY=y\n")
    for version, asked in (("gcc 14", 1), ("gcc 14", 1), ("gcc 15", 2)):
        monkeypatch.setattr(lost_options, "toolchain", lambda compiler, version=version: version)
        small.build({"drivers/dmabuf.c": DMABUF.replace("1", version[-2:])})
        shutil.rmtree(small.store.root / "kernel")
        assert len(list((small.store.root / "config").iterdir())) == asked


def test_build_folder_of_a_killed_run_is_discarded(small: SmallKernel) -> None:
    small.build()
    bench = small.build_folder
    (bench.parent / "unfinished").touch()
    (bench / "drivers" / "core.o").write_bytes(b"")  # half a file, with a fresh date
    small.build({"drivers/dmabuf.c": DMABUF.replace("1", "2")})
    assert small.compiled() == ALL
    assert not (bench.parent / "unfinished").exists()


def test_users_environment_does_not_reach_make(small: SmallKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKEFLAGS", "n")
    monkeypatch.setenv("KCFLAGS", "-DBROKEN -include nowhere.h")
    assert small.build().bzimage.is_file()


@pytest.mark.parametrize("mode", [sandbox.ON, sandbox.OFF])
def test_programs_of_the_user_do_not_change_the_kernel(
    small: SmallKernel, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Kconfig of a real kernel stores the version of rustc, wherever PATH has one."""
    own = small.folder / "own"
    own.mkdir()
    for name in ("gcc", "ld", "rustc"):
        (own / name).write_text("#!/bin/sh\necho of the user\n")
        (own / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(own), prepend=":")
    makefile = (DATA / "tree" / "Makefile").read_text()
    telling = "bzImage: tell\ntell:\n\t@for name in gcc ld rustc; do command -v $$name || true; done\n"
    sandbox.choose(mode)
    built = small.build({"Makefile": f"{makefile}\n{telling}"})
    sandbox.choose(sandbox.AUTO)
    assert "of the user" not in built.compiler
    assert str(own) not in small.log.read_text()
    assert "\n/usr/bin/gcc\n/usr/bin/ld\n" in small.log.read_text()


def test_cache_below_a_path_with_spaces_is_refused(tmp_path: Path) -> None:
    (tmp_path / "my cache").mkdir()
    with pytest.raises(HarnessError, match="spaces or colons"):
        SmallKernel(tmp_path / "my cache").build()


def test_build_on_a_full_disk_is_a_harness_error(small: SmallKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.kernel.builddir.SPACE_LEFT", 1 << 60)
    with pytest.raises(HarnessError, match="no space left"):
        small.build({"drivers/dmabuf.c": "#error broken\n"})


def test_build_that_cannot_write_is_a_harness_error(
    small: SmallKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int, _offset: int, _length: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr("os.posix_fallocate", fail)
    with pytest.raises(HarnessError, match=r"could not be written \(Disk quota exceeded\)"):
        small.build({"drivers/dmabuf.c": "#error broken\n"})


KILLED = """
import sys
sys.path[:0] = sys.argv[2:4]
from pathlib import Path
from small_kernel import SmallKernel
small = SmallKernel(Path(sys.argv[1]))
makefile = (small.repository / "Makefile").read_text()
waiting = f"$(O)/vmlinux: wait\\nwait:\\n\\t@touch $(O)/waits; exec sleep {sys.argv[4]}\\n"
small.build({"Makefile": makefile + waiting})
"""


def test_make_ends_when_the_harness_is_killed(tmp_path: Path) -> None:
    project = Path(__file__).parents[1]
    seconds = f"100.{os.getpid()}"  # by which the processes are found: in the sandbox they have other ids
    script = [sys.executable, "-c", KILLED, str(tmp_path), str(project), str(project / "tests"), seconds]
    with subprocess.Popen(script) as harness:
        place = tmp_path / "cache" / "workbench"
        until(lambda: any(place.glob("*/build-*/out/waits")) and any(running(f"sleep {seconds}")))
        harness.kill()
        harness.wait()
    until(lambda: not any(running(str(tmp_path))) and not any(running(f"sleep {seconds}")))
    assert any(place.glob("*/build-*/unfinished"))


def test_prebuilt_reads_the_release(tmp_path: Path) -> None:
    given = build.prebuilt(bzimage(tmp_path / "bzImage"), headers(tmp_path / "include"))
    assert given.release == "6.19.0-v4"
    assert given.config is None
    other = build.prebuilt(bzimage(tmp_path / "other", b"6.19.1"), tmp_path / "include")
    assert other.identity != given.identity


@pytest.mark.parametrize(
    ("content", "said"), [(b"\x7fELF" + bytes(0x1000), "not an x86 bzImage"), (b"", "not an x86 bzImage")]
)
def test_prebuilt_refuses_another_file(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "vmlinux").write_bytes(content)
    with pytest.raises(UsageError, match=said):
        build.prebuilt(tmp_path / "vmlinux", headers(tmp_path / "include"))


def test_prebuilt_refuses_a_missing_image(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        build.prebuilt(tmp_path / "nowhere", tmp_path)


@pytest.mark.parametrize(
    ("release", "pointer"), [(b"", 0x100), (b"6.1\x1b[2J", 0x100), (b"6.19.0", 0), (b"", 0xFFFF)]
)
def test_release_that_cannot_be_read_is_unknown(tmp_path: Path, release: bytes, pointer: int) -> None:
    assert build.release_of(bzimage(tmp_path / "bzImage", release, pointer)) == "unknown"


def test_release_of_a_cut_off_image_is_a_usage_error(tmp_path: Path) -> None:
    image = bzimage(tmp_path / "bzImage", b"6.19.0", 0x100)
    image.write_bytes(image.read_bytes()[:0x206])
    with pytest.raises(UsageError, match="is not an x86 bzImage"):
        build.release_of(image)


def test_prebuilt_hints_at_the_right_headers_folder(tmp_path: Path) -> None:
    nested = headers(tmp_path / "usr" / "include")
    with pytest.raises(UsageError, match=f"Did you mean {nested}"):
        build.prebuilt(bzimage(tmp_path / "bzImage"), tmp_path / "usr")


@pytest.mark.parametrize(
    ("config", "more"),
    [
        ("CONFIG_PCI=y\n# CONFIG_KASAN is not set\n", False),
        ("CONFIG_PROVE_LOCKING=y\nCONFIG_KASAN=y\n", True),
    ],
)
def test_time_scale_of_a_debug_kernel_is_larger(tmp_path: Path, config: str, more: bool) -> None:
    (tmp_path / "config").write_text(config)
    built = Kernel(tmp_path, tmp_path, tmp_path / "config", None, "6.19.6", "", "gcc")
    assert (built.time_scale > 1) == more
    assert replace(built, config=None).time_scale == 1


def test_make_lines_are_those_of_a_build(small: SmallKernel) -> None:
    built = small.build()
    printed = build.make_lines(small.store, [small.fragment], "6.19")
    mark = "# run as: "
    run = [line.partition(mark)[2] for line in small.log.read_text().splitlines() if line.startswith(mark)]
    assert len(printed) == len(run) == 2
    assert all(whole.endswith(line) for whole, line in zip(run, printed, strict=True))
    assert json.loads((built.bzimage.parent / "meta.json").read_text())["release"] == built.release
