// SPDX-License-Identifier: GPL-2.0-only
/* Attach to a DMABUF, pin it, map it, and undo each. */
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/iosys-map.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>

#include "importer.h"

/* Kbuild finds the name in the headers of the tree. */
#ifdef HAVE_INVALIDATE_MAPPINGS
#define CALLBACK invalidate_mappings
#else
#define CALLBACK move_notify
#endif

static const struct dma_buf_attach_ops classes[] = {
	[IMPORTER_DYNAMIC] = {
		.allow_peer2peer = true,
		.CALLBACK = importer_notified,
	},
	[IMPORTER_NO_P2P] = {
		.CALLBACK = importer_notified,
	},
	[IMPORTER_NO_CALLBACK] = {
		.allow_peer2peer = true,
	},
};

static int find_device(u64 address, struct pci_dev **found)
{
	*found = NULL;
	if (address == IMPORTER_NO_DEVICE)
		return 0;
	if (address > U32_MAX)
		return -EINVAL;
	*found = pci_get_domain_bus_and_slot(address >> 16, address >> 8 & 0xff,
					     address & 0xff);
	return *found ? 0 : -ENXIO;
}

/* A fence signaled late is recorded with the lock, and with the exporter. */
static void forget_devices(struct importer *importer)
{
	struct pci_dev *device = importer->device;
	struct pci_dev *exporter = importer->exporter;

	spin_lock(&importer->lock);
	importer->device = NULL;
	importer->exporter = NULL;
	spin_unlock(&importer->lock);
	pci_dev_put(device);
	pci_dev_put(exporter);
}

static void set_attachment(struct importer *importer, struct dma_buf *dmabuf,
			   struct dma_buf_attachment *attachment)
{
	spin_lock(&importer->lock);
	importer->dmabuf = dmabuf;
	importer->attachment = attachment;
	importer->counts.attached = !!attachment;
	spin_unlock(&importer->lock);
}

/* The mutex is held. */
int importer_attach(struct importer *importer,
		    const struct importer_attach *request,
		    struct device *own_device)
{
	struct dma_buf_attachment *attachment;
	struct dma_buf *dmabuf;
	struct device *device;
	int error;

