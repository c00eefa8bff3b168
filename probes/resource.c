// SPDX-License-Identifier: GPL-2.0-only
/* The BAR file of sysfs, to compare the memory attribute of a DMABUF with. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "device.h"
#include "object.h"
#include "operations.h"
#include "text.h"

/*
 * Open a BAR by sysfs, without vfio.  With wc=1 its mapping is write-combining
 * and reserves the range as such (drivers/pci/mmap.c).
 */
void op_resource(struct args *a, struct reply *r)
{
	struct object *buffer;
	uint64_t bar, combining;
	struct stat status;
	char path[80];
	int fd;

	if (!word_u64(a, r, 1, &bar) || !option_u64(a, r, "wc", 0, &combining))
		return;
	if (!is_bdf(a->word[0]) || bar > 5) {
		reply_usage(r, "resource: wants an address like 0000:02:00.0, "
			       "and a BAR");
		return;
	}
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource%u%s",
		 a->word[0], (unsigned int)bar, combining ? "_wc" : "");
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &status)) {
		reply_errno(r, errno, "resource");
		return;
	}
	buffer = object_new(BUFFER);
	buffer->fd = fd;
	reply_set(r, "ok %s size=0x%jx", buffer->name,
		  (uintmax_t)status.st_size);
}
