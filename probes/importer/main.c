// SPDX-License-Identifier: GPL-2.0-only
/* A kernel module that imports DMABUFs as user space tells it to. */
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "importer.h"

struct workqueue_struct *importer_workqueue;

static struct miscdevice node;

static int open_importer(struct inode *inode, struct file *file)
{
	struct importer *importer = kzalloc(sizeof(*importer), GFP_KERNEL);

	if (!importer)
		return -ENOMEM;
	importer->records =
		kvcalloc(RECORDS_MAX, sizeof(*importer->records), GFP_KERNEL);
	if (!importer->records) {
		kfree(importer);
		return -ENOMEM;
	}
	mutex_init(&importer->mutex);
	spin_lock_init(&importer->lock);
	INIT_LIST_HEAD(&importer->fences);
	init_waitqueue_head(&importer->wait);
	INIT_DELAYED_WORK(&importer->unmap_work, importer_unmap_later);
	file->private_data = importer;
	return 0;
}

static int release_importer(struct inode *inode, struct file *file)
{
	struct importer *importer = file->private_data;

	importer_detach(importer);
	/* A fence that is being signaled may still use this importer. */
	flush_workqueue(importer_workqueue);
	mutex_destroy(&importer->mutex);
	kvfree(importer->records);
	kfree(importer);
	return 0;
}

static int check_plan(const struct importer_plan *plan)
{
	u32 known =
		IMPORTER_PLAN_FENCE | IMPORTER_PLAN_REMAP | IMPORTER_PLAN_UNPIN;

	if (plan->flags & ~known || plan->reserved ||
	    plan->fence_usage > DMA_RESV_USAGE_BOOKKEEP)
		return -EINVAL;
	return 0;
}

/* The calls that need neither attachment nor mutex. */
static long call_unlocked(struct importer *importer, unsigned int call,
			  void __user *user)
{
	union {
		struct importer_plan plan;
		struct importer_counts counts;
		struct importer_records records;
		struct importer_wait wait;
	} data;
	int error;

	switch (call) {
	case IMPORTER_PLAN:
		if (copy_from_user(&data.plan, user, sizeof(data.plan)))
			return -EFAULT;
		error = check_plan(&data.plan);
		if (error)
			return error;
		spin_lock(&importer->lock);
		importer->plan = data.plan;
		spin_unlock(&importer->lock);
		return 0;
	case IMPORTER_RELEASE:
		importer_release(importer);
		return 0;
	case IMPORTER_COUNTS:
		spin_lock(&importer->lock);
		data.counts = importer->counts;
		data.counts.mapped = !!importer->sgt;
		data.counts.pinned = importer->pinned;
		spin_unlock(&importer->lock);
		if (copy_to_user(user, &data.counts, sizeof(data.counts)))
			return -EFAULT;
		return 0;
	case IMPORTER_RECORDS:
		if (copy_from_user(&data.records, user, sizeof(data.records)))
			return -EFAULT;
		error = importer_copy_records(importer, &data.records);
		if (error)
			return error;
		if (copy_to_user(user, &data.records, sizeof(data.records)))
			return -EFAULT;
		return 0;
	case IMPORTER_WAIT:
		if (copy_from_user(&data.wait, user, sizeof(data.wait)))
			return -EFAULT;
		if (data.wait.event >= IMPORTER_EVENTS)
			return -EINVAL;
		return wait_event_interruptible(
			importer->wait,
			READ_ONCE(importer->counts.events[data.wait.event]) >=
				data.wait.count);
	}
	return -ENOIOCTLCMD;
}

static long call_locked(struct importer *importer, unsigned int call)
{
	switch (call) {
	case IMPORTER_DETACH:
		return importer_detach(importer);
	case IMPORTER_PIN:
		return importer_pin(importer);
	case IMPORTER_UNPIN:
		return importer_unpin(importer);
	case IMPORTER_UNMAP:
		return importer_unmap(importer);
	case IMPORTER_VMAP:
		return importer_vmap(importer);
	}
	return -ENOTTY;
}

