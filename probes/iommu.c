// SPDX-License-Identifier: GPL-2.0-only
/* Open a device with the IOMMU context of another one. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#include <linux/vfio.h>

#include "device.h"
#include "object.h"
#include "operations.h"
#include "text.h"

static int copy_fd(int fd)
{
	return fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

/* A group can be opened only once, so both devices share its descriptor. */
static int join_group(struct object *device, const struct object *first,
		      const char *bdf)
{
	device->iommu_fd[1] = copy_fd(first->iommu_fd[1]);
	if (device->iommu_fd[1] < 0)
		return -1;
	device->fd = ioctl(device->iommu_fd[0], VFIO_GROUP_GET_DEVICE_FD, bdf);
	return device->fd < 0 ? -1 : fcntl(device->fd, F_SETFD, FD_CLOEXEC);
}

/* Bind the device; it does no DMA, so it needs no IOAS. */
static int join_iommufd(struct object *device)
{
	struct vfio_device_bind_iommufd bind = {
		.argsz = sizeof(bind),
		.iommufd = device->iommu_fd[0],
	};

	if (ioctl(device->fd, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		return -1;
	device->iommufd_id = bind.out_devid;
	return 0;
}

void op_join(struct args *a, struct reply *r)
{
	struct object *first = word_object(a, r, 0, DEVICE), *device;
	const char *bdf = a->word[1];
	bool by_group;
	int failed;

	if (!first)
		return;
	if (!is_bdf(bdf) || first->iommu_fd[0] < 0) {
		reply_usage(r,
			    "join: takes a device that this actor opened, and "
			    "an address like 0000:02:00.1");
		return;
	}
	by_group = first->iommu_fd[1] >= 0;
	device = object_unnamed(DEVICE);
	device->iommu_fd[0] = copy_fd(first->iommu_fd[0]);
	if (!by_group && open_node(device, bdf, r)) {
		device_close(device);
		return;
	}
	failed = by_group ? join_group(device, first, bdf)
			  : join_iommufd(device);
	if (failed) {
		reply_errno(r, errno, "join");
		device_close(device);
		return;
	}
	object_name(device);
	reply_set(r, "ok %s", device->name);
	reply_bars(device, r);
}
