// SPDX-License-Identifier: GPL-2.0-only
/* Record what happens to an importer, in which order, and with which locks. */
#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/lockdep.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>

#include "importer.h"

static atomic64_t sequence;

#ifdef CONFIG_LOCKDEP
static void note_locks(struct importer_record *record)
{
	size_t used = 0;
	int i;

	if (!debug_locks)
		return;
	record->flags |= IMPORTER_LOCKDEP;
	for (i = 0; i < current->lockdep_depth; i++) {
		const struct held_lock *held = &current->held_locks[i];

		used += scnprintf(record->locks + used,
				  sizeof(record->locks) - used, "%s%s:%c",
				  used ? "," : "", held->instance->name,
				  held->read ? 'r' : 'w');
	}
}
#else
static void note_locks(struct importer_record *record)
{
}
#endif

static void fill(struct importer_record *record, struct importer *importer,
		 struct dma_buf *dmabuf, enum importer_event event, int result)
{
	memset(record, 0, sizeof(*record));
	record->event = event;
	record->result = result;
	record->pid = task_tgid_nr(current);
	get_task_comm(record->comm, current);
	record->power = importer->exporter
				? (int)importer->exporter->current_state
				: -1;
	if (dmabuf && ww_mutex_is_locked(&dmabuf->resv->lock))
		record->flags |= IMPORTER_RESV_LOCKED;
	if (current->mm && rwsem_is_locked(&current->mm->mmap_lock))
		record->flags |= IMPORTER_MMAP_LOCKED;
	note_locks(record);
#ifdef CONFIG_LOCKDEP
	if (dmabuf && debug_locks && lockdep_is_held(&dmabuf->resv->lock.base))
		record->flags |= IMPORTER_RESV_HELD;
#endif
}

void importer_record(struct importer *importer, struct dma_buf *dmabuf,
		     enum importer_event event, int result)
{
	struct importer_record *record, unkept;

	spin_lock(&importer->lock);
	record = &unkept;
	if (importer->counts.records < RECORDS_MAX)
		record = &importer->records[importer->counts.records++];
	else
		importer->counts.lost++;
	fill(record, importer, dmabuf, event, result);
	record->sequence = atomic64_inc_return(&sequence);
	record->time = ktime_get_ns();
	if (!result)
		importer->counts.events[event]++;
	spin_unlock(&importer->lock);
	wake_up_all(&importer->wait);
}

int importer_copy_records(struct importer *importer,
			  struct importer_records *request)
{
	size_t size = sizeof(*importer->records);
	u32 have;

	/* Records are only added, and what is there does not change. */
	spin_lock(&importer->lock);
	have = importer->counts.records;
	spin_unlock(&importer->lock);
	if (request->first > have)
		return -EINVAL;
	request->count = min(request->count, have - request->first);
	if (copy_to_user(u64_to_user_ptr(request->records),
			 importer->records + request->first,
			 request->count * size))
		return -EFAULT;
	return 0;
}
