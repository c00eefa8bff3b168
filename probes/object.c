// SPDX-License-Identifier: GPL-2.0-only
/* What an actor holds: devices, buffers, mappings and importers, by name. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "object.h"
#include "text.h"

struct object *objects;

static const struct {
	enum kind kind;
	char letter;
	const char *prefix;
	const char *noun;
} kinds_known[] = {
	{ DEVICE, 'd', "dev", "a device" },
	{ BUFFER, 'b', "buf", "a buffer" },
	{ MAPPING, 'm', "map", "a mapping" },
	{ IMPORTER, 'i', "imp", "an importer" },
};

/* Make an object that has no name yet; with object_drop() it never has one. */
struct object *object_unnamed(enum kind kind)
{
	struct object *object = must(calloc(1, sizeof(*object)));

	object->kind = kind;
	object->fd = -1;
	object->iommu_fd[0] = -1;
	object->iommu_fd[1] = -1;
	object->wakeup = -1;
	object->next = objects;
	objects = object;
	return object;
}

/*
 * Give an object the next name of its kind.  Names are never used again, and a
 * refused operation uses none, so that a replay gives the same names.
 */
void object_name(struct object *object)
{
	static unsigned int count[ARRAY_SIZE(kinds_known)];
	unsigned int i = 0;

	while (kinds_known[i].kind != object->kind)
		i++;
	snprintf(object->name, sizeof(object->name), "%s%u",
		 kinds_known[i].prefix, ++count[i]);
}

struct object *object_new(enum kind kind)
{
	struct object *object = object_unnamed(kind);

	object_name(object);
	return object;
}

void object_drop(struct object *object)
{
	struct object **link = &objects;

	while (*link != object)
		link = &(*link)->next;
	*link = object->next;
	free(object);
}

struct object *object_find(const char *name)
{
	struct object *object;

	for (object = objects; object; object = object->next)
		if (!strcmp(object->name, name))
			return object;
	return NULL;
}

/* Find the object that a word of the line names, if it is of @kinds. */
struct object *word_object(const struct args *a, struct reply *r,
			   unsigned int index, unsigned int kinds)
{
	struct object *object = object_find(a->word[index]);
	char wanted[64] = "";
	unsigned int i;

	if (object && object->kind & kinds)
		return object;
	for (i = 0; i < ARRAY_SIZE(kinds_known); i++) {
		if (!(kinds_known[i].kind & kinds))
			continue;
		if (*wanted)
			strcat(wanted, " or ");
		strcat(wanted, kinds_known[i].noun);
	}
	reply_usage(r, "%s: '%s' does not name %s of this actor", a->op,
		    a->word[index], wanted);
	return NULL;
}

char kind_letter(enum kind kind)
{
	unsigned int i = 0;

	while (kinds_known[i].kind != kind)
		i++;
	return kinds_known[i].letter;
}

bool kind_from_letter(char letter, enum kind *kind)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(kinds_known); i++) {
		if (kinds_known[i].letter == letter) {
			*kind = kinds_known[i].kind;
			return true;
		}
	}
	return false;
}
