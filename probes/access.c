// SPDX-License-Identifier: GPL-2.0-only
/*
 * Access a mapping: one instruction of exactly the asked width, as a device may
 * decode no other, and loops over pages and words.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>

#include "access.h"
#include "fault.h"
#include "mapping.h"
#include "object.h"
#include "operations.h"
#include "text.h"

void access_load(void *context)
{
	struct access *access = context;

	switch (access->width) {
	case 8:
		access->value = *(volatile uint8_t *)access->place;
		break;
	case 16:
		access->value = *(volatile uint16_t *)access->place;
		break;
	case 32:
		access->value = *(volatile uint32_t *)access->place;
		break;
	default:
		access->value = *(volatile uint64_t *)access->place;
	}
}

void access_store(void *context)
{
	struct access *access = context;

	switch (access->width) {
	case 8:
		*(volatile uint8_t *)access->place = access->value;
		break;
	case 16:
		*(volatile uint16_t *)access->place = access->value;
		break;
	case 32:
		*(volatile uint32_t *)access->place = access->value;
		break;
	default:
		*(volatile uint64_t *)access->place = access->value;
	}
}

/* Parse MAP OFFSET of load32 and the like; the name contains the width. */
static struct object *access_at(struct args *a, struct reply *r,
				struct access *access)
{
	struct object *mapping = word_object(a, r, 0, MAPPING);
	uint64_t offset, width, raw;

	if (!mapping || !word_u64(a, r, 1, &offset) ||
	    !option_u64(a, r, "raw", 0, &raw))
		return NULL;
	parse_u64(strpbrk(a->op, "0123456789"), &width);
	access->width = (unsigned int)width;
	access->place = mapping->base + offset;
	if (!raw && (offset > mapping->length ||
		     mapping->length - offset < width / 8)) {
		reply_usage(r,
			    "%s: %s ends at 0x%jx; raw=1 goes past it on "
			    "purpose",
			    a->op, mapping->name, (uintmax_t)mapping->length);
		return NULL;
	}
	return mapping;
}

void op_load(struct args *a, struct reply *r)
{
	struct access access = { 0 };
	struct object *mapping = access_at(a, r, &access);
	struct fault fault;

	if (!mapping)
		return;
	if (!guarded(access_load, &access, &fault))
		reply_fault(r, &fault, mapping);
	else
		reply_set(r, "ok 0x%0*jx", (int)access.width / 4,
			  (uintmax_t)access.value);
}

void op_store(struct args *a, struct reply *r)
{
	struct access access = { 0 };
	struct object *mapping = access_at(a, r, &access);
	struct fault fault;

	if (!mapping || !word_u64(a, r, 2, &access.value))
		return;
	if (access.width < 64 && access.value >> access.width) {
		reply_usage(r, "%s: %s does not fit in %u bits", a->op,
			    a->word[2], access.width);
		return;
	}
	if (!guarded(access_store, &access, &fault))
		reply_fault(r, &fault, mapping);
	else
		reply_set(r, "ok");
}

/*
 * Add the 32-bit word at @offset, or its fault, to the reply; false, with the
 * reply set, once the deadline has passed.
 */
static bool add_word(struct reply *r, const struct object *mapping,
		     uint64_t offset)
{
	struct access access = {
		.place = mapping->base + offset,
		.width = 32,
	};
	struct fault fault;
	char number[16];

	if (guarded(access_load, &access, &fault)) {
		reply_add(r, " 0x%08jx", (uintmax_t)access.value);
		return true;
	}
	if (fault.signal == SIGALRM) {
		reply_set(r, "timeout");
		return false;
	}
	reply_add(r, " %s:%s:0x%jx",
		  fault.signal == SIGBUS ? "sigbus" : "sigsegv",
		  fault_code(&fault, number, sizeof(number)),
		  (uintmax_t)(fault.address - (uintptr_t)mapping->base));
	return true;
}

void op_loadpages(struct args *a, struct reply *r)
{
	uint64_t offset, length, at;
	struct object *mapping = mapping_part(a, r, &offset, &length);

	if (!mapping)
		return;
	reply_set(r, "ok");
	for (at = offset; at < offset + length; at += PAGE) {
		if (offset + length - at < 4 || !add_word(r, mapping, at))
			break;
	}
}

