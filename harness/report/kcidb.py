"""The report for KCIDB, the result database of kernelci.org: JSON of its schema 5.3.

A checkout (base and patches), a build of it, and a test run for each scenario, further stage, machine and
test program, with the status that KCIDB knows:

=============================================  =====
conforms                                       PASS
violates, kernel-died, unexpectedly-conforms   FAIL
the same, of a requirement that is not judged  DONE
harness-error; what began and never ended      ERROR
not-applicable                                 SKIP
not-reached                                    MISS
=============================================  =====

A violation that the manifest expects, or that the base has, too, is FAIL as well: the status is about the
code under test.  ``misc.expected`` and ``misc.origin`` tell it apart.  A checkout has no ``valid`` if
nobody knows, as after a fault of the network.  A checkout whose patches do not apply
has no build, and a build that failed has no tests: KCIDB counts those of an invalid parent as invalid.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.journal.facts import read_mails
from harness.lib.errors import UsageError
from harness.lib.files import digest
from harness.lib.text import printable, visible
from harness.report.entry_path import path_of, word
from harness.report.evidence import excerpt, traces
from harness.report.host_paths import read_shortened
from harness.verdict import requirements
from harness.verdict.case import Case
from harness.verdict.record import Record, Result
from harness.verdict.verdict import SERIES_FAULTS, Kind, Verdict

VERSION = {"major": 5, "minor": 3}
ORIGIN = "patchproof"
MAX_EXCERPT = 16384  # characters, of the schema

_STATUS = {
    Verdict.CONFORMS: "PASS",
    Verdict.VIOLATES: "FAIL",
    Verdict.KERNEL_DIED: "FAIL",
    Verdict.UNEXPECTEDLY_CONFORMS: "FAIL",
    Verdict.HARNESS_ERROR: "ERROR",
    Verdict.NOT_APPLICABLE: "SKIP",
    Verdict.NOT_REACHED: "MISS",
}
_SOURCE_STAGES = ("fetch", "apply")
_BUILD = "build"
_MESSAGE_ID = re.compile(r"[^\s<>@]+@[^\s<>@]+")
_ORIGIN = re.compile(r"[a-z0-9_]+")
_RELEASE = re.compile(r"\d+\.\d+(\.\d+)?(-rc\d+)?")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
#: Facts for the ``misc`` of a checkout and of a build.
_OF_CHECKOUT = ("series", "revision", "identity", "digest", "base_wanted", "base", "base_source", "checkout")
_OF_BUILD = ("kernel_release", "kernel", "config_digest", "tree", "dialect", "interfaces", "warnings")
_OF_MACHINE = ("accelerator", "accelerator_reason", "qemu", "qemu_digest", "image", "program")


def render(directory: Path, origin: str = ORIGIN) -> str:
    """Return the JSON document; ``origin`` is the name under which the CI system submits.

    Raises HarnessError if ``directory`` holds no run, and UsageError for a malformed ``origin``.
    """
    if not _ORIGIN.fullmatch(origin):
        raise UsageError(
            f"The origin {printable(origin)!r} is not one that KCIDB takes: lower-case letters, digits and _."
        )
    record, facts = read_shortened(directory)
    return json.dumps(document(record, facts, directory, origin), indent=1) + "\n"


def document(
    record: Record, facts: Mapping[str, object], directory: Path, origin: str = ORIGIN
) -> dict[str, Any]:
    """Return the report as a value; every text in it is plain."""
    # The name of a run is unique on one host only.
    run = f"{origin}:{record.run}-{digest(visible(record.run), visible(record.started), repr(facts))[:12]}"
    stages = {one.entry.id: one for one in record.results if one.entry.kind in (Kind.STAGE, Kind.HARNESS)}
    sources = [stages[name] for name in _SOURCE_STAGES if name in stages]
    report: dict[str, Any] = {
        "version": VERSION,
        "checkouts": [_checkout(record, facts, directory, sources) | {"id": run, "origin": origin}],
    }
    if all(one.verdict is Verdict.CONFORMS for one in sources):
        build = {"id": run, "checkout_id": run, "origin": origin}
        report["builds"] = [_build(facts, directory, stages.get(_BUILD)) | build]
        if _BUILD not in stages or stages[_BUILD].verdict is Verdict.CONFORMS:
            environment = _environment(facts)
            report["tests"] = [
                {"id": f"{run}:{number}", "build_id": run, "origin": origin, **test}
                | ({"environment": environment} if environment else {})
                for number, test in enumerate(_tests(record, directory), 1)
            ]
    plain: dict[str, Any] = _plain(report)
    return plain


def _checkout(
    record: Record, facts: Mapping[str, object], directory: Path, sources: Sequence[Result]
) -> dict[str, Any]:
    base = str(facts.get("base", ""))
    message = str(facts.get("message_id", ""))
    failed = next((one for one in sources if one.verdict is not Verdict.CONFORMS), None)
    known = failed is None or (failed.ended and failed.verdict is Verdict.VIOLATES)
    made: dict[str, Any] = {
        "comment": str(facts.get("title", "")),
        "misc": _some(facts, _OF_CHECKOUT) | {"run": record.run, "exit_code": int(record.exit_code)},
    }
    if known:
        made["valid"] = failed is None
    if _TIME.fullmatch(record.started):
        made["start_time"] = record.started
    if _RELEASE.fullmatch(base):
        made["git_commit_name"] = f"v{base}"
    if _MESSAGE_ID.fullmatch(message):
        made["message_id"] = message
    if (patchset := _patchset_hash(facts)) is not None:
        made["patchset_hash"] = patchset
    if failed is not None:
        made["log_excerpt"] = _tail(_stage_log(failed, directory))
    return made


def _patchset_hash(facts: Mapping[str, object]) -> str | None:
    """Return KCIDB's hash of the patches in order, empty without patches; None if it is not known.

    It is what ``sha256sum *.patch | cut -c-64 | sha256sum`` prints.  A checkout or a kernel of
    the user's own may hold other changes.
    """
    if "mails" not in facts or "base" not in facts or facts.get("checkout"):
        return None
    hashes = [one["sha256"] for one in read_mails(facts) if one["number"] > 0]
    return hashlib.sha256("".join(f"{one}\n" for one in hashes).encode()).hexdigest() if hashes else ""


def _build(facts: Mapping[str, object], directory: Path, stage: Result | None) -> dict[str, Any]:
    made: dict[str, Any] = {
        "architecture": "x86_64",
        "misc": _some(facts, _OF_BUILD),
    }
    if compiler := facts.get("compiler"):
        made["compiler"] = str(compiler)
    if stage is None:  # a kernel that somebody else has built
        return made
    made["status"] = _status(stage)
    if stage.duration is not None:
        made["duration"] = stage.duration
    if stage.verdict is not Verdict.CONFORMS:
        made["log_excerpt"] = _tail(_stage_log(stage, directory))
    return made


def _stage_log(stage: Result, directory: Path) -> str:
    log = excerpt(directory, stage.transcript) if stage.transcript else ""
    return "\n".join(filter(None, (stage.reason, stage.details or log)))


def _environment(facts: Mapping[str, object]) -> dict[str, Any]:
    misc = _some(facts, _OF_MACHINE)
    if not misc:
        return {}
    comment = (
        f"QEMU {facts.get('qemu', 'of an unknown version')}, {facts.get('accelerator', 'no accelerator')}"
    )
    return {"comment": comment, "misc": misc}


def _tests(record: Record, directory: Path) -> Iterator[dict[str, Any]]:
    for result in record.results:
        if result.entry.id in (*_SOURCE_STAGES, _BUILD):
            continue
        yield _test(result, directory)
        for case in result.cases:
            yield _case(result, case)


def _test(result: Result, directory: Path) -> dict[str, Any]:
    entry = result.entry
    made: dict[str, Any] = {
        "path": ".".join((ORIGIN, *path_of(entry))),
        "comment": entry.title or entry.id,
        "status": _status(result),
        "misc": _misc(result),
    }
    if result.duration is not None:
        made["duration"] = result.duration
    if result.verdict in SERIES_FAULTS:
        made["log_excerpt"] = _tail(_evidence(result, directory))
    return made


def _status(result: Result) -> str:
    """Return the status of a result; a finding completes without a judgment."""
    if result.is_finding and result.verdict in SERIES_FAULTS:
        return "DONE"
    if result.left_open:
        return "ERROR"  # the verdict is only the pessimistic default
    return _STATUS[result.verdict]


def _misc(result: Result) -> dict[str, Any]:
    entry = result.entry
    made: dict[str, Any] = {"id": entry.id, "verdict": result.verdict, "expected_verdict": entry.expected}
    if entry.requirements:
        known = requirements.load().requirements
        made |= {"requirements": list(entry.requirements), "strength": entry.strength}
        made["sentences"] = [known[name].sentence for name in entry.requirements if name in known]
    if entry.repetition > 1:
        made["repetition"] = entry.repetition
    if result.reason:
        made["reason"] = result.reason
    if (deviation := result.deviation) is not None:
        made |= {"expected": deviation.expected, "seen": deviation.seen}
        if deviation.operation:
            made["operation"] = deviation.operation
    if (comparison := result.comparison) is not None:
        made |= {"origin": comparison.origin, "base": comparison.reason}
    if result.findings:
        made["findings"] = list(result.findings)
    if result.complaints:
        made["complaints"] = [
            {"fingerprint": one.fingerprint, "kind": one.kind, "title": one.title}
            for one in result.complaints
        ]
    return made


def _case(result: Result, case: Case) -> dict[str, Any]:
    """Return the test run of a result that a test program of the kernel itself reported."""
    made: dict[str, Any] = {
        "path": ".".join((ORIGIN, *path_of(result.entry), word(case.name))),
        "comment": case.name,
        "status": _STATUS[case.verdict],
    }
    if case.reason:
        made["misc"] = {"reason": case.reason}
    return made


def _evidence(result: Result, directory: Path) -> str:
    """Return the end of the transcript, and what the kernel said: call traces, or the console's end."""
    parts = [excerpt(directory, result.transcript)] if result.transcript else []
    said = list(traces(result, directory).values())
    if not said and result.verdict is Verdict.KERNEL_DIED and (span := result.console) is not None:
        said = [excerpt(directory, span.file, span.start, span.end)]
    return "\n".join(parts + said)


def _some(facts: Mapping[str, object], names: Sequence[str]) -> dict[str, object]:
    return {name: facts[name] for name in names if facts.get(name)}


def _tail(text: str) -> str:
    """Return the end of a text, at most as long as the schema allows."""
    return visible(text)[-MAX_EXCERPT:]


def _plain(value: Any) -> Any:
    """Return a value of JSON with every text in it made visible: no NUL, no lone surrogate."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(str(name)): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value
