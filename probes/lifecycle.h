/* SPDX-License-Identifier: GPL-2.0-only */
/* Export DMABUFs, and count the outcomes by errno. */
#ifndef LIFECYCLE_H
#define LIFECYCLE_H

#include <stdbool.h>
#include <stdint.h>

#include "text.h"

struct tally {
	struct {
		int error; /* 0: done */
		uint64_t times;
	} entry[16];
};

/* Export one range from the start of a BAR; -1 with errno if refused. */
int export_beginning(int device, uint32_t bar, uint64_t length);
bool tally_count(struct tally *tally, int error);
void reply_tally(struct reply *r, const struct tally *tally);

#endif
