// SPDX-License-Identifier: GPL-2.0-only
/* Lines over a descriptor, with a deadline. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fault.h"
#include "reader.h"
#include "text.h"

#define READ_BYTES 65536

/* Remove the line that the last call returned. */
static void reader_drop(struct reader *reader)
{
	if (!reader->scanned)
		return;
	reader->used -= reader->scanned;
	memmove(reader->buffer, reader->buffer + reader->scanned, reader->used);
	reader->scanned = 0;
}

static bool reader_cut(struct reader *reader, char **line,
		       enum line_status *status)
{
	char *newline = NULL;

	if (reader->used)
		newline = memchr(reader->buffer, '\n', reader->used);
	if (!newline)
		return false;
	*newline = '\0';
	*line = reader->buffer;
	*status = LINE_OK;
	/* A NUL inside would hide the rest of the line. */
	if (reader->overlong || *line + strlen(*line) != newline)
		*status = LINE_UNFIT;
	reader->overlong = false;
	reader->scanned = newline + 1 - reader->buffer;
	return true;
}

/*
 * Read the next line into @line, without newline; valid until the next call.
 * Wait until @grace milliseconds after the deadline, or for ever if negative.
 */
enum line_status reader_line(struct reader *reader, char **line, int grace)
{
	struct pollfd poller = { .fd = reader->fd, .events = POLLIN };
	enum line_status status;
	ssize_t got;
	int ready;

	reader_drop(reader);
	while (!reader_cut(reader, line, &status)) {
		if (reader->used > LINE_MAX_BYTES) {
			reader->overlong = true;
			reader->used = 0;
		}
		if (reader->used + READ_BYTES > reader->room) {
			reader->room = 2 * reader->room + READ_BYTES;
			reader->buffer =
				must(realloc(reader->buffer, reader->room));
		}
		ready = grace < 0 ? 1 : poll(&poller, 1, deadline_left(grace));
		if (!ready)
			return LINE_LATE;
		if (ready < 0)
			continue;
		got = read(reader->fd, reader->buffer + reader->used,
			   READ_BYTES);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return LINE_END;
		reader->used += got;
	}
	return status;
}

/* Write all; false if the reader is gone, or full until the deadline. */
bool write_all(int fd, const char *data, size_t length)
{
	ssize_t done;

	while (length) {
		done = write(fd, data, length);
		if (done < 0 && errno == EINTR && !deadline_passed())
			continue;
		if (done < 0)
			return false;
		data += done;
		length -= done;
	}
	return true;
}
