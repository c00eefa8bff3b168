"""Makefiles, headers and scripts that attack the host: what each reaches in the sandbox, and without it.

An attack that fails proves something only if it would succeed elsewhere.  So each one is also made
without the sandbox, where it has to succeed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from actors import HEADERS, ROOT
from processes import running
from small_kernel import BUILD_TREE, DMABUF, SmallKernel

from harness.actor.build import build_actor
from harness.kernel import static_checks
from harness.klog import decode
from harness.lib import build_limits, sandbox
from harness.lib.cache import Store
from harness.lib.errors import BuildError, HarnessError
from harness.series.series import Patch

pytestmark = pytest.mark.build

SECRET = "canary-5b1f0c"
MAKEFILE = (BUILD_TREE / "Makefile").read_text()
#: The modes in which an attack is made, with whether it has to succeed.
BOTH = pytest.mark.parametrize(("mode", "succeeds"), [("on", False), ("off", True)])


@pytest.fixture(autouse=True)
def _sandbox_of_this_test() -> Iterator[None]:
    yield
    sandbox.choose(sandbox.AUTO)


class Attack:
    """A small kernel whose makefile runs ``recipe`` before it links vmlinux."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.small = SmallKernel(folder / "kernel")

    def __call__(self, recipe: str, *, untrusted: bool = False) -> str:
        """Build; return what the recipe left in the file $(LOOT), a file of the build folder."""
        lines = "".join(f"\t{line}\n" for line in recipe.splitlines())
        words = f"LOOT := $(O)/loot\n$(O)/vmlinux: | attack\n.PHONY: attack\nattack:\n{lines}"
        # A build folder of its own for each: an earlier object does not spare the attack.
        self.small.build({"Makefile": f"{MAKEFILE}\n{words}"}, untrusted=untrusted)
        (loot,) = self.small.store.root.glob("workbench/*/build-*/out/loot")
        return loot.read_text(errors="replace")


@pytest.fixture
def attack(tmp_path: Path) -> Attack:
    (tmp_path / "kernel").mkdir()
    return Attack(tmp_path)


@BOTH
def test_makefile_that_reads_a_key_finds_none(attack: Attack, mode: str, succeeds: bool) -> None:
    sandbox.choose(mode)
    key = attack.folder / "home" / ".ssh" / "id_ed25519"
    key.parent.mkdir(parents=True)
    key.write_text(SECRET)
    assert (SECRET in attack(f"-cat {key} >$(LOOT) 2>&1")) == succeeds


@BOTH
def test_makefile_that_reads_passwords_finds_none(attack: Attack, mode: str, succeeds: bool) -> None:
    sandbox.choose(mode)
    assert ("root:" in attack("-cat /etc/passwd >$(LOOT) 2>&1")) == succeeds


