// SPDX-License-Identifier: GPL-2.0-only
/* VFIO devices: open by group or cdev, regions, reads and writes. */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/iommufd.h>
#include <linux/vfio.h>

#include "device.h"
#include "object.h"
#include "operations.h"
#include "text.h"

#define CONTAINER "/dev/vfio/vfio"
#define IOMMUFD "/dev/iommu"

/* Check for dddd:bb:dd.f in hexadecimal, which becomes part of a path. */
bool is_bdf(const char *text)
{
	static const char shape[] = "xxxx:xx:xx.x";
	size_t i;

	if (strlen(text) != sizeof(shape) - 1)
		return false;
	for (i = 0; shape[i]; i++) {
		if (shape[i] == 'x' ? !isxdigit((unsigned char)text[i])
				    : text[i] != shape[i])
			return false;
	}
	return true;
}

static int open_failed(struct reply *r, const char *step, const char *path)
{
	char what[320];
	int error = errno;

	snprintf(what, sizeof(what), "open: %s %s", step, path);
	reply_errno(r, error, what);
	return -1;
}

/*
 * Open by group and container, with a type 1 IOMMU: the container is VFIO's, or
 * an iommufd that takes the calls of one.
 */
static int open_group(struct object *device, const char *bdf,
		      const char *container, struct reply *r)
{
	char path[64], target[256], node[64];
	const char *group;
	ssize_t length;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group",
		 bdf);
	length = readlink(path, target, sizeof(target) - 1);
	if (length < 0)
		return open_failed(r, "no IOMMU group:", path);
	target[length] = '\0';
	group = strrchr(target, '/');
	snprintf(node, sizeof(node), "/dev/vfio/%.32s",
		 group ? group + 1 : target);
	device->iommu_fd[0] = open(node, O_RDWR | O_CLOEXEC);
	if (device->iommu_fd[0] < 0)
		return open_failed(r, "group", node);
	device->iommu_fd[1] = open(container, O_RDWR | O_CLOEXEC);
	if (device->iommu_fd[1] < 0)
		return open_failed(r, "container", container);
	if (ioctl(device->iommu_fd[0], VFIO_GROUP_SET_CONTAINER,
		  &device->iommu_fd[1]))
		return open_failed(r, "VFIO_GROUP_SET_CONTAINER", node);
	if (ioctl(device->iommu_fd[1], VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		return open_failed(r, "VFIO_SET_IOMMU", node);
	device->fd = ioctl(device->iommu_fd[0], VFIO_GROUP_GET_DEVICE_FD, bdf);
	if (device->fd < 0)
		return open_failed(r, "VFIO_GROUP_GET_DEVICE_FD", bdf);
	return fcntl(device->fd, F_SETFD, FD_CLOEXEC);
}

static bool find_cdev(const char *bdf, char *node, size_t size)
{
	char path[64];
	struct dirent *entry;
	bool found = false;
	DIR *folder;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", bdf);
	folder = opendir(path);
	if (!folder)
		return false;
	while (!found && (entry = readdir(folder))) {
		if (strncmp(entry->d_name, "vfio", 4))
			continue;
		snprintf(node, size, "/dev/vfio/devices/%.32s", entry->d_name);
		found = true;
	}
	closedir(folder);
	return found;
}

/* Open the node of the device without binding it to an iommufd. */
int open_node(struct object *device, const char *bdf, struct reply *r)
{
	char node[64];

	if (!find_cdev(bdf, node, sizeof(node))) {
		errno = ENODEV;
		return open_failed(r, "no vfio-dev entry of", bdf);
	}
	device->fd = open(node, O_RDWR | O_CLOEXEC);
	return device->fd < 0 ? open_failed(r, "device", node) : 0;
}

/* Open the node of the device and bind it to an iommufd with one IOAS. */
static int open_cdev(struct object *device, const char *bdf, struct reply *r)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	struct vfio_device_attach_iommufd_pt attach = {
		.argsz = sizeof(attach),
	};
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };

	if (open_node(device, bdf, r))
		return -1;
	device->iommu_fd[0] = open(IOMMUFD, O_RDWR | O_CLOEXEC);
	if (device->iommu_fd[0] < 0)
		return open_failed(r, "iommufd", IOMMUFD);
	bind.iommufd = device->iommu_fd[0];
	if (ioctl(device->fd, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		return open_failed(r, "VFIO_DEVICE_BIND_IOMMUFD", bdf);
	device->iommufd_id = bind.out_devid;
	if (ioctl(device->iommu_fd[0], IOMMU_IOAS_ALLOC, &alloc))
		return open_failed(r, "IOMMU_IOAS_ALLOC", bdf);
	attach.pt_id = alloc.out_ioas_id;
	if (ioctl(device->fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach))
		return open_failed(r, "VFIO_DEVICE_ATTACH_IOMMUFD_PT", bdf);
	return 0;
}

void device_close(struct object *device)
{
	unsigned int i;

	if (device->fd >= 0)
		close(device->fd);
	for (i = 0; i < ARRAY_SIZE(device->iommu_fd); i++)
		if (device->iommu_fd[i] >= 0)
			close(device->iommu_fd[i]);
	if (device->wakeup >= 0)
		close(device->wakeup);
	object_drop(device);
}

static int region_info(const struct object *device, uint64_t index,
		       struct vfio_region_info *info)
{
	memset(info, 0, sizeof(*info));
	info->argsz = sizeof(*info);
	info->index = (uint32_t)index;
	if (index > UINT32_MAX) {
		errno = EINVAL;
		return -1;
	}
	return ioctl(device->fd, VFIO_DEVICE_GET_REGION_INFO, info);
}

int device_region(const struct object *device, uint64_t index,
		  uint64_t *position)
{
	struct vfio_region_info info;

	if (region_info(device, index, &info))
		return -1;
	*position = info.offset;
	return 0;
}

void reply_bars(const struct object *device, struct reply *r)
{
	struct vfio_region_info info;
	const char *separator = "";
	unsigned int bar;

	reply_add(r, " bars=");
	for (bar = VFIO_PCI_BAR0_REGION_INDEX;
	     bar <= VFIO_PCI_BAR5_REGION_INDEX; bar++) {
		if (region_info(device, bar, &info) || !info.size)
			continue;
		reply_add(r, "%s%u:0x%llx", separator, bar,
			  (unsigned long long)info.size);
		separator = ",";
	}
}

void op_open(struct args *a, struct reply *r)
{
	const char *via = option_text(a, "via") ?: "group";
	const char *bdf = a->word[1];
	struct object *device;
	int failed;

	if (strcmp(a->word[0], "vfio")) {
		reply_usage(r, "open: '%s' is not 'vfio'", a->word[0]);
		return;
	}
	if (!is_bdf(bdf)) {
		reply_usage(r, "open: '%s' is not like 0000:02:00.0", bdf);
		return;
	}
	if (strcmp(via, "group") && strcmp(via, "compat") &&
	    strcmp(via, "cdev") && strcmp(via, "node")) {
		reply_usage(r,
			    "open: via=%s is not group, compat, cdev or node",
			    via);
		return;
	}
	device = object_unnamed(DEVICE);
	if (!strcmp(via, "node"))
		failed = open_node(device, bdf, r);
	else if (!strcmp(via, "cdev"))
		failed = open_cdev(device, bdf, r);
	else if (!strcmp(via, "compat"))
		failed = open_group(device, bdf, IOMMUFD, r);
	else
		failed = open_group(device, bdf, CONTAINER, r);
	if (failed) {
		device_close(device);
		return;
	}
	object_name(device);
	reply_set(r, "ok %s", device->name);
	reply_bars(device, r);
}

void op_info(struct args *a, struct reply *r)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };
	struct object *device = word_object(a, r, 0, DEVICE);

	if (!device)
		return;
	if (ioctl(device->fd, VFIO_DEVICE_GET_INFO, &info)) {
		reply_errno(r, errno, "info");
		return;
	}
	reply_set(r, "ok flags=0x%x regions=%u irqs=%u", info.flags,
		  info.num_regions, info.num_irqs);
	reply_bars(device, r);
}

