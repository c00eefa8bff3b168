/* SPDX-License-Identifier: GPL-2.0-only */
/* Revoke DMABUFs; the calls that the headers offer. */
#ifndef BUFFER_H
#define BUFFER_H

#include <stdbool.h>

#include "text.h"

bool revoke_dmabuf(struct args *a, struct reply *r);
int revoke_by_default(int device, int buffer);
const char *revoke_offers(void);
const char *memattr_offers(void);

#endif
