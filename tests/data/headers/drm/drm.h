/* SPDX-License-Identifier: MIT */
/* The two calls of DRM that the actor makes, for a host without the header. */
#ifndef DRM_H
#define DRM_H

#include <linux/types.h>
#include <stddef.h>
#include <sys/ioctl.h>

struct drm_version {
	int version_major;
	int version_minor;
	int version_patchlevel;
	size_t name_len;
	char *name;
	size_t date_len;
	char *date;
	size_t desc_len;
	char *desc;
};

struct drm_prime_handle {
	__u32 handle;
	__u32 flags;
	__s32 fd;
};

#define DRM_IOCTL_VERSION _IOWR('d', 0x00, struct drm_version)
#define DRM_IOCTL_PRIME_FD_TO_HANDLE _IOWR('d', 0x2e, struct drm_prime_handle)

#endif
