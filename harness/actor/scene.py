"""The latest operation of a scenario, with the moment and the mapping that it is about, in words.

All of it is read off the transcript: which process opened a device, which mapping came
from what, and which event (a revoke, a reset, an munmap()) was the latest to end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

_MEMORY = 0x2  # include/uapi/linux/pci_regs.h, PCI_COMMAND_MEMORY
_NAMED = ("owner", "client", "child", "guard", "director")
_KINDS = {"dev": "device-fd mapping", "imp": "mapping through the importer"}

#: An event by its verb: what is the case after it, and what it is called.
_EVENTS = {
    "reset": ("the reset returned", "the reset"),
    "resetsdone": ("the resets returned", "the resets"),
    "hotreset": ("the hot reset returned", "the hot reset"),
    "unmap": ("munmap() returned", "munmap()"),
    "mprotect": ("mprotect() returned", "mprotect()"),
    "madvise": ("madvise() returned", "madvise()"),
    "mremap": ("mremap() returned", "mremap()"),
    "mapover": ("mmap() over a part of the mapping returned", "mmap() over a part of the mapping"),
    "remapfile": ("remap_file_pages() returned", "remap_file_pages()"),
    "fork": ("fork() returned", "fork()"),
    "exec": ("exec() returned", "exec()"),
    "unbind": ("the device was unbound", "the unbinding of the device"),
    "memattr": ("the memory attribute was set", "the change of the memory attribute"),
    "iounmap": ("IOMMU_IOAS_UNMAP returned", "IOMMU_IOAS_UNMAP"),
    "detach": ("the importing device was detached", "the detaching of the importing device"),
    "advance": ("the fence was signalled", "the signal of the fence"),
}
#: Steps in the guest beside the actors.
_BESIDE = {
    "unbind": ("the device was unbound", "the unbinding of the device"),
    "begin-unbind": ("the unbinding of the device began", "the begin of the unbinding"),
    "replug": ("the device was removed", "the removal of the device"),
    "await-suspend": ("the device was suspended", "the suspension of the device"),
}
#: Events that do not change the state of the device or of a DMABUF; they are told beside one that does.
_MINOR = frozenset(
    [
        *("unmap", "mprotect", "madvise", "mremap", "mapover", "remapfile", "fork", "exec", "memattr"),
        *("iounmap", "detach", "advance", "reap"),
    ]
)
_CLOSED = {"dev": "the device", "buf": "a descriptor", "imp": "the importer"}
_LOW_POWER = {"exit": ("the device left low power", "the exit from low power")}
_INTO_LOW_POWER = ("the device was put into low power", "the entry into low power")


#: A process: the number of its top-level actor, and the names of the children down to it.
Path = tuple[str, ...]


@dataclass(frozen=True)
class Operation:
    """An operation or step in a transcript: its text without the mark, its line, from 1 (0: there is none).

    - ``call`` is the operation that ``reply`` answers, without the names of processes: of a
      ``finish`` the one that ends, else this one.
    - ``reply`` is empty before the reply arrives.
    - ``moment`` is a clause for the latest event before this operation, ``since`` for the
      latest including it: ``After revoke returned``.  Both are empty before the first event.
    - ``subject`` is the mapping that it accesses (``the client's mapping``); empty if there is none.
    """

    text: str = ""
    line: int = 0
    call: str = ""
    reply: str = ""
    moment: str = ""
    since: str = ""
    subject: str = ""


class Scene:
    """The processes and mappings of one transcript, and its latest event."""

    def __init__(self) -> None:
        self._latest = Operation()
        self._path: Path = ()
        self._openers: set[Path] = set()
        self._sources: dict[tuple[Path, str], str] = {}
        self._hammered: dict[tuple[Path, str], str] = {}
        self._exports = 0
        self._under_way: dict[Path, str] = {}
        self._event = ""  # the latest one that is not minor
        self._then = ""  # the latest minor one after it

    def begin(self, text: str, line: int, actor: int = 1) -> Operation:
        """Return the operation of a top-level ``actor``, or of its children, whose reply is still to come."""
        words = text.split()
        path = [str(actor)]
        begins = False
        while words and words[0][:1] in ("@", "&"):
            begins |= words[0][0] == "&"
            path.append(words.pop(0)[1:])
        self._path = tuple(path)
        call = " ".join(words)
        if begins:
            self._under_way[self._path] = call
        elif words[:1] == ["finish"] and words[1:]:
            self._path = (*self._path, words[1])
            call = self._under_way.get(self._path, call)
        now = self._moment(besides=self._path if words[:1] == ["finish"] else None)
        self._latest = Operation(text, line, call, moment=now, since=now, subject=self._subject(call))
        return self._latest

    def end(self, reply: str) -> Operation:
        """Return the latest operation with its reply."""
        latest = self._latest
        words = latest.text.split()
        if not any(word[:1] == "&" for word in words[: len(self._path) - 1]):
            if "finish" in words and not reply.startswith("timeout"):
                self._under_way.pop(self._path, None)
            self._learn(latest.call, reply)
        self._latest = replace(latest, reply=reply, since=self._moment())
        return self._latest

    def _moment(self, besides: Path | None = None) -> str:
        """Return the clause for now; a call of the process ``besides`` is not under way."""
        calls = (call for path, call in self._under_way.items() if path != besides)
        during = [event[1] for call in calls if (event := self._event_of(call))]
        if not during:
            told = " and ".join(filter(None, (self._event, self._then)))
            return f"After {told}" if told else ""
        return f"During {during[-1]}"

    def _learn(self, call: str, reply: str) -> None:
        """Take in what an operation that has ended has changed."""
        status, _, rest = reply.partition(" ")
        words = call.split()
        if status == "ok" and words:
            if words[0] == "open":
                self._openers.add(self._path)
            elif words[0] == "export":
                self._exports += 1
            elif words[0] == "hammer" and words[1:] and rest:
                self._hammered[self._path, rest.split()[0]] = words[1]
            elif words[0] in ("map", "mapat", "mremap") and rest:
                self._sources[self._path, rest.split()[0]] = self._source(words)
            elif words[0] == "reap" and words[1:]:
                self._under_way.pop((*self._path, words[1]), None)
        if event := self._event_of(call):
            if status == "error" and rest.startswith("E"):
                self._then = f"{event[1]} was refused with {rest.split()[0]}"
            elif status == "ok" and _is_minor(words):
                self._then = event[0]
            elif status == "ok":
                self._event, self._then = event[0], ""

    def _source(self, words: list[str]) -> str:
        if words[0] == "mremap":
            return self._known(words[1]) if words[1:] else ""
        return words[1][:3] if words[1:] else ""

    def _event_of(self, call: str) -> tuple[str, str] | None:
        """Return the event that an operation is: what is the case after it, and its noun; None if none."""
        words = [*call.split(), *[""] * 6]
        verb, first, second = words[:3]
        if verb in ("revoke", "reclaim"):
            what = f"revoke of {second}" if self._exports > 1 else "revoke"
            return f"{what} returned", what
        if verb == "lowpower":
            return _LOW_POWER.get(second, _INTO_LOW_POWER)
        if verb == "close" and first[:3] in _CLOSED:
            what = _CLOSED[first[:3]]
            return f"{what} was closed", f"the close of {what}"
        if verb == "write" and second == "config":
            return _configured(words[3], words[5])
        if verb == "guest":
            return _BESIDE.get(first)
        if verb == "reap":
            return f"{_name(first)} ended", f"the end of {_name(first)}"
        return _EVENTS.get(verb)

    def _subject(self, call: str) -> str:
        """Return the mapping that an operation, or its hammer, is of, in words; empty if there is none."""
        found = re.search(r" ((map|ham)\d+)\b", call)
        if found is None:
            return ""
        name = self._hammered.get((self._path, found[1]), found[1])
        kind = _KINDS.get(self._known(name), "mapping")
        alike = {one for (path, one) in self._sources if path == self._path[: len(path)]}
        said = f"{kind} {name}" if len(alike) > 1 else kind
        who = _name(self._path[-1]) if self._path[1:] else self._first()
        return f"{who}'s {said}" if who.startswith("the ") else f"the {said} of {who}"

    def _known(self, name: str) -> str:
        """Return the kind of what a mapping is of: ``dev``, ``buf``, ``imp``; a child has its parent's."""
        for end in range(len(self._path), -1, -1):
            if source := self._sources.get((self._path[:end], name)):
                return source
        return ""

    def _first(self) -> str:
        """Return a word for a top-level process: the owner if it opened a device."""
        if self._path in self._openers or not self._openers:
            return "the owner"
        return "the first process" if self._path == ("1",) else "the other process"


def _is_minor(words: list[str]) -> bool:
    closes_device = words[:1] == ["close"] and words[1:] and words[1].startswith("dev")
    return (
        words[0] in _MINOR or (words[0] == "close" and not closes_device) or words[1:2] == ["await-suspend"]
    )


def _name(name: str) -> str:
    return f"the {name}" if name in _NAMED else f"process {name}"


def _configured(offset: str, value: str) -> tuple[str, str]:
    """Return the event of a write to the configuration space."""
    try:
        at, bits = int(offset, 0), int(value, 0)
    except ValueError:
        at, bits = -1, 0
    if at != 4:
        return "the configuration space was written", "a write to the configuration space"
    state = "on" if bits & _MEMORY else "off"
    return f"the device's memory was turned {state}", f"the write that turns the device's memory {state}"
