/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The calls of the test importer (importer/), shared by the kernel module and
 * the actor.  Each open file of its node is an importer, with at most one
 * attachment.
 */
#ifndef IMPORTER_UAPI_H
#define IMPORTER_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define IMPORTER_NAME "patchproof_importer"

/* A PCI function: domain << 16 | bus << 8 | devfn. */
#define IMPORTER_NO_DEVICE (~0ull)

/* Until it is released, at the latest after IMPORTER_LONGEST. */
#define IMPORTER_NEVER (~0u)
#define IMPORTER_LONGEST 60000 /* ms */

#define IMPORTER_ENTRIES_MAX 65536

enum importer_class {
	IMPORTER_DYNAMIC,     /* peer-to-peer, with a callback */
	IMPORTER_STATIC,      /* dma_buf_attach() */
	IMPORTER_NO_P2P,      /* a callback, but no peer-to-peer */
	IMPORTER_NO_CALLBACK, /* peer-to-peer, but no callback */
};

struct importer_attach {
	__s32 fd;
	__u32 class;
	__u64 device;	/* attach->dev; without one the importer's own device */
	__u64 exporter; /* its power state is recorded */
};

#define IMPORTER_PLAN_FENCE (1u << 0) /* add a fence */
#define IMPORTER_PLAN_REMAP (1u << 1) /* try to map */
#define IMPORTER_PLAN_UNPIN (1u << 2) /* unpin */

/* What the callback does, in this order: stall, map, add a fence, unmap. */
struct importer_plan {
	__u32 flags;
	__u32 fence_usage; /* enum dma_resv_usage */
	__u32 fence_ms;	   /* from the callback to the signal of its fence */
	__u32 stall_ms;	   /* 0: no stall */
	__u32 unmap_ms;	   /* from the callback to the unmap; 0: within it */
	__u32 reserved;
};

enum importer_event {
	IMPORTER_ATTACHED = 1,
	IMPORTER_DETACHED,
	IMPORTER_PINNED,
	IMPORTER_UNPINNED,
	IMPORTER_MAPPED,
	IMPORTER_UNMAPPED, /* recorded before the call */
	IMPORTER_NOTIFIED, /* the callback begins */
	IMPORTER_STALLED,
	IMPORTER_RESUMED,
	IMPORTER_REMAPPED, /* the map within the callback */
	IMPORTER_FENCED,
	IMPORTER_SIGNALED, /* recorded before the call */
	IMPORTER_EVENTS,   /* how many there are */
};

#define IMPORTER_RESV_LOCKED (1u << 0) /* by whomever */
#define IMPORTER_RESV_HELD (1u << 1)   /* by this task, says lockdep */
#define IMPORTER_MMAP_LOCKED (1u << 2) /* mmap_lock of this task, by whomever */
#define IMPORTER_LOCKDEP (1u << 3)     /* lockdep is on: locks are known */

struct importer_record {
	__u64 sequence; /* over all importers */
	__u64 time;	/* CLOCK_MONOTONIC, ns */
	__u32 event;
	__s32 result; /* 0 or a negative errno */
	__s32 pid;
	__s32 power; /* of the exporter: 0 is D0; -1 without one */
	__u32 flags;
	__u32 reserved;
	char comm[16];
	char locks[152]; /* names, each with :r or :w, separated by commas */
};

struct importer_records {
	__u64 records; /* struct importer_record * */
	__u32 first;
	__u32 count; /* room for so many; how many were copied */
};

struct importer_entry {
	__u64 address;
	__u64 length;
};

struct importer_entries {
	__u64 entries; /* struct importer_entry * */
	__u32 count;   /* room for so many; how many there are */
	__u32 reserved;
};

struct importer_counts {
	__u32 events[16]; /* successful ones, by enum importer_event */
	__u32 records;
	__u32 lost; /* records for which there was no room */
	__u32 attached;
	__u32 mapped;
	__u32 pinned;
	__u32 fences; /* not signaled yet */
};

struct importer_wait {
	__u32 event;
	__u32 count;
};

#define IMPORTER_IOC(number, type) _IOWR(0xb7, number, type)
#define IMPORTER_ATTACH IMPORTER_IOC(0, struct importer_attach)
#define IMPORTER_DETACH _IO(0xb7, 1)
#define IMPORTER_PLAN IMPORTER_IOC(2, struct importer_plan)
#define IMPORTER_PIN _IO(0xb7, 3)
#define IMPORTER_UNPIN _IO(0xb7, 4)
#define IMPORTER_MAP IMPORTER_IOC(5, __u32) /* enum dma_data_direction */
#define IMPORTER_UNMAP _IO(0xb7, 6)
#define IMPORTER_ENTRIES IMPORTER_IOC(7, struct importer_entries)
#define IMPORTER_VMAP _IO(0xb7, 8)
#define IMPORTER_RELEASE _IO(0xb7, 9) /* end stalls, signal fences, unmap */
#define IMPORTER_COUNTS IMPORTER_IOC(10, struct importer_counts)
#define IMPORTER_RECORDS IMPORTER_IOC(11, struct importer_records)
#define IMPORTER_WAIT IMPORTER_IOC(12, struct importer_wait)

#endif
