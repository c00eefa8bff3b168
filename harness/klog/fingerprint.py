"""The fingerprint of a splat: equal for the same splat in another run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from harness.klog.lines import message

# A reliable frame of a call trace (one without ``?``), or the kernel's instruction pointer.
_FRAME = re.compile(r"(?:RIP: 0010:| )([A-Za-z_][\w.$]{0,511})\+0x[0-9a-f]+/0x[0-9a-f]+")
# Functions that print the splat or lead to the printing (exception entry): the same in many splats.
_REPORTING = re.compile(
    r"(dump_stack|show_stack|show_trace|print_|kasan_|__asan_|check_panic|warn_slowpath|__warn|report_bug|handle_bug"
    r"|exc_|asm_|entry_|do_syscall|x64_sys|ret_from|die|oops|page_fault|panic|__might|bad_page|sysvec"
    r"|__sysvec|nmi_|lock_acquire|_raw_|ubsan_|__ubsan|refcount_warn|__list_|debug_dma).*"
)
_SUFFIX = re.compile(r"(\.(constprop|isra|part|cold|llvm)(\.\d+)*)+$")
# The number of frames in a fingerprint.
_FRAMES = 5
# What differs between two runs in the same message, and its replacement.
_VARYING = (
    (re.compile(r", CPU#\d+:.*|CPU: \d+ PID: \d+ (at )?"), ""),
    (re.compile(r"\+0x[0-9a-f]+/0x[0-9a-f]+"), ""),
    (re.compile(r"(?<=\.[chS]):\d+(:\d+)?"), ""),
    (re.compile(r"\[[^\[\]]*:\d+\]"), "[#]"),
    (re.compile(r"\b[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b"), "#:#:#.#"),  # the address of a PCI device
    (re.compile(r"\b(0x)?[0-9a-f]{8,}\b|\b0x[0-9a-f]+\b|(?<![\w-])\d+"), "#"),
)


def innermost_functions(text: str) -> tuple[str, ...]:
    """Return the innermost functions of the call trace in ``text``, the innermost first: five at most.

    Functions that only print the splat are left out.
    """
    found = (_FRAME.match(message(line)) for line in text.splitlines())
    names = (_SUFFIX.sub("", match[1]) for match in found if match)
    return tuple(dict.fromkeys(name for name in names if not _REPORTING.fullmatch(name)))[:_FRAMES]


def fingerprint(kind: str, title: str, frames: Sequence[str]) -> str:
    """Return twelve hex digits: the start of a SHA-256 of kind, title, and frames.

    Addresses and the numbers of lines, processes and processors are removed from the
    title.
    """
    for pattern, replacement in _VARYING:
        title = pattern.sub(replacement, title)
    content = "\n".join([kind, title.strip(), *frames])
    return hashlib.sha256(content.encode(errors="replace")).hexdigest()[:12]


def constant_parts(title: str) -> tuple[str, ...]:
    """Return the parts of a title that are equal in another run, in order; numbers stand between them."""
    for pattern, _ in _VARYING:
        title = pattern.sub("\0", title)
    return tuple(part for part in title.split("\0") if part.strip())
