"""Write a comparison of two runs as JSON, for programs; docs/reports.md has the schema."""

from __future__ import annotations

import json
from typing import Any

from harness.report.comparison_of_runs.comparison import RunComparison
from harness.report.comparison_of_runs.pairs import Answer, Category, Pair
from harness.report.comparison_of_runs.runs import Run
from harness.report.comparison_of_runs.sections import sections
from harness.report.comparison_of_runs.transcripts import ReplyChange

FORMAT = "patchproof-comparison"
VERSION = 1


def render(comparison: RunComparison) -> str:
    """Return the comparison as a JSON object, in ASCII, that ends with a newline."""
    counts = {category: len(comparison.of(category)) for category in Category}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "before": _run(comparison.before),
        "after": _run(comparison.after),
        "exit_code": int(comparison.exit_code),
        "summary": comparison.summary,
        "unanswered": comparison.unanswered,
        "overridden": list(comparison.overridden),
        "notes": list(comparison.notes),
        "differences": [
            {"name": one.name, "before": one.before, "after": one.after} for one in comparison.differences
        ],
        "patches": None
        if comparison.patches is None
        else {
            "same": comparison.patches.same,
            "changed": comparison.patches.changed,
            "new": list(comparison.patches.new),
            "gone": list(comparison.patches.gone),
        },
        "counts": {str(category): number for category, number in counts.items()},
        "causes": [
            {
                "section": section.title,
                "requirement": item.requirement,
                "sentence": item.sentence,
                "scenarios": [pair.id for pair in item.pairs],
            }
            for section in sections(comparison)
            for item in section.items
        ],
        "scenarios": [_pair(pair) for pair in comparison.pairs if pair.category is not Category.SAME],
        "complaints": [
            {
                "fingerprint": one.complaint.fingerprint,
                "kind": one.complaint.kind,
                "title": one.complaint.title,
                "change": one.where,
                "before": one.before,
                "after": one.after,
                "earlier": one.earlier,
            }
            for one in comparison.complaints
        ],
    }
    return json.dumps(content, indent=1) + "\n"


def _run(run: Run) -> dict[str, Any]:
    return {
        "label": run.label,
        "folder": str(run.directory),
        "run": run.record.run,
        "series": run.fact("series"),
        "identity": run.fact("identity"),
        "program": run.fact("program"),
        "scenarios": len(run.record.scenarios),
    }


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "id": pair.id,
        "kind": str(pair.shown.entry.kind),
        "requirements": list(pair.shown.entry.requirements),
        "title": pair.shown.entry.title,
        "category": str(pair.category),
        "regression": pair.regression,
        "inherited": pair.inherited,
        "same_cause": pair.same_cause,
        "before": _answer(pair.before),
        "after": _answer(pair.after),
        "reply": None if pair.reply is None else _reply(pair.reply),
        "findings": {"gone": list(pair.gone), "new": list(pair.new)},
    }


def _answer(answer: Answer) -> dict[str, Any] | None:
    """Return the answer of a run; None if the scenario is not in its plan."""
    if not answer.results:
        return None
    best = answer.best
    return {
        "state": str(answer.state),
        "verdicts": [str(result.verdict) for result in answer.results],
        "reason": best.reason,
        "deviation": None if best.deviation is None else best.deviation.members(),
        "complaints": [one.fingerprint for one in best.complaints],
        "transcript": best.transcript,
    }


def _reply(reply: ReplyChange) -> dict[str, Any]:
    before, after = reply.kinds
    return {
        "before": {"operation": reply.before.text, "line": reply.before.line, "kind": before},
        "after": {"operation": reply.after.text, "line": reply.after.line, "kind": after},
    }
