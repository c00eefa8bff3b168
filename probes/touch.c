// SPDX-License-Identifier: GPL-2.0-only
/* Count the page faults that the accesses to a mapping take. */
#define _GNU_SOURCE
#include <sys/resource.h>

#include "fault.h"
#include "mapping.h"
#include "object.h"
#include "operations.h"
#include "text.h"

struct touch {
	unsigned char *place;
	unsigned char *end;
	const uint64_t *value; /* to store; NULL to load */
};

static void touch(void *context)
{
	struct touch *touch = context;
	volatile uint32_t *word;

	for (; touch->place < touch->end; touch->place += PAGE) {
		word = (volatile uint32_t *)touch->place;
		if (touch->value)
			*word = (uint32_t)*touch->value;
		else
			(void)*word;
	}
}

static long faults_so_far(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_minflt;
}

/* Print and allocate nothing between the two counts: either may fault. */
void op_touch(struct args *a, struct reply *r)
{
	uint64_t offset, length, value;
	struct object *mapping = mapping_part(a, r, &offset, &length);
	struct touch what;
	struct fault fault;
	long before;

	if (!mapping || !option_u64(a, r, "value", 0, &value))
		return;
	if ((offset | length) & (PAGE - 1) || value > UINT32_MAX) {
		reply_usage(r, "touch: takes whole pages, and a value of 32 "
			       "bits");
		return;
	}
	what.place = mapping->base + offset;
	what.end = what.place + length;
	what.value = option_text(a, "value") ? &value : NULL;
	before = faults_so_far();
	if (!guarded(touch, &what, &fault)) {
		reply_fault(r, &fault, mapping);
		return;
	}
	reply_set(r, "ok pages=%ju faults=%ld", (uintmax_t)(length / PAGE),
		  faults_so_far() - before);
}
