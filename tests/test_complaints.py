"""Complaints and notices that look alike: who printed a line, what it is about, what stands below it.

The lines are made after the format strings of Linux 6.19, 7.1, 7.2 and 7.3, because most of
these faults cannot be provoked.  ``klog/patterns.py`` names the function that prints each.
"""

from __future__ import annotations

import pytest

from harness.klog import splat

DUMP = (
    "CPU: 1 UID: 0 PID: 210 Comm: {comm} Not tainted 6.19.6 #1 PREEMPT(full)",
    "Hardware name: QEMU Standard PC (Q35 + ICH9, 2009)",
    "Call Trace:",
    " <TASK>",
    " dump_stack_lvl+0x4d/0x70",
    " some_function+0x1a/0x40",
    " </TASK>",
)
# The name of a process, which may contain a newline or look like a message of the kernel.
NAMES = (
    "actor",
    "a\nb",
    "x\nBUG: bad",
    "\nWARNING: at f",
    "[    1.000000] ",
    "[1.000000]BUG: ",
    "a\x1b[2J\x07",
    "",
)


def console(*messages: str, caller: str = "", comm: str = "actor") -> bytes:
    """Return ``messages`` as the kernel prints them: each line of a message has its prefix."""
    lines = ["[    5.000000] vfio-pci 0000:00:04.0: enabling device (0000 -> 0002)"]
    for number, message in enumerate(messages):
        for line in message.replace("{comm}", comm).split("\n"):
            lines.append(f"[    6.10{number:04}]{caller} {line}")
    lines.append("[    9.000000] vfio-pci 0000:00:04.0: resetting")
    return "".join(f"{line}\r\n" for line in lines).encode()


def found(raw: bytes) -> list[splat.Splat]:
    return [one for one in splat.extract(splat.clean(raw), up=True) if not one.informational]


