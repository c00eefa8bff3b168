/* SPDX-License-Identifier: GPL-2.0-only */
/* The table of operations. */
#ifndef OPERATIONS_H
#define OPERATIONS_H

#include <stddef.h>

#include "text.h"

typedef void operation_fn(struct args *a, struct reply *r);

struct operation {
	const char *
		usage; /* name and arguments, which a line is checked against */
	const char *help;
	operation_fn *run;
};

extern const struct operation operations[];
extern const size_t operations_count;

/* access.c */
operation_fn op_load, op_store, op_loadpages, op_loadlist, op_loadeach;
operation_fn op_stamp, op_fill, op_compare, op_fence;
/* breakpoint.c */
operation_fn op_count, op_counted;
/* buffer.c */
operation_fn op_export, op_revoke, op_memattr, op_dup, op_seek;
/* clock.c */
operation_fn op_clock;
/* confine.c */
operation_fn op_confine;
/* debugger.c */
operation_fn op_seize, op_release, op_peek, op_poke, op_advise;
/* detach.c */
operation_fn op_unshare, op_orphan, op_abort;
/* device.c */
operation_fn op_open, op_info, op_region, op_read, op_write, op_probe;
operation_fn op_close;
/* exec.c */
operation_fn op_exec;
/* fdio.c */
operation_fn op_fdio, op_setfl, op_fdflags, op_reopen;
/* hammer.c */
operation_fn op_pin, op_hammer, op_hammered, op_unhammer, op_reclaim;
/* importer.c */
operation_fn op_importer, op_impattach, op_impdetach, op_implan;
operation_fn op_imppin, op_impunpin, op_impmap, op_impunmap, op_impvmap;
operation_fn op_imprelease, op_impwait, op_impcycle;
/* importer_reports.c */
operation_fn op_impentries, op_impcounts, op_imprecords;
/* ioctl.c */
operation_fn op_ioctl, op_abi, op_hold, op_footprint;
/* iommu.c */
operation_fn op_join;
/* iommufd.c */
operation_fn op_ioas, op_hwpt, op_attach, op_detach, op_destroy;
operation_fn op_iomap, op_iounmap, op_type1map, op_type1unmap;
/* lifecycle.c */
operation_fn op_cycle, op_outlive, op_attempts;
/* lockcopy.c */
operation_fn op_regioncopy, op_lockcopy;
/* make.c */
operation_fn op_make;
/* mapping.c */
operation_fn op_map, op_unmap, op_mprotect, op_madvise, op_mremap;
/* mm.c */
operation_fn op_msync, op_mlock, op_mlockall, op_mapover, op_mapat;
operation_fn op_remapfile, op_mseal, op_userfault, op_mapfile;
/* module.c */
operation_fn op_loadmodule, op_unloadmodule;
/* pin.c */
operation_fn op_pinpages;
/* power.c */
operation_fn op_lowpower, op_wakeups;
/* prime.c */
operation_fn op_prime;
/* proc.c */
operation_fn op_pagetable, op_vmas, op_mapped, op_memory, op_faults, op_fdinfo;
operation_fn op_fds, op_setrlimit, op_version;
/* process.c */
operation_fn op_spawn, op_fork, op_send, op_recv, op_signal, op_reap, op_exit;
operation_fn op_ended, op_finish;
/* race.c */
operation_fn op_together;
/* reset.c */
operation_fn op_reset, op_hotreset, op_resets, op_resetsdone;
/* resource.c */
operation_fn op_resource;
/* stack.c */
operation_fn op_stack, op_held;
/* syscopy.c */
operation_fn op_syscopy;
/* timeline.c */
operation_fn op_timeline, op_attachfence, op_advance, op_ready;
/* touch.c */
operation_fn op_touch;
/* unbind.c */
operation_fn op_unbind;
/* watch.c */
operation_fn op_watch, op_watched;

#endif
