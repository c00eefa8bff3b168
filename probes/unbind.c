// SPDX-License-Identifier: GPL-2.0-only
/* Detach a device from its driver. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "device.h"
#include "operations.h"
#include "text.h"

/* The write returns when the driver has let the device go. */
void op_unbind(struct args *a, struct reply *r)
{
	const char *address = a->word[0];
	ssize_t length;
	char path[80];
	int fd;

	if (!is_bdf(address)) {
		reply_usage(r, "unbind: wants an address like 0000:02:00.0");
		return;
	}
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver/unbind",
		 address);
	length = (ssize_t)strlen(address);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, address, length) != length)
		reply_errno(r, errno, "unbind");
	else
		reply_set(r, "ok");
	if (fd >= 0)
		close(fd);
}
