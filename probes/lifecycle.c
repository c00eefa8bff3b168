// SPDX-License-Identifier: GPL-2.0-only
/*
 * Export, map, revoke and close DMABUFs many times over: whatever the kernel
 * leaks in each turn adds up.
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

struct plan {
	int device;
	uint32_t bar;
	uint64_t length;
	uint32_t ranges;
	bool revokes;
	bool keeps;
	unsigned char *place; /* the mapping that was loaded from last */
	struct fault fault;
};

struct export {
	int fd;
	unsigned char *place;
};

/* Export @nr equal ranges from the start of a BAR; -1 with errno if refused. */
static int export_ranges(int device, uint32_t bar, uint64_t length, uint32_t nr)
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
	return export_ranges(device, bar, length, 1);
}

static bool loads(struct plan *plan, const struct export *export)
{
	struct access access = { .place = export->place, .width = 32 };

	plan->place = export->place;
	return guarded(access_load, &access, &plan->fault);
}

/* Return NULL, or the step that failed; errno or the fault tells why. */
static const char *begin(struct plan *plan, uint64_t turn,
			 struct export *export)
{
	bool revokes = plan->revokes && turn & 2;

	export->fd = export_ranges(plan->device, plan->bar, plan->length,
				   plan->ranges);
	if (export->fd < 0)
		return "export";
	if (plan->keeps)
		return NULL;
	export->place = mmap(NULL, plan->length, PROT_READ | PROT_WRITE,
			     MAP_SHARED, export->fd, 0);
	if (export->place == MAP_FAILED)
		return "map";
	if (!loads(plan, export))
		return "load";
	if (revokes && revoke_by_default(plan->device, export->fd))
		return "revoke";
	return NULL;
}

/* Unmap and close; in every other turn close first. */
static const char *end(struct plan *plan, uint64_t turn, struct export *export)
{
	bool close_first = turn & 1;

	if (plan->keeps)
		return NULL;
	if (close_first)
		close(export->fd);
	if (munmap(export->place, plan->length))
		return "unmap";
	if (!close_first)
		close(export->fd);
	return NULL;
}

static void reply_failed(struct reply *r, const struct plan *plan,
			 uint64_t turn, const char *failed)
{
	struct object mapping = { .base = plan->place, .length = plan->length };
	int error = errno;
	char what[64];

	snprintf(what, sizeof(what), "cycle %ju: %s", (uintmax_t)turn,
		 failed ?: "late");
	if (deadline_passed())
		reply_set(r, "timeout");
	else if (plan->fault.signal)
		reply_fault(r, &plan->fault, &mapping);
	else
		reply_errno(r, error, what);
}

static struct object *parse_plan(struct args *a, struct reply *r,
				 struct plan *plan, uint64_t *count)
{
	struct object *device = word_object(a, r, 0, DEVICE);
	uint64_t bar, ranges, revokes, keeps;

	if (!device || !option_u64(a, r, "bar", 0, &bar) ||
	    !option_u64(a, r, "length", 0, &plan->length) ||
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
	plan->device = device->fd;
	plan->bar = (uint32_t)bar;
	plan->ranges = (uint32_t)ranges;
	plan->revokes = revokes;
	plan->keeps = keeps;
	return device;
}

void op_cycle(struct args *a, struct reply *r)
{
	struct plan plan = { 0 };
	const char *failed;
	struct export export;
	uint64_t count, turn;

	if (!parse_plan(a, r, &plan, &count))
		return;
	for (turn = 0; turn < count; turn++) {
		failed = begin(&plan, turn, &export)
				 ?: end(&plan, turn, &export);
		if (failed || deadline_passed()) {
			reply_failed(r, &plan, turn, failed);
			return;
		}
	}
	reply_set(r, "ok cycles=%ju", (uintmax_t)count);
}

/* Close the device while all DMABUFs exist, then load from each. */
void op_outlive(struct args *a, struct reply *r)
{
	uint64_t count, turn, reached, faulted = 0;
	const char *failed = NULL;
	struct plan plan = { 0 };
	struct object *device = parse_plan(a, r, &plan, &count);
	struct export *export;

	if (!device)
		return;
	if (count > OUTLIVE_MAX) {
		reply_usage(r, "outlive: count= is at most %u", OUTLIVE_MAX);
		return;
	}
	export = must(calloc(count + 1, sizeof(*export)));
	for (reached = 0; !failed && reached < count; reached++)
		failed = begin(&plan, reached, &export[reached]);
	if (!failed)
		device_close(device);
	for (turn = 0; !failed && turn < count; turn++) {
		faulted += !loads(&plan, &export[turn]) &&
			   plan.fault.signal == SIGBUS;
		failed = end(&plan, turn, &export[turn]);
	}
	free(export);
	if (failed || deadline_passed())
		reply_failed(r, &plan, turn ?: reached, failed);
	else
		reply_set(r, "ok sigbus=%ju", (uintmax_t)faulted);
}

/* Count an errno, 0 for done; false if there is no room for another one. */
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
	char number[16];
	size_t i;

	reply_set(r, "ok");
	for (i = 0; i < ARRAY_SIZE(tally->entry) && tally->entry[i].times; i++)
		reply_add(r, " %s=%ju",
			  tally->entry[i].error
				  ? errno_name(tally->entry[i].error, number,
					       sizeof(number))
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
