"""The table of splats: kind, pattern, and the place in the kernel that prints it.

A pattern is matched at the start of a message, behind the timestamp.  The first row
that matches decides, so a row stands before every row that would match the same
message less precisely.
"""

from __future__ import annotations

import re

PANIC = "panic"
REBOOT = "reboot"
#: Kinds that are evidence for a scenario, and no fault of the kernel.
INFORMATIONAL = frozenset({"dmar-fault", "memory-type"})
#: Kinds that report a detector as disabled, or messages as lost: a fault may have gone unseen.
DETECTOR_LOST = frozenset({"dropped", "disabled"})
#: Rows of kind, pattern, and the kernel file (with the function, or other remarks) that prints it.
TABLE: tuple[tuple[str, str, str], ...] = (
    (
        "dropped",
        r"\*\* \d+ printk messages dropped \*\*",
        "kernel/printk/printk.c: console_prepend_dropped()",
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
    ("ubsan", r"UBSAN: .*", "lib/ubsan.c"),
    (
        "bad-page",
        r"BUG: Bad (page|rss-counter|swap) .*",
        "mm/page_alloc.c: bad_page(), mm/memory.c, kernel/fork.c",
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
    ("rcu-stall", r"rcu: INFO: .*stall.*", "kernel/rcu/tree_stall.h, tree_exp.h"),
    ("rcu-stall", r"rcu: .*kthread (timer wakeup|starved|grace-period).*", "kernel/rcu/tree_stall.h"),
    ("hung-task", r"INFO: task .* blocked .*for more than \d+ seconds.*", "kernel/hung_task.c"),
    (
        "lockdep",
        r"WARNING: (possible|suspicious|bad|inconsistent|Nested|held|lock held) .*",
        "kernel/locking/lockdep.c",
    ),
    ("lockdep", r"WARNING: .*(lock order|unlock balance|lock freed).*", "kernel/locking/lockdep.c"),
    (
        "lockdep",
        r"BUG: (invalid wait context|key .* has not been registered).*",
        "lockdep.c",
    ),
    ("lockdep", r"\[ BUG: .* \]", "kernel/locking/lockdep.c, the older form"),
    ("lockdep", r"INFO: trying to register non-static key.*", "kernel/locking/lockdep.c"),
    ("lockdep", r"INFO: possible (circular|recursive|irq) .*", "kernel/locking/lockdep.c, the older form"),
    ("list", r"(list_add|list_del|hlist_\w+) corruption.*", "lib/list_debug.c"),
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
    ("oom", r"(Memory cgroup out|Out) of memory: .*", "mm/oom_kill.c"),
    ("leak", r"kmemleak: [1-9]\d* new suspected memory leaks.*", "mm/kmemleak.c"),
    ("bug", r"kernel BUG at .*", "arch/x86: BUG()"),
    ("oops", r"BUG: (kernel NULL pointer dereference|unable to handle).*", "arch/x86/mm/fault.c"),
    (
        "oops",
        r"(Oops|general protection fault|double fault|stack segment|invalid opcode|divide error)[:, ].*",
        "arch/x86",
    ),
    ("oops", r"traps: PANIC: .*", "arch/x86/kernel/traps.c, double fault"),
    ("bug", r"BUG: .*", "sleeping while atomic, bad spinlock, scheduling while atomic, and others"),
    ("warning", r"WARNING: .*", "kernel/panic.c: __warn(), and every WARNING without a row of its own"),
    ("memtype", r"x86/PAT: .*freeing invalid memtype.*", "arch/x86/mm/pat/memtype.c: memtype_free()"),
    ("resource", r"(resource: )?Trying to free nonexistent resource.*", "kernel/resource.c"),
    ("iommufd", r"iommufd: Time out waiting for iommufd object.*", "drivers/iommu/iommufd/main.c"),
    ("irq", r"irq \d+: nobody cared.*", "kernel/irq/spurious.c: __report_bad_irq()"),
    ("sysfs", r"sysfs: cannot create duplicate filename.*", "fs/sysfs/dir.c: sysfs_warn_dup()"),
    ("dmar-fault", r"DMAR: \[(DMA|INTR)[^\]]*\] .*", "drivers/iommu/intel/dmar.c: dmar_fault_do_one()"),
    ("memory-type", r"x86/PAT: .*(conflicting|expected mapping type|overlap).*", "arch/x86/mm/pat/memtype.c"),
)
#: The kinds and the compiled patterns of TABLE, in the same order.
PATTERNS = tuple((kind, re.compile(pattern)) for kind, pattern, _ in TABLE)
