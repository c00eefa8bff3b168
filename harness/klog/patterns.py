"""The table of splats: kind, pattern, and the place in the kernel that prints it.

A pattern is matched at the start of a message, behind the timestamp.  The first row
that matches decides, so a row stands before every row that would match the same
message less precisely.  The places are those of Linux 6.19, 7.1, 7.2 and 7.3.

A line has no row of its own in these cases:

- A plain ``pr_warn("WARNING: ...")`` is a notice.  A WARN() names its function
  (``WARNING: mm/x.c:12 at f+0x1/0x2``), and any other fault has a call trace or the
  kernel's taint below it, which harness.klog.traces finds under any head.
- The host or the hardware is slow or broken: clocksource, hrtimer and perf messages,
  ``NMI handler took too long``, ``hogged CPU``, ``[Hardware Error]``, ``[Firmware Bug]``.
- The kernel refuses what a program asked for, or tells of a program.
"""

from __future__ import annotations

import re

PANIC = "panic"
REBOOT = "reboot"
#: A message about a process, which is no splat.  Its row keeps the name of the process from posing as one.
NOTICE = "notice"
#: Kinds that are evidence for a scenario, and no fault of the kernel.
INFORMATIONAL = frozenset({"dmar-fault", "memory-type"})
#: Kinds that report a detector as disabled, or messages as lost: a fault may have gone unseen.
DETECTOR_LOST = frozenset({"dropped", "disabled"})
#: Kinds whose message has no timestamp.  Any other line without one was printed by a program.
UNSTAMPED = frozenset({"dropped"})
#: Kinds whose message stands alone.  A call trace belongs to it only if it follows immediately.
WITHOUT_TRACE = frozenset(
    {
        "dma-pool",
        "file",
        "iommu",
        "iommufd",
        "irq",
        "memtype",
        "net",
        "nmi",
        "oom",
        "preempt-count",
        "psi",
        "resource",
        "runtime-pm",
    }
)
# The name of a process: up to 15 bytes, with newlines if it likes (prctl(PR_SET_NAME)).
_COMM = r"(?s:.{0,15}?)"
#: Rows of kind, pattern, and the kernel file (with the function, or other remarks) that prints it.
TABLE: tuple[tuple[str, str, str], ...] = (
    (
        "dropped",
        r"\*\* \d+ printk messages dropped \*\*",
        "kernel/printk/printk.c: console_prepend_dropped()",
    ),
    (
        NOTICE,
        rf"CPU: \d+ (UID: \d+ )?PID: \d+ Comm: {_COMM} (Kdump: loaded )?(Not tainted|Tainted: )",
        "lib/dump_stack.c: dump_stack_print_info()",
    ),
    (NOTICE, rf"task:{_COMM} +state:", "kernel/sched/core.c: sched_show_task()"),
    (NOTICE, rf"warning: `{_COMM}' (uses|set) ", "kernel/capability.c, kernel/sched, mm"),
    (NOTICE, rf"{_COMM} invoked oom-killer: ", "mm/oom_kill.c: dump_header(); the next row tells the victim"),
    (
        NOTICE,
        rf"(traps: |mmap: )?{_COMM}(\[\d+\]:?|/\d+:| ?\(\d+\):?|:) ?(segfault at |bad frame in |trap |"
        r"general protection fault ip:|general protection ip:|attempts to use CLI|overflowed sigaltstack|"
        r"drop_caches: |used greatest stack depth|uses deprecated |memfd_create\(\) |/proc/\d+/oom_adj|"
        r"VmData |attempted to duplicate |Attempt to set a LOCK_MAND|reached RLIMIT_SIGPENDING|"
        r"potentially unexpected fatal signal)",
        "arch/x86/mm/fault.c: show_signal_msg(), arch/x86/kernel/traps.c, fs/drop_caches.c, mm",
    ),
    (
        NOTICE,
        r"BUG: (?!Bad page state: \d+ messages)[^\n]{0,9}(/\d+[:,.\s]|:\d+ |\[\d+\]|,pid=| \(\d+\)| +state:)",
        "no function: the end of a name that begins with a newline, as in lockdep_print_held_locks()",
    ),
    (
        NOTICE,
        r"\[ *\d+\] +\d+ +\d+ +\d+ [ \d-]* (?s:.{0,15})",
        "mm/oom_kill.c: dump_task(), a row of a table",
    ),
    (NOTICE, rf"oom-kill:constraint=.*task={_COMM},pid=", "mm/oom_kill.c: dump_oom_victim()"),
    (
        "page-table",
        rf"{_COMM}: Corrupted page table at address .*",
        "arch/x86/mm/fault.c: pgtable_bad()",
    ),
    ("allocation", r"SLUB: Unable to allocate memory on .*", "mm/slub.c: slab_out_of_memory()"),
    ("bad-page", r"\w+: (Bad swap (file|offset)|Unused swap offset) entry .*", "mm/swapfile.c"),
    (
        "allocation",
        rf"{_COMM}: (page allocation (failure|stall)|vmalloc error)\b.*",
        "mm/page_alloc.c: warn_alloc()",
    ),
    ("disabled", r"DMA-API: debugging out of memory.*", "kernel/dma/debug.c"),
    ("disabled", r"DMA-API: cacheline tracking ENOMEM.*", "kernel/dma/debug.c"),
    ("disabled", r"ODEBUG: Out of memory\. ODEBUG disabled", "lib/debugobjects.c: debug_objects_oom()"),
    ("disabled", r"kmemleak: .*(detector disabled|Cannot allocate|pool empty).*", "mm/kmemleak.c"),
    (
        "disabled",
        r"BUG: MAX_(LOCK|STACK_TRACE)\w+ too low!?",
        "kernel/locking/lockdep.c: print_lockdep_off()",
    ),
    ("disabled", r"Future hung task reports are suppressed.*", "kernel/hung_task.c"),
    (
        REBOOT,
        r"reboot: (Restarting system|Power down|System halted|Power off not available).*",
        "kernel/reboot.c",
    ),
    (REBOOT, r"sysrq: (Resetting|Power Off)", "drivers/tty/sysrq.c"),
    (REBOOT, r"Linux version \d.*", "init/version.c: a kernel that starts while another one was running"),
    (PANIC, r"Kernel panic - not syncing: .*", "kernel/panic.c: vpanic()"),
    ("kasan", r"BUG: KASAN: .*", "mm/kasan/report.c"),
    ("kfence", r"BUG: KFENCE: .*", "mm/kfence/report.c"),
    ("kcsan", r"BUG: KCSAN: .*", "kernel/kcsan/report.c"),
    ("kmsan", r"BUG: KMSAN: .*", "mm/kmsan/report.c"),
    ("ubsan", r"(traps: )?UBSAN: .*", "lib/ubsan.c, arch/x86/kernel/traps.c"),
    (
        "bad-page",
        r"BUG: Bad (page|rss-counter|swap) .*",
        "mm/page_alloc.c: bad_page(), mm/memory.c, mm/filemap.c, kernel/fork.c",
    ),
    ("page-table", r"kernel BUG at mm/page_table_check\.c.*", "mm/page_table_check.c"),
    ("page-table", r"BUG: non-zero pgtables_bytes on freeing mm.*", "kernel/fork.c: check_mm()"),
    (
        "page-table",
        r"\S+:\d+: bad (pte|pmd|pud|p4d|pgd) .*",
        "arch/x86/include/asm/pgtable_64.h: pmd_ERROR()",
    ),
    ("lockup", r"(watchdog: )?BUG: soft lockup - .*", "kernel/watchdog.c"),
    ("lockup", r"(NMI )?watchdog: .*hard LOCKUP.*", "kernel/watchdog.c"),
    ("lockup", r"BUG: workqueue lockup - .*", "kernel/workqueue.c"),
    (
        "lockup",
        r"(smp: )?csd: (Detected|Continued) non-responsive CSD lock .*",
        "kernel/smp.c: csd_lock_wait_toolong()",
    ),
    (
        "rcu-stall",
        r"rcu: INFO: .*stall.*|INFO: \S+ (self-)?detected .*stall.*",
        "kernel/rcu/tree_stall.h, tree_exp.h, tasks.h (without the prefix)",
    ),
    ("rcu-stall", r"rcu: .*kthread (timer wakeup|starved|grace-period).*", "kernel/rcu/tree_stall.h"),
    (
        NOTICE,
        rf"INFO: task {_COMM}:\d+ (<\S+> )?(is )?blocked on an? ",
        "kernel/hung_task.c: debug_show_blocker()",
    ),
    (
        "hung-task",
        rf"INFO: task {_COMM}:\d+ .*blocked.* for more than \d+ seconds.*|INFO: task (?=\n|\Z)",
        "kernel/hung_task.c: hung_task_info(); cut where the name of the process is a timestamp",
    ),
    (
        "lockdep",
        r"WARNING: (possible|suspicious|bad|inconsistent|Nested|held|lock held|chain_key) .*",
        "kernel/locking/lockdep.c",
    ),
    (
        "lockdep",
        r"WARNING: .*(lock order|unlock balance|lock freed|still has locks held).*",
        "kernel/locking/lockdep.c",
    ),
    (
        "lockdep",
        r"BUG: (invalid wait context|key .* has not been registered).*",
        "lockdep.c",
    ),
    ("lockdep", r"\[ BUG: .* \]", "kernel/locking/lockdep.c, the older form"),
    ("lockdep", r"INFO: trying to register non-static key.*", "kernel/locking/lockdep.c"),
    ("lockdep", r"INFO: possible (circular|recursive|irq) .*", "kernel/locking/lockdep.c, the older form"),
    ("list", r"((list_add|list_del|hlist_\w+) corruption|list_add double add: ).*", "lib/list_debug.c"),
    ("slab", r"BUG \S+ \(.*\): .*", "mm/slub.c: slab_bug()"),
    ("slab", r"BUG: Object .* remaining on .*", "mm/slub.c"),
    ("usercopy", r"usercopy: .* attempt detected .*", "mm/usercopy.c"),
    ("refcount", r"refcount_t: .*", "lib/refcount.c"),
    (
        "dma-debug",
        r"DMA-API: .*(device driver|mapping sg|leak|cacheline|mapped|sync|exceed).*",
        "kernel/dma/debug.c: err_printk()",
    ),
    ("debug-objects", r"ODEBUG: \S+ .*object: .*", "lib/debugobjects.c: debug_print_object()"),
    ("debug-objects", r"rcu: \w+\(\): Double-freed CB .*", "kernel/rcu/tree.c: __call_rcu_common()"),
    (
        "dma-pool",
        r"\S+ \S+: (dma_pool_\w+|pool_\w+) .*(\(corrupted\)|\(bad (dma|vaddr)\)|already free| busy)",
        "mm/dmapool.c",
    ),
    ("psi", r"psi: (task underflow|inconsistent task state)!.*", "kernel/sched/psi.c"),
    (
        "oom",
        rf"(Memory cgroup out|Out) of memory: (Killed process \d+ \({_COMM}\) )?.*",
        "mm/oom_kill.c: __oom_kill_process(), out_of_memory()",
    ),
    (
        "oom",
        r"Huh VM_FAULT_OOM leaked out to the #PF handler.*",
        "mm/oom_kill.c: pagefault_out_of_memory(), after a fault handler of a driver",
    ),
    ("leak", r"kmemleak: [1-9]\d* new suspected memory leaks.*", "mm/kmemleak.c"),
    ("bug", r"[Kk]ernel BUG at .*", "lib/bug.c: report_bug()"),
    ("oops", r"BUG: (kernel NULL pointer dereference|unable to handle).*", "arch/x86/mm/fault.c"),
    (
        "oops",
        r"(Oops|general protection fault|double fault|stack segment|invalid opcode|divide error)[:, ].*",
        "arch/x86",
    ),
    ("oops", r"traps: PANIC: .*", "arch/x86/kernel/traps.c, double fault"),
    ("oops", r"Fixing recursive fault but reboot is needed!", "kernel/exit.c: make_task_dead()"),
    ("oops", r"unchecked MSR access error: .*", "arch/x86/mm/extable.c: ex_handler_msr()"),
    ("bug", r"BUG: .*", "sleeping while atomic, bad spinlock, scheduling while atomic, and others"),
    (
        "warning",
        r"WARNING: (CPU: \d+ PID: \d+ at \S+|(\S+:\d+ )?at [\w.$]+(\+0x[0-9a-f]|, CPU#\d)).*",
        "kernel/panic.c: __warn(), in the forms of 6.19 and later, and before",
    ),
    ("memtype", r"x86/PAT: .*freeing invalid memtype.*", "arch/x86/mm/pat/memtype.c: memtype_free()"),
    ("resource", r"(resource: )?Trying to free nonexistent resource.*", "kernel/resource.c"),
    ("iommufd", r"iommufd: Time out waiting for iommufd object.*", "drivers/iommu/iommufd/main.c"),
    (
        "resource",
        r"resource: resource sanity check: requesting .*",
        "kernel/resource.c: iomem_map_sanity_check()",
    ),
    ("resource", r"\S+ \S+: Resources present before probing", "drivers/base/dd.c: really_probe()"),
    ("ioremap", r"iounmap: bad address .*", "arch/x86/mm/ioremap.c: iounmap()"),
    (
        "runtime-pm",
        r"\S+ \S+: (runtime PM: )?(Runtime PM usage count underflow!|Unbalanced pm_runtime_\w+!|"
        r"Enabling runtime PM for inactive device with active children|"
        r"runtime PM trying to activate child device ).*",
        "drivers/base/power/runtime.c",
    ),
    ("irq", r"(genirq: )?irq \d+: nobody cared.*", "kernel/irq/spurious.c: __report_bad_irq()"),
    ("irq", r"(genirq: )?irq event \d+: bogus return value.*", "kernel/irq/spurious.c: __report_bad_irq()"),
    ("irq", r"genirq: exiting task .* is an active IRQ thread.*", "kernel/irq/manage.c: irq_thread_dtor()"),
    (
        "irq",
        r"(\w+: )?(\d+\.\d+ )?No irq handler for (vector|\d+\.\d+).*",
        "arch/x86/kernel/irq.c: handle_irq_fallback()",
    ),
    (
        "nmi",
        r"NMI: (PCI system error|IOCK error|Not continuing).*|Uhhuh\. NMI received for unknown reason .*",
        "arch/x86/kernel/nmi.c",
    ),
    (
        "preempt-count",
        r"softirq: huh, entered softirq .* with preempt_count .*",
        "kernel/softirq.c: handle_softirqs()",
    ),
    (
        "net",
        r"unregister_netdevice: waiting for .* to become free\. .*",
        "net/core/dev.c: netdev_wait_allrefs_any()",
    ),
    ("net", r".*NETDEV WATCHDOG: .* timed out.*", "net/sched/sch_generic.c: dev_watchdog()"),
    (
        "net",
        r"(protocol [0-9a-f]{4} is buggy, dev |Virtual device \S+ asks to queue packet!|"
        r"Dead loop on virtual device |repoll requested for device |(\w+: )?neighbour leakage|"
        r"(IPv4: |unix: )?Attempt to release (TCP socket|alive \w+ socket)|"
        r"(\w+: )?page_pool_release_retry\(\) stalled pool shutdown: |.*: hw csum failure).*",
        "net/core/dev.c, neighbour.c and page_pool.c, net/ipv4/af_inet.c, net/unix/af_unix.c",
    ),
    (
        "kobject",
        r"kobject: .*(something is seriously wrong|is not initialized, yet|NULL pointer|must have a ktype|"
        r"kobject_add_internal failed for|does not have a release\(\)).*",
        "lib/kobject.c",
    ),
    ("file", r"VFS: (Busy inodes after unmount|Close: file count is (zero|0)).*", "fs/super.c, fs/open.c"),
    ("file", r"Leaked (locks|\w+ lock) on dev=.*", "fs/locks.c: locks_check_ctx_lists()"),
    (
        "file",
        r"Page cache invalidation failure on direct I/O\..*",
        "mm/filemap.c: dio_warn_stale_pagecache()",
    ),
    (
        "iommu",
        r"DMAR: (VT-d detected Invalidation .* Error|ERROR: DMA PTE for vPFN).*",
        "drivers/iommu/intel/dmar.c: qi_dump_fault()",
    ),
    (
        "sysfs",
        r"(dev_attr_show|fill_read_buffer): .* returned bad count",
        "drivers/base/core.c, fs/sysfs/file.c",
    ),
    ("sysctl", r"sysctl (duplicate entry|table check failed): .*", "fs/proc/proc_sysctl.c"),
    ("sysfs", r"sysfs: cannot create duplicate filename.*", "fs/sysfs/dir.c: sysfs_warn_dup()"),
    ("sysfs", r"debugfs: '[^\n]*' already exists in '[^\n]*'", "fs/debugfs/inode.c"),
    ("sysfs", r"Error: Driver '.*' is already registered, aborting\.\.\.", "drivers/base/driver.c"),
    ("dmar-fault", r"DMAR: \[(DMA|INTR)[^\]]*\] .*", "drivers/iommu/intel/dmar.c: dmar_fault_do_one()"),
    ("memory-type", r"x86/PAT: .*(conflicting|expected mapping type|overlap).*", "arch/x86/mm/pat/memtype.c"),
)
#: The kinds and the compiled patterns of TABLE, in the same order.
PATTERNS = tuple((kind, re.compile(pattern)) for kind, pattern, _ in TABLE)
#: Those of lines without a timestamp.
PATTERNS_OF_UNSTAMPED = tuple(one for one in PATTERNS if one[0] in UNSTAMPED)
#: Matches where any of them does; most lines are of no splat.
ANY = re.compile("|".join(f"(?:{pattern})" for _, pattern, _ in TABLE))
