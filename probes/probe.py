#!/usr/bin/env python3
"""A second implementation: the core operations of the actor in Python, with an ABI of its own.

Layouts and numbers are those of Linux 6.19 and come from no kernel header.  A header
that is changed by mistake changes the C actor, but not this probe.  Only the numbers
of features that are not in mainline yet differ between kernels: `abi` takes them.
Standard library only; runs on Python 3.11 or later.

The protocol is the actor's (PROTOCOL.md), but faults are seen another way.
Before each access write(2) copies one byte of the page to a pipe.  The call fails
with EFAULT where a load would raise a signal, and otherwise maps the page here.
A forked child does each access that is known to fault, and each store through a
read-only mapping; it reports its signal and ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gc
import os
import re
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator

# The import of socket takes long, and few scenarios need it, so the functions that use it import it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import BinaryIO, NoReturn

# Compiled before a template forks probes; the patterns of few operations are compiled when used.
UNPRINTABLE = re.compile(r"[^ -~]")
NUMBER = re.compile(r"(?:0x([0-9a-fA-F]{1,32})|([0-9]{1,32}))([KMG]?)", re.ASCII)
OPTION = re.compile(r"([a-z][^=]*)=(.*)")

PROTOCOL = 1
PAGE = 4096
DEADLINE = 10  # seconds
# Seconds until the first reply of a new probe, on a busy host.
START_DEADLINE = 60
DEADLINE_MAX = 86400
RANGES_MAX = 1 << 20
GRACE = 2  # seconds, so that a child reports its timeout itself

# include/uapi/linux/vfio.h: _IO(';', 100 + n)
VFIO_SET_IOMMU = 0x3B66
VFIO_GROUP_SET_CONTAINER = 0x3B68
VFIO_GROUP_GET_DEVICE_FD = 0x3B6A
VFIO_DEVICE_GET_REGION_INFO = 0x3B6C
VFIO_DEVICE_FEATURE = 0x3B75
VFIO_DEVICE_BIND_IOMMUFD = 0x3B76
VFIO_DEVICE_ATTACH_IOMMUFD_PT = 0x3B77
VFIO_DEVICE_PCI_DMABUF_REVOKE = 0x3B7A  # revisions RFC2 to v2 only
VFIO_TYPE1V2_IOMMU = 3
VFIO_PCI_CONFIG_REGION = 7
FEATURE_GET = 1 << 16
FEATURE_SET = 1 << 17
FEATURE_LOW_POWER = {"enter": 3, "exit": 5}
FEATURE_DMA_BUF = 11
# include/uapi/linux/iommufd.h: _IO(';', 0x81)
IOMMU_IOAS_ALLOC = 0x3B81
# include/uapi/linux/dma-buf.h: _IO('b', 4), revision RFC1 only
DMA_BUF_IOCTL_REVOKE = 0x6204

REGION_INFO = struct.Struct("=IIIIQQ")  # argsz flags index cap_offset size offset
# include/uapi/asm-generic/mman-common.h
PROT = {"none": 0, "r": 1, "w": 2, "x": 4, "rw": 3, "rx": 5, "rwx": 7}
OPEN_FLAGS = {
    "rdonly": 0,
    "wronly": os.O_WRONLY,
    "rdwr": os.O_RDWR,
    "cloexec": os.O_CLOEXEC,
    "path": os.O_PATH,
}
ACCESS_MODES = {os.O_RDONLY: "rdonly", os.O_WRONLY: "wronly", os.O_RDWR: "rdwr", os.O_ACCMODE: "none"}
MAP_FLAGS = {"shared": 1, "private": 2, "validate": 3}
MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 2, 0x10, 0x20
PROT_WRITE = 2
FORMATS = {8: "B", 16: "H", 32: "I", 64: "Q"}
# include/uapi/asm-generic/siginfo.h
CODES: dict[int, dict[int, str]] = {
    signal.SIGBUS: {1: "adraln", 2: "adrerr", 3: "objerr", 4: "mceerr_ar", 5: "mceerr_ao"},
    signal.SIGSEGV: {1: "maperr", 2: "accerr", 3: "bnderr", 4: "pkuerr"},
}
# include/uapi/linux/sched.h
NAMESPACES = {
    "mount": 0x00020000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
RLIMIT_NOFILE = 7  # include/uapi/asm-generic/resource.h
# include/uapi/linux/udmabuf.h: _IOW('u', 0x42, struct udmabuf_create), flags
UDMABUF_CREATE, UDMABUF_FLAGS_CLOEXEC = 0x40187542, 1
# include/uapi/linux/dma-heap.h: _IOWR('H', 0, struct dma_heap_allocation_data)
DMA_HEAP_IOCTL_ALLOC = 0xC0184800
F_ADD_SEALS, F_SEAL_SHRINK = 1033, 2
# Of two names of an errno the one of strerrorname_np(), which the C actor uses.
ERRNO_NAMES = {
    **errno.errorcode,
    errno.EOPNOTSUPP: "EOPNOTSUPP",
    errno.EAGAIN: "EAGAIN",
    errno.EDEADLK: "EDEADLK",
}
BUFFERS = "/sys/kernel/debug/dma_buf/bufinfo"
PAGE_TABLE = "/sys/kernel/debug/page_tables/current_kernel"
# The path of each DMABUF in /proc begins so: fs/dcache.c, d_path()
DMABUF = "/dmabuf:"
# So begin the paths of DMABUFs, devices and memfds in /proc/self/maps.
MAPPABLE = (DMABUF, "anon_inode:", "/dev/vfio/", "/memfd:")
DESCRIPTORS_MAX = 1 << 30  # fs/file.c: no descriptor is as large


# ---- text ----


class UsageError(Exception):
    """The line is wrong."""


def printable(text: str) -> str:
    """Cut the user's words, and replace what a terminal would interpret."""
    return UNPRINTABLE.sub("?", text)[:400]


def number(text: str) -> int:
    """Parse a decimal or 0x hexadecimal number of at most 64 bits, with an optional K, M or G."""
    match = NUMBER.fullmatch(text)
    if match:
        value = int(match[1], 16) if match[1] else int(match[2])
        value <<= {"": 0, "K": 10, "M": 20, "G": 30}[match[3]]
        if value < 1 << 64:
            return value
    raise UsageError(f"'{text}' is not a number of at most 64 bits")


# ---- features ----

