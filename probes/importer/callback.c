// SPDX-License-Identifier: GPL-2.0-only
/* The callback by which an exporter tells the importer to let go. */
#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/jiffies.h>
#include <linux/minmax.h>

#include "importer.h"

/* Nothing lasts for ever: a guest that waits for this importer must survive. */
unsigned long importer_jiffies(u32 ms)
{
	return msecs_to_jiffies(min_t(u32, ms, IMPORTER_LONGEST));
}

void importer_unmap_locked(struct importer *importer,
			   struct dma_buf_attachment *attachment)
{
	struct sg_table *sgt = importer->sgt;

	if (!sgt)
		return;
	importer->sgt = NULL;
	importer_record(importer, attachment->dmabuf, IMPORTER_UNMAPPED, 0);
	dma_buf_unmap_attachment(attachment, sgt, importer->direction);
}

void importer_unpin_locked(struct importer *importer,
			   struct dma_buf_attachment *attachment)
{
	for (; importer->pinned; importer->pinned--) {
		dma_buf_unpin(attachment);
		importer_record(importer, attachment->dmabuf, IMPORTER_UNPINNED,
				0);
	}
}

static bool released_since(struct importer *importer, unsigned int before)
{
	return READ_ONCE(importer->releases) != before;
}

static void stall(struct importer *importer, struct dma_buf *dmabuf, u32 ms)
{
	unsigned int before = READ_ONCE(importer->releases);

	importer_record(importer, dmabuf, IMPORTER_STALLED, 0);
	/* Killable: an owner that is killed here must be able to end. */
	wait_event_killable_timeout(importer->wait,
				    released_since(importer, before),
				    importer_jiffies(ms));
	importer_record(importer, dmabuf, IMPORTER_RESUMED, 0);
}

static void remap(struct importer *importer,
		  struct dma_buf_attachment *attachment)
{
	struct sg_table *sgt;

	sgt = dma_buf_map_attachment(attachment, DMA_BIDIRECTIONAL);
	importer_record(importer, attachment->dmabuf, IMPORTER_REMAPPED,
			PTR_ERR_OR_ZERO(sgt));
	if (!IS_ERR(sgt))
		dma_buf_unmap_attachment(attachment, sgt, DMA_BIDIRECTIONAL);
}

void importer_notified(struct dma_buf_attachment *attachment)
{
	struct importer *importer = attachment->importer_priv;
	struct dma_buf *dmabuf = attachment->dmabuf;
	struct importer_plan plan;

	spin_lock(&importer->lock);
	plan = importer->plan;
	spin_unlock(&importer->lock);

	importer_record(importer, dmabuf, IMPORTER_NOTIFIED, 0);
	if (plan.stall_ms)
		stall(importer, dmabuf, plan.stall_ms);
	if (plan.flags & IMPORTER_PLAN_REMAP)
		remap(importer, attachment);
	if (plan.flags & IMPORTER_PLAN_FENCE)
		importer_record(importer, dmabuf, IMPORTER_FENCED,
				importer_add_fence(importer, dmabuf->resv,
						   &plan));
	if (importer->sgt && plan.unmap_ms)
		queue_delayed_work(importer_workqueue, &importer->unmap_work,
				   importer_jiffies(plan.unmap_ms));
	else
		importer_unmap_locked(importer, attachment);
	if (plan.flags & IMPORTER_PLAN_UNPIN)
		importer_unpin_locked(importer, attachment);
}

/*
 * End every stall, signal every fence, and do every planned unmap now.  It
 * takes no lock that an owner may hold who waits for this importer.
 */
void importer_release(struct importer *importer)
{
	spin_lock(&importer->lock);
	importer->releases++;
	spin_unlock(&importer->lock);
	wake_up_all(&importer->wait);
	importer_signal_all(importer);
	spin_lock(&importer->lock);
	if (delayed_work_pending(&importer->unmap_work))
		mod_delayed_work(importer_workqueue, &importer->unmap_work, 0);
	spin_unlock(&importer->lock);
}
