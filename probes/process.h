/* SPDX-License-Identifier: GPL-2.0-only */
/* Child actors, and lines over a descriptor. */
#ifndef PROCESS_H
#define PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "text.h"

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
void process_init(bool is_child, int (*serve)(void));
void process_resume(int (*serve)(void));
bool process_is_child(void);
void relay(char *line, struct reply *r);
bool child_works(const struct args *a, struct reply *r);
pid_t word_process(const struct args *a, struct reply *r, unsigned int index);

#endif
