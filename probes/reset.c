// SPDX-License-Identifier: GPL-2.0-only
/* Reset a device once, many times in a thread, or with its slot or bus. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include <linux/vfio.h>

#include "fault.h"
#include "object.h"
#include "operations.h"
#include "text.h"

void op_reset(struct args *a, struct reply *r)
{
	struct object *device = word_object(a, r, 0, DEVICE);

	if (!device)
		return;
	if (ioctl(device->fd, VFIO_DEVICE_RESET))
		reply_errno(r, errno, "reset");
	else
		reply_set(r, "ok");
}

/*
 * Reset the whole slot or bus.  A group, or else the iommufd, proves that the
 * caller owns all devices on it.
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
	by_group = proof->iommu_fd[1] >= 0;
	size = sizeof(*request) + by_group * sizeof(request->group_fds[0]);
	request = must(calloc(1, size));
	request->argsz = (uint32_t)size;
	request->count = by_group;
	if (by_group)
		memcpy(request->group_fds, proof->iommu_fd,
		       sizeof(request->group_fds[0]));
	if (ioctl(device->fd, VFIO_DEVICE_PCI_HOT_RESET, request))
		reply_errno(r, errno, "hotreset");
	else
		reply_set(r, "ok");
	free(request);
}

/* The thread that resets a device while the actor serves other lines. */
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
		reply_usage(r,
			    "resets: a thread is at work; resetsdone ends it");
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
