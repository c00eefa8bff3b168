// SPDX-License-Identifier: GPL-2.0-only
/* Other calls of mm/ on a mapping: advice, locks, other places, other files. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/userfaultfd.h>

#include "mapping.h"
#include "object.h"
#include "operations.h"
#include "text.h"

#define SYS_MSEAL 462	   /* include/uapi/asm-generic/unistd.h */
#define WP_ASYNC (1 << 15) /* UFFD_FEATURE_WP_ASYNC, linux/userfaultfd.h */

void op_madvise(struct args *a, struct reply *r)
{
	static const struct token advices[] = {
		{ "normal", MADV_NORMAL },
		{ "willneed", MADV_WILLNEED },
		{ "dontneed", MADV_DONTNEED },
		{ "free", MADV_FREE },
		{ "remove", MADV_REMOVE },
		{ "dontfork", MADV_DONTFORK },
		{ "dofork", MADV_DOFORK },
		{ "random", MADV_RANDOM },
		{ "sequential", MADV_SEQUENTIAL },
		{ "dontdump", MADV_DONTDUMP },
		{ "dodump", MADV_DODUMP },
		{ "wipeonfork", MADV_WIPEONFORK },
		{ "keeponfork", MADV_KEEPONFORK },
		{ "mergeable", MADV_MERGEABLE },
		{ "cold", MADV_COLD },
		{ "pageout", MADV_PAGEOUT },
		{ "populate_read", MADV_POPULATE_READ },
		{ "populate_write", MADV_POPULATE_WRITE },
		{ "hugepage", MADV_HUGEPAGE },
		{ "nohugepage", MADV_NOHUGEPAGE },
		/* asm-generic/mman-common.h; newer than some C library */
		{ "dontneed_locked", 24 },
		{ "collapse", 25 },
		{ "guard_install", 102 },
		{ "guard_remove", 103 },
	};
	uint64_t offset, length, advice;
	struct object *mapping = mapping_part(a, r, &offset, &length);

	if (!mapping)
		return;
	if (!parse_tokens(a->word[1], advices, ARRAY_SIZE(advices), &advice) ||
	    advice > INT32_MAX) {
		reply_usage(r, "madvise: '%s' is no known advice", a->word[1]);
		return;
	}
	if (madvise(mapping->base + offset, length, (int)advice))
		reply_errno(r, errno, "madvise");
	else
		reply_set(r, "ok");
}

void op_msync(struct args *a, struct reply *r)
{
	static const struct token ways[] = {
		{ "async", MS_ASYNC },
		{ "sync", MS_SYNC },
		{ "invalidate", MS_INVALIDATE },
	};
	uint64_t offset, length, flags;
	struct object *mapping = mapping_part(a, r, &offset, &length);

	if (!mapping)
		return;
	if (!parse_tokens(a->word[1], ways, ARRAY_SIZE(ways), &flags) ||
	    flags > INT32_MAX)
		reply_usage(r, "msync: '%s' is not async, sync or invalidate",
			    a->word[1]);
	else if (msync(mapping->base + offset, length, (int)flags))
		reply_errno(r, errno, "msync");
	else
		reply_set(r, "ok");
}

void op_mlock(struct args *a, struct reply *r)
{
	uint64_t offset, length;
	struct object *mapping = mapping_part(a, r, &offset, &length);

	if (!mapping)
		return;
	if (mlock(mapping->base + offset, length))
		reply_errno(r, errno, "mlock");
	else
		reply_set(r, "ok");
}

void op_mlockall(struct args *a, struct reply *r)
{
	static const struct token ways[] = {
		{ "none", 0 },
		{ "current", MCL_CURRENT },
		{ "future", MCL_FUTURE },
	};
	uint64_t flags;

	if (!parse_tokens(a->word[0], ways, ARRAY_SIZE(ways), &flags) ||
	    flags > INT32_MAX)
		reply_usage(r, "mlockall: '%s' is not none, current or future",
			    a->word[0]);
	else if (flags ? mlockall((int)flags) : munlockall())
		reply_errno(r, errno, "mlockall");
	else
		reply_set(r, "ok");
}

/* Map a part of a buffer over a part of a mapping. */
void op_mapover(struct args *a, struct reply *r)
{
	uint64_t offset, length, from, keep;
	struct object *mapping = mapping_part(a, r, &offset, &length), *buffer;
	int flags = MAP_SHARED | MAP_FIXED;

	if (!mapping || !(buffer = word_object(a, r, 1, BUFFER)) ||
	    !option_u64(a, r, "from", 0, &from) ||
	    !option_u64(a, r, "noreplace", 0, &keep))
		return;
	if (keep)
		flags = MAP_SHARED | MAP_FIXED_NOREPLACE;
	if (mmap(mapping->base + offset, length, PROT_READ | PROT_WRITE, flags,
		 buffer->fd, (off_t)from) == MAP_FAILED)
		reply_errno(r, errno, "mapover");
	else
		reply_set(r, "ok");
}

/* Map at an address of the user's choice, if nothing is mapped there. */
void op_mapat(struct args *a, struct reply *r)
{
	struct object *buffer = word_object(a, r, 0, BUFFER), *mapping;
	uint64_t address, length, offset;
	void *base;

	if (!buffer || !word_u64(a, r, 1, &address) ||
	    !option_u64(a, r, "length", 0, &length) ||
	    !option_u64(a, r, "offset", 0, &offset))
		return;
	base = mmap((void *)address, length, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_FIXED_NOREPLACE, buffer->fd,
		    (off_t)offset);
	if (base == MAP_FAILED) {
		reply_errno(r, errno, "mapat");
		return;
	}
	mapping = object_new(MAPPING);
	mapping->base = base;
	mapping->length = (length + PAGE - 1) & ~(PAGE - 1);
	reply_set(r, "ok %s", mapping->name);
}