@BOTH
def test_makefile_that_searches_environments_finds_no_token(
    attack: Attack, mode: str, succeeds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.choose(mode)
    with subprocess.Popen(["sleep", "1000"], env={"CI_JOB_TOKEN": SECRET, "PATH": os.environ["PATH"]}) as job:
        try:
            assert (SECRET in attack("-cat /proc/[0-9]*/environ >$(LOOT) 2>&1")) == succeeds
        finally:
            job.kill()


@pytest.mark.parametrize("mode", ["on", "off"])
def test_variables_of_the_user_do_not_reach_a_makefile(
    attack: Attack, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.choose(mode)
    monkeypatch.setenv("CI_JOB_TOKEN", SECRET)
    assert SECRET not in attack("env >$(LOOT)")


@BOTH
def test_makefile_that_kills_a_process_reaches_none(attack: Attack, mode: str, succeeds: bool) -> None:
    sandbox.choose(mode)
    with subprocess.Popen(["sleep", "1000"]) as victim:
        try:
            attack(f"-kill -KILL {victim.pid} >$(LOOT) 2>&1")
            assert (victim.poll() == -signal.SIGKILL) == succeeds
        finally:
            victim.kill()


@BOTH
def test_makefile_that_connects_has_no_network(attack: Attack, mode: str, succeeds: bool) -> None:
    sandbox.choose(mode)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.setblocking(False)
        attack(f"-bash -c 'echo >/dev/tcp/127.0.0.1/{port}' >$(LOOT) 2>&1")
        connected = True
        try:
            server.accept()[0].close()
        except BlockingIOError:
            connected = False
    assert connected == succeeds


@BOTH
@pytest.mark.parametrize("place", ["elsewhere", "source", "compiler", "fragment"])
def test_makefile_that_writes_outside_changes_nothing(
    attack: Attack, mode: str, succeeds: bool, place: str
) -> None:
    sandbox.choose(mode)
    attack.small.build()
    (workbench,) = attack.small.store.root.glob("workbench/*")
    (build,) = workbench.glob("build-*")
    target = {
        "elsewhere": attack.folder / "elsewhere",
        "source": workbench / "src" / "drivers" / "planted.c",
        "compiler": workbench / "gcc.cc",
        "fragment": build / "fragment",
    }[place]
    attack(f"-echo '# {SECRET}' 2>$(LOOT) >>{target}")
    assert (target.exists() and SECRET in target.read_text()) == succeeds


@BOTH
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may set the kernel's parameters")
def test_makefile_that_sets_a_kernel_parameter_may_not(attack: Attack, mode: str, succeeds: bool) -> None:
    """A root without capabilities is still the owner of what is below /proc/sys."""
    sandbox.choose(mode)
    same = "f=/proc/sys/vm/swappiness; v=`cat $$f`; echo $$v >$$f"
    assert ("set" in attack(f"-({same} && echo set) >$(LOOT) 2>&1")) == succeeds


@BOTH
@pytest.mark.skipif(os.geteuid() != 0, reason="without a sandbox only root may mount")
def test_makefile_that_mounts_may_not(attack: Attack, mode: str, succeeds: bool) -> None:
    sandbox.choose(mode)
    mount = "unshare --mount --map-root-user mount -t tmpfs none /mnt"
    assert ("mounted" in attack(f"-({mount} && echo mounted) >$(LOOT) 2>&1")) == succeeds


@BOTH
def test_process_that_a_makefile_leaves_ends_with_it(attack: Attack, mode: str, succeeds: bool) -> None:
    sandbox.choose(mode)
    seconds = f"1000.{os.getpid()}"
    attack(f"setsid sleep {seconds} </dev/null >$(LOOT) 2>&1 &")
    left = [int(process.name) for process in running(f"sleep {seconds}")]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert bool(left) == succeeds


@BOTH
def test_makefile_that_poisons_ccache_may_not(attack: Attack, mode: str, succeeds: bool) -> None:
    sandbox.choose(mode)
    attack("-echo poison 2>$(LOOT) >$(CCACHE_DIR)/poison", untrusted=True)
    assert (attack.small.store.root / "ccache" / "poison").exists() == succeeds


@pytest.mark.parametrize(("untrusted", "poisoned"), [(True, False), (False, True)])
def test_next_build_does_not_read_what_a_mail_left(attack: Attack, untrusted: bool, poisoned: bool) -> None:
    """A list of dependencies is a makefile: the folder of a tree from a mail is never built in again."""
    attack("echo '$$(info poison)' >$(O)/drivers/planted.d; touch $(LOOT)", untrusted=untrusted)
    attack.small.build({"drivers/dmabuf.c": DMABUF.replace("1", "2")})
    assert ("poison" in attack.small.log.read_text()) == poisoned


def test_tree_of_a_mail_builds_in_a_copy_of_the_base(attack: Attack) -> None:
    small = attack.small
    small.build()
    first = small.build({"drivers/dmabuf.c": DMABUF.replace("1", "2")}, untrusted=True)
    assert small.compiled() == ["drivers/dmabuf.o"]
    folders = sorted(path.name for path in small.store.root.glob("workbench/*/build-*"))
    assert [name.partition(".")[2] for name in folders] == ["", "untrusted"]
    small.build({"drivers/dmabuf.c": DMABUF.replace("1", "3")}, untrusted=True)
    assert small.compiled() == ["drivers/dmabuf.o"]
    assert len(list(small.store.root.glob("workbench/*/build-*"))) == 2
    assert first.bzimage.is_file()


def test_tree_of_a_mail_that_comes_first_builds_the_base(attack: Attack) -> None:
    attack.small.build({"drivers/dmabuf.c": DMABUF.replace("1", "2")}, untrusted=True)
    assert len(list((attack.small.store.root / "kernel").iterdir())) == 2


# --- what is taken from a build

LINKS = [
    ("vmlinux", "rm $(O)/vmlinux; ln -s {secret} $(O)/vmlinux"),
    ("config", "ln -sf {secret} $(O)/.config"),
    ("folder", "mkdir $(O)/x; mv $(O)/arch $(O)/x; ln -s x/arch $(O)/arch"),
    ("pipe", "rm $(O)/vmlinux; mkfifo $(O)/vmlinux"),
    ("header", "ln -s {secret} $(INSTALL_HDR_PATH)/include/linux/more.h"),
    ("headers", "ln -s {folder} $(INSTALL_HDR_PATH)/include/more"),
    ("include", "rm -r $(INSTALL_HDR_PATH)/include; ln -s {folder} $(INSTALL_HDR_PATH)/include"),
    ("no-include", "rm -r $(INSTALL_HDR_PATH)/include"),
    ("file", "rm -r $(INSTALL_HDR_PATH)/include; touch $(INSTALL_HDR_PATH)/include"),
    ("deep", "cd $(INSTALL_HDR_PATH)/include; for i in `seq 40`; do mkdir d; cd d; done"),
    ("large", "truncate -s 3G $(O)/vmlinux"),
]


@pytest.mark.parametrize(("name", "recipe"), LINKS, ids=[name for name, _ in LINKS])
def test_planted_file_is_not_taken_from_a_build(attack: Attack, name: str, recipe: str) -> None:
    secret = attack.folder / "home" / "secret"
    secret.parent.mkdir()
    secret.write_text(SECRET)
    text = recipe.format(secret=secret, folder=secret.parent)
    makefile = MAKEFILE.replace(
        "\t@cp -r include/linux $(INSTALL_HDR_PATH)/include",
        f"\t@cp -r include/linux $(INSTALL_HDR_PATH)/include\n\t{text}",
    )
    # The headers are installed last in this order, so the image is whole before the attack.
    makefile = makefile.replace("headers_install:", "headers_install: $(O)/arch/x86/boot/bzImage")
    with pytest.raises(BuildError, match="The build left"):
        attack.small.build({"Makefile": makefile})
    kept = (path for path in attack.small.store.root.glob("kernel/**/*") if path.is_file())
    assert not any(SECRET.encode() in path.read_bytes() for path in kept)


def test_folders_without_permission_are_removed(attack: Attack) -> None:
    deep = "mkdir -p $(O)/a; cd $(O)/a; for i in `seq 1500`; do mkdir d; cd d; done"
    attack(f"{deep}; chmod 0 $(O)/a; touch $(LOOT)", untrusted=True)
    attack.small.build({"drivers/dmabuf.c": DMABUF.replace("1", "2")}, untrusted=True)
    left = list(attack.small.store.root.glob("workbench/*/build-*/out/a"))
    for folder in left:
        subprocess.run(["rm", "-rf", folder], check=True)  # pytest could not remove it
    assert not left


# --- what a build takes of the host


def test_makefile_that_forks_without_end_is_ended(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sandbox, build_limits):
        monkeypatch.setattr(module, "PROCESSES", 200)
    mark = f"1000.{os.getpid()}"
    words = r"it had \d+ processes at once, and 150 are allowed|it wanted more than 200 processes at once"
    with pytest.raises(BuildError, match=words):
        attack(f"bomb() {{ sleep {mark} & bomb | bomb & }}; bomb; sleep 1000")
    assert not any(running(f"sleep {mark}"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's programs have a control group")
def test_makefile_whose_forks_have_failed_is_ended(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    # The shell ends at the first fork that fails, and soon few processes are left.
    monkeypatch.setattr(sandbox, "PROCESSES", 60)
    with pytest.raises(BuildError, match="it wanted more than 60 processes at once"):
        attack("sh -c 'for i in `seq 100`; do sleep 0.5 & done'; exec sleep 1000")


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("i=0; while :; do i=$$((i+1)); head -c 4M /dev/zero >$(O)/fill$$i; done", r"it wrote \d+ MiB"),
        ("i=0; while :; do i=$$((i+1)); : >$(O)/file$$i; done", r"it made \d+ files, and 3000 are allowed"),
        ("yes", r"it printed more than 1 MiB"),
        ("yes | tr -d '\\n'", r"it printed more than 1 MiB"),
    ],
)
def test_makefile_that_takes_too_much_is_ended(
    attack: Attack, recipe: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_limits, "FOLDER_BYTES", 64 << 20)
    monkeypatch.setattr(build_limits, "_STEP_BYTES", 16 << 20)
    monkeypatch.setattr(build_limits, "FOLDER_FILES", 3000)
    monkeypatch.setattr(build_limits, "_STEP_FILES", 1000)
    monkeypatch.setattr(build_limits, "OUTPUT_BYTES", 1 << 20)
    with pytest.raises(BuildError, match=words):
        attack(recipe)
    # Compilers were killed, so the next build begins anew.
    assert list(attack.small.store.root.glob("workbench/*/build-*/unfinished"))


def test_untrusted_series_may_mend_a_base_that_fails(tmp_path: Path) -> None:
    small = SmallKernel(tmp_path)
    small.change_base({"drivers/dmabuf.c": "#error broken\n"})
    assert small.build({"drivers/dmabuf.c": DMABUF}, untrusted=True).bzimage.exists()


def test_file_without_end_is_cut_off(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "FILE_BYTES", 8 << 20)
    attack("-cat /dev/zero >$(O)/fill 2>$(LOOT)")
    (fill,) = attack.small.store.root.glob("workbench/*/build-*/out/fill")
    assert fill.stat().st_size == 8 << 20


def test_makefile_that_hangs_is_no_fault_of_the_series(
    attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_limits, "SILENT_SECONDS", 2.0)
    with pytest.raises(HarnessError, match="printed nothing"):
        attack("sleep 1000")


# --- headers, scripts, and programs beside make


@BOTH
def test_header_that_includes_a_file_of_the_host(tmp_path: Path, mode: str, succeeds: bool) -> None:
    sandbox.choose(mode)
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    headers = tmp_path / "include"
    shutil.copytree(HEADERS, headers)
    taking = f'__asm__(".pushsection .rodata\\n.incbin \\"{secret}\\"\\n.popsection");\n'
    with (headers / "linux" / "vfio.h").open("a") as stream:
        stream.write(taking)
    try:
        actor = build_actor(Store(tmp_path / "cache"), headers, tmp_path / "log")
        taken = SECRET.encode() in actor.read_bytes()
    except (BuildError, HarnessError):
        taken = False
        assert "file not found: " in (tmp_path / "log").read_text()
    assert taken == succeeds


@BOTH
def test_checkpatch_of_a_tree_reads_no_key(tmp_path: Path, mode: str, succeeds: bool) -> None:
    sandbox.choose(mode)
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    script = tmp_path / "source" / "scripts" / "checkpatch.pl"
    script.parent.mkdir(parents=True)
    script.write_text(f'open(F, "<", "{secret}"); print <F>;\n')
    (lines,) = static_checks.checkpatch([Patch("0001-x.patch", b"", "x")], tmp_path / "source")
    assert any(SECRET in line for line in lines) == succeeds


@BOTH
def test_decoder_of_a_tree_reads_no_key(tmp_path: Path, mode: str, succeeds: bool) -> None:
    sandbox.choose(mode)
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    source = tmp_path / "x.c"
    source.write_text("int main(void) { return 0; }\n")
    subprocess.run(["gcc", "-g", "-o", tmp_path / "vmlinux", source], check=True)
    text = decode.add_source_lines("trace", tmp_path / "vmlinux", lambda _name: f"cat {secret}\n".encode())
    assert (SECRET in text) == succeeds


# --- the choice of the sandbox


def without_namespaces(script: str) -> subprocess.CompletedProcess[str]:
    """Run a Python script where no namespace can be made, as in most containers."""
    inner = ["unshare", "--user", "--map-root-user", "sh", "-c"]
    limit = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$0" -c "$1"'
    return subprocess.run(
        [*inner, limit, sys.executable, script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_sandbox_without_namespaces_says_why() -> None:
    done = without_namespaces("from harness.lib import sandbox; print(sandbox.tried())")
    assert re.search(r"Sandbox\(on=False, reason=.*(nesting depth|No permissions)", done.stdout), done


def test_sandbox_on_without_namespaces_is_refused() -> None:
    command = "['build', '--series', 'baseline', '--sandbox', 'on', '--dry-run']"
    done = without_namespaces(f"from harness.cli.main import main; raise SystemExit(main({command}))")
    assert done.returncode == 2
    assert "--sandbox on needs bubblewrap, which does not work here: " in done.stderr
    assert "Traceback" not in done.stderr
