"""Read the table ``[selftest]`` of a manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.lib.errors import UsageError
from harness.lib.text import printable
from harness.series.selftest import BDF_VARIABLE, NONE, TIMEOUT, Program, Table

_KEYS = {"run", "program"}
_KEYS_OF_PROGRAM = {"path", "arguments", "devices", "environment", "timeout", "ktap", "flags"}
_PATH = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.+-]*/)+[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLACEHOLDER = re.compile(r"\{(?P<what>[^{}:]*)(?::(?P<role>[^{}]*))?\}")
ROLES = ("edu", "edu2", "ram", "ram2", "bigram", "rng", "display", "pair", "pair2")
LONGEST = 3600  # seconds


def read(path: Path, content: Any) -> Table:
    """Return the table ``content`` of the manifest ``path``.  Raises UsageError if it is malformed."""
    if not isinstance(content, dict):
        raise UsageError(f"`selftest` in {path} must be a table.")
    _require_known(path, "[selftest]", content, _KEYS)
    run = content.get("run")
    programs = content.get("program", [])
    if run not in (None, NONE):
        raise UsageError(f"`run` of [selftest] in {path} can only be {NONE!r}.")
    if not isinstance(programs, list) or not all(isinstance(one, dict) for one in programs):
        raise UsageError(f"{path} must have a table [[selftest.program]] for each program.")
    if run == NONE and programs:
        raise UsageError(f"{path} says of [selftest] that none is run, and how some are: leave one out.")
    read = tuple(_program(path, one) for one in programs)
    twice = {one.path for one in read if sum(other.path == one.path for other in read) > 1}
    if twice:
        raise UsageError(f"{path} has two tables [[selftest.program]] for {min(twice)}.")
    return Table(run is None, read)


def _program(path: Path, content: Mapping[str, Any]) -> Program:
    where = "[[selftest.program]]"
    _require_known(path, where, content, _KEYS_OF_PROGRAM)

    def refuse(key: str, rule: str) -> UsageError:
        shown = printable(str(content.get(key)))
        return UsageError(f"`{key}` of {where} in {path} must be {rule}; it is {shown!r}.")

    name = content.get("path")
    if not isinstance(name, str) or not _PATH.fullmatch(name):
        raise refuse("path", "a path below tools/testing/selftests/, such as vfio/vfio_pci_device_test")
    arguments = content.get("arguments", ["{bdf}"])
    if not _are_texts(arguments):
        raise refuse("arguments", "a list of texts")
    devices = content.get("devices", ["edu"])
    if not _are_texts(devices) or not all(one in ROLES for one in devices):
        raise refuse("devices", f"a list of {', '.join(ROLES)}")
    environment = content.get("environment", {BDF_VARIABLE: "{bdf}"} if devices else {})
    if not isinstance(environment, dict) or not _are_texts([*environment, *environment.values()]):
        raise refuse("environment", "a table of texts")
    if not all(_NAME.fullmatch(one) for one in environment):
        raise refuse("environment", "a table whose keys are names of variables")
    for text in (*arguments, *environment.values()):
        _check_placeholders(path, text, devices)
    timeout = content.get("timeout", TIMEOUT)
    if type(timeout) is not int or not 1 <= timeout <= LONGEST:
        raise refuse("timeout", f"a number of seconds, 1 to {LONGEST}")
    ktap = content.get("ktap", "required")
    if ktap not in ("required", "optional"):
        raise refuse("ktap", "'required' or 'optional'")
    flags = content.get("flags", "")
    if not isinstance(flags, str) or not flags.isprintable():
        raise refuse("flags", "a text with flags for the compiler")
    return Program(
        name,
        tuple(arguments),
        tuple(devices),
        tuple(environment.items()),
        timeout,
        ktap == "optional",
        flags.strip(),
    )


def _check_placeholders(path: Path, text: str, devices: list[str]) -> None:
    for found in _PLACEHOLDER.finditer(text):
        role = found["role"] or (devices[0] if devices else "")
        if found["what"] not in ("bdf", "group") or role not in devices:
            raise UsageError(
                f"{printable(found[0])} in a table [[selftest.program]] of {path} is not known: there are "
                "{bdf} and {group} of the first of `devices` and, with its role, of another: {bdf:ram2}."
            )


def fill(text: str, values: Mapping[str, tuple[str, str]]) -> str:
    """Return ``text`` with its placeholders replaced; ``values`` has BDF and group by role, in order."""
    first = next(iter(values), "")

    def value(found: re.Match[str]) -> str:
        bdf, group = values[found["role"] or first]
        return bdf if found["what"] == "bdf" else group

    return _PLACEHOLDER.sub(value, text)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and "\0" not in one for one in value)


def _require_known(path: Path, where: str, content: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(content) - known):
        raise UsageError(
            f"{path} has the key {printable(unknown[0])!r} in {where}, which is not known there."
        )
