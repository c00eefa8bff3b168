"""Compiled modules are kept in the cache if they may not be written beside the sources."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness.lib.cache import CACHE_VARIABLE
from harness.lib.paths import PROJECT


def compiled(cache: Path, **variables: str) -> set[str]:
    """Run a short command with these variables; return the names of the modules compiled into the cache."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {CACHE_VARIABLE: str(cache)} | variables
    command = [sys.executable, "-m", "harness", "--help"]
    subprocess.run(command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL, check=True)
    return {path.name.partition(".")[0] for path in (cache / "bytecode").rglob("*.pyc")}


def test_python_that_writes_no_bytecode_uses_the_cache(tmp_path: Path) -> None:
    assert {"parser", "main"} <= compiled(tmp_path, PYTHONDONTWRITEBYTECODE="1")


def test_python_with_a_folder_for_bytecode_keeps_it(tmp_path: Path) -> None:
    other = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": str(tmp_path / "other")}
    assert compiled(tmp_path, **other) == set()


def test_python_that_writes_bytecode_does_not_use_the_cache(tmp_path: Path) -> None:
    prefix = {"PYTHONPYCACHEPREFIX": str(tmp_path / "other")}
    assert compiled(tmp_path, **prefix) == set()
