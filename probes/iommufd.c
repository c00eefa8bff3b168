// SPDX-License-Identifier: GPL-2.0-only
/*
 * What iommufd, or a type 1 container, maps for DMA by a device.  The objects
 * of iommufd are its own numbers, which are valid until the device is closed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <sys/ioctl.h>

#include <linux/iommufd.h>
#include <linux/vfio.h>

#include "object.h"
#include "operations.h"
#include "text.h"

enum {
	DMA_READ = 1,
	DMA_WRITE = 2,
};

/* Find the device that a line begins with, if it was opened by cdev. */
static struct object *iommufd_device(const struct args *a, struct reply *r)
{
	struct object *device = word_object(a, r, 0, DEVICE);

	if (!device || (device->iommu_fd[0] >= 0 && device->iommu_fd[1] < 0))
		return device;
	reply_usage(r, "%s: %s was not opened by cdev", a->op, device->name);
	return NULL;
}

/* Find the device that a line begins with, if it has a container. */
static struct object *container_device(const struct args *a, struct reply *r)
{
	struct object *device = word_object(a, r, 0, DEVICE);

	if (!device || device->iommu_fd[1] >= 0)
		return device;
	reply_usage(r, "%s: %s was not opened by group or compat", a->op,
		    device->name);
	return NULL;
}

/* Parse the number of an object of iommufd. */
static bool word_number(const struct args *a, struct reply *r,
			unsigned int index, uint32_t *number)
{
	uint64_t value;

	if (!word_u64(a, r, index, &value))
		return false;
	if (value > UINT32_MAX) {
		reply_usage(r, "%s: a number of iommufd has 32 bits", a->op);
		return false;
	}
	*number = (uint32_t)value;
	return true;
}

static bool option_access(const struct args *a, struct reply *r,
			  uint64_t *access)
{
	static const struct token ways[] = {
		{ "r", DMA_READ },
		{ "w", DMA_WRITE },
		{ "rw", DMA_READ | DMA_WRITE },
	};
	const char *text = option_text(a, "prot") ?: "rw";

	if (parse_tokens(text, ways, ARRAY_SIZE(ways), access))
		return true;
	reply_usage(r, "%s: prot=%s is not r, w, rw or a number", a->op, text);
	return false;
}

void op_ioas(struct args *a, struct reply *r)
{
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	struct object *device = iommufd_device(a, r);

	if (!device)
		return;
	if (ioctl(device->iommu_fd[0], IOMMU_IOAS_ALLOC, &alloc))
		reply_errno(r, errno, "ioas");
	else
		reply_set(r, "ok %u", alloc.out_ioas_id);
}

void op_hwpt(struct args *a, struct reply *r)
{
	struct iommu_hwpt_alloc alloc = { .size = sizeof(alloc) };
	struct object *device = iommufd_device(a, r);

	if (!device || !word_number(a, r, 1, &alloc.pt_id))
		return;
	alloc.dev_id = device->iommufd_id;
	if (ioctl(device->iommu_fd[0], IOMMU_HWPT_ALLOC, &alloc))
		reply_errno(r, errno, "hwpt");
	else
		reply_set(r, "ok %u", alloc.out_hwpt_id);
}

/* Attach a device, or replace what it is attached to. */
void op_attach(struct args *a, struct reply *r)
{
	struct vfio_device_attach_iommufd_pt attach = {
		.argsz = sizeof(attach),
	};
	struct object *device = iommufd_device(a, r);

	if (!device || !word_number(a, r, 1, &attach.pt_id))
		return;
	if (ioctl(device->fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach))
		reply_errno(r, errno, "attach");
	else
		reply_set(r, "ok");
}

void op_detach(struct args *a, struct reply *r)
{
	struct vfio_device_detach_iommufd_pt detach = {
		.argsz = sizeof(detach),
	};
	struct object *device = iommufd_device(a, r);

	if (!device)
		return;
	if (ioctl(device->fd, VFIO_DEVICE_DETACH_IOMMUFD_PT, &detach))
		reply_errno(r, errno, "detach");
	else
		reply_set(r, "ok");
}

void op_destroy(struct args *a, struct reply *r)
{
	struct iommu_destroy destroy = { .size = sizeof(destroy) };
	struct object *device = iommufd_device(a, r);

	if (!device || !word_number(a, r, 1, &destroy.id))
		return;
	if (ioctl(device->iommu_fd[0], IOMMU_DESTROY, &destroy))
		reply_errno(r, errno, "destroy");
	else
		reply_set(r, "ok");
}