void op_region(struct args *a, struct reply *r)
{
	struct object *device = word_object(a, r, 0, DEVICE);
	struct vfio_region_info info;
	uint64_t index;

	if (!device || !word_u64(a, r, 1, &index))
		return;
	if (region_info(device, index, &info)) {
		reply_errno(r, errno, "region");
		return;
	}
	reply_set(r, "ok size=0x%llx offset=0x%llx flags=0x%x",
		  (unsigned long long)info.size,
		  (unsigned long long)info.offset, info.flags);
}

/* Parse DEV REGION OFFSET into the position in the device's file. */
struct object *word_region(struct args *a, struct reply *r, uint64_t *position)
{
	struct object *device = word_object(a, r, 0, DEVICE);
	uint64_t index = VFIO_PCI_CONFIG_REGION_INDEX, offset, start;

	if (!device)
		return NULL;
	if (strcmp(a->word[1], "config") && !word_u64(a, r, 1, &index))
		return NULL;
	if (!word_u64(a, r, 2, &offset))
		return NULL;
	if (device_region(device, index, &start)) {
		reply_errno(r, errno, a->op);
		return NULL;
	}
	*position = start + offset;
	return device;
}

/* Parse DEV REGION OFFSET WIDTH of read and write. */
static struct object *transfer(struct args *a, struct reply *r,
			       uint64_t *position, uint64_t *width)
{
	if (!word_u64(a, r, 3, width))
		return NULL;
	if (*width != 1 && *width != 2 && *width != 4 && *width != 8) {
		reply_usage(r, "%s: the width is 1, 2, 4 or 8 bytes", a->op);
		return NULL;
	}
	return word_region(a, r, position);
}

