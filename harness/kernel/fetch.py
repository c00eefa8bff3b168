"""Fetch the base source: a release, or the content of a user's kernel checkout."""

from __future__ import annotations

from pathlib import Path

from harness.kernel import base
from harness.kernel.base import Base
from harness.kernel.checkout import checkout
from harness.lib.cache import Store
from harness.lib.progress import Progress


def fetch_base(store: Store, progress: Progress, release: str, tree: Path | None = None) -> Base:
    """Return the source of ``release`` ("6.19") from the cache or the network.

    With ``tree``, a git checkout of a kernel, its content is the base, and ``release``
    is ignored.  Raises UsageError, HarnessError.
    """
    return base.fetch(store, progress, release) if tree is None else checkout(store, progress, tree)
