// SPDX-License-Identifier: GPL-2.0-only
/*
 * The fences of an importer.  A fence is owned by the list of its importer;
 * who takes it off the list signals it and drops the reference.
 */
#include <linux/dma-fence.h>
#include <linux/dma-resv.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "importer.h"

struct importer_fence {
	struct dma_fence base;
	spinlock_t lock;
	struct list_head entry;
	struct importer *importer;
	struct delayed_work work;
};

static const char *name_of(struct dma_fence *base)
{
	return IMPORTER_NAME;
}

/* A buffer may keep a signaled fence for long, and with it this module. */
static void release(struct dma_fence *base)
{
	dma_fence_free(base);
	module_put(THIS_MODULE);
}

static const struct dma_fence_ops fence_ops = {
	.get_driver_name = name_of,
	.get_timeline_name = name_of,
	.release = release,
};

/* Take a fence off the list; false if another did so. */
static bool claim(struct importer *importer, struct importer_fence *fence)
{
	bool listed;

	spin_lock(&importer->lock);
	listed = !list_empty(&fence->entry);
	if (listed) {
		list_del_init(&fence->entry);
		importer->counts.fences--;
	}
	spin_unlock(&importer->lock);
	return listed;
}

static void signal_claimed(struct importer *importer,
			   struct importer_fence *fence)
{
	importer_record(importer, NULL, IMPORTER_SIGNALED, 0);
	dma_fence_signal(&fence->base);
	dma_fence_put(&fence->base);
}

static void signal_later(struct work_struct *work)
{
	struct importer_fence *fence = container_of(
		to_delayed_work(work), struct importer_fence, work);
	struct importer *importer = fence->importer;

	if (claim(importer, fence))
		signal_claimed(importer, fence);
}

/* Add a fence that is signaled later.  The reservation lock is held. */
int importer_add_fence(struct importer *importer, struct dma_resv *resv,
		       const struct importer_plan *plan)
{
	struct importer_fence *fence;
	int error;

	fence = kzalloc(sizeof(*fence), GFP_KERNEL);
	if (!fence)
		return -ENOMEM;
	error = dma_resv_reserve_fences(resv, 1);
	if (error) {
		kfree(fence);
		return error;
	}
	__module_get(THIS_MODULE);
	spin_lock_init(&fence->lock);
	INIT_DELAYED_WORK(&fence->work, signal_later);
	fence->importer = importer;
	/* A context of its own: no fence of this importer replaces another. */
	dma_fence_init(&fence->base, &fence_ops, &fence->lock,
		       dma_fence_context_alloc(1), 1);
	dma_resv_add_fence(resv, &fence->base, plan->fence_usage);
	spin_lock(&importer->lock);
	list_add_tail(&fence->entry, &importer->fences);
	importer->counts.fences++;
	queue_delayed_work(importer_workqueue, &fence->work,
			   importer_jiffies(plan->fence_ms));
	spin_unlock(&importer->lock);
	return 0;
}

/* Signal every fence now. */
void importer_signal_all(struct importer *importer)
{
	struct importer_fence *fence;

	for (;;) {
		spin_lock(&importer->lock);
		fence = list_first_entry_or_null(&importer->fences,
						 struct importer_fence, entry);
		if (fence) {
			list_del_init(&fence->entry);
			importer->counts.fences--;
		}
		spin_unlock(&importer->lock);
		if (!fence)
			return;
		cancel_delayed_work_sync(&fence->work);
		signal_claimed(importer, fence);
	}
}
