"""The facts of a run, ``run.json``: what exactly was tested, and with what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from harness.lib.errors import HarnessError
from harness.lib.text import printable

RUN = "run.json"
_WITHOUT = "Remove the file to have reports without them."
#: The facts that stay equal in all parts of a resumed run, and their descriptions for a message.
IDENTITY = {
    "series": "the name of the series",
    "base_wanted": "the base",
    "digest": "the digest of the series",
    "tree": "the git tree of the kernel",
    "kernel": "the identity of the kernel",
    "config_digest": "the digest of its configuration",
}


class MailFacts(TypedDict):
    """A mail of the series: the cover letter (``number`` 0) or a patch (from 1); texts may be empty."""

    number: int
    subject: str  # decoded, with its tags
    message_id: str  # without angle brackets
    sender: str  # "Name <address>", decoded
    recipients: list[str]  # of To and Cc, each like ``sender``
    sha256: str  # of the mail as it stands in its file
    patch_id: str  # git patch-id --stable of its diff; empty for the cover letter


class Facts(TypedDict, total=False):
    """The members of ``run.json``: what exactly was tested, and with what.

    Each stage adds its facts, so a run that ended early lacks some.
    """

    harness: str  # version of this program
    series: str  # name
    title: str
    origin: str  # where the series was read from
    message_id: str  # of the cover letter or the first patch, without angle brackets
    revision: str  # "4", or "RFC2"
    base_commit: str  # that the mails name
    prerequisites: list[str]  # patch-ids that the mails name
    prerequisite_messages: list[str]  # message-ids that the mails name
    change_id: str  # the name that b4 gives to all revisions of the series
    previous: list[str]  # message-ids of, or links to, earlier revisions
    mails: list[MailFacts]  # the cover letter, if there is one, and the patches
    manifest: str  # of a public revision, found by the message-id
    dialect: str
    interfaces: str  # those of the headers, each with its constant
    digest: str  # of the series' mails, base and dialect, 64 hex digits
    identity: str  # of the series' patches, by git patch-id; 64 hex digits, empty without patches
    program: str  # digest of suites, probes and harness
    base_wanted: str  # "6.19"
    base: str  # the version that was used, "6.19.6" if 6.19 was not available
    base_reason: str  # why this base, empty for a checkout
    base_source: str  # where the base came from
    checkout: str  # git tree id of the checkout given with --tree
    base_tree: str  # git tree id of the base alone
    fragments: str  # digest of the requested configuration
    tree: str  # git tree id of base plus series
    kernel_release: str  # uname -r
    kernel: str  # identity of the built kernel
    config_digest: str
    compiler: str
    warnings: list[str]  # compile warnings that the series adds
    missing_options: list[str]  # kernel options that the base lacks
    image: str  # identity of the root file system
    sandbox: str  # "on" or "off"
    sandbox_reason: str  # what contains builds, or why nothing does
    kernel_built: str  # what contained the build of the kernel, which may be an earlier one
    accelerator: str
    accelerator_reason: str
    qemu: str  # version
    qemu_digest: str  # of the program, which may be a script that starts the real one
    qemu_command: list[str]
    slowdowns: dict[str, float]  # of each machine: how many times slower than usual its guest ran
    selection: list[str]  # the options and arguments that the user gave
    directory: str  # the working directory, to which paths in ``selection`` are relative
    repeat: int  # the number of repetitions of each scenario
    random_order: str  # the seed; empty if the scenarios run in the order of the suites
    shards: list[str]  # names of the runs that were put together
    resumed: list[str]  # UTC times at which the run was resumed


def read_facts(directory: Path) -> Mapping[str, object]:
    """Return the facts in ``run.json``, none without that file; raise HarnessError if it is damaged."""
    path = directory / RUN
    try:
        facts = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise HarnessError(f"The facts of the run cannot be read: {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise HarnessError(
            f"The facts of the run cannot be read: {path} is not JSON ({printable(str(error))}). {_WITHOUT}"
        ) from error
    if not isinstance(facts, dict):
        raise HarnessError(f"The facts of the run cannot be read: {path} holds no JSON object. {_WITHOUT}")
    return facts


def read_mails(facts: Mapping[str, object]) -> list[MailFacts]:
    """Return the mails of the series; those of a damaged ``run.json`` are left out."""
    stored = facts.get("mails")
    found = []
    for one in stored if isinstance(stored, list) else []:
        if not isinstance(one, dict):
            continue
        number, recipients = one.get("number"), one.get("recipients")
        if isinstance(number, int) and isinstance(recipients, list):
            mail = MailFacts(
                number=number,
                subject=str(one.get("subject", "")),
                message_id=str(one.get("message_id", "")),
                sender=str(one.get("sender", "")),
                recipients=[str(who) for who in recipients],
                sha256=str(one.get("sha256", "")),
                patch_id=str(one.get("patch_id", "")),
            )
            found.append(mail)
    return found
