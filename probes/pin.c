// SPDX-License-Identifier: GPL-2.0-only
/* Have parts of the kernel pin the pages of a mapping. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <linux/futex.h>
#include <linux/io_uring.h>

#include "mapping.h"
#include "object.h"
#include "operations.h"
#include "text.h"

#define DISK "/dev/vda"

/* Each way returns what its system call returned, -1 with errno set. */
static long pin_direct(unsigned char *place, size_t length)
{
	int fd = open(DISK, O_RDONLY | O_DIRECT | O_CLOEXEC), error;
	long done;

	if (fd < 0)
		return -1;
	done = pread(fd, place, length, 0);
	error = errno;
	close(fd);
	errno = error;
	return done;
}

static long pin_vmsplice(unsigned char *place, size_t length)
{
	struct iovec part = { place, length };
	int ends[2], error;
	long done;

	if (pipe2(ends, O_CLOEXEC))
		return -1;
	done = vmsplice(ends[1], &part, 1, SPLICE_F_NONBLOCK);
	error = errno;
	close(ends[0]);
	close(ends[1]);
	errno = error;
	return done;
}

static long pin_uring(unsigned char *place, size_t length)
{
	struct io_uring_params parameters = { 0 };
	struct iovec part = { place, length };
	int fd, error;
	long done;

	fd = (int)syscall(SYS_io_uring_setup, 1, &parameters);
	if (fd < 0)
		return -1;
	done = syscall(SYS_io_uring_register, fd, IORING_REGISTER_BUFFERS,
		       &part, 1);
	error = errno;
	close(fd);
	errno = error;
	return done;
}

/* Without FUTEX_PRIVATE_FLAG: the key of a shared futex is its page. */
static long pin_futex(unsigned char *place, size_t length)
{
	(void)length;
	return syscall(SYS_futex, place, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static const struct {
	const char *name;
	long (*pin)(unsigned char *place, size_t length);
} pinners[] = {
	{ "direct", pin_direct },
	{ "vmsplice", pin_vmsplice },
	{ "uring", pin_uring },
	{ "futex", pin_futex },
};

void op_pinpages(struct args *a, struct reply *r)
{
	uint64_t offset, length;
	struct object *mapping = mapping_part(a, r, &offset, &length);
	unsigned int i;
	long done;

	if (!mapping)
		return;
	for (i = 0; i < ARRAY_SIZE(pinners); i++)
		if (!strcmp(pinners[i].name, a->word[1]))
			break;
	if (i == ARRAY_SIZE(pinners)) {
		reply_usage(r,
			    "pinpages: '%s' is not direct, vmsplice, uring or "
			    "futex",
			    a->word[1]);
		return;
	}
	done = pinners[i].pin(mapping->base + offset, length);
	if (done < 0)
		reply_errno(r, errno, "pinpages");
	else
		reply_set(r, "ok %ld", done);
}
