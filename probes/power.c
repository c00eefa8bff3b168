// SPDX-License-Identifier: GPL-2.0-only
/* Put a device into low power, and count its wakeups. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/vfio.h>

#include "object.h"
#include "operations.h"
#include "text.h"

static int low_power(const struct object *device, uint32_t number)
{
	struct vfio_device_feature feature = {
		.argsz = sizeof(feature),
		.flags = VFIO_DEVICE_FEATURE_SET | number,
	};

	return ioctl(device->fd, VFIO_DEVICE_FEATURE, &feature);
}

/* Enter low power; a wakeup of the device signals the eventfd. */
static int low_power_wakeup(struct object *device)
{
	struct {
		struct vfio_device_feature feature;
		struct vfio_device_low_power_entry_with_wakeup entry;
	} request = {
		.feature.argsz = sizeof(request),
		.feature.flags =
			VFIO_DEVICE_FEATURE_SET |
			VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
	};

	if (device->wakeup < 0)
		device->wakeup = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (device->wakeup < 0)
		return -1;
	request.entry.wakeup_eventfd = device->wakeup;
	return ioctl(device->fd, VFIO_DEVICE_FEATURE, &request);
}

void op_lowpower(struct args *a, struct reply *r)
{
	struct object *device = word_object(a, r, 0, DEVICE);
	int failed;

	if (!device)
		return;
	if (!strcmp(a->word[1], "enter")) {
		failed = low_power(device, VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY);
	} else if (!strcmp(a->word[1], "exit")) {
		failed = low_power(device, VFIO_DEVICE_FEATURE_LOW_POWER_EXIT);
	} else if (!strcmp(a->word[1], "wakeup")) {
		failed = low_power_wakeup(device);
	} else {
		reply_usage(r, "lowpower: '%s' is not enter, wakeup or exit",
			    a->word[1]);
		return;
	}
	if (failed)
		reply_errno(r, errno, "lowpower");
	else
		reply_set(r, "ok");
}

void op_wakeups(struct args *a, struct reply *r)
{
	struct object *device = word_object(a, r, 0, DEVICE);
	uint64_t count = 0;

	if (!device)
		return;
	if (device->wakeup < 0)
		reply_usage(r, "wakeups: no `lowpower %s wakeup` before",
			    a->word[0]);
	else if (read(device->wakeup, &count, sizeof(count)) < 0 &&
		 errno != EAGAIN)
		reply_errno(r, errno, "wakeups");
	else
		reply_set(r, "ok %ju", (uintmax_t)count);
}
