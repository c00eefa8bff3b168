/* SPDX-License-Identifier: GPL-2.0-only */
/* Carry out lines. */
#ifndef LINE_H
#define LINE_H

#include <stdbool.h>

#include "text.h"

#define DEADLINE_DEFAULT 10 /* seconds */
#define DEADLINE_MAX 86400

bool execute(char *line, struct reply *r);
int serve(void);

#endif
