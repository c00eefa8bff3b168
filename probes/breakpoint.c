// SPDX-License-Identifier: GPL-2.0-only
/*
 * Count the calls of a kernel function by this thread with a hardware
 * breakpoint, which needs no tracing in the kernel.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/hw_breakpoint.h>
#include <linux/perf_event.h>

#include "operations.h"
#include "text.h"

static int counter = -1;

/* Return the address of a kernel function, 0 if there is none. */
static uint64_t address_of(const char *function)
{
	uint64_t address = 0;
	unsigned long long at;
	char line[512], name[256], kind;
	FILE *symbols = fopen("/proc/kallsyms", "re");

	if (!symbols)
		return 0;
	while (!address && fgets(line, sizeof(line), symbols))
		if (sscanf(line, "%llx %c %255s", &at, &kind, name) == 3 &&
		    !strcmp(name, function))
			address = at;
	fclose(symbols);
	return address;
}

void op_count(struct args *a, struct reply *r)
{
	struct perf_event_attr event = {
		.type = PERF_TYPE_BREAKPOINT,
		.size = sizeof(event),
		.bp_type = HW_BREAKPOINT_X,
		.bp_addr = address_of(a->word[0]),
		.bp_len =
			sizeof(long), /* perf_event_open(2), HW_BREAKPOINT_X */
		.exclude_user = 1,
	};

	if (counter >= 0) {
		reply_usage(r, "count: a count is at work; counted ends it");
		return;
	}
	if (!event.bp_addr) {
		reply_errno(r, ENOENT, "count: no such function in kallsyms");
		return;
	}
	counter = (int)syscall(SYS_perf_event_open, &event, 0, -1, -1,
			       PERF_FLAG_FD_CLOEXEC);
	if (counter < 0)
		reply_errno(r, errno, "count: perf_event_open");
	else
		reply_set(r, "ok");
}

void op_counted(struct args *a, struct reply *r)
{
	uint64_t calls;

	(void)a;
	if (counter < 0) {
		reply_usage(r, "counted: nothing is counted");
		return;
	}
	if (read(counter, &calls, sizeof(calls)) != sizeof(calls))
		reply_errno(r, errno, "counted");
	else
		reply_set(r, "ok %ju", (uintmax_t)calls);
	close(counter);
	counter = -1;
}