void op_remapfile(struct args *a, struct reply *r)
{
	uint64_t offset, length, page;
	struct object *mapping = mapping_part(a, r, &offset, &length);

	if (!mapping || !word_u64(a, r, 1, &page))
		return;
	if (remap_file_pages(mapping->base + offset, length, 0, page, 0))
		reply_errno(r, errno, "remapfile");
	else
		reply_set(r, "ok");
}

void op_mseal(struct args *a, struct reply *r)
{
	uint64_t offset, length;
	struct object *mapping = mapping_part(a, r, &offset, &length);

	if (!mapping)
		return;
	if (syscall(SYS_MSEAL, mapping->base + offset, length, 0))
		reply_errno(r, errno, "mseal");
	else
		reply_set(r, "ok");
}

static int userfaultfd(uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Register a mapping; close() of the userfaultfd, a buffer, unregisters it. */
void op_userfault(struct args *a, struct reply *r)
{
	static const struct token modes[] = {
		{ "missing", UFFDIO_REGISTER_MODE_MISSING },
		{ "wp", UFFDIO_REGISTER_MODE_WP },
		{ "wpasync", UFFDIO_REGISTER_MODE_WP },
		{ "minor", UFFDIO_REGISTER_MODE_MINOR },
	};
	struct object *mapping = word_object(a, r, 0, MAPPING), *faults;
	struct uffdio_writeprotect protect = {
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	struct uffdio_register asked = { 0 };
	bool async = !strcmp(a->word[1], "wpasync");
	uint64_t mode;
	int fd;

	if (!mapping)
		return;
	if (!parse_tokens(a->word[1], modes, ARRAY_SIZE(modes), &mode)) {
		reply_usage(r,
			    "userfault: '%s' is not missing, wp, wpasync or "
			    "minor",
			    a->word[1]);
		return;
	}
	fd = userfaultfd(async ? WP_ASYNC : 0);
	if (fd < 0) {
		reply_errno(r, errno, "userfault: userfaultfd");
		return;
	}
	asked.range.start = (uintptr_t)mapping->base;
	asked.range.len = mapping->length;
	asked.mode = mode;
	if (ioctl(fd, UFFDIO_REGISTER, &asked)) {
		reply_errno(r, errno, "userfault");
		close(fd);
		return;
	}
	protect.range = asked.range;
	if (async && ioctl(fd, UFFDIO_WRITEPROTECT, &protect)) {
		reply_errno(r, errno, "userfault: UFFDIO_WRITEPROTECT");
		close(fd);
		return;
	}
	faults = object_new(BUFFER);
	faults->fd = fd;
	reply_set(r, "ok %s", faults->name);
}

/* Open the file of a mapping by /proc/self/map_files. */
void op_mapfile(struct args *a, struct reply *r)
{
	struct object *mapping = word_object(a, r, 0, MAPPING), *buffer;
	char path[96];
	int fd;

	if (!mapping)
		return;
	snprintf(path, sizeof(path), "/proc/self/map_files/%jx-%jx",
		 (uintmax_t)(uintptr_t)mapping->base,
		 (uintmax_t)(uintptr_t)mapping->base + mapping->length);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		reply_errno(r, errno, "mapfile");
		return;
	}
	buffer = object_new(BUFFER);
	buffer->fd = fd;
	reply_set(r, "ok %s", buffer->name);
}

/* Map inaccessible pages, which MREMAP_FIXED is to replace. */
static void *reserve(uint64_t length)
{
	return mmap(NULL, length, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

/* With an old length of 0, or MREMAP_DONTUNMAP, the old mapping stays. */
void op_mremap(struct args *a, struct reply *r)
{
	static const struct token flag_words[] = {
		{ "none", 0 },
		{ "maymove", MREMAP_MAYMOVE },
		{ "fixed", MREMAP_FIXED },
		{ "dontunmap", MREMAP_DONTUNMAP },
	};
	struct object *mapping = word_object(a, r, 0, MAPPING), *result;
	const char *flag_text = option_text(a, "flags") ?: "maymove";
	uint64_t length, flags, duplicate;
	void *place = NULL, *base;

	if (!mapping || !word_u64(a, r, 1, &length) ||
	    !option_u64(a, r, "duplicate", 0, &duplicate) ||
	    mapping_is_hammered(a, r, mapping))
		return;
	if (!parse_tokens(flag_text, flag_words, ARRAY_SIZE(flag_words),
			  &flags) ||
	    flags > INT32_MAX) {
		reply_usage(r,
			    "mremap: flags=%s is not none, maymove, fixed "
			    "or dontunmap",
			    flag_text);
		return;
	}
	if (flags & MREMAP_FIXED)
		place = reserve(length);
	base = mremap(mapping->base, duplicate ? 0 : mapping->length, length,
		      (int)flags, place);
	if (base == MAP_FAILED) {
		reply_errno(r, errno, "mremap");
		if (place)
			munmap(place, length);
		return;
	}
	result = mapping;
	if (duplicate || flags & MREMAP_DONTUNMAP)
		result = object_new(MAPPING);
	result->base = base;
	result->length = mapping_page_up(length);
	if (result == mapping)
		reply_set(r, "ok");
	else
		reply_set(r, "ok %s", result->name);
}