# The numbers that `abi` was given, by name.  Each series takes the next free ones.
features: dict[str, int] = {}
FEATURE_NAMES = ("revoke", "memattr")
FEATURE_MAX = 0xFFFF


def learn_features(words: dict[str, str]) -> None:
    """Take the numbers of features from the options of `abi`, or from the words of a parent."""
    for name, text in words.items():
        if name not in FEATURE_NAMES or number(text) > FEATURE_MAX:
            raise UsageError(f"'{name}={text}' is not the number of {' or '.join(FEATURE_NAMES)}")
        features[name] = number(text)


def feature_words() -> list[str]:
    """Return the numbers of features as words, for a child or for the program after exec()."""
    return [f"{name}={value}" for name, value in features.items()]


# ---- object ----


class Device:
    """An open VFIO device, and its group and container or its iommufd."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.iommu_fds: list[int] = []


class Buffer:
    """A descriptor, in most cases of a DMABUF."""

    def __init__(self, fd: int) -> None:
        self.fd = fd


class Mapping:
    """A mapping; ``length`` in whole pages."""

    def __init__(self, address: int, length: int, protection: int) -> None:
        self.address = address
        self.length = length
        self.protection = protection


PREFIXES: dict[type, str] = {Device: "dev", Buffer: "buf", Mapping: "map"}
objects: dict[str, Device | Buffer | Mapping] = {}
counts: dict[type, int] = {}


def name_object(thing: Device | Buffer | Mapping) -> str:
    """Give an object the next name of its kind; return the name."""
    counts[type(thing)] = counts.get(type(thing), 0) + 1
    name = f"{PREFIXES[type(thing)]}{counts[type(thing)]}"
    objects[name] = thing
    return name


class Line:
    """The words and options of one line."""

    def __init__(self, words: list[str], options: dict[str, str]) -> None:
        self.words = words
        self.options = options

    def number(self, index: int) -> int:
        """Return a word as a number."""
        return number(self.words[index])

    def option(self, key: str, absent: int) -> int:
        """Return an option as a number, ``absent`` without it."""
        return number(self.options[key]) if key in self.options else absent

    def choice(self, key: str, absent: str, table: dict[str, int]) -> int:
        """Return an option given as names of ``table`` joined by commas, or as a number."""
        value = 0
        for word in self.options.get(key, absent).split(","):
            value |= table[word] if word in table else number(word)
        return value

    def device(self, index: int) -> Device:
        """Return the device that a word names."""
        thing = objects.get(self.words[index])
        if isinstance(thing, Device):
            return thing
        raise UsageError(f"'{self.words[index]}' does not name a device of this actor")

    def buffer(self, index: int) -> Buffer:
        """Return the buffer that a word names."""
        thing = objects.get(self.words[index])
        if isinstance(thing, Buffer):
            return thing
        raise UsageError(f"'{self.words[index]}' does not name a buffer of this actor")

    def descriptor(self, index: int) -> Device | Buffer:
        """Return the device or buffer that a word names."""
        thing = objects.get(self.words[index])
        if isinstance(thing, Device | Buffer):
            return thing
        raise UsageError(f"'{self.words[index]}' does not name a device or a buffer of this actor")

    def mapping(self, index: int) -> Mapping:
        """Return the mapping that a word names."""
        thing = objects.get(self.words[index])
        if isinstance(thing, Mapping):
            return thing
        raise UsageError(f"'{self.words[index]}' does not name a mapping of this actor")

    def part(self) -> tuple[Mapping, int, int]:
        """Return a mapping, and the offset and length of its part that the options choose."""
        mapping = self.mapping(0)
        offset = self.option("offset", 0)
        length = self.option("length", max(mapping.length - offset, 0))
        if offset > mapping.length or length > mapping.length - offset:
            raise UsageError(f"{self.words[0]} ends at {mapping.length:#x}")
        return mapping, offset, length


# ---- fault ----


class DeadlineError(Exception):
    """The deadline of the operation has passed."""


class FaultError(Exception):
    """An access that ended in a signal."""

    def __init__(self, number: int, code: int, address: int) -> None:
        super().__init__(number, code, address)
        self.number = number
        self.code = CODES[number].get(code, str(code)) if number in CODES else str(code)
        self.address = address

    @property
    def name(self) -> str:
        """Return the first word of the reply."""
        return signal.Signals(self.number).name.lower()


@contextlib.contextmanager
def deadline_after(seconds: float) -> Iterator[None]:
    """Raise DeadlineError in the body after ``seconds``."""

    def late(_number: int, _frame: object) -> None:
        raise DeadlineError

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


# ---- access ----

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
libc.write.restype = ctypes.c_ssize_t
libc.sigaction.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
memory_at = ctypes.pythonapi.PyMemoryView_FromMemory
memory_at.restype = ctypes.py_object
memory_at.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int]
PYBUF_WRITE = 0x200
SA_SIGINFO = 4
HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


def last_error() -> OSError:
    """Return errno as the exception that Python raises."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def access(address: int, bits: int, value: int | None) -> int:
    """Do one load, or one store of ``value``.

    A memoryview item of a native format is copied by one instruction of its
    width (Objects/memoryobject.c: unpack_single, pack_single); a ctypes integer
    would read before it writes.
    """
    view = memory_at(address, bits // 8, PYBUF_WRITE).cast(FORMATS[bits])
    if value is None:
        return int(view[0])
    view[0] = value
    return 0


class Guarded:
    """Accesses that may fault."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._reader)
        os.close(self._writer)

    def __call__(self, mapping: Mapping, offset: int, bits: int, value: int | None = None) -> int:
        """Load, or store ``value``; raise FaultError."""
        address = mapping.address + offset
        write_protected = value is not None and not mapping.protection & PROT_WRITE
        if not write_protected and self._readable(address):
            return access(address, bits, value)
        return self._in_child(address, bits, value)

    def _readable(self, address: int) -> bool:
        if libc.write(self._writer, address, 1) == 1:
            os.read(self._reader, 1)
            return True
        if ctypes.get_errno() != errno.EFAULT:
            raise last_error()
        return False

    @staticmethod
    def _in_child(address: int, bits: int, value: int | None) -> int:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:

            def on_fault(number: int, info: int, _context: int) -> None:
                # siginfo_t: signo, errno, code, (padding), address
                _, _, code, _, place = struct.unpack("=iiiiQ", ctypes.string_at(info, 24))
                os.write(writer, struct.pack("=iiQ", number, code, place))
                os._exit(0)

            handler = HANDLER(on_fault)
            # glibc's struct sigaction: handler, 128 bytes of mask, flags, restorer
            entry = ctypes.cast(handler, ctypes.c_void_p).value
            action = struct.pack("@P128xiP", entry, SA_SIGINFO, 0)
            for number in CODES:
                libc.sigaction(number, action, None)
            try:
                os.write(writer, struct.pack("=iiQ", 0, 0, access(address, bits, value)))
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            report = stream.read()
        _, status = os.waitpid(pid, 0)
        if len(report) != 16:
            ended = os.waitstatus_to_exitcode(status)
            if -ended in CODES:
                raise FaultError(-ended, 0, address)
            raise UsageError(f"the process for the access ended without a report: {exit_text(ended)}")
        number, code, place = struct.unpack("=iiQ", report)
        if number:
            raise FaultError(number, code, place)
        return int(place)


guarded = Guarded()


def accessor(bits: int, storing: bool) -> Callable[[Line], str]:
    """Make the operation load32 or the like."""

    def run(line: Line) -> str:
        mapping, offset = line.mapping(0), line.number(1)
        if offset + bits // 8 > mapping.length:
            raise UsageError(f"{line.words[0]} ends at {mapping.length:#x}")
        if not storing:
            return f"ok {guarded(mapping, offset, bits):#0{2 + bits // 4}x}"
        value = line.number(2)
        if value >> bits:
            raise UsageError(f"{line.words[2]} does not fit in {bits} bits")
        guarded(mapping, offset, bits, value)
        return "ok"

    return run


def op_loadpages(line: Line) -> str:
    mapping, start, length = line.part()
    words = ["ok"]
    for offset in range(start, start + length, PAGE):
        try:
            words.append(f"{guarded(mapping, offset, 32):#010x}")
        except FaultError as fault:
            offset_of_fault = (fault.address - mapping.address) % (1 << 64)
            words.append(f"{fault.name}:{fault.code}:{offset_of_fault:#x}")
    return " ".join(words)


def op_stamp(line: Line) -> str:
    mapping, start, length = line.part()
    seed = line.option("seed", 0)
    pages = range(start, start + length, PAGE)
    for offset in pages:
        guarded(mapping, offset, 32, (offset // PAGE + seed) % (1 << 32))
    return f"ok pages={len(pages)}"


# ---- buffer ----


def op_export(line: Line) -> str:
    device = line.device(0)
    ranges = b""
    listed = line.options["ranges"].split(",") if line.options["ranges"] else []
    for one in listed:
        offset, colon, rest = one.partition(":")
        length, star, times = rest.partition("*")
        count = number(times) if star else 1
        if not colon or not 0 < count <= RANGES_MAX - len(ranges) // 16:
            raise UsageError(
                f"ranges= is a list of at most {RANGES_MAX} OFFSET:LENGTH or OFFSET:LENGTH*TIMES"
            )
        ranges += struct.pack("=QQ", number(offset), number(length)) * count
    flags = line.choice("open_flags", "rdwr,cloexec", OPEN_FLAGS)
    fields = (line.option("bar", 0), flags, line.option("flags", 0))
    if max(fields) >= 1 << 32:
        raise UsageError("bar=, flags= and open_flags= have 32 bits")
    head = struct.pack("=IIIIII", 24 + len(ranges), FEATURE_GET | FEATURE_DMA_BUF, *fields, len(ranges) // 16)
    fd = fcntl.ioctl(device.fd, VFIO_DEVICE_FEATURE, bytearray(head + ranges))
    return f"ok {name_object(Buffer(fd))} size={os.lseek(fd, 0, os.SEEK_END):#x}"


def op_revoke(line: Line) -> str:
    device, buffer = line.device(0).fd, line.buffer(1).fd
    via = line.options.get("via", "feature")
    if via == "feature":
        if "revoke" not in features:
            return "error ENOTTY revoke: the number of the feature is not known; `abi revoke=N` gives it"
        request = struct.pack("=IIi", 12, FEATURE_SET | features["revoke"], buffer)
        fcntl.ioctl(device, VFIO_DEVICE_FEATURE, bytearray(request))
    elif via == "device-ioctl":
        fcntl.ioctl(device, VFIO_DEVICE_PCI_DMABUF_REVOKE, bytearray(struct.pack("=Ii", 8, buffer)))
    elif via == "ioctl":
        fcntl.ioctl(buffer, DMA_BUF_IOCTL_REVOKE)
    else:
        raise UsageError(f"via={via} is not feature, device-ioctl or ioctl")
    return "ok"


def op_dup(line: Line) -> str:
    old, via = line.buffer(0).fd, line.options.get("via", "fcntl")
    if via not in ("fcntl", "dup"):
        raise UsageError(f"via={via} is not fcntl or dup")
    fd = fcntl.fcntl(old, fcntl.F_DUPFD_CLOEXEC, 0) if via == "fcntl" else libc.dup(old)
    if fd < 0:
        raise last_error()
    return f"ok {name_object(Buffer(fd))}"


def op_seek(line: Line) -> str:
    whence = {"set": os.SEEK_SET, "cur": os.SEEK_CUR, "end": os.SEEK_END}.get(
        line.options.get("whence", "end")
    )
    if whence is None:
        raise UsageError("whence= is set, cur or end")
    offset = ctypes.c_long(line.option("offset", 0)).value
    return f"ok {os.lseek(line.buffer(0).fd, offset, whence):#x}"


# ---- detach ----


def op_unshare(line: Line) -> str:
    flags = 0
    for word in line.words[0].split(","):
        if word not in NAMESPACES:
            raise UsageError(f"'{word}' is not {', '.join(NAMESPACES)}")
        flags |= NAMESPACES[word]
    if libc.unshare(flags):
        raise last_error()
    return "ok"


def op_orphan(_line: Line) -> str:
    if parent is None:
        raise UsageError("this actor has no parent to wait for its process")
    before = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == before:
        time.sleep(0.001)
    return "ok"


# ---- device ----


def region(fd: int, index: int) -> tuple[int, int, int]:
    """Return size, file offset and flags of a region."""
    if index >= 1 << 32:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    info = bytearray(REGION_INFO.pack(REGION_INFO.size, 0, index, 0, 0, 0))
    fcntl.ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, info)
    _, flags, _, _, size, offset = REGION_INFO.unpack(info)
    return size, offset, flags


def open_group(device: Device, address: str) -> None:
    """Open by group and container, with a type 1 IOMMU."""
    group = os.path.basename(os.readlink(f"/sys/bus/pci/devices/{address}/iommu_group"))
    device.iommu_fds.append(os.open(f"/dev/vfio/{group}", os.O_RDWR))
    device.iommu_fds.append(os.open("/dev/vfio/vfio", os.O_RDWR))
    group_fd, container = device.iommu_fds
    fcntl.ioctl(group_fd, VFIO_GROUP_SET_CONTAINER, bytearray(struct.pack("=i", container)))
    fcntl.ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1V2_IOMMU)
    device.fd = fcntl.ioctl(group_fd, VFIO_GROUP_GET_DEVICE_FD, bytearray(address.encode() + b"\0"))
    os.set_inheritable(device.fd, False)


def open_node(device: Device, address: str) -> None:
    """Open the node of the device without binding it to an iommufd."""
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = os.listdir(f"/sys/bus/pci/devices/{address}/vfio-dev")
    for name in names:
        if name.startswith("vfio"):
            device.fd = os.open(f"/dev/vfio/devices/{name}", os.O_RDWR)
            return
    raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


def open_cdev(device: Device, address: str) -> None:
    """Open the node of the device and bind it to an iommufd with one IOAS."""
    open_node(device, address)
    iommufd = os.open("/dev/iommu", os.O_RDWR)
    device.iommu_fds.append(iommufd)
    fcntl.ioctl(device.fd, VFIO_DEVICE_BIND_IOMMUFD, bytearray(struct.pack("=IIiI", 16, 0, iommufd, 0)))
    alloc = bytearray(struct.pack("=III", 12, 0, 0))
    fcntl.ioctl(iommufd, IOMMU_IOAS_ALLOC, alloc)
    ioas = struct.unpack("=III", alloc)[2]
    fcntl.ioctl(device.fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, bytearray(struct.pack("=III", 12, 0, ioas)))


def close_device(device: Device) -> None:
    """Close all descriptors of a device."""
    for fd in (device.fd, *device.iommu_fds):
        if fd >= 0:
            os.close(fd)


def op_open(line: Line) -> str:
    what, address = line.words
    ways = {"group": open_group, "cdev": open_cdev, "node": open_node}
    via = ways.get(line.options.get("via", "group"))
    if (
        what != "vfio"
        or via is None
        or not re.fullmatch(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", address)
    ):
        raise UsageError("open vfio BDF [via=group|cdev|node]")
    device = Device(-1)
    try:
        via(device, address)
    except BaseException:
        close_device(device)
        raise
    bars = []
    for index in range(6):
        try:
            size = region(device.fd, index)[0]
        except OSError:
            continue  # a device that is not bound has no regions yet
        if size:
            bars.append(f"{index}:{size:#x}")
    return f"ok {name_object(device)} bars={','.join(bars)}"


def op_region(line: Line) -> str:
    size, offset, flags = region(line.device(0).fd, line.number(1))
    return f"ok size={size:#x} offset={offset:#x} flags={flags:#x}"


def transfer(line: Line) -> tuple[int, int, int]:
    """Parse DEV INDEX OFFSET BYTES; return descriptor, file offset and width."""
    device = line.device(0)
    index = VFIO_PCI_CONFIG_REGION if line.words[1] == "config" else line.number(1)
    offset, width = line.number(2), line.number(3)
    if width not in (1, 2, 4, 8):
        raise UsageError("the width is 1, 2, 4 or 8 bytes")
    return device.fd, (region(device.fd, index)[1] + offset) % (1 << 63), width


def op_read(line: Line) -> str:
    fd, offset, width = transfer(line)
    data = os.pread(fd, width, offset)
    if len(data) != width:
        return f"error EIO read: only {len(data)} bytes"
    return f"ok {int.from_bytes(data, 'little'):#0{2 + 2 * width}x}"


def op_write(line: Line) -> str:
    fd, offset, width = transfer(line)
    value = line.number(4)
    if value >> (8 * width):
        raise UsageError(f"{line.words[4]} does not fit in {width} bytes")
    done = os.pwrite(fd, value.to_bytes(width, "little"), offset)
    return "ok" if done == width else f"error EIO write: only {done} bytes"


def op_close(line: Line) -> str:
    thing = line.descriptor(0)
    del objects[line.words[0]]
    if isinstance(thing, Device):
        close_device(thing)
    else:
        os.close(thing.fd)
    return "ok"


# ---- exec ----


def command_line(descriptor: int) -> list[str]:
    """Return the command line that starts this program with ``--resume``.

    An import keeps the compiled module for the next start, which then takes two thirds of the time.
    """
    program = "import sys; sys.path.append(sys.argv.pop(1)); import probe; sys.exit(probe.main(sys.argv[1:]))"
    folder = os.path.dirname(os.path.abspath(__file__))
    return [sys.executable, "-ISc", program, folder, "--resume", str(descriptor), *feature_words()]


def op_exec(_line: Line) -> str:
    """Reply to a failure only; the new image replies to a success."""
    if parent is None:
        raise UsageError("this actor has no parent, so the transcript would end here")
    # A timer survives exec(), its handler does not.
    signal.setitimer(signal.ITIMER_REAL, 0)
    parent.set_inheritable(True)
    try:
        os.execv(sys.executable, command_line(parent.fileno()))  # noqa: S606 - no shell, on purpose
    finally:
        parent.set_inheritable(False)


def reply_after_exec() -> str:
    """Return the reply of op_exec(): VMAs of DMABUFs, and new names for the DMABUFs still open."""
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        words = ["ok", f"vmas={sum(f' {DMABUF}' in text for text in maps)}"]
    for entry in sorted(os.listdir("/proc/self/fd"), key=int):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listed folder
            if os.readlink(f"/proc/self/fd/{entry}").startswith(DMABUF):
                words.append(name_object(Buffer(int(entry))))
    return " ".join(words)


# ---- fdio ----


def op_setfl(line: Line) -> str:
    if line.words[1] not in OPEN_FLAGS:
        raise UsageError(f"'{line.words[1]}' is not rdonly, wronly or rdwr")
    fcntl.fcntl(line.buffer(0).fd, fcntl.F_SETFL, OPEN_FLAGS[line.words[1]])
    return "ok"


def op_fdflags(line: Line) -> str:
    fd = line.descriptor(0).fd
    closes = bool(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC)
    mode = ACCESS_MODES[fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE]
    return f"ok cloexec={closes:d} mode={mode}"


def op_reopen(line: Line) -> str:
    flags = line.choice("open_flags", "rdwr,cloexec", OPEN_FLAGS)
    return f"ok {name_object(Buffer(os.open(f'/proc/self/fd/{line.buffer(0).fd}', flags)))}"


# ---- ioctl ----


def descriptor_of(name: str) -> bytes | None:
    """Return the descriptor of an object, or with NAME/N one of its IOMMU."""
    name, _, index = name.partition("/")
    thing = objects.get(name)
    if not isinstance(thing, Device | Buffer):
        return None
    fd = thing.fd
    if index:
        iommu_fds = thing.iommu_fds if isinstance(thing, Device) else []
        if number(index) >= len(iommu_fds):
            return None
        fd = iommu_fds[number(index)]
    return struct.pack("=i", fd)


def argument_of(text: str) -> bytes:
    """Parse pairs of hexadecimal digits and names, separated by commas."""
    data = b""
    for part in text.split(","):
        found = descriptor_of(part)
        if found is None:
            if not re.fullmatch(r"([0-9a-fA-F]{2})*", part):
                raise UsageError("data= takes pairs of hexadecimal digits and names")
            found = bytes.fromhex(part)
        data += found
    if len(data) > PAGE:
        raise UsageError("data= takes at most 4 KiB")
    return data


def op_ioctl(line: Line) -> str:
    named, request = descriptor_of(line.words[0]), line.number(1)
    if named is None:
        if line.number(0) >= 1 << 32:
            raise UsageError(f"'{line.words[0]}' is no device, buffer or descriptor")
        named = struct.pack("=I", line.number(0))
    (fd,) = struct.unpack("=i", named)
    libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
    if "data" not in line.options:
        result = libc.ioctl(fd, request, line.option("argument", 0))
        if result < 0:
            raise last_error()
        return f"ok {result:#x}"
    if "argument" in line.options:
        raise UsageError("either data= or argument=")
    data = argument_of(line.options["data"])
    # The second page is inaccessible.
    pages = libc.mmap(None, 2 * PAGE, PROT["rw"], MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if pages == ctypes.c_void_p(-1).value or libc.mprotect(pages + PAGE, PAGE, 0):
        raise last_error()
    try:
        place = pages + (PAGE - len(data) if line.option("guard", 0) else 0)
        ctypes.memmove(place, data, len(data))
        result = libc.ioctl(fd, request, place)
        if result < 0:
            raise last_error()
        after = ctypes.string_at(place, len(data)).hex()
        return f"ok {result:#x}" + (f" data={after}" if after else "")
    finally:
        libc.munmap(pages, 2 * PAGE)


def op_abi(line: Line) -> str:
    learn_features(line.options)
    return " ".join(["ok", *feature_words(), f"export={FEATURE_DMA_BUF}"])


def op_hold(line: Line) -> str:
    fd = line.number(0)
    size = os.lseek(fd, 0, os.SEEK_END)
    return f"ok {name_object(Buffer(fd))} size={size:#x}"


# How the messages begin that a slow host causes in a virtual machine.
OF_THE_HOST = (
    b"clocksource: ",  # kernel/time/clocksource.c
    b"tsc: ",  # arch/x86/kernel/tsc.c
    b"TSC found unstable",  # kernel/sched/clock.c
    b"sched_clock: ",  # kernel/sched/clock.c
    b"hrtimer: ",  # kernel/time/hrtimer.c
    b"perf: interrupt took",  # kernel/events/core.c
    b"INFO: NMI handler",  # arch/x86/kernel/nmi.c
)


class KernelLog:
    """The number of kernel log records since the first count, those of a slow host left out."""

    _fd: int | None = None
    _count = 0

    @classmethod
    def count(cls) -> int | None:
        """Return the number, None without access to the log; records lost since count as one."""
        if cls._fd is None:
            try:
                cls._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                return None
            os.lseek(cls._fd, 0, os.SEEK_END)
        while True:
            try:
                record = os.read(cls._fd, 8192)
            except BlockingIOError:
                return cls._count
            except BrokenPipeError:
                record = b""
            cls._count += not record.partition(b";")[2].startswith(OF_THE_HOST)


def op_footprint(_line: Line) -> str:
    logged = KernelLog.count()
    reply = f"ok fds={count_fds()}"
    with contextlib.suppress(OSError), open(BUFFERS, encoding="ascii", errors="replace") as info:
        for text in info:
            match = re.match(r"Total (\d+) objects", text)
            if match:
                reply += f" dmabufs={match[1]}"
    return reply if logged is None else f"{reply} log={logged}"


# ---- make ----


def make_memfd(length: int) -> int:
    fd = os.memfd_create("buffer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, length)
    fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK)
    return fd


def make_udmabuf(length: int) -> int:
    memory, device = make_memfd(length), os.open("/dev/udmabuf", os.O_RDWR)
    try:
        # memfd flags offset size
        create = struct.pack("=IIQQ", memory, UDMABUF_FLAGS_CLOEXEC, 0, length)
        return int(fcntl.ioctl(device, UDMABUF_CREATE, bytearray(create)))
    finally:
        os.close(memory)
        os.close(device)


def make_heap(length: int) -> int:
    heap = os.open("/dev/dma_heap/system", os.O_RDONLY)
    try:
        # len fd fd_flags heap_flags
        data = bytearray(struct.pack("=QIIQ", length, 0, os.O_RDWR | os.O_CLOEXEC, 0))
        fcntl.ioctl(heap, DMA_HEAP_IOCTL_ALLOC, data)
        return int(struct.unpack("=QIIQ", data)[1])
    finally:
        os.close(heap)


def make_eventfd(_length: int) -> int:
    return os.eventfd(0, os.EFD_CLOEXEC)


def op_make(line: Line) -> str:
    makers = {"memfd": make_memfd, "eventfd": make_eventfd, "udmabuf": make_udmabuf, "heap": make_heap}
    make = makers.get(line.words[0])
    if make is None:
        raise UsageError(f"'{line.words[0]}' is not {', '.join(makers)}")
    length = line.option("length", 0)
    return f"ok {name_object(Buffer(make(length)))} size={length:#x}"


# ---- mapping ----


class NextAddress:
    """The hint for the next mmap(), far from the memory of Python.

    Near it, Python may soon map a page where one was unmapped, and an access that
    has to fault would succeed.
    """

    value = 1 << 44


def op_map(line: Line) -> str:
    thing = line.descriptor(0)
    length, offset = line.option("length", 0), line.option("offset", 0)
    protection = line.choice("prot", "rw", PROT)
    flags = line.choice("flags", "shared", MAP_FLAGS)
    if ("bar" in line.options) != isinstance(thing, Device):
        raise UsageError("bar= is for a device, and required there")
    if flags & MAP_FIXED or max(flags, protection) >= 1 << 31:
        raise UsageError("flags= or prot= is out of range")
    if isinstance(thing, Device):
        offset += region(thing.fd, line.option("bar", 0))[1]
    signed = ctypes.c_long(offset).value
    address = libc.mmap(NextAddress.value, length, protection, flags, thing.fd, signed)
    if address == ctypes.c_void_p(-1).value:
        raise last_error()
    mapping = Mapping(address, -(-length // PAGE) * PAGE, protection)
    NextAddress.value = max(NextAddress.value, address + mapping.length + PAGE)
    return f"ok {name_object(mapping)}"


def op_unmap(line: Line) -> str:
    mapping, offset, length = line.part()
    if libc.munmap(mapping.address + offset, length):
        raise last_error()
    if length == mapping.length:
        del objects[line.words[0]]
    return "ok"


# ---- mm ----


def op_mapfile(line: Line) -> str:
    mapping = line.mapping(0)
    name = f"{mapping.address:x}-{mapping.address + mapping.length:x}"
    return f"ok {name_object(Buffer(os.open(f'/proc/self/map_files/{name}', os.O_RDWR)))}"


# ---- power ----


def op_lowpower(line: Line) -> str:
    number_ = FEATURE_LOW_POWER.get(line.words[1])
    if number_ is None:
        raise UsageError(f"'{line.words[1]}' is not {' or '.join(FEATURE_LOW_POWER)}")
    fcntl.ioctl(
        line.device(0).fd, VFIO_DEVICE_FEATURE, bytearray(struct.pack("=II", 8, FEATURE_SET | number_))
    )
    return "ok"


# ---- proc ----


def op_pagetable(line: Line) -> str:
    mapping = line.mapping(0)
    low, high = mapping.address, mapping.address + mapping.length
    words = ["ok"]
    with open(PAGE_TABLE, encoding="ascii") as dump:
        for text in dump:
            match = re.match(r"0x([0-9a-f]+)-0x([0-9a-f]+)\s+\S+\s+(\S.*\S)\s+(\S+)$", text)
            if not match:
                continue  # a marker, or a span that is not present
            start, end = max(int(match[1], 16), low), min(int(match[2], 16), high)
            if start < end:
                words.append(f"{start - low:#x}-{end - low:#x}:{match[4]}:{','.join(match[3].split())}")
    return " ".join(words)


def op_mapped(_line: Line) -> str:
    words = ["ok"]
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        for text in maps:
            where, permissions, _, _, _, *name = text.split()
            if permissions[3] == "s":
                start, end = (int(place, 16) for place in where.split("-"))
                words.append(f"{name[0] if name else ''}:{end - start:#x}")
    return " ".join(words)


def count_fds() -> int:
    """Count the open descriptors, except that of the listed folder."""
    return len(os.listdir("/proc/self/fd")) - 1


def op_fds(_line: Line) -> str:
    return f"ok {count_fds()}"


def op_setrlimit(line: Line) -> str:
    limit = line.option("nofile", 0)
    if libc.setrlimit(RLIMIT_NOFILE, struct.pack("=QQ", limit, limit)):
        raise last_error()
    return "ok"


def op_version(_line: Line) -> str:
    return f"ok protocol={PROTOCOL} probe=python revoke=feature memattr=none"


# ---- process ----


class Forked:
    """A process made by fork()."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def wait(self) -> int:
        """Wait for the end; return the exit code, or the negative number of the signal."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def poll(self) -> int | None:
        """Return as wait() if the process has ended, else None."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status


class Child:
    """Another probe, with a socket for lines and one for descriptors (SCM_RIGHTS)."""

    def __init__(self, process: Forked, lines: socket.socket, rights: socket.socket) -> None:
        self.process = process
        self.lines = lines
        self.rights = rights
        self.buffer = b""
        self.pending = 0  # replies not read yet, late ones included
        self.status: int | None = None  # once it was told as ended, when its process may be another's


children: dict[str, Child] = {}
parent: socket.socket | None = None


def child_named(name: str) -> Child:
    """Return the child of this name."""
    if name in children:
        return children[name]
    raise UsageError(f"there is no actor '{name}' here")


def ask(name: str, text: str, seconds: float) -> str:
    """Send a line to the child and return its reply, unless it is late or dead."""
    child = child_named(name)
    until = time.monotonic() + seconds + GRACE
    child.lines.settimeout(seconds + GRACE)
    try:
        child.lines.sendall(text.encode(errors="surrogateescape") + b"\n")
        child.pending += 1
    except BrokenPipeError:
        pass  # the child has ended, as recv() shows
    except TimeoutError:
        return "timeout"
    while True:
        answer, newline, rest = child.buffer.partition(b"\n")
        if newline:
            child.buffer = rest
            child.pending -= 1
            if not child.pending:
                return answer.decode(errors="replace")
            continue
        try:
            data = child.lines.recv(65536)
        except TimeoutError:
            return "timeout"
        except ConnectionResetError:
            data = b""
        if not data:
            while (status := child.process.poll()) is None:
                if time.monotonic() > until:
                    return "timeout"
                time.sleep(0.001)
            child.status = status
            return f"died {name} {exit_text(status)}"
        child.buffer += data


def exit_text(status: int) -> str:
    """Describe how a process ended."""
    return f"signal={-status}" if status < 0 else f"exit={status}"


def parse_new_name(line: Line) -> str:
    """Return the name of a new probe, which must be free."""
    (name,) = line.words
    if not re.fullmatch(r"[a-z0-9]{1,23}", name) or name == "parent" or name in children:
        raise UsageError(f"'{name}' is taken, or no name of up to 23 letters and digits")
    return name


def first_reply(name: str, child: Child) -> str:
    """Wait for the first reply of a new probe; return the reply of spawn or fork."""
    children[name] = child
    answer = ask(name, "version", START_DEADLINE)
    return "ok" if answer.startswith("ok ") else answer


def op_spawn(line: Line) -> str:
    name = parse_new_name(line)
    uid = line.option("uid", 0)
    if uid >= 1 << 31:
        raise UsageError("uid= is out of range")

    def become_new(lines: socket.socket, rights: socket.socket) -> None:
        forget_all(keep=(lines.fileno(), rights.fileno()))
        if uid:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            libc.prctl(PR_SET_DUMPABLE, 1)  # as after exec(): the user may look at its own process

    return forked(name, become_new)


def op_fork(line: Line) -> str:
    def stay_with_parent(_lines: socket.socket, _rights: socket.socket) -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return forked(parse_new_name(line), stay_with_parent)


def forked(name: str, begin: Callable[[socket.socket, socket.socket], None]) -> str:
    """Fork a child that serves its sockets after ``begin`` has returned; return the reply."""
    import socket

    lines, far_lines = socket.socketpair()
    rights, far_rights = socket.socketpair(type=socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            lines.close()
            rights.close()
            leave_children()
            begin(far_lines, far_rights)
            become_child(far_lines, far_rights)
        finally:
            os._exit(1)
    far_lines.close()
    far_rights.close()
    return first_reply(name, Child(Forked(pid), lines, rights))


def leave_children() -> None:
    """Close the sockets of the children in a forked process, whose children they are not."""
    for child in children.values():
        child.lines.close()
        child.rights.close()
    children.clear()


def forget_all(keep: tuple[int, int]) -> None:
    """Give up all that this process has inherited, but the standard descriptors and those of ``keep``.

    It then has what a new process has, without the start of an interpreter.
    """
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        for fields in map(str.split, maps):
            if len(fields) > 5 and fields[5].startswith(MAPPABLE):
                start, end = (int(word, 16) for word in fields[0].split("-"))
                if libc.munmap(start, end - start):
                    raise last_error()
    # Else it would be closed once more with its object, when its number may be another's.
    if parent is not None:
        parent.close()
    first = 3
    for descriptor in sorted(keep):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, DESCRIPTORS_MAX)
    objects.clear()
    counts.clear()


def become_child(lines: socket.socket, rights: socket.socket) -> None:
    """Serve these sockets in a forked process."""
    global parent, guarded
    parent, guarded = rights, Guarded()
    os.dup2(lines.fileno(), 0)
    os.dup2(lines.fileno(), 1)
    lines.close()
    try:
        with open(0, "rb", closefd=False) as stream:
            serve(stream)
    finally:
        os._exit(0)


def rights_socket(name: str) -> socket.socket:
    """Return the socket that passes descriptors to this actor."""
    if name == "parent":
        if parent is None:
            raise UsageError("this actor has no parent")
        return parent
    return child_named(name).rights


def op_send(line: Line) -> str:
    import socket

    thing = line.descriptor(0)
    letter = b"d" if isinstance(thing, Device) else b"b"
    socket.send_fds(rights_socket(line.words[1]), [letter], [thing.fd])
    return "ok"


def op_recv(line: Line) -> str:
    import socket

    name = line.words[0] if line.words else "parent"
    letter, fds, _, _ = socket.recv_fds(rights_socket(name), 1, 1)
    if len(fds) != 1 or letter not in (b"d", b"b"):
        return f"error EPIPE recv: {name} sent no descriptor"
    os.set_inheritable(fds[0], False)
    return f"ok {name_object(Device(fds[0]) if letter == b'd' else Buffer(fds[0]))}"


def op_signal(line: Line) -> str:
    names = {"stop": signal.SIGSTOP, "cont": signal.SIGCONT, "term": signal.SIGTERM, "kill": signal.SIGKILL}
    if line.words[1] not in names:
        raise UsageError(f"'{line.words[1]}' is not stop, cont, term or kill")
    child = child_named(line.words[0])
    if child.status is not None:
        return f"died {line.words[0]} {exit_text(child.status)}"
    pid = child.process.pid
    os.kill(pid, names[line.words[1]])
    if line.words[1] == "stop":
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return "ok"


def op_reap(line: Line) -> str:
    child = child_named(line.words[0])
    status = child.process.wait()
    child.lines.close()
    child.rights.close()
    del children[line.words[0]]
    return f"ok {exit_text(status)}"


def op_exit(_line: Line) -> str:
    return "ok"


# ---- operations ----

Operation = tuple[str, Callable[[Line], str]]
OPERATIONS: list[Operation] = [
    ("open vfio BDF [via=group|cdev|node]", op_open),
    ("region DEV INDEX", op_region),
    ("lowpower DEV enter|exit", op_lowpower),
    ("read DEV INDEX|config OFFSET BYTES", op_read),
    ("write DEV INDEX|config OFFSET BYTES VALUE", op_write),
    ("ioctl DEV|BUF|FD REQUEST [data=HEX,NAME,...] [guard=1] [argument=N]", op_ioctl),
    ("abi [revoke=N] [memattr=N]", op_abi),
    ("hold FD", op_hold),
    ("footprint", op_footprint),
    ("export DEV bar=N ranges=OFFSET:LENGTH,... [flags=N] [open_flags=rdwr,cloexec]", op_export),
    ("revoke DEV BUF [via=feature|device-ioctl|ioctl]", op_revoke),
    ("map DEV|BUF length=N [bar=N] [offset=N] [prot=rw] [flags=shared]", op_map),
    ("unmap MAP [offset=N] [length=N]", op_unmap),
    *((f"load{bits} MAP OFFSET", accessor(bits, False)) for bits in FORMATS),
    *((f"store{bits} MAP OFFSET VALUE", accessor(bits, True)) for bits in FORMATS),
    ("loadpages MAP [offset=N] [length=N]", op_loadpages),
    ("stamp MAP [seed=N] [offset=N] [length=N]", op_stamp),
    ("pagetable MAP", op_pagetable),
    ("mapfile MAP", op_mapfile),
    ("seek BUF [offset=N] [whence=set|cur|end]", op_seek),
    ("fds", op_fds),
    ("setrlimit nofile=N", op_setrlimit),
    ("dup BUF [via=fcntl|dup]", op_dup),
    ("fdflags DEV|BUF", op_fdflags),
    ("reopen BUF [open_flags=rdwr,cloexec]", op_reopen),
    ("setfl BUF rdonly|wronly|rdwr", op_setfl),
    ("make udmabuf|heap|memfd|eventfd length=N", op_make),
    ("mapped", op_mapped),
    ("close DEV|BUF", op_close),
    ("spawn NAME [uid=N]", op_spawn),
    ("fork NAME", op_fork),
    ("send DEV|BUF NAME", op_send),
    ("recv [NAME]", op_recv),
    ("signal NAME stop|cont|term|kill", op_signal),
    ("orphan", op_orphan),
    ("reap NAME", op_reap),
    ("exec", op_exec),
    ("unshare user,mount,pid,net,ipc,uts", op_unshare),
    ("version", op_version),
    ("exit", op_exit),
]
BY_NAME = {usage.split()[0]: (usage, run) for usage, run in OPERATIONS}


# ---- line ----


def parse(text: str) -> tuple[str, Line, int]:
    """Return operation, words and deadline of a line; check them against the usage."""
    name, *rest = text.split()
    if name not in BY_NAME:
        raise UsageError(f"there is no operation '{name}'; --help lists them")
    usage = BY_NAME[name][0]
    words: list[str] = []
    options: dict[str, str] = {}
    for word in rest:
        match = OPTION.fullmatch(word)
        if match:
            options[match[1]] = match[2]
        else:
            words.append(word)
    deadline = number(options.pop("deadline", str(DEADLINE)))
    if not 1 <= deadline <= DEADLINE_MAX:
        raise UsageError(f"deadline= is a number of seconds from 1 to {DEADLINE_MAX}")
    wanted = usage.split()[1:]
    required = [word for word in wanted if "=" not in word and word[0] != "["]
    positional = [word for word in wanted if "=" not in word]
    known = {word.strip("[").partition("=")[0] for word in wanted if "=" in word}
    needed = {word.partition("=")[0] for word in wanted if "=" in word and word[0] != "["}
    if not len(required) <= len(words) <= len(positional) or not needed <= options.keys() <= known:
        raise UsageError(usage)
    return name, Line(words, options), deadline


def relay(text: str) -> str:
    """Pass on the rest of '@NAME operation' to the child NAME."""
    words = text[1:].split(None, 1)
    if len(words) != 2 or words[1].startswith("#"):
        raise UsageError("@NAME takes an operation")
    match = re.search(r" deadline=(\d{1,5})(?!\S)", words[1], re.ASCII)
    return ask(words[0], words[1], int(match[1]) if match else DEADLINE)


def execute(text: str) -> str:
    """Carry out one line; return the reply."""
    name = text.split()[0]
    try:
        if name.startswith("@"):
            return relay(text)
        name, line, deadline = parse(text)
        with deadline_after(deadline):
            return BY_NAME[name][1](line)
    except UsageError as error:
        return f"error usage: {printable(f'{name}: {error}')}"
    except DeadlineError:
        return "timeout"
    except FaultError as fault:
        offset = fault.address - line.mapping(0).address
        inside = 0 <= offset < line.mapping(0).length
        place = f"offset={offset:#x}" if inside else f"address={fault.address:#x}"
        return f"{fault.name} code={fault.code} {place}"
    except OverflowError:
        return f"error usage: {name}: a number is out of range"
    except OSError as error:
        number_ = error.errno or 0
        return f"error {ERRNO_NAMES.get(number_, f'E{number_}')} {name}: {os.strerror(number_)}"


def write_reply(reply: str) -> None:
    """Write a reply to stdout."""
    sys.stdout.write(f"{reply}\n")
    sys.stdout.flush()


def serve(stream: BinaryIO) -> None:
    """Carry out the lines of ``stream`` until its end."""
    for raw in stream:
        text = raw.decode(errors="surrogateescape").strip()
        if not text or text.startswith("#"):
            continue
        write_reply(execute(text))
        if text.split()[0] == "exit":
            break


# ---- actor ----


class Template:
    """A process that has imported all of a probe, and forks a new probe for each order.

    An order is a number, 32 bits, and three descriptors: standard input, output and error.
    The end of that probe is answered by the number and its exit status, or -N for signal N.
    """

    def __init__(self, descriptor: int) -> None:
        import socket

        self._receive = socket.recv_fds
        self._orders = socket.socket(fileno=descriptor)
        self._running: dict[int, int] = {}  # process to number
        guarded.close()
        gc.freeze()  # a probe copies no page for what it does not change
        signal.signal(signal.SIGCHLD, self._report)

    def serve(self) -> int:
        """Serve orders until their end; return the exit code, also that of a probe."""
        while True:
            order, descriptors, _, _ = self._receive(self._orders, 4, 3)
            if not order:
                return 0
            # The end of a probe is reported once its number is known.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
            if (pid := os.fork()) == 0:
                self._become_probe(descriptors)
            self._running[pid] = int.from_bytes(order, "little")
            for descriptor in descriptors:
                os.close(descriptor)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})

    def _become_probe(self, descriptors: list[int]) -> NoReturn:
        """Be a probe, as one that was started anew, and end."""
        global guarded
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        self._orders.close()
        os.setsid()
        for place, descriptor in enumerate(descriptors):
            os.dup2(descriptor, place)
            os.close(descriptor)
        name_process("python3")
        code = 1
        try:
            guarded = Guarded()
            code = main([])
        except BaseException:  # noqa: BLE001 - as at the end of an interpreter
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def _report(self, _number: int, _frame: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                status = os.waitstatus_to_exitcode(ended[1])
                self._orders.send(struct.pack("<Ii", self._running.pop(ended[0]), status))


def name_process(name: str) -> None:
    """Set the name of this process that /proc shows."""
    with open("/proc/self/comm", "w") as comm:
        comm.write(name)


def main(arguments: list[str]) -> int:
    """Serve stdin until its end; return the exit code."""
    global parent
    if arguments == ["--help"]:
        print(__doc__)
        print("operations:")
        for usage, _ in OPERATIONS:
            print(f"  {usage}")
        return 0
    if len(arguments) >= 2 and arguments[0] in ("--child", "--resume"):
        import socket

        learn_features(dict(word.split("=", 1) for word in arguments[2:]))
        parent = socket.socket(fileno=int(arguments[1]))
        parent.set_inheritable(False)
        if arguments[0] == "--resume":
            write_reply(reply_after_exec())
    elif len(arguments) == 2 and arguments[0] == "--template":
        name_process("agent")  # as what starts programs in the guest is called
        return Template(int(arguments[1])).serve()
    elif arguments:
        print("probe.py: unknown arguments; see --help", file=sys.stderr)
        return 2
    serve(sys.stdin.buffer)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