def kinds(raw: bytes) -> list[str]:
    return [one.kind for one in found(raw)]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("INFO: rcu_tasks_trace detected stalls on tasks:", "rcu-stall"),
        ("INFO: rcu_tasks detected stalls on tasks:", "rcu-stall"),
        ("INFO: rcu_tasks_trace detected stalls? (Late IPI?)", "rcu-stall"),
        ("rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-.... }", "rcu-stall"),
        ("INFO: task actor:210 blocked in I/O wait for more than 30 seconds.", "hung-task"),
        ("iounmap: bad address 00000000a1b2c3d4", "ioremap"),
        ("unregister_netdevice: waiting for eth0 to become free. Usage count = 2", "net"),
        ("virtio_net virtio0 eth0: NETDEV WATCHDOG: CPU: 1: transmit queue 0 timed out 5020 ms", "net"),
        ("IPv4: Attempt to release TCP socket in state 1 00000000a1b2c3d4", "net"),
        ("No irq handler for 1.37", "irq"),
        ("irq event 20: bogus return value 5", "irq"),
        ("Uhhuh. NMI received for unknown reason 2c on CPU 1.", "nmi"),
        ("NMI: IOCK error (debug interrupt?) for reason 61 on CPU 0.", "nmi"),
        (
            "softirq: huh, entered softirq 3 NET_RX 00000000a1b2c3d4 with preempt_count 00000100, "
            "exited with 00000101?",
            "preempt-count",
        ),
        ("BUG: workqueue leaked atomic, lock or RCU: kworker/0:1[12]", "bug"),
        ("vfio-pci 0000:00:04.0: Runtime PM usage count underflow!", "runtime-pm"),
        ("vfio-pci 0000:00:04.0: Unbalanced pm_runtime_enable!", "runtime-pm"),
        ("vfio-pci 0000:00:04.0: Resources present before probing", "resource"),
        (
            "resource: resource sanity check: requesting [mem 0xfe000000-0xfe0fffff], which spans more "
            "than 0000:00:04.0 [mem 0xfe000000-0xfe07ffff]",
            "resource",
        ),
        ("kobject: kobject_add_internal failed for vfio0 (error: -2 parent: vfio-dev)", "kobject"),
        ("VFS: Close: file count is 0 (f_op=vfio_device_fops)", "file"),
        ("VFS: Busy inodes after unmount of tmpfs (tmpfs)", "file"),
        ("Leaked POSIX lock on dev=0x0:0x5 ino=0x12 fl_owner=00000000a1b2c3d4 fl_flags=0x1", "file"),
        ("DMAR: VT-d detected Invalidation Queue Error: Reason 2", "iommu"),
        ("fill_read_buffer: vfio_show+0x0/0x10 returned bad count", "sysfs"),
        ("sysctl table check failed: vm/vfio Not a file", "sysctl"),
        ("list_add double add: new=ff11000007217cb0, prev=ff11000007217cb0, next=ff11000007217cb0.", "list"),
        ("Huh VM_FAULT_OOM leaked out to the #PF handler. Retrying PF", "oom"),
        ("actor: Corrupted page table at address 7f0000000000", "page-table"),
        ("get_swap_device: Bad swap file entry 00000001", "bad-page"),
        (
            "SLUB: Unable to allocate memory on CPU 0 (of node 0) on node -1, gfp=0xcc0(GFP_KERNEL)",
            "allocation",
        ),
        ("WARNING: at f+0x1/0x2, CPU#1: actor/210", "warning"),
        ("WARNING: drivers/vfio/x.c:12 at 0xffffffff81842340, CPU#1: actor/210", "warning"),
        ("Kernel BUG at f+0x1/0x2 [verbose debug info unavailable]", "bug"),
        ("traps: UBSAN: array index out of bounds at f+0x1/0x2", "ubsan"),
        ("WARNING: actor/210 still has locks held!", "lockdep"),
        (
            "csd: Detected non-responsive CSD lock (#1) on CPU#0, waiting 5 ns for CPU#01 f+0x0/0x1(g).",
            "lockup",
        ),
        ("smp: csd: Detected non-responsive CSD lock (#1) on CPU#0, waiting 5 ns for CPU#01 f(g).", "lockup"),
        ("BUG: Bad page state: 12 messages suppressed", "bad-page"),
        ("rcu: __call_rcu_common(): Double-freed CB f+0x0/0x1->f+0x0/0x1()!!!", "debug-objects"),
        ("vfio-pci 0000:00:04.0: dma_pool_alloc ring, 00000000a1b2c3d4 (corrupted)", "dma-pool"),
        ("vfio-pci 0000:00:04.0: dma_pool_free ring, dma 0x1000 already free", "dma-pool"),
        ("vfio-pci 0000:00:04.0: dma_pool_destroy ring busy", "dma-pool"),
        ("psi: inconsistent task state! task=210:actor cpu=0 psi_flags=4 clear=0 set=4", "psi"),
        ("debugfs: 'vfio0' already exists in 'vfio'", "sysfs"),
        ("Error: Driver 'vfio-pci' is already registered, aborting...", "sysfs"),
    ],
)
def test_message_of_a_fault_is_one_complaint(message: str, kind: str) -> None:
    assert kinds(console(message)) == [kind]
    assert kinds(console(message, *DUMP)) == [kind]
    assert kinds(console(message, caller="[  T210]")) == [kind]


@pytest.mark.parametrize(
    "message",
    [
        "WARNING: fbcon: Driver 'bochsdrmfb' missed to adjust virtual screen size (0x0 vs. 128x16)",
        "WARNING: 'bootconfig' found on the kernel command line but CONFIG_BOOT_CONFIG is not set.",
        "WARNING: polling idle and HT enabled, performance may degrade",
        "warning: `actor' uses wireless extensions which will stop working for Wi-Fi 7 hardware",
        "process 'actor' started with executable stack",
        "INFO: lockdep is turned off.",
        "INFO: NMI handler (nmi_cpu_backtrace_handler) took too long to run: 68.931 msecs",
        "INFO: The task actor:210 has been waiting for writeback completion for more than 1 seconds.",
        "clocksource: timekeeping watchdog on CPU1: Marking clocksource 'tsc' as unstable because:",
        "hrtimer: interrupt took 1234567 ns",
        "perf: interrupt took too long (2501 > 2500), lowering kernel.perf_event_max_sample_rate to 79000",
        "workqueue: vfio_work hogged CPU for >10000us 4 times, consider switching to WQ_UNBOUND",
        "[Firmware Bug]: TSC_DEADLINE disabled due to Errata",
        "mce: [Hardware Error]: Machine check events logged",
        "actor[210]: segfault at 0 ip 0000000000401000 sp 00007ffd00000000 error 4 in actor[401000+1000]",
        "traps: actor[210] general protection fault ip:401000 sp:7ffd00000000 error:0",
        "actor (210): drop_caches: 3",
        "vfio-pci 0000:00:04.0: Relaying device request to user (#0)",
        "genirq: Flags mismatch irq 16. 00000000 (vfio-intx) vs. 00000080 (ttyS0)",
        "random: crng init done",
    ],
)
def test_message_of_no_fault_is_no_complaint(message: str) -> None:
    assert kinds(console(message)) == []


