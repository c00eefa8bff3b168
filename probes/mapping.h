/* SPDX-License-Identifier: GPL-2.0-only */
/* The part of a mapping that a line names. */
#ifndef MAPPING_H
#define MAPPING_H

#include <stdint.h>

#include "object.h"
#include "text.h"

struct object *mapping_part(struct args *a, struct reply *r, uint64_t *offset,
			    uint64_t *length);

#endif
