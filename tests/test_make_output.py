"""The output of make: the culprit of a failure, its lines, and warnings by object."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from harness.kernel.make_output import CONFIGURATION, Output, without_position
from harness.lib import cgroup
from harness.lib.command import CommandError
from harness.lib.errors import BuildError, ExitCode, HarnessError

DATA = Path(__file__).parent / "data" / "kbuild"
SOURCE = Path("/cache/workbench/src")


def recorded(name: str) -> Output:
    """Read the recorded output of a build as that of a running one."""
    output = Output(SOURCE)
    for line in (DATA / f"{name}.log").read_text().splitlines():
        output.line(line)
    return output


# Recorded build, the error that it is, and a line that the error must show.
FAILURES = [
    (
        "compile-error",
        BuildError,
        "vfio_pci_dmabuf.c:20:1: error: expected specifier-qualifier-list before 'static'",
    ),
    (
        "undefined-reference",
        BuildError,
        "vfio_pci_dmabuf.c:(.text+0x721): undefined reference to `vfio_nowhere'",
    ),
    ("kconfig-syntax", BuildError, 'drivers/vfio/pci/Kconfig:58: unknown statement "confg"'),
    ("no-rule", BuildError, "No rule to make target 'drivers/vfio/pci/not_there.o'"),
    ("missing-header", BuildError, "fatal error: linux/not-there.h: No such file or directory"),
    ("no-space-configure", HarnessError, "No space left on device"),
    ("no-space-compile", HarnessError, "pci.c:6726:1: fatal error: closing dependency file"),
    ("no-space-ar", HarnessError, "reason: No space left on device"),
    ("no-space-fixdep", HarnessError, "fixdep: not all data was written"),
    ("compiler-killed", HarnessError, "Killed signal terminated program cc1"),
    ("no-memory", HarnessError, "cc1: out of memory"),
    ("no-flex", HarnessError, "flex: not found"),
    ("assembler", BuildError, "Error: no such instruction: `nonsense %eax'"),
    ("build-bug", BuildError, "BUILD_BUG_ON failed: sizeof(struct vfio_pci_core_device) != 1"),
    ("build-bug", BuildError, "drivers/vfio/pci/vfio_pci_core.c: In function 'vfio_planted':"),
    ("forged-texts", BuildError, "error: static assertion failed"),
    ("forged-lines", BuildError, "error: static assertion failed"),
    ("included-error", BuildError, "                 from drivers/vfio/pci/vfio_pci_core.c:36:"),
    ("included-error", BuildError, "error: field 'new' has incomplete type"),
    ("missing-separator", BuildError, "drivers/vfio/pci/Makefile:26: *** missing separator.  Stop."),
    ("makefile-error", BuildError, "drivers/vfio/pci/Makefile:28: *** cc1: No space left on device.  Stop."),
    ("no-flag", BuildError, "unrecognized command-line option '-fno-such-flag'"),
    ("recursive-dependency", BuildError, "symbol VFIO_TWO depends on VFIO_ONE"),
    ("leaked-option", BuildError, "include/uapi/linux/vfio.h: leak CONFIG_VFIO_PLANTED to user-space"),
    ("header-syntax", BuildError, "Premature EOF (#if line 12 depth 1)"),
    ("linker", BuildError, "hidden symbol `foo' isn't defined"),
    ("linker", BuildError, "relocation truncated to fit: R_X86_64_32 against symbol `far'"),
    ("linker", BuildError, "defined in discarded section `.exit.text' of c.o"),
    ("linker", BuildError, "kernel image bigger than KERNEL_IMAGE_SIZE"),
    ("linker", BuildError, "a.o: in function `vfio_x':"),
    ("no-compiler", HarnessError, "C compiler '/nonexistent/gcc' not found"),
    ("compiler-crashed", HarnessError, "Segmentation fault signal terminated program cc1"),
    ("compiler-bus", HarnessError, "Bus error signal terminated program cc1"),
    ("compiler-terminated", HarnessError, "Terminated signal terminated program cc1"),
    ("file-limit", HarnessError, "File size limit exceeded signal terminated program cc1"),
    ("permission", HarnessError, "mkdir: cannot create directory"),
    ("cannot-fork", HarnessError, "Resource temporarily unavailable"),
]


@pytest.mark.parametrize(
    ("name", "kind", "line"), FAILURES, ids=[f"{name}-{line[:12]}" for name, _, line in FAILURES]
)
def test_failure_names_the_culprit_and_its_lines(
    name: str, kind: type[BuildError | HarnessError], line: str
) -> None:
    log = Path("build.log")
    error = recorded(name).failure(CommandError(["make"], 2, log, "the tail"), "build")
    assert type(error) is kind
    assert error.exit_code == (ExitCode.SERIES if kind is BuildError else ExitCode.HARNESS)
    assert line in error.tail
    assert error.log == log


def test_failure_without_a_known_line_shows_the_tail() -> None:
    error = Output(SOURCE).failure(CommandError(["make"], 2, None, "something odd"), "build")
    assert isinstance(error, BuildError)
    assert error.tail == "something odd"


def test_failure_of_a_killed_make_is_a_harness_error() -> None:
    error = recorded("compile-error").failure(CommandError(["make"], -signal.SIGKILL, None, ""), "build")
    assert isinstance(error, HarnessError)


def test_signal_of_make_is_known_behind_a_wrapper() -> None:
    log = Path("build.log")
    error = Output(SOURCE).failure(CommandError(["bwrap", "make"], 137, log, "tail"), "build")
    assert isinstance(error, HarnessError)
    assert "was killed by signal 9." in error.message
    assert (error.log, error.tail) == (log, "tail")


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        (["  CC      a.o", "make: *** [x: a.o] Error 1"], HarnessError),
        (["  CC      a.o", "a.c:1:2: error: no", "make: *** [x: a.o] Error 1"], BuildError),
    ],
)
def test_failure_while_memory_ran_out_proves_nothing(
    lines: list[str], kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Output(SOURCE)
    for line in lines:
        output.line(line)
    count = cgroup.out_of_memory_kills()
    monkeypatch.setattr(cgroup, "out_of_memory_kills", lambda: count + 2)
    error = output.failure(CommandError(["make"], 2, None, "tail"), "build")
    assert type(error) is kind
    assert ("has killed 2 processes for lack of memory" in error.message) is (kind is HarnessError)


def test_failure_shows_ten_errors_and_counts_the_rest() -> None:
    output = Output(SOURCE)
    for number in range(25):
        output.line(f"drivers/a.c:{number}:1: error: no")
    error = output.failure(CommandError(["make"], 2, None, ""), "build")
    assert error.message == "The build failed with 25 errors."
    assert error.tail.splitlines()[-1] == "... and 15 more errors"


HOST_RULE = "make[2]: *** [/cache/workbench/src/scripts/Makefile.host:114: scripts/x] Error 1"
RULE = "make[5]: *** [/cache/workbench/src/scripts/Makefile.build:287: drivers/x.o] Error 1"


def failure(*lines: str) -> BuildError | HarnessError:
    """Return the error of a build with this output."""
    output = Output(SOURCE)
    for line in lines:
        output.line(line)
    error = output.failure(CommandError(["make"], 2, None, "the tail"), "build")
    assert isinstance(error, BuildError | HarnessError)
    return error


@pytest.mark.parametrize(
    "line",
    [
        "cc1: fatal error: error writing to /tmp/ccX1.s: Disk quota exceeded",
        "ld: final link failed: No space left on device",
        "objcopy: vmlinux.bin: Input/output error",
        "/bin/sh: 1: cannot create drivers/.x.o.cmd: Read-only file system",
        "drivers/vfio/x.c:3:10: fatal error: linux/vfio.h: Stale file handle",
        "ar: drivers/built-in.a: Too many open files",
        "/bin/sh: 1: scripts/mod/modpost: Text file busy",
        "/bin/sh: 1: echo: echo: I/O error",
        'rsync: [receiver] mkstemp "/cache/include/.a.h.x" failed: No space left on device (28)',
        "OSError: [Errno 122] Disk quota exceeded: 'include/a.h'",
        "Can't open include/a.h: Too many open files at scripts/a.pl line 12.",
        "make[3]: *** fork: Resource temporarily unavailable.  Stop.",
        "make[3]: vfork: Resource temporarily unavailable",
        "/bin/sh: fork: retry: Resource temporarily unavailable",
        "make: write error: stdout",
        "make: *** virtual memory exhausted.  Stop.",
        "LLVM ERROR: out of memory",
        "collect2: error: ld terminated with signal 11 [Segmentation fault]",
        "clang: error: unable to execute command: Killed",
        "clang: error: clang frontend command failed due to signal (use -v to see invocation)",
        "zstd: error 11 : Allocation error : not enough memory",
        "ld: BFD (GNU Binutils for Debian) 2.44 assertion fail ../../bfd/elflink.c:2868",
        "make[2]: *** write jobserver: Bad file descriptor.  Stop.",
        "make: *** read jobs pipe: Bad file descriptor.  Stop.",
        "ld: final link failed: memory exhausted",
        "cc1: fatal error: Cannot allocate memory",
        "collect2: fatal error: ld terminated with signal 11 [Segmentation fault], core dumped",
        "during RTL pass: expand\ndrivers/x.c:7:1: internal compiler error: in expand_expr, at expr.cc:9",
        "gcc: fatal error: Illegal instruction signal terminated program cc1",
        "{standard input}: Internal error in emit_expr_encoded at ../../gas/dw2gencfi.c:215.",
        "/usr/bin/ld: BFD (GNU Binutils for Debian) 2.40 internal error, aborting at ../../bfd/elf.c:1",
        "/bin/bash: line 1: 16579 Segmentation fault      ./tools/objtool/objtool --orc vmlinux.o",
        "/bin/sh: 1: openssl: not found",
        "/bin/bash: line 3: gawk: command not found",
        "scripts/link-vmlinux.sh: line 113: xz: command not found",
        "/cache/workbench/build-1.cc: 8: exec: ccache: not found",
        "make[2]: flex: No such file or directory",
        "make[2]: execvp: /usr/bin/bison: No such file or directory",
        "/usr/bin/env: 'python3': No such file or directory",
        "cc1: error while loading shared libraries: libmpfr.so.6: cannot open shared object file",
        "gcc: fatal error: cannot execute 'cc1': execvp: No such file or directory",
        "error: Cannot generate ORC metadata for CONFIG_UNWINDER_ORC=y, please install libelf-dev",
        "/usr/bin/ld: cannot find -lcrypto: No such file or directory",
        "Can't locate Getopt/Long.pm in @INC (you may need to install the module)",
        "*** Linker is too old.\n***   Your GNU ld version:    2.25\n***   Minimum GNU ld version: 2.30.0",
        "Makefile:15: *** GNU Make >= 4.0 is required. Your Make version is 3.81.  Stop.",
        "ccache: error: Failed to create directory /cache/ccache: Permission denied",
        "/bin/sh: 1: scripts/basic/fixdep: Permission denied",
        "mktemp: failed to create file via template '/gone/x.XXXX': No such file or directory",
        "cc1: fatal error: Cannot create temporary file in /gone/: No such file or directory",
        "as: BFD (GNU Binutils for Debian) 2.40 internal error, aborting at ../../bfd/elf.c:1",
        "xargs: cannot fork: Resource temporarily unavailable",
        "/bin/bash: line 1:  4711 Killed                  ld -r -o vmlinux.o",
        "rm: cannot remove 'drivers/.x.o.tmp': Device or resource busy",
        "make: rsync: Command not found",
        "/usr/bin/env: \u2018perl\u2019: No such file or directory",
        "/usr/include/linux/errno.h:1:10: fatal error: asm/errno.h: No such file or directory",
        "/usr/bin/ld: cannot find crt1.o: No such file or directory",
        "drivers/.vfio.o.cmd:1: *** missing separator.  Stop.",
        "include/config/auto.conf:7: *** missing separator.  Stop.",
        "drivers/vfio/vfio.o: file not recognized: file truncated",
        "/bin/sh: 1: scripts/basic/fixdep: Exec format error",
        "make[2]: *** No rule to make target '/usr/include/elf.h', needed by 'scripts/sorttable'.  Stop.",
    ],
)
def test_fault_of_the_machine_is_a_harness_error(line: str) -> None:
    error = failure("  CC      drivers/x.o", *line.split("\n"), RULE)
    assert isinstance(error, HarnessError)
    assert line.split("\n")[-1] in error.tail


@pytest.mark.parametrize(
    "line",
    [
        "drivers/a.c:1:2: error: #error foo: No space left on device",
        "drivers/a.c:1:2: error: #error cc1: internal compiler error: Segmentation fault",
        "drivers/a.c:1:2: error: #error please install libelf-dev",
        "drivers/a.c:1:2: warning: #warning sh: 1: flex: not found",
        "drivers/Makefile:3: x: internal compiler error: Segmentation fault",
        "drivers/a.c:1:10: fatal error: stdio.h: No such file or directory",
        "drivers/a.c:1:10: fatal error: openssl/bio.h: No such file or directory",
        "drivers/a.c:1:10: fatal error: linux/not-there.h: No such file or directory",
        "/bin/sh: 1: ./scripts/generate: Permission denied",
        "make[2]: scripts/generate.sh: Permission denied",
        "/bin/sh: 1: generate-table: not found",
        "/bin/sh: 1: -c: not found",
        "make[2]: scripts/generate: No such file or directory",
        "drivers/x.o: error: objtool: f+0x1f: unreachable instruction",
        "ERROR: modpost: vfio_x [drivers/vfio/vfio.ko] undefined!",
        "ERROR: modpost: missing MODULE_LICENSE() in drivers/vfio/x.o",
        "ld: b.o:(.data+0x0): multiple definition of `x'; a.o:(.data+0x0): first defined here",
        "drivers/Makefile:3: *** unterminated call to function 'call': missing ')'.  Stop.",
        "drivers/Makefile:3: *** recipe commences before first target.  Stop.",
        "drivers/Makefile:3: *** Recursive variable 'x' references itself (eventually).  Stop.",
        "drivers/Makefile:3: *** multiple target patterns.  Stop.",
        "drivers/vfio/Kconfig:9:error: recursive dependency detected!",
        "{standard input}:12: Error: no such instruction: `x'",
    ],
)
def test_error_of_the_tree_is_a_build_error(line: str) -> None:
    error = failure("  CC      drivers/x.o", line, RULE)
    assert isinstance(error, BuildError)
    assert line in error.tail


def test_header_of_the_host_depends_on_who_needs_it() -> None:
    line = "lib/gen_crc32table.c:2:10: fatal error: stdio.h: No such file or directory"
    assert isinstance(failure("  HOSTCC  lib/gen_crc32table", line, HOST_RULE), HarnessError)
    assert isinstance(failure(line, HOST_RULE), HarnessError)
    assert isinstance(failure("  CC      lib/gen_crc32table.o", line, RULE), BuildError)


def test_line_of_a_step_that_passed_blames_nobody() -> None:
    forged = "cc1: fatal error: error writing to x.s: No space left on device"
    passed = ("  CC      drivers/a.o", forged, "  CC      drivers/b.o")
    error = failure(*passed, "ld: hidden symbol `foo' isn't defined", RULE)
    assert isinstance(error, BuildError)
    assert forged not in error.tail
    assert isinstance(failure(*passed, forged, RULE), HarnessError)


def test_error_at_a_position_outweighs_any_other_line() -> None:
    forged = "cc1: fatal error: error writing to x.s: No space left on device'"
    assert isinstance(failure(forged, "drivers/a.c:1:1: error: no", RULE), BuildError)
    assert isinstance(failure(forged, "ld: hidden symbol `foo' isn't defined", RULE), HarnessError)


def test_unknown_reason_is_shown_by_the_lines_of_its_step() -> None:
    error = failure(
        "  CC      drivers/a.o", "odd", "  GEN     drivers/b.h", "awk: no field 3", "  CC      c.o", "x", RULE
    )
    assert error.tail.splitlines() == ["x", RULE.replace(f"{SOURCE}/", "")]
    error = failure("  GEN     drivers/b.h", *(f"line {number}" for number in range(20)), RULE)
    assert error.tail.splitlines()[0] == "line 14"


def test_section_mismatch_shows_the_reference() -> None:
    line = "WARNING: modpost: vmlinux: section mismatch in reference: f+0x10 (.text) -> y (.init.text)"
    error = failure("  MODPOST Module.symvers", line, "ERROR: modpost: Section mismatches detected.", RULE)
    assert isinstance(error, BuildError)
    assert line in error.tail


def test_shown_lines_are_printable_and_short() -> None:
    error = failure(f"drivers/a.c:1:1: error: \x1b[2J{'x' * 5000}", RULE)
    assert "\\x1b[2J" in error.tail
    assert len(error.tail) < 1100


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        (
            "unmet-dependency",
            "WARNING: unmet direct dependencies detected for VFIO_ONE Depends on [n]: VFIO [=y] && "
            "VFIO_NOT_THERE Selected by [y]: - VFIO_TWO [=y] && VFIO [=y]",
        ),
        ("kconfig-warning", "drivers/vfio/pci/Kconfig:79:warning: 'VFIO_ONE': number is invalid"),
    ],
)
def test_warning_of_kconfig_belongs_to_the_configuration(name: str, warning: str) -> None:
    assert recorded(name).warnings == {CONFIGURATION: [warning], "Makefile": []}


def test_warning_of_make_is_none_of_the_tree() -> None:
    output = Output(SOURCE)
    output.line("make[2]: warning:  Clock skew detected.  Your build may be incomplete.")
    assert output.warnings == {}


def test_warnings_belong_to_the_object_that_was_made() -> None:
    output = recorded("warning")
    assert output.warnings["drivers/vfio/pci/vfio_pci_dmabuf.o"] == [
        "drivers/vfio/pci/vfio_pci_dmabuf.c:363:12: warning: 'unused_thing' defined but not used "
        "[-Wunused-function]"
    ]
    assert output.warnings["vmlinux.o"] == []


def test_unplaced_forgets_lines_and_offsets() -> None:
    assert without_position("drivers/a.c:363:12: warning: odd") == "drivers/a.c: warning: odd"
    assert without_position("drivers/Kconfig:36:warning: odd") == "drivers/Kconfig:warning: odd"
    assert (
        without_position("vmlinux.o: warning: objtool: f+0x1f: odd") == "vmlinux.o: warning: objtool: f: odd"
    )
