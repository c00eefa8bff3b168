// SPDX-License-Identifier: GPL-2.0-only
/* Read, write, copy, truncate, fcntl() and reopen a descriptor. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "object.h"
#include "operations.h"
#include "text.h"

/* Each way returns what its system call returned, -1 with errno set. */
static ssize_t by_read(int fd)
{
	char bytes[16];

	return read(fd, bytes, sizeof(bytes));
}

static ssize_t by_write(int fd)
{
	return write(fd, "0123456789abcdef", 16);
}

static ssize_t by_pread(int fd)
{
	char bytes[16];

	return pread(fd, bytes, sizeof(bytes), 0);
}

static ssize_t by_pwrite(int fd)
{
	return pwrite(fd, "0123456789abcdef", 16, 0);
}

/* Move bytes between the descriptor and a pipe, either way. */
static ssize_t with_pipe(int fd, ssize_t (*move)(int fd, const int *ends))
{
	int ends[2], error;
	ssize_t done;

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK))
		return -1;
	done = write(ends[1], "0123456789abcdef", 16);
	if (done == 16)
		done = move(fd, ends);
	error = errno;
	close(ends[0]);
	close(ends[1]);
	errno = error;
	return done;
}

static ssize_t splice_out(int fd, const int *ends)
{
	return splice(fd, NULL, ends[1], NULL, 16, SPLICE_F_NONBLOCK);
}

static ssize_t splice_in(int fd, const int *ends)
{
	return splice(ends[0], NULL, fd, NULL, 16, SPLICE_F_NONBLOCK);
}

static ssize_t send_out(int fd, const int *ends)
{
	return sendfile(ends[1], fd, NULL, 16);
}

static ssize_t by_splice_out(int fd)
{
	return with_pipe(fd, splice_out);
}

static ssize_t by_splice_in(int fd)
{
	return with_pipe(fd, splice_in);
}

static ssize_t by_sendfile(int fd)
{
	return with_pipe(fd, send_out);
}

static ssize_t by_copy(int fd)
{
	off_t from = 0, to = PAGE;

	return copy_file_range(fd, &from, fd, &to, 16, 0);
}

static ssize_t by_truncate(int fd)
{
	return ftruncate(fd, 0);
}

static ssize_t by_allocate(int fd)
{
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			 PAGE);
}

void op_fdio(struct args *a, struct reply *r)
{
	static const struct {
		const char *name;
		ssize_t (*move)(int fd);
	} ways[] = {
		{ "read", by_read },
		{ "write", by_write },
		{ "pread", by_pread },
		{ "pwrite", by_pwrite },
		{ "spliceout", by_splice_out },
		{ "splicein", by_splice_in },
		{ "sendfile", by_sendfile },
		{ "copy", by_copy },
		{ "truncate", by_truncate },
		{ "punch", by_allocate },
	};
	struct object *buffer = word_object(a, r, 0, BUFFER);
	unsigned int i;
	ssize_t done;

	if (!buffer)
		return;
	for (i = 0; i < ARRAY_SIZE(ways); i++)
		if (!strcmp(ways[i].name, a->word[1]))
			break;
	if (i == ARRAY_SIZE(ways)) {
		reply_usage(r, "fdio: '%s' is no known way to move bytes",
			    a->word[1]);
		return;
	}
	done = ways[i].move(buffer->fd);
	if (done < 0)
		reply_errno(r, errno, "fdio");
	else
		reply_set(r, "ok %zd", done);
}

void op_setfl(struct args *a, struct reply *r)
{
	static const struct token modes[] = {
		{ "rdonly", O_RDONLY },
		{ "wronly", O_WRONLY },
		{ "rdwr", O_RDWR },
	};
	struct object *buffer = word_object(a, r, 0, BUFFER);
	uint64_t flags;

	if (!buffer)
		return;
	if (!parse_tokens(a->word[1], modes, ARRAY_SIZE(modes), &flags) ||
	    flags > INT32_MAX)
		reply_usage(r, "setfl: '%s' is not rdonly, wronly or rdwr",
			    a->word[1]);
	else if (fcntl(buffer->fd, F_SETFL, (int)flags))
		reply_errno(r, errno, "setfl");
	else
		reply_set(r, "ok");
}

void op_fdflags(struct args *a, struct reply *r)
{
	struct object *object = word_object(a, r, 0, DEVICE | BUFFER);
	static const char *const modes[] = { "rdonly", "wronly", "rdwr",
					     "none" };
	int flags, status;

	if (!object)
		return;
	flags = fcntl(object->fd, F_GETFD);
	status = fcntl(object->fd, F_GETFL);
	if (flags < 0 || status < 0)
		reply_errno(r, errno, "fdflags");
	else
		reply_set(r, "ok cloexec=%d mode=%s", !!(flags & FD_CLOEXEC),
			  modes[status & O_ACCMODE]);
}

/*
 * Open the file of a descriptor again by /proc/self/fd.  An O_PATH descriptor
 * holds the dentry without opening the file.
 */
void op_reopen(struct args *a, struct reply *r)
{
	static const struct token words[] = {
		{ "path", O_PATH },	  { "rdonly", O_RDONLY },
		{ "wronly", O_WRONLY },	  { "rdwr", O_RDWR },
		{ "cloexec", O_CLOEXEC },
	};
	struct object *buffer = word_object(a, r, 0, BUFFER), *again;
	const char *text = option_text(a, "open_flags") ?: "rdwr,cloexec";
	uint64_t flags;
	char path[32];
	int fd;

	if (!buffer)
		return;
	if (!parse_tokens(text, words, ARRAY_SIZE(words), &flags) ||
	    flags > INT32_MAX) {
		reply_usage(r, "reopen: open_flags=%s", text);
		return;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", buffer->fd);
	fd = open(path, (int)flags);
	if (fd < 0) {
		reply_errno(r, errno, "reopen");
		return;
	}
	again = object_new(BUFFER);
	again->fd = fd;
	reply_set(r, "ok %s", again->name);
}
