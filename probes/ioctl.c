// SPDX-License-Identifier: GPL-2.0-only
/*
 * Raw ioctls, any request with any argument, and the footprint of a call: one
 * that is refused leaves no descriptor, DMABUF or log record behind.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/vfio.h>

#include "object.h"
#include "operations.h"
#include "proc.h"
#include "text.h"

#define BUFFERS "/sys/kernel/debug/dma_buf/bufinfo"
#define LOG "/dev/kmsg"

struct argument {
	unsigned char bytes[PAGE];
	size_t length;
};

static bool add_bytes(struct argument *argument, const void *bytes,
		      size_t length)
{
	if (length > sizeof(argument->bytes) - argument->length)
		return false;
	memcpy(argument->bytes + argument->length, bytes, length);
	argument->length += length;
	return true;
}

static bool add_hex(struct argument *argument, const char *text)
{
	unsigned int value;
	unsigned char byte;

	for (; text[0]; text += 2) {
		if (!isxdigit((unsigned char)text[0]) ||
		    !isxdigit((unsigned char)text[1]))
			return false;
		sscanf(text, "%2x", &value);
		byte = (unsigned char)value;
		if (!add_bytes(argument, &byte, 1))
			return false;
	}
	return true;
}

/* Add the descriptor of an object, or with NAME/N one of its IOMMU. */
static bool add_descriptor(struct argument *argument, char *name)
{
	char *slash = strchr(name, '/');
	struct object *object;
	uint64_t index;
	int32_t fd;

	if (slash)
		*slash++ = '\0';
	object = object_find(name);
	if (!object || object->kind == MAPPING)
		return false;
	fd = object->fd;
	if (slash) {
		if (!parse_u64(slash, &index) ||
		    index >= ARRAY_SIZE(object->iommu_fd))
			return false;
		fd = object->iommu_fd[index];
	}
	return fd >= 0 && add_bytes(argument, &fd, sizeof(fd));
}

/* Parse a name, or a descriptor number, which need not be open. */
static bool parse_target(const char *word, int *fd)
{
	struct argument named = { 0 };
	char *copy = must(strdup(word));
	uint64_t number;
	bool good;

	good = add_descriptor(&named, copy);
	free(copy);
	if (good) {
		memcpy(fd, named.bytes, sizeof(*fd));
		return true;
	}
	*fd = parse_u64(word, &number) ? (int)number : -1;
	return parse_u64(word, &number) && number <= UINT32_MAX;
}

/* Parse pairs of hexadecimal digits and names of objects, between commas. */
static bool parse_argument(const char *text, struct argument *argument)
{
	char *copy = must(strdup(text)), *rest = copy, *part, *name;
	bool good = true;

	while (good && (part = strsep(&rest, ","))) {
		name = must(strdup(part));
		good = add_descriptor(argument, name) ||
		       add_hex(argument, part);
		free(name);
	}
	free(copy);
	return good;
}

/*
 * Call ioctl() with an argument in front of an inaccessible page.  Zeros fill
 * the page after the argument; with @guard the argument ends where it ends.
 */
static void call(struct reply *r, int fd, uint64_t request,
		 const struct argument *argument, bool guard)
{
	unsigned char *pages, *place;
	size_t i;
	int result, error;

	pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (pages == MAP_FAILED || mprotect(pages + PAGE, PAGE, PROT_NONE)) {
		reply_errno(r, errno, "ioctl: memory for the argument");
		return;
	}
	place = pages + (guard ? PAGE - argument->length : 0);
	memcpy(place, argument->bytes, argument->length);
	result = ioctl(fd, request, place);
	error = errno;
	if (result < 0) {
		reply_errno(r, error, "ioctl");
	} else {
		reply_set(r, "ok 0x%x", (unsigned int)result);
		for (i = 0; i < argument->length; i++)
			reply_add(r, "%s%02x", i ? "" : " data=", place[i]);
	}
	munmap(pages, 2 * PAGE);
}

/*
 * Call ioctl() with an argument that is in a mapping.  It is written to the
 * mapping's file, so that the first to access its page is the kernel.
 */
static void call_within(struct args *a, struct reply *r, int fd,
			uint64_t request, const struct argument *argument)
{
	struct object *mapping = object_find(option_text(a, "in"));
	struct object *file = object_find(option_text(a, "file") ?: "");
	uint64_t offset;
	int result;

	if (!option_u64(a, r, "offset", 0, &offset))
		return;
	if (!mapping || mapping->kind != MAPPING || !file ||
	    file->kind != BUFFER || offset > mapping->length ||
	    argument->length > mapping->length - offset) {
		reply_usage(r, "ioctl: in= is a mapping that has room for the "
			       "argument, file= its file");
		return;
	}
	if (pwrite(file->fd, argument->bytes, argument->length,
		   (off_t)offset) != (ssize_t)argument->length) {
		reply_errno(r, errno, "ioctl: write the argument");
		return;
	}
	result = ioctl(fd, request, mapping->base + offset);
	if (result < 0)
		reply_errno(r, errno, "ioctl");
	else
		reply_set(r, "ok 0x%x", (unsigned int)result);
}

