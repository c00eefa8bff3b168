// SPDX-License-Identifier: GPL-2.0-only
/* DMABUFs of a device: export, revoke, memory attribute, dup() and lseek(). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/dma-buf.h>
#include <linux/vfio.h>

#include "buffer.h"
#include "object.h"
#include "operations.h"
#include "text.h"

#define RANGES_MAX (1u << 20)

/* Call VFIO_DEVICE_FEATURE with @payload; return what ioctl() returned. */
static int feature(int fd, uint32_t flags, const void *payload, size_t size)
{
	struct vfio_device_feature *request;
	size_t argsz = sizeof(*request) + size;
	int result, error;

	request = must(calloc(1, argsz));
	request->argsz = (uint32_t)argsz;
	request->flags = flags;
	memcpy(request->data, payload, size);
	result = ioctl(fd, VFIO_DEVICE_FEATURE, request);
	error = errno;
	free(request);
	errno = error;
	return result;
}

/* Parse OFFSET:LENGTH or OFFSET:LENGTH*TIMES; @text is cut. */
static bool parse_range(char *text, struct vfio_region_dma_range *range,
			uint64_t *times)
{
	char *length = strchr(text, ':'), *star = strchr(text, '*');
	uint64_t from, size;

	*times = 1;
	if (!length || (star && star < length))
		return false;
	*length++ = '\0';
	if (star)
		*star++ = '\0';
	if (!parse_u64(text, &from) || !parse_u64(length, &size) ||
	    (star && !parse_u64(star, times)))
		return false;
	range->offset = from;
	range->length = size;
	return *times && *times <= RANGES_MAX;
}

/*
 * Parse ranges separated by commas; none in an empty text.  With @range NULL
 * only count them.
 */
static bool parse_ranges(const char *text, struct vfio_region_dma_range *range,
			 uint32_t *count)
{
	char *copy = must(strdup(text)), *rest = copy, *word;
	struct vfio_region_dma_range one;
	uint64_t times = 0;
	bool good = true;

	*count = 0;
	while (*text && good && (word = strsep(&rest, ","))) {
		good = parse_range(word, &one, &times) &&
		       times <= RANGES_MAX - *count;
		for (; good && times; times--, (*count)++)
			if (range)
				range[*count] = one;
	}
	free(copy);
	return good;
}

void op_export(struct args *a, struct reply *r)
{
	static const struct token open_words[] = {
		{ "rdwr", O_RDWR },	    { "rdonly", O_RDONLY },
		{ "wronly", O_WRONLY },	    { "cloexec", O_CLOEXEC },
		{ "nonblock", O_NONBLOCK },
	};
	const char *ranges = option_text(a, "ranges");
	const char *open_text = option_text(a, "open_flags") ?: "rdwr,cloexec";
	struct object *device = word_object(a, r, 0, DEVICE), *buffer;
	struct vfio_device_feature_dma_buf *request;
	uint64_t bar, flags, open_flags;
	uint32_t count;
	size_t size;
	int fd;

	if (!device || !option_u64(a, r, "bar", 0, &bar) ||
	    !option_u64(a, r, "flags", 0, &flags))
		return;
	if (bar > UINT32_MAX || flags > UINT32_MAX ||
	    !parse_tokens(open_text, open_words, ARRAY_SIZE(open_words),
			  &open_flags) ||
	    open_flags > UINT32_MAX) {
		reply_usage(r, "export: bar=, flags= and open_flags= have 32 "
			       "bits");
		return;
	}
	if (!parse_ranges(ranges, NULL, &count)) {
		reply_usage(r,
			    "export: ranges=%s is not a list of at most %u "
			    "OFFSET:LENGTH or OFFSET:LENGTH*TIMES",
			    ranges, RANGES_MAX);
		return;
	}
	size = sizeof(*request) + count * sizeof(request->dma_ranges[0]);
	request = must(calloc(1, size));
	parse_ranges(ranges, request->dma_ranges, &request->nr_ranges);
	request->region_index = (uint32_t)bar;
	request->flags = (uint32_t)flags;
	request->open_flags = (uint32_t)open_flags;
	fd = feature(device->fd,
		     VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF,
		     request, size);
	free(request);
	if (fd < 0) {
		reply_errno(r, errno, "export");
		return;
	}
	buffer = object_new(BUFFER);
	buffer->fd = fd;
	reply_set(r, "ok %s size=0x%jx", buffer->name,
		  (uintmax_t)lseek(fd, 0, SEEK_END));
}

/*
 * The call that revokes differs between the revisions of the series.  Each one
 * is compiled if the headers have its constant.  The payloads are declared by
 * hand, because their names changed more often than their layout.
 */
static int revoke_feature(int device, int buffer)
{
#ifdef VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE
	int32_t payload = buffer;

	return feature(device,
		       VFIO_DEVICE_FEATURE_SET |
			       VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE,
		       &payload, sizeof(payload));
#else
	(void)device;
	(void)buffer;
	errno = ENOTTY;
	return -1;
#endif
}

static int revoke_device_ioctl(int device, int buffer)
{
#ifdef VFIO_DEVICE_PCI_DMABUF_REVOKE
	struct {
		uint32_t argsz;
		int32_t dmabuf_fd;
	} request = { sizeof(request), buffer };

	return ioctl(device, VFIO_DEVICE_PCI_DMABUF_REVOKE, &request);
#else
	(void)device;
	(void)buffer;
	errno = ENOTTY;
	return -1;
#endif
}

