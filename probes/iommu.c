// SPDX-License-Identifier: GPL-2.0-only
/* Share the IOMMU context of a device with another one, or with a DMABUF. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#include <linux/iommufd.h>
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

	return ioctl(device->fd, VFIO_DEVICE_BIND_IOMMUFD, &bind);
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
	device = object_new(DEVICE);
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
	reply_set(r, "ok %s", device->name);
	reply_bars(device, r);
}

/* Have iommufd import a DMABUF into a new IOAS, and attach the device to it. */
void op_import(struct args *a, struct reply *r)
{
	struct object *device = word_object(a, r, 0, DEVICE), *buffer;
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	struct iommu_ioas_map_file map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE |
			 IOMMU_IOAS_MAP_READABLE,
	};
	struct vfio_device_attach_iommufd_pt attach = {
		.argsz = sizeof(attach),
	};
	uint64_t iova, length;

	if (!device || !(buffer = word_object(a, r, 1, BUFFER)) ||
	    !option_u64(a, r, "iova", 0, &iova) ||
	    !option_u64(a, r, "length", 0, &length))
		return;
	if (device->iommu_fd[0] < 0 || device->iommu_fd[1] >= 0) {
		reply_usage(r, "import: %s was not opened by cdev",
			    device->name);
		return;
	}
	if (ioctl(device->iommu_fd[0], IOMMU_IOAS_ALLOC, &alloc)) {
		reply_errno(r, errno, "import: IOMMU_IOAS_ALLOC");
		return;
	}
	map.ioas_id = alloc.out_ioas_id;
	map.fd = buffer->fd;
	map.length = length;
	map.iova = iova;
	attach.pt_id = alloc.out_ioas_id;
	if (ioctl(device->iommu_fd[0], IOMMU_IOAS_MAP_FILE, &map))
		reply_errno(r, errno, "import: IOMMU_IOAS_MAP_FILE");
	else if (ioctl(device->fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach))
		reply_errno(r, errno, "import: VFIO_DEVICE_ATTACH_IOMMUFD_PT");
	else
		reply_set(r, "ok");
}
