// SPDX-License-Identifier: GPL-2.0-only
/*
 * A DMABUF's whole life, from export to close, many times over, with its device or
 * beyond it: what is not given back each time adds up.  And a descriptor that
 * holds less than the DMABUF.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/vfio.h>

#include "access.h"
#include "buffer.h"
#include "device.h"
#include "fault.h"
#include "lifecycle.h"
#include "object.h"
#include "operations.h"
#include "text.h"

#define RANGES_MAX 4096
#define OUTLIVE_MAX 4096

struct life {
	int device;
	uint32_t bar;
	uint64_t length;
	uint32_t ranges;
	bool revokes;
	bool keeps;
	unsigned char *place; /* of the mapping that something failed with */
	struct fault fault;
};

struct lent {
	int fd;
	unsigned char *place;
};

/* Export so many equal parts of a BAR's beginning; -1 with errno if refused. */
static int export_parts(int device, uint32_t bar, uint64_t length, uint32_t nr)
{
	struct vfio_device_feature_dma_buf *dmabuf;
	struct vfio_device_feature *feature;
	size_t size = sizeof(*feature) + sizeof(*dmabuf) +
		      nr * sizeof(dmabuf->dma_ranges[0]);
	int fd, error;
	uint32_t i;

	feature = must(calloc(1, size));
	feature->argsz = (uint32_t)size;
	feature->flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF;
	dmabuf = (void *)feature->data;
	dmabuf->region_index = bar;
	dmabuf->open_flags = O_RDWR | O_CLOEXEC;
	dmabuf->nr_ranges = nr;
	for (i = 0; i < nr; i++) {
		dmabuf->dma_ranges[i].offset = i * (length / nr);
		dmabuf->dma_ranges[i].length = length / nr;
	}
	fd = ioctl(device, VFIO_DEVICE_FEATURE, feature);
	error = errno;
	free(feature);
	errno = error;
	return fd;
}

int export_beginning(int device, uint32_t bar, uint64_t length)
{
	return export_parts(device, bar, length, 1);
}

static bool loads(struct life *life, const struct lent *lent)
{
	struct access access = { .place = lent->place, .width = 32 };

	life->place = lent->place;
	return guarded(access_load, &access, &life->fault);
}

/* NULL, or what failed: errno says how, or the fault where there is one. */
static const char *begin(struct life *life, uint64_t turn, struct lent *lent)
{
	bool revokes = life->revokes && turn & 2;

	lent->fd = export_parts(life->device, life->bar, life->length,
				life->ranges);
	if (lent->fd < 0)
		return "export";
	if (life->keeps)
		return NULL;
	lent->place = mmap(NULL, life->length, PROT_READ | PROT_WRITE,
			   MAP_SHARED, lent->fd, 0);
	if (lent->place == MAP_FAILED)
		return "map";
	if (!loads(life, lent))
		return "load";
	if (revokes && revoke_by_default(life->device, lent->fd))
		return "revoke";
	return NULL;
}

/* The orders of ending a life take turns. */
static const char *end(struct life *life, uint64_t turn, struct lent *lent)
{
	bool close_first = turn & 1;

	if (life->keeps)
		return NULL;
	if (close_first)
		close(lent->fd);
	if (munmap(lent->place, life->length))
		return "unmap";
	if (!close_first)
		close(lent->fd);
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

static struct object *lives(struct args *a, struct reply *r, struct life *life,
			    uint64_t *count)
{
	struct object *device = word_object(a, r, 0, DEVICE);
	uint64_t bar, ranges, revokes, keeps;

	if (!device || !option_u64(a, r, "bar", 0, &bar) ||
	    !option_u64(a, r, "length", 0, &life->length) ||
	    !option_u64(a, r, "count", 0, count) ||
	    !option_u64(a, r, "ranges", 1, &ranges) ||
	    !option_u64(a, r, "revoke", 0, &revokes) ||
	    !option_u64(a, r, "keep", 0, &keeps))
		return NULL;
	if (bar > UINT32_MAX || !ranges || ranges > RANGES_MAX) {
		reply_usage(r, "%s: bar= has 32 bits, ranges= is 1 to %u",
			    a->op, RANGES_MAX);
		return NULL;
	}
	life->device = device->fd;
	life->bar = (uint32_t)bar;
	life->ranges = (uint32_t)ranges;
	life->revokes = revokes;
	life->keeps = keeps;
	return device;
}

void op_cycle(struct args *a, struct reply *r)
{
	struct life life = { 0 };
	const char *failed;
	struct lent lent;
	uint64_t count, turn;

	if (!lives(a, r, &life, &count))
		return;
	for (turn = 0; turn < count; turn++) {
		failed = begin(&life, turn, &lent) ?: end(&life, turn, &lent);
		if (failed || deadline_passed()) {
			reply_failed(r, &life, turn, failed);
			return;
		}
	}
	reply_set(r, "ok cycles=%ju", (uintmax_t)count);
}

/* They all live at once, and the device is closed before any of them ends. */
void op_outlive(struct args *a, struct reply *r)
{
	uint64_t count, turn, reached, dead = 0;
	const char *failed = NULL;
	struct life life = { 0 };
	struct object *device = lives(a, r, &life, &count);
	struct lent *lent;

	if (!device)
		return;
	if (count > OUTLIVE_MAX) {
		reply_usage(r, "outlive: count= is at most %u", OUTLIVE_MAX);
		return;
	}
	lent = must(calloc(count + 1, sizeof(*lent)));
	for (reached = 0; !failed && reached < count; reached++)
		failed = begin(&life, reached, &lent[reached]);
	if (!failed)
		device_close(device);
	for (turn = 0; !failed && turn < count; turn++) {
		dead += !loads(&life, &lent[turn]) &&
			life.fault.signal == SIGBUS;
		failed = end(&life, turn, &lent[turn]);
	}
	free(lent);
	if (failed || deadline_passed())
		reply_failed(r, &life, turn ?: reached, failed);
	else
		reply_set(r, "ok sigbus=%ju", (uintmax_t)dead);
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
