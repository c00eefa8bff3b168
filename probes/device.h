/* SPDX-License-Identifier: GPL-2.0-only */
/* VFIO devices. */
#ifndef DEVICE_H
#define DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "object.h"
#include "text.h"

bool is_bdf(const char *text);
int open_node(struct object *device, const char *bdf, struct reply *r);
void device_close(struct object *device);
void reply_bars(const struct object *device, struct reply *r);
struct object *word_region(struct args *a, struct reply *r, uint64_t *position);
int device_region(const struct object *device, uint64_t index,
		  uint64_t *position);

#endif
