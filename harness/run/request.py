"""The request of a user, and the input of a run that it makes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from harness.kernel import base_choice, kconfig, profile
from harness.kernel.base import Base
from harness.kernel.build import release_of
from harness.kernel.checkout import kernel_version
from harness.lib import paths, sandbox
from harness.lib.errors import ApplyError, UsageError
from harness.lib.paths import KCONFIG
from harness.lib.shard import Shard
from harness.run import sources
from harness.series import mutant, selftest, series
from harness.series.selftest import Program
from harness.series.series import Series
from harness.verdict import requirements

DEFAULT_SERIES = "reference-feature"
ANY_SEED = "random"
AUTO = 0  # machines: as many as the host allows and the scenarios are worth
FRAGMENTS = ("base.config", "vfio.config", "observe.config")


@dataclass(frozen=True)
class Request:
    """The kernel to test, the machine to test it on, and the scenarios to run.

    Raises UsageError for options that contradict each other.
    """

    series: str | None = None
    revision: str | None = None
    refresh: bool = False
    patches: int | None = None
    mutant: str | None = None
    kernel_argument: tuple[str, ...] = ()
    base: str | None = None
    tree: Path | None = None
    kernel: Path | None = None
    headers: Path | None = None
    kconfig: tuple[Path, ...] = ()
    accel: str = "auto"
    sandbox: str = sandbox.AUTO
    qemu: str = "qemu-system-x86_64"
    results: Path = Path("results")
    junit: Path | None = None
    keep_vm: bool = False
    resume: Path | None = None
    repeat: int = 1
    random_order: str = ""
    machines: int = AUTO
    shard: Shard | None = None
    requirement: tuple[str, ...] = ()
    variants: str = "all"
    fast: bool = False
    until_violated: bool = False
    no_base: bool = False
    bisect: bool = False
    no_give_up: bool = False
    no_snapshots: bool = False
    coverage: bool = False
    require_coverage: float = 0.0
    time_limit: str = ""
    selftests: str = selftest.AUTO

    def __post_init__(self) -> None:
        if self.kernel is not None and self.selftests == selftest.ALL:
            raise UsageError(
                "--selftests all builds test programs from the source of the kernel, and --kernel gives "
                "none: leave one of them out."
            )
        if (self.kernel is None) != (self.headers is None):
            raise UsageError(
                "--kernel and --headers belong together: the probes are compiled against the "
                "headers of the kernel under test (`make headers_install`)."
            )
        if self.revision is not None and self.series is None:
            raise UsageError("--revision chooses a revision of --series, and no series is given.")
        if self.refresh and self.series is None:
            raise UsageError("--refresh fetches the thread of --series again, and no series is given.")
        if self.patches is not None and self.series is None:
            raise UsageError("--patches counts the patches of --series, and no series is given.")
        if self.mutant is not None and (self.series is None or self.patches is not None):
            raise UsageError("A mutant changes the whole of a series: --mutant goes with --series alone.")
        if self.bisect and (self.series is None or self.kernel is not None):
            raise UsageError("--bisect looks for the patch at fault: it needs a series that is built here.")
        if self.bisect and self.mutant is not None:
            raise UsageError("A mutant is a fault in the whole of a series: --bisect has no patch to find.")
        if self.bisect and (self.no_base or self.until_violated):
            raise UsageError(
                "--bisect looks for violations that the base does not have, and the base is not asked with "
                "--no-base or --until-violated: leave these out."
            )
        if self.shard is not None and self.random_order == ANY_SEED:
            raise UsageError(
                "All shards of a selection need one order: give --random-order the same SEED, a number, in "
                "each."
            )
        if self.kernel_argument and not self.no_base:
            raise UsageError(
                "--kernel-argument changes the kernel under test, and its base alone is asked without it: "
                "give --no-base as well."
            )
        if self.base is not None and self.tree is not None:
            raise UsageError(
                "--tree gives the source itself, so there is no release to choose: leave --base out."
            )
        self._check_coverage()
        if self.kernel is not None and self.base is not None:
            raise UsageError("--kernel skips the build, so --base has no effect with it.")
        if self.kernel is not None and (self.tree is not None or self.kconfig):
            raise UsageError("--kernel skips the build, so --tree and --kconfig have no effect with it.")

    def _check_coverage(self) -> None:
        """Raise UsageError for options that contradict --coverage."""
        if self.require_coverage and not self.coverage:
            raise UsageError("--require-coverage says what --coverage has to find: give both.")
        if not 0 <= self.require_coverage <= 100:
            raise UsageError(f"--require-coverage takes a percentage, and {self.require_coverage:g} is none.")
        if self.coverage and self.kernel is not None:
            raise UsageError("--coverage needs a kernel that is built for it here: leave --kernel out.")
        if self.coverage and self.series is None:
            raise UsageError("--coverage counts the lines that a series adds, and no series is given.")
        if self.coverage and self.machines > 1:
            raise UsageError(
                "--coverage counts the lines on one machine after the other: leave --machines out."
            )
        if self.coverage and self.shard is not None:
            raise UsageError(
                "--coverage counts the lines that a whole run executes; a shard would miss those of the "
                "others: leave --shard out."
            )

    @property
    def fragments(self) -> tuple[Path, ...]:
        """The kernel config fragments, the user's last so that they win."""
        counting = (KCONFIG / profile.FRAGMENT,) if self.coverage else ()
        return self.uncounted_fragments + counting

    @property
    def snapshots(self) -> bool:
        """Return whether later machines of a layout are loaded from a snapshot of the first one."""
        return not self.no_snapshots and not self.keep_vm

    @property
    def uncounted_fragments(self) -> tuple[Path, ...]:
        """The fragments of a kernel whose lines are not counted, such as a base alone."""
        return tuple(KCONFIG / name for name in FRAGMENTS) + self.kconfig

    def arguments(self) -> list[str]:
        """Return the options of ``python -m harness run`` that make this request."""
        options: list[str] = []
        for field in fields(self):
            value, option = getattr(self, field.name), f"--{field.name.replace('_', '-')}"
            if value == field.default:
                continue
            if value is True:
                options.append(option)
            else:
                options += [f"{option}={one}" for one in (value if isinstance(value, tuple) else [value])]
        return options


