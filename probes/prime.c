// SPDX-License-Identifier: GPL-2.0-only
/* Have a DRM driver import a DMABUF, as a second opinion on refused importers. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <drm/drm.h>

#include "object.h"
#include "operations.h"
#include "text.h"

static bool is_driven_by(int fd, const char *wanted)
{
	char name[32] = "";
	struct drm_version version = {
		.name = name,
		.name_len = sizeof(name) - 1,
	};

	return !ioctl(fd, DRM_IOCTL_VERSION, &version) && !strcmp(name, wanted);
}

/* Open the render node of a driver; -1 with errno set if there is none. */
static int open_render_node(const char *driver)
{
	DIR *folder = opendir("/dev/dri");
	struct dirent *entry;
	int fd = -1;

	if (!folder)
		return -1;
	while (fd < 0 && (entry = readdir(folder))) {
		if (strncmp(entry->d_name, "renderD", 7))
			continue;
		fd = openat(dirfd(folder), entry->d_name, O_RDWR | O_CLOEXEC);
		if (fd >= 0 && !is_driven_by(fd, driver)) {
			close(fd);
			fd = -1;
		}
	}
	closedir(folder);
	if (fd < 0)
		errno = ENODEV;
	return fd;
}

void op_prime(struct args *a, struct reply *r)
{
	const char *driver = option_text(a, "driver") ?: "vgem";
	struct object *buffer = word_object(a, r, 0, BUFFER);
	struct drm_prime_handle prime = { 0 };
	int node;

	if (!buffer)
		return;
	node = open_render_node(driver);
	if (node < 0) {
		reply_usage(r, "prime: there is no render node of %s", driver);
		return;
	}
	prime.fd = buffer->fd;
	if (ioctl(node, DRM_IOCTL_PRIME_FD_TO_HANDLE, &prime))
		reply_errno(r, errno, "prime");
	else
		reply_set(r, "ok handle=%u", prime.handle);
	close(node);
}