static long copy_entries(struct importer *importer,
			 struct importer_entries __user *user)
{
	struct importer_entries request;
	struct importer_entry *entries;
	u32 room;
	long error;

	if (copy_from_user(&request, user, sizeof(request)))
		return -EFAULT;
	if (request.count > IMPORTER_ENTRIES_MAX)
		return -EINVAL;
	room = request.count;
	entries = kvcalloc(max(room, 1u), sizeof(*entries), GFP_KERNEL);
	if (!entries)
		return -ENOMEM;
	error = mutex_lock_interruptible(&importer->mutex);
	if (!error) {
		error = importer_entries(importer, entries, &request.count);
		mutex_unlock(&importer->mutex);
	}
	if (!error &&
	    (copy_to_user(u64_to_user_ptr(request.entries), entries,
			  min(room, request.count) * sizeof(*entries)) ||
	     copy_to_user(user, &request, sizeof(request))))
		error = -EFAULT;
	kvfree(entries);
	return error;
}

static long call_importer(struct file *file, unsigned int call,
			  unsigned long argument)
{
	struct importer *importer = file->private_data;
	void __user *user = (void __user *)argument;
	struct importer_attach attach;
	u32 direction;
	long error;

	error = call_unlocked(importer, call, user);
	if (error != -ENOIOCTLCMD)
		return error;
	if (call == IMPORTER_ENTRIES)
		return copy_entries(importer, user);
	if (call == IMPORTER_ATTACH &&
	    copy_from_user(&attach, user, sizeof(attach)))
		return -EFAULT;
	if (call == IMPORTER_MAP && get_user(direction, (u32 __user *)user))
		return -EFAULT;
	error = mutex_lock_interruptible(&importer->mutex);
	if (error)
		return error;
	if (call == IMPORTER_ATTACH)
		error = importer_attach(importer, &attach, node.this_device);
	else if (call == IMPORTER_MAP)
		error = importer_map(importer, direction);
	else
		error = call_locked(importer, call);
	mutex_unlock(&importer->mutex);
	return error;
}

/* Map the buffer itself, as a driver does whose objects are imported ones. */
static int mmap_importer(struct file *file, struct vm_area_struct *vma)
{
	struct importer *importer = file->private_data;
	struct dma_buf *dmabuf;
	int error;

	spin_lock(&importer->lock);
	dmabuf = importer->dmabuf;
	if (dmabuf)
		get_dma_buf(dmabuf);
	spin_unlock(&importer->lock);
	if (!dmabuf)
		return -EINVAL;
	error = dma_buf_mmap(dmabuf, vma, vma->vm_pgoff);
	dma_buf_put(dmabuf);
	return error;
}

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.open = open_importer,
	.release = release_importer,
	.unlocked_ioctl = call_importer,
	.mmap = mmap_importer,
};

static struct miscdevice node = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = IMPORTER_NAME,
	.fops = &operations,
};

static int __init importer_init(void)
{
	int error;

	importer_workqueue = alloc_workqueue(IMPORTER_NAME, WQ_UNBOUND, 0);
	if (!importer_workqueue)
		return -ENOMEM;
	error = misc_register(&node);
	if (error)
		goto destroy;
	/* Without a mask, mapping for this device would warn. */
	error = dma_coerce_mask_and_coherent(node.this_device,
					     DMA_BIT_MASK(64));
	if (error)
		goto deregister;
	return 0;
deregister:
	misc_deregister(&node);
destroy:
	destroy_workqueue(importer_workqueue);
	return error;
}

static void __exit importer_exit(void)
{
	misc_deregister(&node);
	destroy_workqueue(importer_workqueue);
	rcu_barrier();
}

module_init(importer_init);
module_exit(importer_exit);
MODULE_DESCRIPTION("An importer of DMABUFs for tests of their exporters");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("DMA_BUF");
