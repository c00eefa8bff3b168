"""Say what is wrong with the answer to one operation, in a sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.actor.reply import Fault, Sigbus, word_or_fault
from harness.actor.scene import Operation
from harness.actor.words import is_list
from harness.lib.text import part_of

_LOAD = re.compile(r"load(8|16|32|64) \S+ (\S+)")
_STORE = re.compile(r"store(8|16|32|64) \S+ (\S+)")
_PAGES = re.compile(r"(loadpages|loadlist) ")
_STORES = {
    "stamp": "a store to every page of {}",
    "fill": "a store to every word of {}",
    "reclaim": "the owner's store to every word of {}",
}
#: Operations that the kernel refuses or does not, as a reader knows them.
_CALLS = {
    "map": "mmap()",
    "mapat": "mmap()",
    "mapover": "mmap() with MAP_FIXED",
    "unmap": "munmap()",
    "mprotect": "mprotect()",
    "madvise": "madvise()",
    "mremap": "mremap()",
    "export": "the export of a DMABUF",
    "revoke": "revoke",
    "memattr": "the change of the memory attribute",
    "reset": "the reset",
    "hotreset": "the hot reset",
    "impattach": "the importer's attach",
    "impmap": "the importer's map",
    "iomap": "IOMMU_IOAS_MAP_FILE",
    "open": "the open of the device",
    "ioctl": "the ioctl",
    "imppin": "the importer's pin",
    "impunmap": "the importer's unmap",
    "impvmap": "the importer's vmap",
    "iounmap": "IOMMU_IOAS_UNMAP",
    "attach": "the attach of the importing device",
    "lowpower": "the change of the power state",
    "fork": "fork()",
    "msync": "msync()",
    "mlock": "mlock()",
    "seek": "lseek()",
    "userfault": "the registration with a userfaultfd",
    "pinpages": "pinning the pages",
    "remapfile": "remap_file_pages()",
    "type1map": "VFIO_IOMMU_MAP_DMA",
    "syscopy": "the system call that copies",
    "attachfence": "adding a fence",
    "prime": "the import into vgem",
}


#: Other operations and steps of which only the value can be wrong.
_VALUES = {
    "host": "the device's memory, as the host sees it, had the wrong content",
    "read": "a read through the device fd gave the wrong value",
    "compare": "a word of {} had the wrong content",
    "vmas": "the VMAs of {} were not as expected",
    "seek": "lseek() of the descriptor gave the wrong position",
    "iomap": "IOMMU_IOAS_MAP_FILE gave the wrong address",
    "iounmap": "IOMMU_IOAS_UNMAP unmapped the wrong number of bytes",
    "type1unmap": "VFIO_IOMMU_UNMAP_DMA unmapped the wrong number of bytes",
    "regioncopy": "the system call copied the wrong number of bytes",
    "lockcopy": "the system call copied the wrong number of bytes",
    "syscopy": "the system call copied the wrong number of bytes",
    "wakeups": "the number of wakeups of the device was wrong",
    "reap": "the process ended in the wrong way",
}


def statement(
    latest: Operation, operator: str, seen: object, expected: object, *, answered: bool = False
) -> str:
    """Return what is wrong as a clause, without a moment or a period.

    ``seen`` is compared with ``expected``.  The text is empty unless ``seen`` is the answer to
    the ``latest`` operation, and there is more to say than both values.  ``answered`` is true
    if it is known to be the answer.
    """
    if operator in ("==", "is") and (pages := _PAGES.match(latest.call)):
        return _of_pages(latest, pages[1], seen, expected)
    if operator in ("==", "is", "in") and (found := _LOAD.match(latest.call)):
        if seen == _loaded(latest.reply):
            return _of_load(f"{_hexadecimal(found[2])} of {latest.subject}", seen, expected, operator)
        return ""
    if operator in ("==", "is") and (what := _stored(latest)) and _answer(latest.reply) == _said(seen):
        return f"{what} {_succeeded(seen)}"
    if isinstance(seen, str) and seen == _errno(latest.reply):
        return _of_refusal(latest.call, operator, seen, expected)
    verb = latest.call.partition(" ")[0]
    if verb == "touch" and operator == "==" and latest.reply.endswith(f" faults={seen}"):
        return f"touching {latest.subject} took the wrong number of page faults"
    if verb == "pagetable" and operator == "==" and _is_of_a_page_table(seen):
        return f"the page table of {latest.subject} was not as expected"
    return _VALUES.get(verb, "").format(latest.subject) if answered else ""


CACHE_MODES = ("write-back", "write-combining", "uncached-minus", "uncached")


def _is_of_a_page_table(value: object) -> bool:
    """Return whether a value is what PageTable.where() or PageTable.caching() returns, or a cache mode."""
    if value in CACHE_MODES:
        return True
    if isinstance(value, tuple):
        return all(isinstance(one, tuple) for one in value)
    return isinstance(value, frozenset) and all(isinstance(one, str) for one in value)


def call_of(latest: Operation) -> str:
    """Return the name of the latest operation, as a reader knows it: ``mmap()``."""
    verb = latest.call.partition(" ")[0]
    return _CALLS.get(verb, f"the operation `{verb}`" if verb else "the operation")


def _hexadecimal(word: str) -> str:
    """Return a number of a line as a fault has it."""
    return f"{int(word, 0):#x}"


def _of_pages(latest: Operation, verb: str, seen: object, expected: object) -> str:
    if not is_list(seen) or not is_list(expected):
        return ""
    if len(seen) != len(expected) or list(seen) != _words_of(latest.reply):
        return ""
    pairs = [pair for pair in zip(seen, expected, strict=True) if pair[0] != pair[1]]
    if not pairs:
        return ""
    unit = "page" if verb == "loadpages" else "place"
    what = f"{part_of(len(pairs), len(seen), unit)} of {latest.subject}"
    if all(isinstance(one, int) and isinstance(other, Fault) for one, other in pairs):
        return f"{what} could still be read" if latest.moment else f"{what} could be read"
    if all(isinstance(one, Fault) and isinstance(other, int) for one, other in pairs):
        return f"{what} could not be read"
    if all(isinstance(one, int) and isinstance(other, int) for one, other in pairs):
        return f"{what} had the wrong content"
    return f"{what} raised the wrong signal" if _are_faults(pairs) else f"{what} gave the wrong answers"


def _are_faults(pairs: Sequence[tuple[object, object]]) -> bool:
    return all(isinstance(one, Fault) for pair in pairs for one in pair)


def _of_load(place: str, seen: object, expected: object, operator: str) -> str:
    what = f"a load at {place}"
    if isinstance(seen, Fault):
        return f"{what} ended in {_signal(seen)}"
    if isinstance(expected, Fault) and operator != "in":
        return f"{what} succeeded"
    return f"{what} gave the wrong value"


def _stored(latest: Operation) -> str:
    """Return the latest operation as a noun if it stores to a mapping; empty if it does not."""
    if found := _STORE.match(latest.call):
        return f"a store at {_hexadecimal(found[2])} of {latest.subject}"
    return _STORES.get(latest.call.partition(" ")[0], "").format(latest.subject)


def _succeeded(seen: object) -> str:
    return f"ended in {_signal(seen)}" if isinstance(seen, Fault) else "succeeded"


def _of_refusal(call: str, operator: str, seen: str, expected: object) -> str:
    what = call_of(Operation(call=call))
    if seen == "success":
        return f"{what} was not refused"
    if operator in ("==", "is") and expected == "success":
        return f"{what} was refused"
    return f"{what} was refused with {seen}" if operator in ("==", "is", "in") else ""


def _signal(fault: Fault) -> str:
    return "SIGBUS" if isinstance(fault, Sigbus) else "SIGSEGV"


def _words_of(reply: str) -> list[int | Fault] | None:
    status, _, rest = reply.partition(" ")
    try:
        return [word_or_fault(word) for word in rest.split()] if status == "ok" else None
    except ValueError:
        return None


def _loaded(reply: str) -> object:
    """Return the answer of a reply to a load."""
    if (words := _words_of(reply)) and len(words) == 1:
        return words[0]
    return _answer(reply)


def _answer(reply: str) -> object:
    """Return the fault of a reply; ``ok`` if it is a success, None if it is neither."""
    if found := re.fullmatch(r"(sigbus|sigsegv) code=(\w+) offset=(\w+)", reply):
        return word_or_fault(":".join(found.groups()))
    return "ok" if reply.partition(" ")[0] == "ok" else None


def _said(seen: object) -> object:
    return "ok" if seen is None else seen


def _errno(reply: str) -> str:
    """Return the errno of a reply; ``success`` without one, empty for a fault or none."""
    if found := re.match(r"error (E[A-Z0-9]+) ", reply):
        return found[1]
    return "success" if reply.partition(" ")[0] == "ok" else ""
