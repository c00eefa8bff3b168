// SPDX-License-Identifier: GPL-2.0-only
/*
 * Have the kernel access a mapping in a system call, which fails with EFAULT
 * where a load would raise a signal.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "object.h"
#include "operations.h"
#include "text.h"

#define BYTES_MAX PAGE /* fits in a pipe that nobody reads */

/* write() from the mapping to a pipe; reply with what arrived. */
static void copy_out(const unsigned char *place, size_t bytes, const int *ends,
		     struct reply *r)
{
	unsigned char arrived[BYTES_MAX];
	ssize_t done = write(ends[1], place, bytes), i;

	if (done > 0)
		done = read(ends[0], arrived, done);
	if (done < 0) {
		reply_errno(r, errno, "syscopy");
		return;
	}
	reply_set(r, "ok %zd data=", done);
	for (i = 0; i < done; i++)
		reply_add(r, "%02x", arrived[i]);
}

/* read() repetitions of @value into the mapping. */
static void copy_in(unsigned char *place, size_t bytes, uint32_t value,
		    const int *ends, struct reply *r)
{
	unsigned char content[BYTES_MAX];
	ssize_t done;
	size_t i;

	for (i = 0; i < sizeof(content); i += sizeof(value))
		memcpy(content + i, &value, sizeof(value));
	done = write(ends[1], content, bytes);
	if (done > 0)
		done = read(ends[0], place, bytes);
	if (done < 0)
		reply_errno(r, errno, "syscopy");
	else
		reply_set(r, "ok %zd", done);
}

void op_syscopy(struct args *a, struct reply *r)
{
	struct object *mapping = word_object(a, r, 0, MAPPING);
	uint64_t offset, bytes, value;
	bool out;
	int ends[2];

	if (!mapping || !option_u64(a, r, "offset", 0, &offset) ||
	    !option_u64(a, r, "bytes", 4, &bytes) ||
	    !option_u64(a, r, "value", 0, &value))
		return;
	out = !strcmp(a->word[1], "out");
	if (!out && strcmp(a->word[1], "in")) {
		reply_usage(r, "syscopy: '%s' is not out or in", a->word[1]);
		return;
	}
	if (!bytes || bytes > BYTES_MAX || offset > mapping->length ||
	    bytes > mapping->length - offset || value > UINT32_MAX) {
		reply_usage(r,
			    "syscopy: bytes= is 1 to %llu inside of the "
			    "mapping, value= has 32 bits",
			    BYTES_MAX);
		return;
	}
	if (pipe2(ends, O_CLOEXEC)) {
		reply_errno(r, errno, "syscopy: pipe");
		return;
	}
	if (out)
		copy_out(mapping->base + offset, bytes, ends, r);
	else
		copy_in(mapping->base + offset, bytes, (uint32_t)value, ends,
			r);
	close(ends[0]);
	close(ends[1]);
}
