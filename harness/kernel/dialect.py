"""The interfaces of a kernel in its installed headers: how a DMABUF is revoked, and given an attribute.

The interface that revokes is the dialect of the kernel.  The attribute of its mappings is
another interface, which each revision of the series had or lacked beside the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from harness.kernel.uapi import Definitions, identifiers
from harness.lib.errors import BuildError

VFIO, DMA_BUF = "linux/vfio.h", "linux/dma-buf.h"
# The headers that may hold an interface of DMABUFs.
_HEADERS = ("linux/vfio*.h", "linux/dma-buf*.h", "linux/dma-heap*.h", "linux/udmabuf*.h", "linux/iommufd*.h")
HEADER_LIMIT = 1 << 20  # bytes of a header that are read
#: What the name of an interface that revokes is expected to have in it.
REVOKING = re.compile("revok", re.IGNORECASE)

#: Calls on DMABUFs whose names do not say what they do: a feature of the device, or an ioctl.
# Atomic groups: the tree under test decides how long a name is.
CALL = re.compile(r"VFIO_DEVICE_(?>\w*?DMA_?BUF)\w*|DMA_BUF_IOCTL_\w+|IOMMU(?>\w*?DMA_?BUF)\w*", re.ASCII)
#: Those that revoke nothing: of Linux 6.19 to 7.3, and the one for the memory attribute.
KNOWN_CALLS = (
    "VFIO_DEVICE_FEATURE_DMA_BUF",
    "VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR",
    "VFIO_DEVICE_GET_GFX_DMABUF",
    "DMA_BUF_IOCTL_SYNC",
    "DMA_BUF_IOCTL_EXPORT_SYNC_FILE",
    "DMA_BUF_IOCTL_IMPORT_SYNC_FILE",
)

# Each dialect with the header and the macro that identify it.
CONSTANTS = (
    ("feature", VFIO, "VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE"),
    ("device-ioctl", VFIO, "VFIO_DEVICE_PCI_DMABUF_REVOKE"),
    ("ioctl", DMA_BUF, "DMA_BUF_IOCTL_REVOKE"),
)

#: The interfaces for the memory attribute: none, the flags of an export, a feature that is set only, and
#: one that is set and read.
ATTRIBUTES = ("none", "flags", "set", "get-set")
_ATTRIBUTE_FEATURE = "VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR"
# The flags hold the attribute in bits 31:28.  Their names differ, so their values count, and no other
# constant of linux/vfio.h has these.  A constant for the place of the bits counts whatever its value, so
# that a wrong place is a fault and not another interface.
_ATTRIBUTE_FLAG = re.compile(r"VFIO_\w+", re.ASCII)
_FLAG_PLACE = re.compile(r"VFIO_(?>\w*?DMA_?BUF_)(?>\w*?ATTR)\w*_(?:SHIFT|MASK)", re.ASCII)
_FLAG_VALUES = (1 << 28, 0xF << 28)

_FEATURE = re.compile(r"VFIO_DEVICE_FEATURE_(?!(?:MASK|GET|SET|PROBE)$)\w+", re.ASCII)
_FEATURE_MASK = 0xFFFF


@dataclass(frozen=True)
class Constant:
    """A macro that identifies an interface: ``kind`` of CONSTANTS or ATTRIBUTES, its number if known."""

    kind: str
    header: str
    name: str
    number: int | None

    def __str__(self) -> str:
        """Return the interface with its number, if it is a feature, and with its constant."""
        feature = self.name.startswith("VFIO_DEVICE_FEATURE_")
        number = "" if not feature or self.number is None else f" {self.number}"
        return f"{_WORDS.get(self.kind, self.kind)}{number} ({self.name} in {self.header})"


_WORDS = {"set": "set by feature", "get-set": "set and read by feature", "flags": "flags of an export"}


def missing(dialects: Sequence[str], attributes: Sequence[str], dialect: str, attribute: str) -> str:
    """Return why a kernel with ``dialect`` and ``attribute`` is none of those wanted; empty if it is.

    Nothing is wanted of an interface whose list is empty.
    """
    by_name = {kind: f"{kind} ({name} in {header})" for kind, header, name in CONSTANTS}
    lacks = []
    if dialects and dialect not in dialects:
        wanted = " or ".join(by_name.get(one, one) for one in dialects)
        lacks.append(f"needs the dialect {wanted}, and this kernel has the dialect {dialect}")
    if attributes and attribute not in attributes:
        wanted = " or ".join(_WORDS.get(one, one) for one in attributes)
        lacks.append(
            f"needs a memory attribute by: {wanted}; this kernel has: {_WORDS.get(attribute, attribute)}"
        )
    return "; ".join(lacks)


@dataclass(frozen=True)
class Interfaces:
    """The interfaces in the installed headers of a kernel.

    ``revoke`` are those that revoke, in the order of CONSTANTS, and ``attributes`` those
    for the memory attribute.  ``features`` are the numbers of all VFIO_DEVICE_FEATUREs.
    ``unknown`` are other constants that speak of revocation, with their numbers where these
    are known (``VFIO_X_REVOKE = 13``), and ``names`` such names of structures and the like.
    ``calls`` are other calls on DMABUFs.  Each of these is mapped to its header.
    """

    revoke: tuple[Constant, ...] = ()
    attributes: tuple[Constant, ...] = ()
    features: Mapping[str, int] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    calls: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, headers: Path) -> Interfaces:
        """Read the interfaces in a folder of installed headers."""
        paths = sorted({path for pattern in _HEADERS for path in headers.glob(pattern)})
        read = {str(path.relative_to(headers)): _Header.read(path) for path in paths}
        revoke = tuple(
            Constant(dialect, name, macro, read[name].definitions.number(macro))
            for dialect, name, macro in CONSTANTS
            if name in read and macro in read[name].definitions.macros
        )
        known = {one.name for one in revoke}
        unknown = {
            header.told(one): name
            for name, header in read.items()
            for one in header.constants()
            if one not in known
        }
        names = {
            one: name
            for name, header in read.items()
            for one in header.revoking()
            if one not in header.definitions.names
        }
        calls = {
            one: name
            for name, header in read.items()
            for one in sorted(header.definitions.names.difference(KNOWN_CALLS, known, header.constants()))
            if CALL.fullmatch(one)
        }
        vfio_header = read.get(VFIO, _Header(""))
        vfio = vfio_header.definitions
        numbers = {name: vfio.number(name) for name in vfio.names if _FEATURE.fullmatch(name)}
        features = {
            name: number for name, number in numbers.items() if number is not None and number <= _FEATURE_MASK
        }
        return cls(revoke, tuple(_attributes(vfio_header, revoke)), features, unknown, names, calls)

    @property
    def attribute(self) -> str:
        """The interface for the memory attribute, one of ATTRIBUTES."""
        return self.attributes[0].kind if self.attributes else "none"

    @property
    def numbers(self) -> dict[str, int]:
        """The numbers of the features, for a probe that reads no header: ``revoke``, ``memattr``."""
        found = {"revoke": CONSTANTS[0][2], "memattr": _ATTRIBUTE_FEATURE}
        return {word: self.features[name] for word, name in found.items() if name in self.features}

    def unused_feature(self, *wanted: int) -> int:
        """Return the first of the ``wanted`` numbers that no feature has, else the next after all."""
        taken = set(self.features.values())
        return next((number for number in wanted if number not in taken), max(taken, default=0) + 1)

    def __str__(self) -> str:
        """Return a sentence for the user: each interface with the constant that identifies it."""
        revoke = ", ".join(map(str, self.revoke)) or "none"
        return f"revoke: {revoke}; memory attributes: {', '.join(map(str, self.attributes)) or 'none'}"


@dataclass(frozen=True)
class _Header:
    """The text of a header, and what it defines."""

    text: str

    @classmethod
    def read(cls, path: Path) -> _Header:
        """Read a header, empty if there is none."""
        if not path.is_file():
            return cls("")
        with path.open(errors="replace") as file:
            return cls(file.read(HEADER_LIMIT))

    @cached_property
    def definitions(self) -> Definitions:
        return Definitions(self.text)

    def revoking(self) -> list[str]:
        """Return the names in the code that speak of revocation."""
        return [name for name in sorted(identifiers(self.text)) if REVOKING.search(name)]

    def constants(self) -> list[str]:
        """Return the constants that speak of revocation."""
        return [name for name in self.revoking() if name in self.definitions.names]

    def told(self, constant: str) -> str:
        """Return a constant with its number, if it has one."""
        number = self.definitions.number(constant)
        return constant if number is None else f"{constant} = {number}"

    def comment_before(self, macro: str) -> str:
        """Return the comment directly before the definition of a macro, which says what it is for."""
        define = re.search(rf"^[ \t]*#[ \t]*define[ \t]+{re.escape(macro)}\b", self.text, re.MULTILINE)
        before = self.text[: define.start()].rstrip() if define else ""
        return before[before.rfind("/*") :] if before.endswith("*/") else ""


def _attributes(vfio: _Header, revoke: tuple[Constant, ...]) -> Iterator[Constant]:
    """Yield the interfaces for the memory attribute in linux/vfio.h.

    One macro stands for a feature that is set, and for one that is read as well.  The
    comment before it says what happens upon GET, or upon SET alone.  If it says neither,
    the revision decides: the one whose feature is read revokes by an ioctl of the device.
    """
    definitions = vfio.definitions
    if _ATTRIBUTE_FEATURE in definitions.macros:
        comment = vfio.comment_before(_ATTRIBUTE_FEATURE)
        ways = set(re.findall(r"\bUpon\s(?:\s*\*\s*)?VFIO_DEVICE_FEATURE_(GET|SET)\b", comment))
        read = "GET" in ways or (not ways and any(one.kind == "device-ioctl" for one in revoke))
        number = definitions.number(_ATTRIBUTE_FEATURE)
        yield Constant("get-set" if read else "set", VFIO, _ATTRIBUTE_FEATURE, number)
    for name in sorted(definitions.names):
        number = definitions.number(name)
        if _FLAG_PLACE.fullmatch(name) or (_ATTRIBUTE_FLAG.fullmatch(name) and number in _FLAG_VALUES):
            yield Constant("flags", VFIO, name, number)
            break


def resolve(promised: str, interfaces: Interfaces) -> str:
    """Return the dialect to test: ``promised``, or the first one of the headers for ``auto``.

    Raises BuildError if the headers do not offer the promised dialect: every
    scenario would fail without naming the reason.
    """
    found = [one.kind for one in interfaces.revoke] or ["map"]
    if promised == "auto":
        return found[0]
    if ("map" if promised == "base" else promised) not in found:
        raise BuildError(
            f"The series promises the dialect {promised}, but the installed headers are those of the dialect "
            f"{' and '.join(found)}. The constants that identify them: "
            f"{', '.join(f'{constant} in {header} ({name})' for name, header, constant in CONSTANTS)}."
        )
    return promised
