// SPDX-License-Identifier: GPL-2.0-only
/* What takes the device as a whole away for a time, beside VFIO_DEVICE_RESET. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <linux/vfio.h>

#include "actor.h"

static int low_power(const struct object *device, uint32_t number)
{
	struct vfio_device_feature feature = {
		.argsz = sizeof(feature),
		.flags = VFIO_DEVICE_FEATURE_SET | number,
	};

	return ioctl(device->fd, VFIO_DEVICE_FEATURE, &feature);
}

/* With an eventfd that is signalled when something wakes the device up. */
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

/*
 * The reset of the whole slot or bus.  That all on it is the caller's is proven
 * by a group, or by the iommufd where no group is given.
 */
void op_hotreset(struct args *a, struct reply *r)
{
	struct object *device = word_object(a, r, 0, DEVICE), *proof;
	const char *by = option_text(a, "by");
	struct vfio_pci_hot_reset *request;
	bool by_group;
	size_t size;

	if (!device)
		return;
	proof = by ? object_find(by) : device;
	if (!proof || proof->kind != DEVICE) {
		reply_usage(r, "hotreset: by=%s is no device of this actor",
			    by);
		return;
	}
	by_group = proof->anchor[1] >= 0;
	size = sizeof(*request) + by_group * sizeof(request->group_fds[0]);
	request = must(calloc(1, size));
	request->argsz = (uint32_t)size;
	request->count = by_group;
	if (by_group)
		memcpy(request->group_fds, proof->anchor,
		       sizeof(request->group_fds[0]));
	if (ioctl(device->fd, VFIO_DEVICE_PCI_HOT_RESET, request))
		reply_errno(r, errno, "hotreset");
	else
		reply_set(r, "ok");
	free(request);
}

/* A thread that resets a device again and again while the actor does other things. */
static struct {
	bool begun;
	pthread_t thread;
	int fd;
	uint64_t count;
	uint64_t done;
	int error;
} resets;

static void *reset_often(void *context)
{
	(void)context;
	for (resets.done = 0; resets.done < resets.count; resets.done++) {
		if (ioctl(resets.fd, VFIO_DEVICE_RESET)) {
			resets.error = errno;
			break;
		}
	}
	return NULL;
}

void op_resets(struct args *a, struct reply *r)
{
	struct object *device = word_object(a, r, 0, DEVICE);
	sigset_t all, before;
	uint64_t count;
	int error;

	if (!device || !option_u64(a, r, "count", 0, &count))
		return;
	if (resets.begun) {
		reply_usage(r, "resets: there are some; ask resetsdone");
		return;
	}
	resets.fd = device->fd;
	resets.count = count;
	resets.error = 0;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&resets.thread, NULL, reset_often, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error) {
		reply_errno(r, error, "resets");
		return;
	}
	resets.begun = true;
	reply_set(r, "ok");
}

void op_resetsdone(struct args *a, struct reply *r)
{
	struct timespec moment = { .tv_nsec = 1000000 };
	int error;

	(void)a;
	if (!resets.begun) {
		reply_usage(r, "resetsdone: no resets before");
		return;
	}
	while ((error = pthread_tryjoin_np(resets.thread, NULL)) == EBUSY) {
		if (deadline_passed()) {
			reply_set(r, "timeout");
			return;
		}
		nanosleep(&moment, NULL);
	}
	resets.begun = false;
	if (error || resets.error)
		reply_errno(r, error ?: resets.error, "resetsdone");
	else
		reply_set(r, "ok %ju", (uintmax_t)resets.done);
}
