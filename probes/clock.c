// SPDX-License-Identifier: GPL-2.0-only
/* The time of the operation before, on the clock of the test importer. */
#define _GNU_SOURCE
#include <inttypes.h>

#include "line.h"
#include "operations.h"
#include "text.h"

void op_clock(struct args *a, struct reply *r)
{
	struct span span = line_previous();

	(void)a;
	reply_set(r, "ok began=%" PRIu64 " ended=%" PRIu64, span.began,
		  span.ended);
}
