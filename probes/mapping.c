// SPDX-License-Identifier: GPL-2.0-only
/* Make, change and remove mappings. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "device.h"
#include "mapping.h"
#include "object.h"
#include "operations.h"
#include "text.h"

static const struct token protections[] = {
	{ "none", PROT_NONE },
	{ "r", PROT_READ },
	{ "w", PROT_WRITE },
	{ "x", PROT_EXEC },
	{ "rw", PROT_READ | PROT_WRITE },
	{ "rx", PROT_READ | PROT_EXEC },
	{ "rwx", PROT_READ | PROT_WRITE | PROT_EXEC },
};

/* mmap() without the C library, which refuses some calls itself. */
static void *map_raw(void *place, uint64_t length, int protection, int flags,
		     int fd, uint64_t offset)
{
	return (void *)syscall(SYS_mmap, place, length, protection, flags, fd,
			       offset);
}

uint64_t mapping_page_up(uint64_t length)
{
	return (length + PAGE - 1) & ~(PAGE - 1);
}

static bool parse_protection(const struct args *a, struct reply *r,
			     const char *text, uint64_t *protection)
{
	if (parse_tokens(text, protections, ARRAY_SIZE(protections),
			 protection) &&
	    *protection <= INT32_MAX)
		return true;
	reply_usage(r, "%s: '%s' is not none, r, w, x, rw, rx, rwx or a number",
		    a->op, text);
	return false;
}

/*
 * Map at an address that is @congruent modulo @align: huge pages need a virtual
 * address aligned as the physical one.  Unmap the rest of the reservation.
 */
static void *map_placed(uint64_t length, int protection, int flags, int fd,
			uint64_t offset, uint64_t align, uint64_t congruent)
{
	uint64_t whole = length + align, gap, end;
	unsigned char *reserve, *place, *result;
	int error;

	if (whole < length) {
		errno = ENOMEM;
		return MAP_FAILED;
	}
	reserve = mmap(NULL, whole, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (reserve == MAP_FAILED)
		return MAP_FAILED;
	gap = (congruent - (uintptr_t)reserve) & (align - 1);
	place = reserve + gap;
	result = map_raw(place, length, protection, flags | MAP_FIXED, fd,
			 offset);
	error = errno;
	if (result == MAP_FAILED) {
		munmap(reserve, whole);
	} else {
		end = gap + mapping_page_up(length);
		if (gap)
			munmap(reserve, gap);
		if (whole > end)
			munmap(reserve + end, whole - end);
	}
	errno = error;
	return result;
}

/* Compute the file offset of the mapping; for a device fd it needs the BAR. */
static bool map_offset(struct args *a, struct reply *r,
		       const struct object *object, uint64_t *offset)
{
	uint64_t bar, start;

	if (!option_u64(a, r, "offset", 0, offset) ||
	    !option_u64(a, r, "bar", 0, &bar))
		return false;
	if (!option_text(a, "bar") == (object->kind == DEVICE)) {
		reply_usage(r, "map: bar= is for a device, and required there");
		return false;
	}
	if (object->kind != DEVICE)
		return true;
	if (device_region(object, bar, &start)) {
		reply_errno(r, errno, "map: region");
		return false;
	}
	*offset += start;
	return true;
}

void op_map(struct args *a, struct reply *r)
{
	static const struct token flag_words[] = {
		{ "shared", MAP_SHARED },
		{ "private", MAP_PRIVATE },
		{ "validate", MAP_SHARED_VALIDATE },
		{ "populate", MAP_POPULATE },
		{ "locked", MAP_LOCKED },
		{ "sync", MAP_SYNC },
	};
	struct object *object =
		word_object(a, r, 0, DEVICE | BUFFER | IMPORTER);
	const char *prot_text = option_text(a, "prot") ?: "rw";
	const char *flag_text = option_text(a, "flags") ?: "shared";
	uint64_t length, offset, align, congruent, protection, flags;
	struct object *mapping;
	void *base;

	if (!object || !option_u64(a, r, "length", 0, &length) ||
	    !option_u64(a, r, "align", 0, &align) ||
	    !option_u64(a, r, "congruent", 0, &congruent) ||
	    !parse_protection(a, r, prot_text, &protection))
		return;
	if (!parse_tokens(flag_text, flag_words, ARRAY_SIZE(flag_words),
			  &flags) ||
	    flags > INT32_MAX || flags & MAP_FIXED) {
		reply_usage(r,
			    "map: flags=%s is unknown, or contains MAP_FIXED",
			    flag_text);
		return;
	}
	if (align & (align - 1) || (align && align < PAGE) ||
	    congruent & (PAGE - 1)) {
		reply_usage(r, "map: align= is a power of two of at least 4K, "
			       "congruent= a multiple of 4K");
		return;
	}
	if (!map_offset(a, r, object, &offset))
		return;
	if (align)
		base = map_placed(length, (int)protection, (int)flags,
				  object->fd, offset, align, congruent);
	else
		base = map_raw(NULL, length, (int)protection, (int)flags,
			       object->fd, offset);
	if (base == MAP_FAILED) {
		reply_errno(r, errno, "map");
		return;
	}
	mapping = object_new(MAPPING);
	mapping->base = base;
	mapping->length = mapping_page_up(length);
	reply_set(r, "ok %s", mapping->name);
}

/* Parse offset= and length=, a part of a mapping; without them all of it. */
struct object *mapping_part(struct args *a, struct reply *r, uint64_t *offset,
			    uint64_t *length)
{
	struct object *mapping = word_object(a, r, 0, MAPPING);

	if (!mapping || !option_u64(a, r, "offset", 0, offset))
		return NULL;
	if (*offset > mapping->length) {
		reply_usage(r, "%s: offset 0x%jx is past the end of %s", a->op,
			    (uintmax_t)*offset, mapping->name);
		return NULL;
	}
	if (!option_u64(a, r, "length", mapping->length - *offset, length))
		return NULL;
	if (*length > mapping->length - *offset) {
		reply_usage(r, "%s: %s ends at 0x%jx", a->op, mapping->name,
			    (uintmax_t)mapping->length);
		return NULL;
	}
	return mapping;
}

/* Refuse if a hammer is at work, which would store to the next mapping here. */
bool mapping_is_hammered(const struct args *a, struct reply *r,
			 const struct object *mapping)
{
	if (mapping->hammers)
		reply_usage(r, "%s: %s has a hammer at work; unhammer it first",
			    a->op, mapping->name);
	return mapping->hammers;
}

void op_unmap(struct args *a, struct reply *r)
{
	uint64_t offset, length;
	struct object *mapping = mapping_part(a, r, &offset, &length);

	if (!mapping || mapping_is_hammered(a, r, mapping))
		return;
	if (munmap(mapping->base + offset, length)) {
		reply_errno(r, errno, "unmap");
		return;
	}
	if (length == mapping->length)
		object_drop(mapping);
	reply_set(r, "ok");
}

void op_mprotect(struct args *a, struct reply *r)
{
	uint64_t offset, length, protection;
	struct object *mapping = mapping_part(a, r, &offset, &length);

	if (!mapping || !parse_protection(a, r, a->word[1], &protection))
		return;
	if (mprotect(mapping->base + offset, length, (int)protection))
		reply_errno(r, errno, "mprotect");
	else
		reply_set(r, "ok");
}
