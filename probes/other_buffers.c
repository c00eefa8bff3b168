// SPDX-License-Identifier: GPL-2.0-only
/*
 * Make buffers that are not of VFIO, for calls that must refuse them.  A memfd
 * and an eventfd are no DMABUFs at all.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/dma-heap.h>
#include <linux/udmabuf.h>

#include "object.h"
#include "operations.h"
#include "text.h"

#define UDMABUF "/dev/udmabuf"
#define HEAP "/dev/dma_heap/system"

static void close_keeping_errno(int fd)
{
	int error = errno;

	if (fd >= 0)
		close(fd);
	errno = error;
}

/* Make a memfd that cannot shrink, as drivers/dma-buf/udmabuf.c requires. */
static int make_memfd(uint64_t length)
{
	int fd = memfd_create("buffer", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd >= 0 && (ftruncate(fd, (off_t)length) ||
			fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK))) {
		close_keeping_errno(fd);
		return -1;
	}
	return fd;
}

static int make_udmabuf(uint64_t length)
{
	struct udmabuf_create create = {
		.flags = UDMABUF_FLAGS_CLOEXEC,
		.size = length,
	};
	int device, fd = -1;

	device = open(UDMABUF, O_RDWR | O_CLOEXEC);
	if (device < 0)
		return -1;
	create.memfd = make_memfd(length);
	if ((int)create.memfd >= 0)
		fd = ioctl(device, UDMABUF_CREATE, &create);
	close_keeping_errno(create.memfd);
	close_keeping_errno(device);
	return fd;
}

static int make_heap(uint64_t length)
{
	struct dma_heap_allocation_data data = {
		.len = length,
		.fd_flags = O_RDWR | O_CLOEXEC,
	};
	int heap, failed;

	heap = open(HEAP, O_RDONLY | O_CLOEXEC);
	if (heap < 0)
		return -1;
	failed = ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data);
	close_keeping_errno(heap);
	return failed ? -1 : (int)data.fd;
}

static int make_eventfd(uint64_t length)
{
	(void)length;
	return eventfd(0, EFD_CLOEXEC);
}

void op_make(struct args *a, struct reply *r)
{
	static const struct {
		const char *name;
		int (*make)(uint64_t length);
	} makers[] = {
		{ "udmabuf", make_udmabuf },
		{ "heap", make_heap },
		{ "memfd", make_memfd },
		{ "eventfd", make_eventfd },
	};
	struct object *buffer;
	uint64_t length;
	unsigned int i;
	int fd;

	if (!option_u64(a, r, "length", 0, &length))
		return;
	for (i = 0; i < ARRAY_SIZE(makers); i++)
		if (!strcmp(makers[i].name, a->word[0]))
			break;
	if (i == ARRAY_SIZE(makers)) {
		reply_usage(r,
			    "make: '%s' is not udmabuf, heap, memfd or eventfd",
			    a->word[0]);
		return;
	}
	fd = makers[i].make(length);
	if (fd < 0) {
		reply_errno(r, errno, "make");
		return;
	}
	buffer = object_new(BUFFER);
	buffer->fd = fd;
	reply_set(r, "ok %s size=0x%jx", buffer->name, (uintmax_t)length);
}
