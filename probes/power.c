// SPDX-License-Identifier: GPL-2.0-only
/* What takes the device as a whole away for a time, beside VFIO_DEVICE_RESET. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/vfio.h>

#include "actor.h"

void op_lowpower(struct args *a, struct reply *r)
{
	struct vfio_device_feature feature = { .argsz = sizeof(feature) };
	struct object *device = word_object(a, r, 0, DEVICE);
	bool enter;

	if (!device)
		return;
	enter = !strcmp(a->word[1], "enter");
	if (!enter && strcmp(a->word[1], "exit")) {
		reply_usage(r, "lowpower: '%s' is not enter or exit",
			    a->word[1]);
		return;
	}
	feature.flags = VFIO_DEVICE_FEATURE_SET |
			(enter ? VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY
			       : VFIO_DEVICE_FEATURE_LOW_POWER_EXIT);
	if (ioctl(device->fd, VFIO_DEVICE_FEATURE, &feature))
		reply_errno(r, errno, "lowpower");
	else
		reply_set(r, "ok");
}

/*
 * The reset of the whole slot or bus.  That all on it is the caller's is proven
 * by the group, or by the iommufd where no group is given.
 */
void op_hotreset(struct args *a, struct reply *r)
{
	struct object *device = word_object(a, r, 0, DEVICE);
	struct vfio_pci_hot_reset *request;
	bool by_group;
	size_t size;

	if (!device)
		return;
	by_group = device->anchor[1] >= 0;
	size = sizeof(*request) + by_group * sizeof(request->group_fds[0]);
	request = must(calloc(1, size));
	request->argsz = (uint32_t)size;
	request->count = by_group;
	if (by_group)
		memcpy(request->group_fds, device->anchor,
		       sizeof(request->group_fds[0]));
	if (ioctl(device->fd, VFIO_DEVICE_PCI_HOT_RESET, request))
		reply_errno(r, errno, "hotreset");
	else
		reply_set(r, "ok");
	free(request);
}
