/* SPDX-License-Identifier: GPL-2.0-only */
/* Carry out lines. */
#ifndef LINE_H
#define LINE_H

#include <stdbool.h>

#include "text.h"

#define DEADLINE_DEFAULT 10 /* seconds */
#define DEADLINE_MAX 86400

/* When an operation began and ended, CLOCK_MONOTONIC in ns. */
struct span {
	uint64_t began;
	uint64_t ended;
};

struct span line_previous(void);
bool execute(char *line, struct reply *r);
int serve(void);

#endif