static int map_file(int iommufd, uint32_t flags, uint32_t ioas, int fd,
		    uint64_t start, uint64_t length, uint64_t *iova)
{
	struct iommu_ioas_map_file map = {
		.size = sizeof(map),
		.flags = flags,
		.ioas_id = ioas,
		.fd = fd,
		.start = start,
		.length = length,
		.iova = *iova,
	};
	int failed = ioctl(iommufd, IOMMU_IOAS_MAP_FILE, &map);

	*iova = map.iova;
	return failed;
}

static int map_address(int iommufd, uint32_t flags, uint32_t ioas,
		       const unsigned char *address, uint64_t length,
		       uint64_t *iova)
{
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = flags,
		.ioas_id = ioas,
		.user_va = (uintptr_t)address,
		.length = length,
		.iova = *iova,
	};
	int failed = ioctl(iommufd, IOMMU_IOAS_MAP, &map);

	*iova = map.iova;
	return failed;
}

/* Map a file by its descriptor, or memory of this process by its address. */
void op_iomap(struct args *a, struct reply *r)
{
	struct object *device = iommufd_device(a, r), *source;
	uint64_t start, length, iova, access;
	uint32_t ioas, flags = 0;
	int failed;

	if (!device || !word_number(a, r, 1, &ioas) ||
	    !(source = word_object(a, r, 2, BUFFER | MAPPING)) ||
	    !option_u64(a, r, "start", 0, &start) ||
	    !option_u64(a, r, "length", 0, &length) ||
	    !option_u64(a, r, "iova", 0, &iova) ||
	    !option_access(a, r, &access))
		return;
	if (option_text(a, "iova"))
		flags |= IOMMU_IOAS_MAP_FIXED_IOVA;
	if (access & DMA_READ)
		flags |= IOMMU_IOAS_MAP_READABLE;
	if (access & DMA_WRITE)
		flags |= IOMMU_IOAS_MAP_WRITEABLE;
	if (source->kind == BUFFER)
		failed = map_file(device->iommu_fd[0], flags, ioas, source->fd,
				  start, length, &iova);
	else
		failed = map_address(device->iommu_fd[0], flags, ioas,
				     source->base + start, length, &iova);
	if (failed)
		reply_errno(r, errno, "iomap");
	else
		reply_set(r, "ok 0x%jx", (uintmax_t)iova);
}

/* Unmap a part of an IOAS, by default all of it. */
void op_iounmap(struct args *a, struct reply *r)
{
	struct iommu_ioas_unmap unmap = { .size = sizeof(unmap) };
	struct object *device = iommufd_device(a, r);
	uint64_t iova, length;

	if (!device || !word_number(a, r, 1, &unmap.ioas_id) ||
	    !option_u64(a, r, "iova", 0, &iova) ||
	    !option_u64(a, r, "length", UINT64_MAX, &length))
		return;
	unmap.iova = iova;
	unmap.length = length;
	if (ioctl(device->iommu_fd[0], IOMMU_IOAS_UNMAP, &unmap))
		reply_errno(r, errno, "iounmap");
	else
		reply_set(r, "ok 0x%llx", (unsigned long long)unmap.length);
}

/* Map memory of this process for DMA in the container of a device. */
void op_type1map(struct args *a, struct reply *r)
{
	struct vfio_iommu_type1_dma_map map = { .argsz = sizeof(map) };
	struct object *device = container_device(a, r), *mapping;
	uint64_t start, length, iova, access;

	if (!device || !(mapping = word_object(a, r, 1, MAPPING)) ||
	    !option_u64(a, r, "start", 0, &start) ||
	    !option_u64(a, r, "length", 0, &length) ||
	    !option_u64(a, r, "iova", 0, &iova) ||
	    !option_access(a, r, &access))
		return;
	if (access & DMA_READ)
		map.flags |= VFIO_DMA_MAP_FLAG_READ;
	if (access & DMA_WRITE)
		map.flags |= VFIO_DMA_MAP_FLAG_WRITE;
	map.vaddr = (uintptr_t)mapping->base + start;
	map.size = length;
	map.iova = iova;
	if (ioctl(device->iommu_fd[1], VFIO_IOMMU_MAP_DMA, &map))
		reply_errno(r, errno, "type1map");
	else
		reply_set(r, "ok");
}

void op_type1unmap(struct args *a, struct reply *r)
{
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap) };
	struct object *device = container_device(a, r);
	uint64_t iova, length;

	if (!device || !option_u64(a, r, "iova", 0, &iova) ||
	    !option_u64(a, r, "length", 0, &length))
		return;
	unmap.iova = iova;
	unmap.size = length;
	if (ioctl(device->iommu_fd[1], VFIO_IOMMU_UNMAP_DMA, &unmap))
		reply_errno(r, errno, "type1unmap");
	else
		reply_set(r, "ok 0x%llx", (unsigned long long)unmap.size);
}