/* Load the words at a list of offsets, in its order. */
void op_loadlist(struct args *a, struct reply *r)
{
	struct object *mapping = word_object(a, r, 0, MAPPING);
	char *rest = a->word[1], *word;
	uint64_t at;

	if (!mapping)
		return;
	reply_set(r, "ok");
	while ((word = strsep(&rest, ","))) {
		if (!parse_u64(word, &at) || mapping->length < 4 ||
		    at > mapping->length - 4) {
			reply_usage(r,
				    "loadlist: '%s' is no offset in %s, which "
				    "ends at 0x%jx",
				    word, mapping->name,
				    (uintmax_t)mapping->length);
			return;
		}
		if (!add_word(r, mapping, at))
			return;
	}
}

/* Load the words at a list of offsets in several mappings. */
void op_loadeach(struct args *a, struct reply *r)
{
	char *rest = a->word[0], *word, *offset;
	struct object *mapping;
	uint64_t at;

	reply_set(r, "ok");
	while ((word = strsep(&rest, ","))) {
		offset = strchr(word, ':');
		if (offset)
			*offset++ = '\0';
		mapping = object_find(word);
		if (!offset || !mapping || mapping->kind != MAPPING ||
		    !parse_u64(offset, &at) || mapping->length < 4 ||
		    at > mapping->length - 4) {
			reply_usage(r,
				    "loadeach: '%s' is no mapping of this "
				    "actor, or ends before that offset",
				    word);
			return;
		}
		if (!add_word(r, mapping, at))
			return;
	}
}

void op_stamp(struct args *a, struct reply *r)
{
	uint64_t offset, length, at, seed, pages = 0;
	struct object *mapping = mapping_part(a, r, &offset, &length);
	struct access access = { .width = 32 };
	struct fault fault;

	if (!mapping || !option_u64(a, r, "seed", 0, &seed))
		return;
	for (at = offset; at < offset + length; at += PAGE) {
		if (offset + length - at < 4)
			break;
		access.place = mapping->base + at;
		access.value = (uint32_t)(at / PAGE + seed);
		if (!guarded(access_store, &access, &fault)) {
			reply_fault(r, &fault, mapping);
			return;
		}
		pages++;
	}
	reply_set(r, "ok pages=%ju", (uintmax_t)pages);
}

struct words {
	volatile uint32_t *first;
	uint64_t count;
	uint32_t value;
	uint64_t done;	/* words filled, or equal so far */
	uint32_t other; /* the word that was not equal */
};

static void fill(void *context)
{
	struct words *words = context;

	for (; words->done < words->count; words->done++)
		words->first[words->done] = words->value;
}

static void compare(void *context)
{
	struct words *words = context;

	for (; words->done < words->count; words->done++) {
		words->other = words->first[words->done];
		if (words->other != words->value)
			return;
	}
}

static struct object *words_of(struct args *a, struct reply *r,
			       struct words *words, uint64_t *offset)
{
	uint64_t length, value;
	struct object *mapping = mapping_part(a, r, offset, &length);

	if (!mapping || !word_u64(a, r, 1, &value))
		return NULL;
	if (*offset % 4 || length % 4 || value > UINT32_MAX) {
		reply_usage(r, "%s: works on whole 32-bit words", a->op);
		return NULL;
	}
	memset(words, 0, sizeof(*words));
	words->first = (volatile uint32_t *)(mapping->base + *offset);
	words->count = length / 4;
	words->value = (uint32_t)value;
	return mapping;
}

void op_fill(struct args *a, struct reply *r)
{
	struct words words;
	uint64_t offset;
	struct object *mapping = words_of(a, r, &words, &offset);
	struct fault fault;

	if (!mapping)
		return;
	if (!guarded(fill, &words, &fault))
		reply_fault(r, &fault, mapping);
	else
		reply_set(r, "ok words=%ju", (uintmax_t)words.done);
}

void op_compare(struct args *a, struct reply *r)
{
	struct words words;
	uint64_t offset;
	struct object *mapping = words_of(a, r, &words, &offset);
	struct fault fault;

	if (!mapping)
		return;
	if (!guarded(compare, &words, &fault))
		reply_fault(r, &fault, mapping);
	else if (words.done == words.count)
		reply_set(r, "ok equal");
	else
		reply_set(r, "ok differs offset=0x%jx value=0x%08x",
			  (uintmax_t)(offset + 4 * words.done), words.other);
}

/* Flush the write-combining buffers of the processor. */
void op_fence(struct args *a, struct reply *r)
{
	(void)a;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#ifdef __x86_64__
	__builtin_ia32_sfence();
#endif
	reply_set(r, "ok");
}
