/* SPDX-License-Identifier: GPL-2.0-only */
/* What an actor holds: devices, buffers, mappings and importers, by name. */
#ifndef OBJECT_H
#define OBJECT_H

#include <stdbool.h>
#include <stdint.h>

#include "text.h"

#define PAGE 4096ull

enum kind {
	DEVICE = 1,
	BUFFER = 2,
	MAPPING = 4,
	IMPORTER = 8,
};

struct object {
	struct object *next;
	char name[24];
	enum kind kind;
	int fd; /* DEVICE, BUFFER, IMPORTER */
	/* DEVICE: group and container; or iommufd and -1; or both -1 */
	int iommu_fd[2];
	uint32_t iommufd_id; /* DEVICE: its number in its iommufd */
	int wakeup;	     /* DEVICE: eventfd of `lowpower wakeup`, else -1 */
	unsigned char *base; /* MAPPING */
	uint64_t length;     /* MAPPING: rounded up to pages */
	unsigned int hammers; /* MAPPING: hammers at work on it */
};

extern struct object *objects;

struct object *object_unnamed(enum kind kind);
void object_name(struct object *object);
struct object *object_new(enum kind kind);
void object_drop(struct object *object);
struct object *object_find(const char *name);
struct object *word_object(const struct args *a, struct reply *r,
			   unsigned int index, unsigned int kinds);
char kind_letter(enum kind kind);
bool kind_from_letter(char letter, enum kind *kind);

#endif