void op_ioctl(struct args *a, struct reply *r)
{
	const char *data = option_text(a, "data");
	struct argument argument = { 0 };
	uint64_t request, guard, number;
	int fd, result;

	if (!parse_target(a->word[0], &fd)) {
		reply_usage(r, "ioctl: '%s' is no device, buffer or descriptor",
			    a->word[0]);
		return;
	}
	if (!word_u64(a, r, 1, &request) ||
	    !option_u64(a, r, "guard", 0, &guard) ||
	    !option_u64(a, r, "argument", 0, &number))
		return;
	if (data && option_text(a, "argument")) {
		reply_usage(r, "ioctl: either data= or argument=");
		return;
	}
	if (data && !parse_argument(data, &argument)) {
		reply_usage(r, "ioctl: data= takes pairs of hexadecimal digits "
			       "and names, at most 4 KiB");
		return;
	}
	if (data && option_text(a, "in")) {
		call_within(a, r, fd, request, &argument);
		return;
	}
	if (data) {
		call(r, fd, request, &argument, guard);
		return;
	}
	result = ioctl(fd, request, number);
	if (result < 0)
		reply_errno(r, errno, "ioctl");
	else
		reply_set(r, "ok 0x%x", (unsigned int)result);
}

/*
 * Reply with the feature numbers of the headers, which differ by revision.  A
 * number that is given has to be the same, as in a transcript of the Python
 * probe, which has no headers.
 */
void op_abi(struct args *a, struct reply *r)
{
	static const struct {
		const char *name;
		uint64_t number;
	} features[] = {
#ifdef VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE
		{ "revoke", VFIO_DEVICE_FEATURE_DMA_BUF_REVOKE },
#endif
#ifdef VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR
		{ "memattr", VFIO_DEVICE_FEATURE_DMA_BUF_MEMATTR },
#endif
		{ "export", VFIO_DEVICE_FEATURE_DMA_BUF },
	};
	static const char *const names[] = { "revoke", "memattr" };
	unsigned int i, j;
	uint64_t given;

	for (i = 0; i < ARRAY_SIZE(names); i++) {
		if (!option_text(a, names[i]))
			continue;
		if (!option_u64(a, r, names[i], 0, &given))
			return;
		for (j = 0; j < ARRAY_SIZE(features); j++)
			if (!strcmp(features[j].name, names[i]) &&
			    features[j].number == given)
				break;
		if (j == ARRAY_SIZE(features)) {
			reply_usage(r, "abi: the headers have another %s",
				    names[i]);
			return;
		}
	}
	reply_set(r, "ok");
	for (i = 0; i < ARRAY_SIZE(features); i++)
		reply_add(r, " %s=%ju", features[i].name,
			  (uintmax_t)features[i].number);
}

/* Name a descriptor that a raw call returned. */
void op_hold(struct args *a, struct reply *r)
{
	struct object *buffer;
	uint64_t fd;
	off_t size;

	if (!word_u64(a, r, 0, &fd))
		return;
	if (fd > INT32_MAX) {
		reply_usage(r, "hold: %s is no descriptor", a->word[0]);
		return;
	}
	size = lseek((int)fd, 0, SEEK_END);
	if (size < 0) {
		reply_errno(r, errno, "hold");
		return;
	}
	buffer = object_new(BUFFER);
	buffer->fd = (int)fd;
	reply_set(r, "ok %s size=0x%jx", buffer->name, (uintmax_t)size);
}

/*
 * Add the number of DMABUFs.  bufinfo ends with "Total 3 objects, 12288 bytes":
 * drivers/dma-buf/dma-buf.c.
 */
static void add_buffers(struct reply *r)
{
	FILE *info = fopen(BUFFERS, "re");
	char *line = NULL;
	unsigned int count;
	size_t room = 0;

	while (info && getline(&line, &room, info) > 0)
		if (sscanf(line, "Total %u objects", &count) == 1)
			reply_add(r, " dmabufs=%u", count);
	if (info)
		fclose(info);
	free(line);
}

/* How the messages begin that a slow host causes in a virtual machine. */
static const char *const of_the_host[] = {
	"clocksource: ",	/* kernel/time/clocksource.c */
	"tsc: ",		/* arch/x86/kernel/tsc.c */
	"TSC found unstable",	/* kernel/sched/clock.c */
	"sched_clock: ",	/* kernel/sched/clock.c */
	"hrtimer: ",		/* kernel/time/hrtimer.c */
	"perf: interrupt took", /* kernel/events/core.c */
	"INFO: NMI handler",	/* arch/x86/kernel/nmi.c */
};

static bool is_of_the_host(const char *record)
{
	const char *text = strchr(record, ';');
	size_t i;

	for (i = 0; text && i < ARRAY_SIZE(of_the_host); i++)
		if (!strncmp(text + 1, of_the_host[i], strlen(of_the_host[i])))
			return true;
	return false;
}

/*
 * Add the number of log records since the first call, those of a slow host
 * left out.  Records that the log has lost since (EPIPE) count as one:
 * Documentation/ABI/testing/dev-kmsg.
 */
static void add_log(struct reply *r)
{
	static int log = -1;
	static unsigned int count;
	char record[8192];
	ssize_t length;

	if (log < 0) {
		log = open(LOG, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (log >= 0)
			lseek(log, 0, SEEK_END);
	}
	if (log < 0)
		return;
	while ((length = read(log, record, sizeof(record) - 1)) >= 0 ||
	       errno == EPIPE) {
		record[length < 0 ? 0 : length] = '\0';
		count += !is_of_the_host(record);
	}
	reply_add(r, " log=%u", count);
}

/* Count what a call could leave behind, as far as this process can see it. */
void op_footprint(struct args *a, struct reply *r)
{
	struct reply before = { 0 };
	unsigned int fds;

	(void)a;
	reply_reset(&before);
	add_log(&before); /* opens the log, whose descriptor is counted */
	free(before.text);
	if (!count_fds(r, &fds))
		return;
	reply_set(r, "ok fds=%u", fds);
	add_buffers(r);
	add_log(r);
}
