/* SPDX-License-Identifier: GPL-2.0-only */
/* The test importer: what its files share. */
#ifndef IMPORTER_H
#define IMPORTER_H

#include <linux/dma-buf.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "importer_uapi.h"

#define RECORDS_MAX 512

/*
 * An open file.  Its mutex orders the calls of user space.  The callback comes
 * with the reservation lock of the buffer held and so cannot take the mutex:
 * what it uses is protected by the reservation lock (sgt, pinned, direction)
 * or by the spinlock.  User space is accessed with neither mutex nor
 * reservation lock held, because mmap_lock comes before both.
 */
struct importer {
	struct mutex mutex;
	struct dma_buf *dmabuf; /* set and cleared with mutex and lock */
	struct dma_buf_attachment *attachment;
	struct pci_dev *device;
	struct pci_dev *exporter; /* cleared with mutex and lock */
	struct sg_table *sgt;
	enum dma_data_direction direction;
	unsigned int pinned;
	struct delayed_work unmap_work;

	spinlock_t lock;
	struct importer_plan plan;
	unsigned int releases;	 /* how often everything was let go */
	struct list_head fences; /* not signaled yet */
	struct importer_counts counts;
	struct importer_record *records;
	wait_queue_head_t wait; /* for events and releases */
};

extern struct workqueue_struct *importer_workqueue;

/* attach.c */
int importer_attach(struct importer *importer,
		    const struct importer_attach *request,
		    struct device *own_device);
int importer_detach(struct importer *importer);
int importer_pin(struct importer *importer);
int importer_unpin(struct importer *importer);
int importer_map(struct importer *importer, u32 direction);
int importer_unmap(struct importer *importer);
int importer_vmap(struct importer *importer);
int importer_entries(struct importer *importer, struct importer_entry *entries,
		     u32 *count);
void importer_unmap_later(struct work_struct *work);

/* callback.c */
void importer_notified(struct dma_buf_attachment *attachment);
void importer_unmap_locked(struct importer *importer,
			   struct dma_buf_attachment *attachment);
void importer_unpin_locked(struct importer *importer,
			   struct dma_buf_attachment *attachment);
void importer_release(struct importer *importer);
unsigned long importer_jiffies(u32 ms);

/* fence.c */
int importer_add_fence(struct importer *importer, struct dma_resv *resv,
		       const struct importer_plan *plan);
void importer_signal_all(struct importer *importer);

/* record.c */
void importer_record(struct importer *importer, struct dma_buf *dmabuf,
		     enum importer_event event, int result);
int importer_copy_records(struct importer *importer,
			  struct importer_records *request);

#endif
