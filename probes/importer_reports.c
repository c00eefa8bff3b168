// SPDX-License-Identifier: GPL-2.0-only
/* What the test importer has seen: its events, its counts, its scatter list. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "importer.h"
#include "operations.h"

#define AT_ONCE 64

const char *importer_event_name(uint64_t event)
{
	static const char *const names[IMPORTER_EVENTS] = {
		[IMPORTER_ATTACHED] = "attached",
		[IMPORTER_DETACHED] = "detached",
		[IMPORTER_PINNED] = "pinned",
		[IMPORTER_UNPINNED] = "unpinned",
		[IMPORTER_MAPPED] = "mapped",
		[IMPORTER_UNMAPPED] = "unmapped",
		[IMPORTER_NOTIFIED] = "notified",
		[IMPORTER_STALLED] = "stalled",
		[IMPORTER_RESUMED] = "resumed",
		[IMPORTER_REMAPPED] = "remapped",
		[IMPORTER_FENCED] = "fenced",
		[IMPORTER_SIGNALED] = "signaled",
	};

	return event < IMPORTER_EVENTS && names[event] ? names[event] : "?";
}

void op_impentries(struct args *a, struct reply *r)
{
	struct object *importer = word_importer(a, r);
	struct importer_entries request = { .count = IMPORTER_ENTRIES_MAX };
	struct importer_entry *entries;
	__u32 i;

	if (!importer)
		return;
	entries = must(calloc(IMPORTER_ENTRIES_MAX, sizeof(*entries)));
	request.entries = (uintptr_t)entries;
	if (ioctl(importer->fd, IMPORTER_ENTRIES, &request)) {
		reply_errno(r, errno, a->op);
	} else if (request.count > IMPORTER_ENTRIES_MAX) {
		reply_set(r, "error E2BIG %s: %u entries", a->op,
			  request.count);
	} else {
		reply_set(r, "ok");
		for (i = 0; i < request.count; i++)
			reply_add(r, " 0x%" PRIx64 ":0x%" PRIx64,
				  (uint64_t)entries[i].address,
				  (uint64_t)entries[i].length);
	}
	free(entries);
}

void op_impcounts(struct args *a, struct reply *r)
{
	struct object *importer = word_importer(a, r);
	struct importer_counts counts = { 0 };
	unsigned int i;

	if (!importer)
		return;
	if (ioctl(importer->fd, IMPORTER_COUNTS, &counts)) {
		reply_errno(r, errno, a->op);
		return;
	}
	reply_set(r, "ok is_attached=%u is_mapped=%u pins=%u fences=%u lost=%u",
		  counts.attached, counts.mapped, counts.pinned, counts.fences,
		  counts.lost);
	for (i = 1; i < IMPORTER_EVENTS; i++)
		reply_add(r, " %s=%u", importer_event_name(i),
			  counts.events[i]);
}

/* Add text of the kernel as a part of a word: no blank, comma or colon. */
static void add_plain(struct reply *r, const char *text, size_t size)
{
	size_t i;

	for (i = 0; i < size && text[i]; i++)
		reply_add(r, "%c",
			  isgraph((unsigned char)text[i]) && text[i] != ','
				  ? text[i]
				  : '_');
}

static void add_locks(struct reply *r, struct importer_record *record)
{
	char *rest = record->locks, *name;
	const char *separator = "";

	record->locks[sizeof(record->locks) - 1] = '\0';
	while ((name = strsep(&rest, ","))) {
		reply_add(r, "%s", separator);
		add_plain(r, name, sizeof(record->locks));
		separator = "+";
	}
}

static void add_record(struct reply *r, struct importer_record *record)
{
	reply_add(r, " %" PRIu64 ",%" PRIu64 ",%s,%d,%d,",
		  (uint64_t)record->sequence, (uint64_t)record->time,
		  importer_event_name(record->event), -record->result,
		  record->pid);
	add_plain(r, record->comm, sizeof(record->comm));
	reply_add(r, ",%d,%s%s%s,", record->power,
		  record->flags & IMPORTER_RESV_LOCKED ? "r" : "",
		  record->flags & IMPORTER_RESV_HELD ? "R" : "",
		  record->flags & IMPORTER_MMAP_LOCKED ? "m" : "");
	if (record->flags & IMPORTER_LOCKDEP)
		add_locks(r, record);
	else
		reply_add(r, "?");
}

void op_imprecords(struct args *a, struct reply *r)
{
	struct object *importer = word_importer(a, r);
	struct importer_record records[AT_ONCE];
	struct importer_records request = {
		.records = (uintptr_t)records,
		.count = AT_ONCE,
	};
	uint64_t first;
	__u32 i;

	if (!importer || !option_u64(a, r, "first", 0, &first))
		return;
	if (first > UINT32_MAX) {
		reply_usage(r, "imprecords: first= is out of range");
		return;
	}
	request.first = (__u32)first;
	reply_set(r, "ok");
	while (request.count) {
		if (ioctl(importer->fd, IMPORTER_RECORDS, &request)) {
			reply_errno(r, errno, a->op);
			return;
		}
		for (i = 0; i < request.count && i < AT_ONCE; i++)
			add_record(r, &records[i]);
		request.first += request.count;
		request.count = request.count == AT_ONCE ? AT_ONCE : 0;
	}
}
