"""A series with three flaws, made from the patches of the reference series."""

from __future__ import annotations

import re
from pathlib import Path

from harness.lib.paths import PATCHES

REFERENCE = PATCHES / "reference-feature"
BROKEN, MENDING, FAULTY = 3, 4, 5  # patches, counted from 1
HEADER = "include/linux/vfio_pci_core.h"
#: Whoever exports with flags is no longer refused; text and context of a mutant of the reference.
FAULT = PATCHES / "mutants" / "reference-feature" / "export-ignores-flags.patch"
_BEFORE_FAULT = "@@ -263,6 +306,7 @@"  # the hunk of the fifth patch that follows the fault
UNCALLED = "vfio_pci_dma_buf_is_large"
_AFTER = " EXPORT_SYMBOL_GPL(vfio_pci_core_get_dmabuf_phys);\n"  # one line of context is left
_FUNCTION = f"""\
+
+bool {UNCALLED}(size_t size);
+
+bool {UNCALLED}(size_t size)
+{{
+	return size > SZ_1M;
+}}
"""
_HUNK = re.compile(r"^@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@(.*)$")


def write(folder: Path, count: int = 14) -> Path:
    """Write the first ``count`` patches of the series into ``folder``, at least 5, and return it.

    - Patch 3 does not compile: the header that it needs is changed by patch 4.
    - Patch 4 adds a function that nobody calls.
    - Patch 5 lets an export with flags pass, which the base refuses.
    """
    names = sorted(path.name for path in REFERENCE.glob("*.patch"))[:count]
    texts = [(REFERENCE / name).read_text() for name in names]
    head, *sections = re.split(r"(?m)^(?=diff --git )", texts[BROKEN - 1])
    moved = [one for one in sections if one.startswith(f"diff --git a/{HEADER} ")]
    texts[BROKEN - 1] = "".join([head, *(one for one in sections if one not in moved)])
    mending = texts[MENDING - 1]
    assert _AFTER in mending
    assert len(moved) == 1
    # A patch of git format-patch ends with the version of git behind a line of two dashes; these have none.
    texts[MENDING - 1] = _recounted(mending.replace(_AFTER, _AFTER + _FUNCTION)) + moved[0]
    hunk = FAULT.read_text().partition("\n@@ ")[2].partition("\n")[2]
    faulty = texts[FAULTY - 1]
    assert faulty.count(_BEFORE_FAULT) == 1
    texts[FAULTY - 1] = faulty.replace(_BEFORE_FAULT, f"@@ -231,7 +274,7 @@\n{hunk}{_BEFORE_FAULT}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip(names, texts, strict=True):
        (folder / name).write_text(text)
    (folder / "series.toml").write_text('title = "A series with three flaws"\nbase = "6.19"\n')
    return folder


def _recounted(patch: str) -> str:
    """Return a patch with the numbers of lines in the heads of its hunks counted anew."""
    lines = patch.splitlines(keepends=True)
    for place, line in enumerate(lines):
        if head := _HUNK.match(line):
            body = []
            for one in lines[place + 1 :]:
                if not one.startswith((" ", "+", "-")) or one.startswith("-- "):
                    break
                body.append(one)
            old = sum(one[0] in " -" for one in body)
            new = sum(one[0] in " +" for one in body)
            lines[place] = f"@@ -{head[1]},{old} +{head[2]},{new} @@{head[3]}\n"
    return "".join(lines)
