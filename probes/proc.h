/* SPDX-License-Identifier: GPL-2.0-only */
/* What the kernel says about this process. */
#ifndef PROC_H
#define PROC_H

#include <stdbool.h>

#include "text.h"

bool count_fds(struct reply *r, unsigned int *count);

#endif
