"""Pack the claim of one scenario into a kit: one file that shows it again with QEMU alone.

A kit is a shell script (vmimage/kit/run.sh) with an archive behind it: kernel, initramfs,
QEMU's arguments, transcript, patches, configuration.  One boot tries one claim.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from harness.actor.build import build_actor
from harness.kernel import module
from harness.kernel.build import Kernel
from harness.lib import contained, git
from harness.lib.cache import Store
from harness.lib.errors import HarnessError, UsageError
from harness.lib.files import write_atomically
from harness.lib.host import host_errors
from harness.lib.untrusted_files import read_file
from harness.run import kit_text
from harness.run.claim import Claim
from harness.verdict.record import Result
from harness.vm import initramfs, kit_init, kit_machine
from harness.vm.accelerator import TCG_TIME_SCALE, Accelerator
from harness.vm.hardware import KERNEL_ARGUMENTS
from harness.vm.pci_devices import Layout

MOST_BYTES = 25 << 20  # what a mail or a bug tracker takes
_PLACEHOLDER = "payload_line=0\n"
# The deadline of the guest: for its boot, and four times the scenario's own time.
_BOOT_SECONDS = 180
_SLOWER = 4
# Lines of the console that the script shows: an extended regular expression.
_FAULTS = (
    r"WARNING: .* at |BUG: |Oops: |refcount_t: |Kernel panic |general protection fault|UBSAN: |"
    r"INFO: (task|rcu)|list_(add|del) corruption"
)


def write_kit(
    store: Store, result: Result, claim: Claim, kernel: Kernel, facts: Mapping[str, object], path: Path
) -> None:
    """Write the kit of a claim about a kernel to the file ``path``; ``facts`` are those of the run.

    Raises UsageError with the reason if the claim cannot be packed, and HarnessError if
    something that it needs is no longer in the cache.  No file is left then.
    """
    log = store.path("logs", "kit.log")
    log.unlink(missing_ok=True)
    content = assembled(_files(store, result, claim, facts, kernel, log))
    if len(content) > MOST_BYTES:
        raise UsageError(
            f"The kit would have {len(content) >> 20} MiB, and {MOST_BYTES >> 20} MiB is the limit: the "
            f"kernel alone has {kernel.bzimage.stat().st_size >> 20} MiB."
        )
    with host_errors(path.parent):
        write_atomically(path, content)


def assembled(files: Mapping[str, bytes]) -> bytes:
    """Return a kit: the script, and behind it an archive of these files."""
    script = kit_init.SCRIPT.read_text()
    head = script.replace(_PLACEHOLDER, f"payload_line={len(script.splitlines()) + 1}\n")
    return head.encode() + gzip.compress(_archive(files), compresslevel=9, mtime=0)


def _layout(claim: Claim) -> Layout:
    try:
        return Layout.parse(claim.recording.machine)
    except ValueError as error:
        raise UsageError(f"The transcript does not tell the machine that it needs: {error}.") from error


def _files(
    store: Store,
    result: Result,
    claim: Claim,
    facts: Mapping[str, object],
    kernel: Kernel,
    log: Path,
) -> dict[str, bytes]:
    """Return the files of the archive: name to content."""
    layout = _layout(claim)
    seconds = _BOOT_SECONDS + _SLOWER * int(result.duration or 0)
    witnesses = kit_machine.witnesses(layout, claim.witnessed())
    tcg = Accelerator("tcg", TCG_TIME_SCALE, "").kernel_arguments()
    settings = [
        f"kind {claim.kind}",
        f"seconds {seconds}",
        f"tcg {' '.join(tcg)}",
        *(f"device {name}" for name in kit_machine.models(layout)),
    ]
    transcript = claim.transcript.encode()
    own = [*claim.settings(), *(f"memory {one.role} {one.address} {one.size}" for one in witnesses)]
    inside = {
        "init": (kit_init.build(store, log).read_bytes(), 0o755),
        "actor": (_stripped(build_actor(store, kernel.headers, log)), 0o755),
        "transcript": (transcript, 0o644),
        "claim": (_lines(own), 0o644),
    }
    if claim.needs_importer():
        inside["importer.ko"] = (_importer(store, kernel), 0o644)
    files = {
        "README": kit_text.readme(result, claim, facts).encode(),
        "about": kit_text.about(result, facts).encode(),
        "append": _lines([" ".join((*KERNEL_ARGUMENTS, *layout.arguments))]),
        "bzImage": kernel.bzimage.read_bytes(),
        "complaints": _lines(claim.complaints),
        "config": kernel.config.read_bytes() if kernel.config else b"",
        "faults": _lines([_FAULTS]),
        "initrd.cpio": initramfs.archive(inside),
        "machine": _lines(kit_machine.arguments(layout, witnesses)),
        "settings": _lines(settings),
        "transcript.txt": transcript,
    }
    patches = _patches(store, str(facts.get("digest", "")))
    return {**files, "series.mbox": patches} if patches else files


def _lines(lines: list[str] | tuple[str, ...]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _stripped(program: Path) -> bytes:
    """Return a program without its symbols."""
    with tempfile.TemporaryDirectory() as folder:
        argv = ["strip", "-o", str(Path(folder) / program.name), str(program)]
        contained.run(argv, read=[program], write=[Path(folder)])
        return read_file(Path(folder), program.name, program.stat().st_size)


def _importer(store: Store, kernel: Kernel) -> bytes:
    path = module.module_in_cache(store, kernel)
    if path is None:
        raise HarnessError(
            "The test importer for the kernel of this run is not in the cache. Run the scenario again, and "
            "make the kit from that run."
        )
    return path.read_bytes()


def _patches(store: Store, digest: str) -> bytes:
    """Return the applied patches of a series as mails, from the cached repository; empty without patches."""
    for repository in sorted(store.root.glob("base/*")):
        env = git.environment(repository)
        refs = git.query(["for-each-ref", "--format=%(refname)", "refs/patchproof/series"], env=env)
        for ref in refs.decode().split():
            *_, base, series = ref.split("/")
            if series == digest:
                return git.query(["format-patch", "--stdout", "--no-signature", f"{base}..{ref}"], env=env)
    return b""


def _archive(files: Mapping[str, bytes]) -> bytes:
    """Return a tar archive whose bytes depend on the files alone."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o644
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()
