// SPDX-License-Identifier: GPL-2.0-only
/*
 * Have the kernel copy to or from a mapping, whose pages it may have to fault
 * in, in the middle of other work.  Lockdep learns the order of the locks that
 * it holds meanwhile and of those that the fault takes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/perf_event.h>

#include "device.h"
#include "mapping.h"
#include "object.h"
#include "operations.h"
#include "text.h"

#define FOLDER "/sys/bus/pci/devices"

static void close_keeping_errno(int fd)
{
	int error = errno;

	close(fd);
	errno = error;
}

/* pread() or pwrite() a region of a device. */
void op_regioncopy(struct args *a, struct reply *r)
{
	uint64_t position, bytes, offset;
	struct object *device = word_region(a, r, &position);
	struct object *mapping;
	ssize_t done;
	bool reads;

	if (!device || !word_u64(a, r, 3, &bytes) ||
	    !(mapping = word_object(a, r, 5, MAPPING)) ||
	    !option_u64(a, r, "offset", 0, &offset))
		return;
	reads = !strcmp(a->word[4], "read");
	if (!reads && strcmp(a->word[4], "write")) {
		reply_usage(r, "regioncopy: '%s' is not read or write",
			    a->word[4]);
		return;
	}
	if (offset > mapping->length || bytes > mapping->length - offset) {
		reply_usage(r, "regioncopy: beyond the end of the mapping");
		return;
	}
	if (reads)
		done = pread(device->fd, mapping->base + offset, bytes,
			     (off_t)position);
	else
		done = pwrite(device->fd, mapping->base + offset, bytes,
			      (off_t)position);
	if (done < 0)
		reply_errno(r, errno, "regioncopy");
	else
		reply_set(r, "ok %zd", done);
}

/* Read the count of an event of CPU 0. */
static long copy_perf(unsigned char *place, uint64_t room)
{
	struct perf_event_attr event = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(event),
		.config = PERF_COUNT_SW_CONTEXT_SWITCHES,
	};
	int fd = (int)syscall(SYS_perf_event_open, &event, -1, 0, -1,
			      PERF_FLAG_FD_CLOEXEC);
	long done;

	(void)room;
	if (fd < 0)
		return -1;
	done = read(fd, place, sizeof(uint64_t));
	close_keeping_errno(fd);
	return done;
}

/* List a folder of sysfs. */
static long copy_folder(unsigned char *place, uint64_t room)
{
	int fd = open(FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long done;

	if (fd < 0)
		return -1;
	done = syscall(SYS_getdents64, fd, place, room);
	close_keeping_errno(fd);
	return done;
}

void op_lockcopy(struct args *a, struct reply *r)
{
	static const struct {
		const char *name;
		long (*copy)(unsigned char *place, uint64_t room);
	} ways[] = {
		{ "perf", copy_perf },
		{ "folder", copy_folder },
	};
	struct object *mapping = word_object(a, r, 0, MAPPING);
	uint64_t offset;
	unsigned int i;
	long done;

	if (!mapping || !option_u64(a, r, "offset", 0, &offset))
		return;
	for (i = 0; i < ARRAY_SIZE(ways); i++)
		if (!strcmp(ways[i].name, a->word[1]))
			break;
	if (i == ARRAY_SIZE(ways) || offset >= mapping->length) {
		reply_usage(r, "lockcopy: perf or folder, within the mapping");
		return;
	}
	done = ways[i].copy(mapping->base + offset, mapping->length - offset);
	if (done < 0)
		reply_errno(r, errno, "lockcopy");
	else
		reply_set(r, "ok %ld", done);
}
