/* SPDX-License-Identifier: GPL-2.0-only */
/* One load or store of exactly the asked width. */
#ifndef ACCESS_H
#define ACCESS_H

#include <stdint.h>

struct access {
	unsigned char *place;
	unsigned int width; /* bits */
	uint64_t value;
};

void access_load(void *access);
void access_store(void *access);

#endif
