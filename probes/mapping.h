/* SPDX-License-Identifier: GPL-2.0-only */
/* What operations on a mapping share: the part that a line names, and checks. */
#ifndef MAPPING_H
#define MAPPING_H

#include <stdbool.h>
#include <stdint.h>

#include "object.h"
#include "text.h"

struct object *mapping_part(struct args *a, struct reply *r, uint64_t *offset,
			    uint64_t *length);
uint64_t mapping_page_up(uint64_t length);
bool mapping_is_hammered(const struct args *a, struct reply *r,
			 const struct object *mapping);

#endif