static int revoke_ioctl(int device, int buffer)
{
	(void)device;
#ifdef DMA_BUF_IOCTL_REVOKE
	return ioctl(buffer, DMA_BUF_IOCTL_REVOKE);
#else
	(void)buffer;
	errno = ENOTTY;
	return -1;
#endif
}

static const struct way {
	const char *name;
	bool offered;
	int (*revoke)(int device, int buffer);
} ways[] = {
#ifdef VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE
	{ "feature", true, revoke_feature },
#else
	{ "feature", false, revoke_feature },
#endif
#ifdef VFIO_DEVICE_PCI_DMABUF_REVOKE
	{ "device-ioctl", true, revoke_device_ioctl },
#else
	{ "device-ioctl", false, revoke_device_ioctl },
#endif
#ifdef DMA_BUF_IOCTL_REVOKE
	{ "ioctl", true, revoke_ioctl },
#else
	{ "ioctl", false, revoke_ioctl },
#endif
};

/* Return the first way that the headers offer, which `version` shows. */
const char *revoke_offers(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(ways); i++)
		if (ways[i].offered)
			return ways[i].name;
	return "none";
}

int revoke_by_default(int device, int buffer)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(ways); i++)
		if (ways[i].offered)
			return ways[i].revoke(device, buffer);
	errno = ENOTTY;
	return -1;
}

/* Revoke by DEV BUF [via=]; false with @r set if it was not revoked. */
bool revoke_dmabuf(struct args *a, struct reply *r)
{
	struct object *device = word_object(a, r, 0, DEVICE), *buffer;
	const char *via = option_text(a, "via") ?: revoke_offers();
	unsigned int i;

	if (!device || !(buffer = word_object(a, r, 1, BUFFER)))
		return false;
	for (i = 0; i < ARRAY_SIZE(ways); i++)
		if (!strcmp(ways[i].name, via))
			break;
	if (i == ARRAY_SIZE(ways) && strcmp(via, "none")) {
		reply_usage(r,
			    "%s: via=%s is not feature, device-ioctl or ioctl",
			    a->op, via);
		return false;
	}
	if (i < ARRAY_SIZE(ways) && ways[i].offered) {
		if (!ways[i].revoke(device->fd, buffer->fd))
			return true;
		reply_errno(r, errno, a->op);
		return false;
	}
	reply_errno(r, ENOTTY,
		    "revoke: the headers this actor was built with do not "
		    "offer it");
	return false;
}

void op_revoke(struct args *a, struct reply *r)
{
	if (revoke_dmabuf(a, r))
		reply_set(r, "ok");
}

const char *memattr_offers(void)
{
#ifdef VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR
	return "feature";
#else
	return "none";
#endif
}

void op_memattr(struct args *a, struct reply *r)
{
	static const struct token attributes[] = { { "nc", 0 }, { "wc", 1 } };
	struct object *device = word_object(a, r, 0, DEVICE), *buffer;
	uint64_t attribute;

	if (!device || !(buffer = word_object(a, r, 1, BUFFER)))
		return;
	if (!parse_tokens(a->word[2], attributes, ARRAY_SIZE(attributes),
			  &attribute) ||
	    attribute > UINT32_MAX) {
		reply_usage(r, "memattr: takes nc, wc or a 32-bit number");
		return;
	}
#ifdef VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR
	struct {
		int32_t dmabuf_fd;
		uint32_t memattr;
	} payload = { buffer->fd, (uint32_t)attribute };

	if (feature(device->fd,
		    VFIO_DEVICE_FEATURE_SET |
			    VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR,
		    &payload, sizeof(payload)))
		reply_errno(r, errno, "memattr");
	else
		reply_set(r, "ok");
#else
	reply_errno(r, ENOTTY,
		    "memattr: the headers this actor was built with do not "
		    "offer it");
#endif
}

void op_dup(struct args *a, struct reply *r)
{
	struct object *buffer = word_object(a, r, 0, BUFFER), *copy;
	const char *via = option_text(a, "via") ?: "fcntl";
	int fd;

	if (!buffer)
		return;
	if (strcmp(via, "fcntl") && strcmp(via, "dup")) {
		reply_usage(r, "dup: via=%s is not fcntl or dup", via);
		return;
	}
	fd = strcmp(via, "dup") ? fcntl(buffer->fd, F_DUPFD_CLOEXEC, 0)
				: dup(buffer->fd);
	if (fd < 0) {
		reply_errno(r, errno, "dup");
		return;
	}
	copy = object_new(BUFFER);
	copy->fd = fd;
	reply_set(r, "ok %s", copy->name);
}

void op_seek(struct args *a, struct reply *r)
{
	static const struct token whences[] = {
		{ "set", SEEK_SET },
		{ "cur", SEEK_CUR },
		{ "end", SEEK_END },
	};
	struct object *buffer = word_object(a, r, 0, BUFFER);
	const char *text = option_text(a, "whence") ?: "end";
	uint64_t offset, whence;
	off_t place;

	if (!buffer || !option_u64(a, r, "offset", 0, &offset))
		return;
	if (!parse_tokens(text, whences, ARRAY_SIZE(whences), &whence)) {
		reply_usage(r, "seek: whence=%s is not set, cur or end", text);
		return;
	}
	place = lseek(buffer->fd, (off_t)offset, (int)whence);
	if (place < 0)
		reply_errno(r, errno, "seek");
	else
		reply_set(r, "ok 0x%jx", (uintmax_t)place);
}