void op_read(struct args *a, struct reply *r)
{
	uint64_t position, width, value = 0;
	struct object *device = transfer(a, r, &position, &width);
	ssize_t done;

	if (!device)
		return;
	done = pread(device->fd, &value, width, position);
	if (done < 0)
		reply_errno(r, errno, "read");
	else if ((uint64_t)done != width)
		reply_set(r, "error EIO read: only %zd bytes", done);
	else
		reply_set(r, "ok 0x%0*jx", (int)(2 * width), (uintmax_t)value);
}

void op_write(struct args *a, struct reply *r)
{
	uint64_t position, width, value;
	struct object *device = transfer(a, r, &position, &width);
	ssize_t done;

	if (!device || !word_u64(a, r, 4, &value))
		return;
	if (width < 8 && value >> (8 * width)) {
		reply_usage(r, "write: %s does not fit in %ju bytes",
			    a->word[4], (uintmax_t)width);
		return;
	}
	done = pwrite(device->fd, &value, width, position);
	if (done < 0)
		reply_errno(r, errno, "write");
	else if ((uint64_t)done != width)
		reply_set(r, "error EIO write: only %zd bytes", done);
	else
		reply_set(r, "ok");
}

void op_probe(struct args *a, struct reply *r)
{
	static const struct token ways[] = {
		{ "get", VFIO_DEVICE_FEATURE_GET },
		{ "set", VFIO_DEVICE_FEATURE_SET },
	};
	struct vfio_device_feature feature = { .argsz = sizeof(feature) };
	struct object *device = word_object(a, r, 0, DEVICE);
	uint64_t number, way;

	if (!device || !word_u64(a, r, 1, &number))
		return;
	if (number > VFIO_DEVICE_FEATURE_MASK ||
	    !parse_tokens(a->word[2], ways, ARRAY_SIZE(ways), &way)) {
		reply_usage(r, "probe: takes a 16-bit number, then get or set");
		return;
	}
	feature.flags = (uint32_t)(number | way | VFIO_DEVICE_FEATURE_PROBE);
	if (ioctl(device->fd, VFIO_DEVICE_FEATURE, &feature))
		reply_errno(r, errno, "probe");
	else
		reply_set(r, "ok");
}

void op_close(struct args *a, struct reply *r)
{
	struct object *object =
		word_object(a, r, 0, DEVICE | BUFFER | IMPORTER);

	if (!object)
		return;
	reply_set(r, "ok");
	if (object->kind == DEVICE) {
		device_close(object);
		return;
	}
	if (close(object->fd))
		reply_errno(r, errno, "close");
	object_drop(object);
}
