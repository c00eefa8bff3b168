// SPDX-License-Identifier: GPL-2.0-only
/*
 * A DMABUF's whole life, from export to close, many times over: what is not given
 * back each time adds up.  And a descriptor that holds less than the DMABUF.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/vfio.h>

#include "actor.h"

struct life {
	int device;
	uint32_t bar;
	uint64_t length;
	bool revokes;
	bool keeps;
	unsigned char *place;
	struct fault fault;
};

/* Export the beginning of a BAR; -1 with errno if that is refused. */
int export_beginning(int device, uint32_t bar, uint64_t length)
{
	struct vfio_device_feature_dma_buf *dmabuf;
	struct vfio_device_feature *feature;
	size_t size = sizeof(*feature) + sizeof(*dmabuf) +
		      sizeof(dmabuf->dma_ranges[0]);
	int fd, error;

	feature = must(calloc(1, size));
	feature->argsz = (uint32_t)size;
	feature->flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF;
	dmabuf = (void *)feature->data;
	dmabuf->region_index = bar;
	dmabuf->open_flags = O_RDWR | O_CLOEXEC;
	dmabuf->nr_ranges = 1;
	dmabuf->dma_ranges[0].length = length;
	fd = ioctl(device, VFIO_DEVICE_FEATURE, feature);
	error = errno;
	free(feature);
	errno = error;
	return fd;
}

/*
 * One life; the orders of ending it take turns.  NULL, or what failed: errno
 * says how, or the fault where there is one.
 */
static const char *live(struct life *life, uint64_t turn)
{
	bool close_first = turn & 1, revokes = life->revokes && turn & 2;
	struct access access = { .width = 32 };
	int fd = export_beginning(life->device, life->bar, life->length);

	if (fd < 0)
		return "export";
	if (life->keeps)
		return NULL;
	life->place = mmap(NULL, life->length, PROT_READ | PROT_WRITE,
			   MAP_SHARED, fd, 0);
	if (life->place == MAP_FAILED)
		return "map";
	access.place = life->place;
	if (!guarded(access_load, &access, &life->fault))
		return "load";
	if (revokes && revoke_by_default(life->device, fd))
		return "revoke";
	if (close_first)
		close(fd);
	if (munmap(life->place, life->length))
		return "unmap";
	if (!close_first)
		close(fd);
	return NULL;
}

static void reply_failed(struct reply *r, const struct life *life,
			 uint64_t turn, const char *failed)
{
	struct object mapping = { .base = life->place, .length = life->length };
	int error = errno;
	char what[64];

	snprintf(what, sizeof(what), "cycle %ju: %s", (uintmax_t)turn,
		 failed ?: "late");
	if (deadline_passed())
		reply_set(r, "timeout");
	else if (life->fault.signal)
		reply_fault(r, &life->fault, &mapping);
	else
		reply_errno(r, error, what);
}

void op_cycle(struct args *a, struct reply *r)
{
	struct object *device = word_object(a, r, 0, DEVICE);
	uint64_t bar, count, revokes, keeps, turn;
	struct life life = { 0 };
	const char *failed;

	if (!device || !option_u64(a, r, "bar", 0, &bar) ||
	    !option_u64(a, r, "length", 0, &life.length) ||
	    !option_u64(a, r, "count", 0, &count) ||
	    !option_u64(a, r, "revoke", 0, &revokes) ||
	    !option_u64(a, r, "keep", 0, &keeps))
		return;
	if (bar > UINT32_MAX) {
		reply_usage(r, "cycle: bar= has 32 bits");
		return;
	}
	life.device = device->fd;
	life.bar = (uint32_t)bar;
	life.revokes = revokes;
	life.keeps = keeps;
	for (turn = 0; turn < count; turn++) {
		failed = live(&life, turn);
		if (failed || deadline_passed()) {
			reply_failed(r, &life, turn, failed);
			return;
		}
	}
	reply_set(r, "ok cycles=%ju", (uintmax_t)count);
}

/* False where there have been more errors than it has room for. */
bool tally_count(struct tally *tally, int error)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(tally->entry); i++) {
		if (tally->entry[i].times && tally->entry[i].error != error)
			continue;
		tally->entry[i].error = error;
		tally->entry[i].times++;
		return true;
	}
	return false;
}

void reply_tally(struct reply *r, const struct tally *tally)
{
	size_t i;

	reply_set(r, "ok");
	for (i = 0; i < ARRAY_SIZE(tally->entry) && tally->entry[i].times; i++)
		reply_add(r, " %s=%ju",
			  tally->entry[i].error
				  ? strerrorname_np(tally->entry[i].error)
				  : "done",
			  (uintmax_t)tally->entry[i].times);
}

void op_attempts(struct args *a, struct reply *r)
{
	struct object *device = word_object(a, r, 0, DEVICE);
	struct tally tally = { 0 };
	uint64_t bar, length, count, i;
	int fd;

	if (!device || !option_u64(a, r, "bar", 0, &bar) ||
	    !option_u64(a, r, "length", 0, &length) ||
	    !option_u64(a, r, "count", 0, &count))
		return;
	for (i = 0; i < count && !deadline_passed(); i++) {
		fd = export_beginning(device->fd, (uint32_t)bar, length);
		if (!tally_count(&tally, fd < 0 ? errno : 0))
			break;
		if (fd >= 0)
			close(fd);
	}
	if (deadline_passed())
		reply_set(r, "timeout");
	else
		reply_tally(r, &tally);
}

/*
 * Open again what a descriptor of this process stands for.  With O_PATH the new
 * one holds the dentry, and not the file.
 */
void op_reopen(struct args *a, struct reply *r)
{
	static const struct token words[] = {
		{ "path", O_PATH },	  { "rdonly", O_RDONLY },
		{ "wronly", O_WRONLY },	  { "rdwr", O_RDWR },
		{ "cloexec", O_CLOEXEC },
	};
	struct object *buffer = word_object(a, r, 0, BUFFER), *again;
	const char *text = option_text(a, "open_flags") ?: "rdwr,cloexec";
	uint64_t flags;
	char path[32];
	int fd;

	if (!buffer)
		return;
	if (!parse_tokens(text, words, ARRAY_SIZE(words), &flags) ||
	    flags > INT32_MAX) {
		reply_usage(r, "reopen: open_flags=%s", text);
		return;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", buffer->fd);
	fd = open(path, (int)flags);
	if (fd < 0) {
		reply_errno(r, errno, "reopen");
		return;
	}
	again = object_new(BUFFER);
	again->fd = fd;
	reply_set(r, "ok %s", again->name);
}