	if (importer->attachment)
		return -EBUSY;
	if (request->class > IMPORTER_NO_CALLBACK)
		return -EINVAL;
	dmabuf = dma_buf_get(request->fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	error = find_device(request->device, &importer->device);
	if (!error)
		error = find_device(request->exporter, &importer->exporter);
	if (error)
		goto put;
	device = importer->device ? &importer->device->dev : own_device;
	if (request->class == IMPORTER_STATIC)
		attachment = dma_buf_attach(dmabuf, device);
	else
		attachment = dma_buf_dynamic_attach(
			dmabuf, device, &classes[request->class], importer);
	error = PTR_ERR_OR_ZERO(attachment);
	importer_record(importer, dmabuf, IMPORTER_ATTACHED, error);
	if (error)
		goto put;
	set_attachment(importer, dmabuf, attachment);
	return 0;
put:
	forget_devices(importer);
	dma_buf_put(dmabuf);
	return error;
}

/* The mutex is held, or nobody else has this importer. */
int importer_detach(struct importer *importer)
{
	struct dma_buf_attachment *attachment = importer->attachment;
	struct dma_buf *dmabuf = importer->dmabuf;

	if (!attachment)
		return -EINVAL;
	/* An owner who waits for this importer may hold the lock. */
	importer_release(importer);
	dma_resv_lock(dmabuf->resv, NULL);
	importer_unmap_locked(importer, attachment);
	importer_unpin_locked(importer, attachment);
	dma_resv_unlock(dmabuf->resv);
	/*
	 * The callback finds nothing to unmap later now.  With the lock,
	 * importer_release() finds the work pending before this, or never.
	 */
	spin_lock(&importer->lock);
	cancel_delayed_work(&importer->unmap_work);
	spin_unlock(&importer->lock);
	flush_delayed_work(&importer->unmap_work);
	dma_buf_detach(dmabuf, attachment);
	/* Nor is there another callback, which could add a fence. */
	importer_signal_all(importer);
	importer_record(importer, NULL, IMPORTER_DETACHED, 0);
	set_attachment(importer, NULL, NULL);
	dma_buf_put(dmabuf);
	forget_devices(importer);
	return 0;
}

static int lock_attached(struct importer *importer)
{
	if (!importer->attachment)
		return -EINVAL;
	return dma_resv_lock_interruptible(importer->dmabuf->resv, NULL);
}

int importer_pin(struct importer *importer)
{
	int error;

	/* dma_buf_pin() warns for a static importer. */
	if (importer->attachment && !importer->attachment->importer_ops)
		return -EPERM;
	error = lock_attached(importer);
	if (error)
		return error;
	error = dma_buf_pin(importer->attachment);
	importer->pinned += !error;
	importer_record(importer, importer->dmabuf, IMPORTER_PINNED, error);
	dma_resv_unlock(importer->dmabuf->resv);
	return error;
}

int importer_unpin(struct importer *importer)
{
	int error = lock_attached(importer);

	if (error)
		return error;
	importer_unpin_locked(importer, importer->attachment);
	dma_resv_unlock(importer->dmabuf->resv);
	return 0;
}

int importer_map(struct importer *importer, u32 direction)
{
	struct sg_table *sgt;
	int error;

	if (direction > DMA_FROM_DEVICE)
		return -EINVAL;
	error = lock_attached(importer);
	if (error)
		return error;
	if (importer->sgt) {
		dma_resv_unlock(importer->dmabuf->resv);
		return -EBUSY;
	}
	sgt = dma_buf_map_attachment(importer->attachment, direction);
	error = PTR_ERR_OR_ZERO(sgt);
	if (!error) {
		importer->sgt = sgt;
		importer->direction = direction;
	}
	importer_record(importer, importer->dmabuf, IMPORTER_MAPPED, error);
	dma_resv_unlock(importer->dmabuf->resv);
	return error;
}

int importer_unmap(struct importer *importer)
{
	int error = lock_attached(importer);

	if (error)
		return error;
	error = importer->sgt ? 0 : -EINVAL;
	importer_unmap_locked(importer, importer->attachment);
	dma_resv_unlock(importer->dmabuf->resv);
	return error;
}

/* The unmap that the callback planned. */
void importer_unmap_later(struct work_struct *work)
{
	struct importer *importer = container_of(to_delayed_work(work),
						 struct importer, unmap_work);
	struct dma_buf_attachment *attachment = importer->attachment;

	dma_resv_lock(attachment->dmabuf->resv, NULL);
	importer_unmap_locked(importer, attachment);
	dma_resv_unlock(attachment->dmabuf->resv);
}

/* Copy at most @count entries; @count is then how many there are. */
int importer_entries(struct importer *importer, struct importer_entry *entries,
		     u32 *count)
{
	struct scatterlist *sg;
	u32 i, room = *count;
	int error = lock_attached(importer);

	if (error)
		return error;
	error = -EINVAL;
	if (importer->sgt) {
		*count = importer->sgt->nents;
		for_each_sgtable_dma_sg(importer->sgt, sg, i)
		{
			if (i == room)
				break;
			entries[i].address = sg_dma_address(sg);
			entries[i].length = sg_dma_len(sg);
		}
		error = 0;
	}
	dma_resv_unlock(importer->dmabuf->resv);
	return error;
}

int importer_vmap(struct importer *importer)
{
	struct iosys_map map;
	int error;

	if (!importer->attachment)
		return -EINVAL;
	error = dma_buf_vmap_unlocked(importer->dmabuf, &map);
	if (!error)
		dma_buf_vunmap_unlocked(importer->dmabuf, &map);
	return error;
}
