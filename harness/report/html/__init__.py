"""Make ``report.html``, one self-contained page for a run, from the results folder alone."""

from harness.report.html.page import REPORT, render, write

__all__ = ["REPORT", "render", "write"]