@dataclass(frozen=True)
class RunInput:
    """The request and the series that a run is started from.

    ``base_reason`` says why the base is this one, empty for a kernel or a checkout.
    ``caught_by`` are the requirements whose scenarios must catch the requested mutant,
    if any; these scenarios run first.  ``arguments`` are the options as the user typed
    them.  ``base`` is given for a run of the base alone, which fetches none then.
    ``selftests`` are the kernel's own test programs to run after the scenarios.
    """

    request: Request
    series: Series
    base_reason: str = ""
    caught_by: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    base: Base | None = None
    selftests: tuple[Program, ...] = ()


def load(request: Request, arguments: Sequence[str] = ()) -> RunInput:
    """Read the requested series.  Raises UsageError, HarnessError.

    Without one, the result has a series without patches, with the name of the kernel
    or the checkout.  If the series comes from standard input, the request and the
    arguments in the result name a file with the same mails; and no thread is fetched twice.
    """
    release = _release_of_kernel(request)
    if request.series is None:
        given = request.kernel or request.tree
        assert given is not None
        unpatched = series.unpatched(given.absolute().name, "auto")
        tested = unpatched.on(release)
        return RunInput(request, tested, arguments=tuple(arguments), selftests=_selftests(request, tested))
    source = sources.find(request.series, refresh=request.refresh)
    own = series.load(source.path, paths.PATCHES, revision=request.revision, message_id=source.message_id)
    if source.note:
        posting = replace(own.posting, notes=(source.note, *own.posting.notes))
        own = replace(own, origin=source.origin, posting=posting)
    if request.series == sources.STANDARD_INPUT:
        again = {"-": source.argument, "--series=-": f"--series={source.argument}"}
        arguments = [again.get(one, one) for one in arguments]
    arguments = [one for one in arguments if one != "--refresh"]
    request = replace(request, series=source.argument, refresh=False)
    reason = ""
    if request.kernel is None and request.tree is None:
        choice = base_choice.choose(own, request.base)
        release, reason = choice.release, choice.reason
    tested = own.on(release) if release else own
    if request.mutant is not None and tested.patches != own.patches:
        raise UsageError(
            f"The mutants of {own.name} are faults of its patches for {own.base}; on {tested.base} the "
            f"series has others ({tested.name}). Choose {own.base} as the base."
        )
    caught_by: tuple[str, ...] = ()
    if request.mutant is not None:
        if request.mutant.endswith(mutant.SUFFIX):
            fault = mutant.of_file(Path(request.mutant), own.name)
        else:
            fault = mutant.find(paths.PATCHES, requirements.load(), source.argument, request.mutant)
        tested, caught_by = fault.of(tested), fault.caught_by
    elif request.patches is not None:
        tested = tested.first(request.patches)
    if request.coverage:
        _require_code(tested)
    programs = _selftests(request, tested)
    return RunInput(request, tested, reason, caught_by, tuple(arguments), selftests=programs)


def _require_code(tested: Series) -> None:
    """Raise UsageError for a series without C code of the kernel.

    One that is refused is left to the stage `apply`, which says why.
    """
    with contextlib.suppress(ApplyError):
        paths = {path for files in series.check(tested) for file in files for path in file.paths}
        if not any(map(profile.is_kernel_code, paths)):
            raise UsageError(
                f"--coverage counts the executed lines of the series, and {tested.name} changes no C file of "
                "the kernel: leave --coverage out."
            )


def _selftests(request: Request, tested: Series) -> tuple[Program, ...]:
    """Return the kernel's own test programs that the request asks for.

    A series that changes no file there is not read, nor is one that is refused: the stage `apply`
    says why.
    """
    changed: set[str] = set()
    mentioned = any(selftest.SELFTESTS.encode() in patch.content for patch in tested.patches)
    if mentioned and request.selftests != selftest.NONE:
        with contextlib.suppress(ApplyError):
            changed = {path for files in series.check(tested) for file in files for path in file.paths}
    return selftest.choose(request.selftests, tested.selftest, changed)


def _release_of_kernel(request: Request) -> str:
    """Return the release of the given checkout or kernel ("7.2"); empty without one, or if it is unknown.

    The stages complain of a folder or a file that is no kernel.
    """
    with contextlib.suppress(UsageError):
        if request.tree is not None:
            return kconfig.release_name(kernel_version(request.tree))
        if request.kernel is not None:
            return kconfig.release_name(release_of(request.kernel))
    return ""
