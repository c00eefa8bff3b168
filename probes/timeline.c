// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fences that this actor signals at will (drivers/dma-buf/sw_sync.c).  A DMABUF
 * takes one in like that of any device, so whoever waits for the DMABUF waits
 * for the actor.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/dma-buf.h>

#include "object.h"
#include "operations.h"
#include "text.h"

#define SW_SYNC "/sys/kernel/debug/sync/sw_sync"

/* No header of the kernel has these: drivers/dma-buf/sw_sync.c. */
struct sw_sync_create_fence_data {
	__u32 value; /* the fence is signalled when the timeline is there */
	char name[32];
	__s32 fence; /* returned: a sync_file */
};
#define SW_SYNC_IOC_CREATE_FENCE _IOWR('W', 0, struct sw_sync_create_fence_data)
#define SW_SYNC_IOC_INC _IOW('W', 1, __u32)

/* Make a timeline, a buffer that stands at 0; its close signals its fences. */
void op_timeline(struct args *a, struct reply *r)
{
	struct object *timeline;
	int fd = open(SW_SYNC, O_RDWR | O_CLOEXEC);

	(void)a;
	if (fd < 0) {
		reply_errno(r, errno, "timeline: " SW_SYNC);
		return;
	}
	timeline = object_new(BUFFER);
	timeline->fd = fd;
	reply_set(r, "ok %s", timeline->name);
}

/* Make a fence of a timeline, and add it to those of a DMABUF. */
void op_attachfence(struct args *a, struct reply *r)
{
	static const struct token usages[] = {
		{ "read", DMA_BUF_SYNC_READ },
		{ "write", DMA_BUF_SYNC_WRITE },
	};
	struct object *timeline = word_object(a, r, 0, BUFFER), *buffer;
	struct sw_sync_create_fence_data fence = { .name = "patchproof" };
	struct dma_buf_import_sync_file import = { 0 };
	uint64_t at, usage;

	if (!timeline || !(buffer = word_object(a, r, 1, BUFFER)) ||
	    !option_u64(a, r, "at", 1, &at))
		return;
	if (at > INT32_MAX) {
		reply_usage(r, "attachfence: at= has 31 bits");
		return;
	}
	if (!parse_tokens(a->word[2], usages, ARRAY_SIZE(usages), &usage)) {
		reply_usage(r, "attachfence: '%s' is not read or write",
			    a->word[2]);
		return;
	}
	fence.value = (uint32_t)at;
	if (ioctl(timeline->fd, SW_SYNC_IOC_CREATE_FENCE, &fence)) {
		reply_errno(r, errno, "attachfence: SW_SYNC_IOC_CREATE_FENCE");
		return;
	}
	import.flags = (uint32_t)usage;
	import.fd = fence.fence;
	if (ioctl(buffer->fd, DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &import))
		reply_errno(r, errno, "attachfence");
	else
		reply_set(r, "ok");
	close(fence.fence);
}

/* Signal the fences of a timeline up to the place that it advances to. */
void op_advance(struct args *a, struct reply *r)
{
	struct object *timeline = word_object(a, r, 0, BUFFER);
	uint64_t by;
	uint32_t steps;

	if (!timeline || !option_u64(a, r, "by", 1, &by))
		return;
	if (by > INT32_MAX) {
		reply_usage(r, "advance: by= has 31 bits");
		return;
	}
	steps = (uint32_t)by;
	if (ioctl(timeline->fd, SW_SYNC_IOC_INC, &steps))
		reply_errno(r, errno, "advance");
	else
		reply_set(r, "ok");
}

/* Report whether a DMABUF has no fence that a reader or a writer waits for. */
void op_ready(struct args *a, struct reply *r)
{
	struct object *buffer = word_object(a, r, 0, BUFFER);
	struct pollfd poller = { .events = POLLIN | POLLOUT };

	if (!buffer)
		return;
	poller.fd = buffer->fd;
	if (poll(&poller, 1, 0) < 0)
		reply_errno(r, errno, "ready");
	else
		reply_set(r, "ok read=%s write=%s",
			  poller.revents & POLLIN ? "yes" : "no",
			  poller.revents & POLLOUT ? "yes" : "no");
}