@pytest.mark.parametrize(
    "message",
    [
        "BUG: spinlock bad magic on CPU#0, sh/12",
        "BUG: rwlock recursion on CPU#0, sh/12, ffff888101234a80",
        "BUG: using __this_cpu_add() in preemptible [00000000] code: sh/12",
        "BUG: mempool element poison mismatch",
        "BUG: looking up invalid subclass: 8",
        "BUG: TASK stack guard page was hit at ffffc90000133ff8 (stack is ffffc90000134000..0)",
        "BUG: assuming atomic context at a.c:1",
        "BUG: odd",
    ],
)
def test_bug_is_not_taken_for_the_end_of_a_name(message: str) -> None:
    assert kinds(console(message)) == ["bug"]


def test_warning_between_rulers_without_dump_is_a_notice() -> None:
    ruler = "=" * 55
    text = f"{ruler}\nWARNING: The mand mount option has been deprecated and\n   is ignored.\n{ruler}"
    assert kinds(console(text)) == []


@pytest.mark.parametrize("below", [DUMP, DUMP[:1], ("6.19.6 #1 Tainted: G        W          ",), DUMP[2:]])
def test_warning_with_dump_or_taint_is_a_complaint(below: tuple[str, ...]) -> None:
    assert kinds(console("WARNING: a lock class of another form", *below)) == ["warning"]


@pytest.mark.parametrize("line", ["BUG: an assertion", "Kernel panic - not syncing: no", *DUMP[1:4]])
def test_line_without_timestamp_is_no_complaint(line: str) -> None:
    assert found(console() + line.encode() + b"\n") == []
    assert splat.kind_of(line) is None


def test_lost_messages_without_timestamp_are_reported() -> None:
    assert kinds(console() + b"** 17 printk messages dropped **\n") == ["dropped"]


