/* SPDX-License-Identifier: GPL-2.0-only */
/* Lines over a descriptor, with a deadline. */
#ifndef READER_H
#define READER_H

#include <stdbool.h>
#include <stddef.h>

#define LINE_MAX_BYTES (4u << 20)

struct reader {
	int fd;
	char *buffer;
	size_t used;
	size_t room;
	size_t scanned;
	bool overlong;
};

enum line_status {
	LINE_OK,
	LINE_UNFIT, /* too long, or contains NUL */
	LINE_END,
	LINE_LATE, /* nothing until the deadline */
};

enum line_status reader_line(struct reader *reader, char **line, int grace);
bool write_all(int fd, const char *data, size_t length);

#endif
