"""The command ``report``: make one report of a stored run, in the format of its reader."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.cli import merging
from harness.lib import output
from harness.lib.errors import ExitCode, UsageError
from harness.report import b4, html, junit, kcidb, ktap, mail, markdown, patchwork

Parser = argparse.ArgumentParser


@dataclass(frozen=True)
class Format:
    """A format: ``text`` names its reader, ``render`` makes the report from the arguments.

    ``options`` adds the options of this format alone.
    """

    text: str
    render: Callable[[argparse.Namespace], str | bytes]
    options: Callable[[Parser], object] = lambda _parser: None


def _kcidb_options(parser: Parser) -> None:
    parser.add_argument(
        "--origin",
        metavar="NAME",
        default=kcidb.ORIGIN,
        help="the name under which your CI system submits (default: %(default)s)",
    )


def _junit_options(parser: Parser) -> None:
    parser.add_argument(
        "--host-paths",
        action="store_true",
        help="keep the paths of this host, of which else only the last part is left",
    )


def _mail_options(parser: Parser) -> None:
    parser.add_argument(
        "--patch",
        metavar="N",
        type=int,
        help="reply to patch N (default: the patch that brings the faults, if --bisect or runs of `prefixes` "
        "beside this one name it, else the cover letter)",
    )


def _patchwork_options(parser: Parser) -> None:
    parser.add_argument(
        "--context",
        metavar="NAME",
        default=patchwork.CONTEXT,
        help="the name of the check (default: %(default)s)",
    )
    _url_option(parser)


def _url_option(parser: Parser) -> None:
    parser.add_argument("--url", metavar="URL", default="", help="where a reader finds more")


FORMATS: Mapping[str, Format] = {
    "junit": Format(
        "XML for a CI system",
        lambda args: junit.render(args.folder, host_paths=args.host_paths),
        _junit_options,
    ),
    "html": Format("a page for people, one file without a script", lambda args: html.render(args.folder)),
    "kcidb": Format(
        "JSON for the KCIDB of kernelci.org",
        lambda args: kcidb.render(args.folder, args.origin),
        _kcidb_options,
    ),
    "markdown": Format("Markdown for the summary of a CI job", lambda args: markdown.render(args.folder)),
    "mail": Format(
        "a mail to reply with; it is not sent",
        lambda args: mail.render(args.folder, args.patch),
        _mail_options,
    ),
    "patchwork": Format(
        "JSON of a check for patchwork",
        lambda args: patchwork.render(args.folder, args.context, args.url),
        _patchwork_options,
    ),
    "b4": Format(
        "JSON for the check command of b4 review",
        lambda args: b4.render(args.folder, sys.stdin.buffer, args.url),
        _url_option,
    ),
    "ktap": Format("KTAP, as a kernel's own tests print it", lambda args: ktap.render(args.folder)),
}


def add_arguments(parser: Parser) -> None:
    """Add the arguments of the command to its parser: a command for each format, with its options."""
    _add_output(parser, None)
    merging.add_arguments(parser)
    parser.add_argument("--mail", metavar="RESULTS", type=Path, help="the same as: mail RESULTS")
    formats = parser.add_subparsers(metavar="FORMAT", dest="format")
    for name, one in FORMATS.items():
        sub = formats.add_parser(
            name, help=one.text, description=f"Make a report of a stored run: {one.text}.", allow_abbrev=False
        )
        sub.add_argument("folder", metavar="RESULTS", type=Path, help="the folder of the run")
        _add_output(sub, argparse.SUPPRESS)  # the default of the command holds
        one.options(sub)


def _add_output(parser: Parser, default: str | None) -> None:
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, default=default, help="write to FILE, not to the screen"
    )


def report(args: argparse.Namespace) -> ExitCode:
    """Make the report of a stored run; the exit code says only whether it was made.

    Raises UsageError without a format, and HarnessError for a folder that holds no run.
    """
    if args.merge is not None:
        return merging.merge_shards(args)
    if args.mail is not None and args.format is None:
        args.format, args.folder, args.patch = "mail", args.mail, None
    if args.format is None:
        raise UsageError(f"Name the format of the report: one of {', '.join(FORMATS)}.")
    write_report(FORMATS[args.format].render(args), args.output)
    return ExitCode.OK


def write_report(content: str | bytes, path: Path | None) -> None:
    """Write a report to a file, or else to standard output; it is UTF-8 whatever the locale is."""
    data = content.encode() if isinstance(content, str) else content
    if path is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    output.write(path, data)