class TestUnknownHead:
    """A call trace below a message that no row knows."""

    HEAD = "vfio-pci 0000:00:04.0: runtime PM: Attempt to enable runtime PM when it is blocked"

    def test_trace_is_a_complaint_titled_by_its_head(self) -> None:
        (one,) = found(console(self.HEAD, *DUMP))
        assert (one.kind, one.title, one.frames) == ("trace", self.HEAD, ("some_function",))
        assert len(one.text.splitlines()) == 1 + len(DUMP)

    def test_fingerprint_ignores_device_time_and_process(self) -> None:
        other = self.HEAD.replace("00:04.0", "0b:1f.2")
        (first,) = found(console(self.HEAD, *DUMP))
        (second,) = found(console(other, *DUMP, caller="[    C7]", comm="cat"))
        assert first.fingerprint == second.fingerprint

    def test_lines_of_others_are_kept_apart(self) -> None:
        raw = console(self.HEAD, *DUMP, caller="[  T210]").decode().splitlines()
        for number in range(2, 8):
            raw.insert(2 * number - 1, "[    6.100003][    T1] unrelated")
        (one,) = found("\n".join(raw).encode())
        assert (one.title, one.frames) == (self.HEAD, ("some_function",))
        assert "unrelated" not in one.text

    def test_trace_of_a_second_processor_is_a_second_complaint(self) -> None:
        one = console(self.HEAD, *DUMP, caller="[  T210]").decode().splitlines()[1:-1]
        two = (
            console("BUG: KASAN: double-free in f+0x1/0x2", *DUMP, caller="[    C1]")
            .decode()
            .splitlines()[1:-1]
        )
        mixed = "\n".join(line for pair in zip(one, two, strict=True) for line in pair)
        assert sorted(kinds(mixed.encode())) == ["kasan", "trace"]

    def test_two_traces_below_two_heads_are_two(self) -> None:
        assert kinds(console(self.HEAD, *DUMP, "allocation failed, size=8", *DUMP)) == ["trace", "trace"]

    def test_trace_far_below_another_fault_is_its_own(self) -> None:
        lines = ["No irq handler for 1.37", *(f"unrelated {number}" for number in range(3)), self.HEAD, *DUMP]
        assert kinds(console(*lines)) == ["irq", "trace"]

    def test_fault_far_below_a_fault_without_trace_is_its_own(self) -> None:
        lines = ["kobject: kobject_add_internal failed for x (error: -2 parent: y)"]
        lines += [f"unrelated {number}" for number in range(20)]
        assert kinds(console(*lines, "BUG: KASAN: double-free in f+0x1/0x2", *DUMP)) == ["kobject", "kasan"]

    def test_trace_without_a_message_has_no_foreign_title(self) -> None:
        raw = console(*DUMP).replace(b"6.10", b"8.10")
        (one,) = found(raw)
        assert (one.kind, one.title) == ("trace", "Call Trace: (without a message)")

    def test_dump_of_other_tasks_belongs_to_the_fault(self) -> None:
        others = ("Sending NMI from CPU 0 to CPUs 1:", "NMI backtrace for cpu 1", *DUMP, "pool 3:")
        task = ("task:kworker/1:0     state:R  running task     stack:0     pid:20    tgid:20   ", *DUMP[2:])
        assert kinds(console("rcu: INFO: rcu_preempt self-detected stall on CPU", *DUMP, *others, *task)) == [
            "rcu-stall"
        ]

    def test_owner_of_the_lock_belongs_to_the_hung_task(self) -> None:
        owner = "INFO: task actor:210 is blocked on a mutex likely owned by task x:20."
        task = ("task:x               state:S stack:0     pid:20    tgid:20   ", *DUMP[2:])
        head = "INFO: task actor:210 blocked for more than 30 seconds."
        assert kinds(console(head, *DUMP, owner, *task)) == ["hung-task"]

    def test_dump_that_was_asked_for_is_no_complaint(self) -> None:
        task = ("task:x               state:S stack:0     pid:20    tgid:20   ", *DUMP[2:])
        assert kinds(console("sysrq: Show State", *task, *task)) == []
        assert kinds(console(*task)) == ["trace"]

    def test_out_of_memory_with_its_dump_is_one_complaint(self) -> None:
        head = "{comm} invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0"
        killed = "Out of memory: Killed process 44 (python3) total-vm:1kB"
        assert [one.title for one in found(console(head, *DUMP, "Mem-Info:", killed))] == [killed]
        assert kinds(console(head, *DUMP)) == ["oom"]


class TestNameOfProcess:
    """A process may name itself as it likes (prctl PR_SET_NAME): 15 bytes."""

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("caller", ["", "[   T53]"])
    def test_hung_task_of_any_name_is_one_complaint(self, name: str, caller: str) -> None:
        head = "INFO: task {comm}:210 blocked for more than 30 seconds."
        task = "task:{comm} state:D stack:0     pid:210   tgid:210   ppid:1"
        raw = console(head, "      Not tainted 6.19.6 #1", task, *DUMP[2:], comm=name, caller=caller)
        assert kinds(raw) == ["hung-task"]

    @pytest.mark.parametrize("name", NAMES)
    def test_trace_in_a_process_of_any_name_is_one_complaint(self, name: str) -> None:
        assert kinds(console("something is odd", *DUMP, comm=name)) == ["trace"]
        failed = "{comm}: page allocation failure: order:9, mode:0xcc0(GFP_KERNEL), nodemask=(null)"
        assert kinds(console(failed, *DUMP, comm=name)) in (["allocation"], ["trace"])

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize(
        "notice",
        [
            "{comm}[210]: segfault at 0 ip 0000000000401000 sp 00007ffd00000000 error 4",
            "traps: {comm}[210] trap invalid opcode ip:401000 sp:7ffd00000000 error:0",
            "{comm} (210): drop_caches: 3",
            "warning: `{comm}' uses deprecated v2 capabilities in a way that may be insecure",
            "{comm}[210]: memfd_create() requires MFD_NOEXEC_SEAL with vm.memfd_noexec=1",
        ],
    )
    def test_notice_about_any_process_is_no_complaint(self, notice: str, name: str) -> None:
        assert kinds(console(notice, comm=name)) == []
