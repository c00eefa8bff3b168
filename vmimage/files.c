// SPDX-License-Identifier: GPL-2.0
/*
 * Reads and writes files of the guest on request (harness/guest/files.py): of
 * sysfs, procfs and debugfs, to bind devices and to read the kernel's health.
 *
 * A request is a line: steps with a tab between them, each a letter and words
 * with a blank between them; the last word may have blanks.  The steps are
 * done in order, up to the first that fails.  The reply is a line with a word
 * for each step that was done, and a tab after each.
 *
 *   r PATH       read a file: "=" and its content, in which \n, \t and \\
 *                stand for a newline, a tab and a backslash
 *   w PATH TEXT  write a text and a newline to a file: "="
 *   p PATH       it must be there: "="
 *   a PATH       it must be absent: "="
 *   R, W         as r and w, but a file that is absent gives "-"
 *
 * The word of a step that fails is "!" and the reason.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK 65536

static void put_escaped(const char *data, size_t length)
{
	size_t i;

	for (i = 0; i < length; i++) {
		switch (data[i]) {
		case '\n':
			fputs("\\n", stdout);
			break;
		case '\t':
			fputs("\\t", stdout);
			break;
		case '\\':
			fputs("\\\\", stdout);
			break;
		default:
			putchar_unlocked(data[i]);
		}
	}
}

/* All return 0, or an errno; a file is written by one write(). */
static int read_file(const char *path)
{
	static char *data;
	static size_t room;
	size_t length = 0;
	int fd, error = 0;
	ssize_t n;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno;
	do {
		if (room - length < CHUNK) {
			room = 2 * room + CHUNK;
			data = realloc(data, room);
			if (!data)
				exit(1);
		}
		n = read(fd, data + length, CHUNK);
		length += n > 0 ? n : 0;
	} while (n > 0);
	if (n < 0)
		error = errno;
	close(fd);
	if (error)
		return error;
	putchar('=');
	put_escaped(data, length);
	return 0;
}

static int write_file(const char *path, char *text)
{
	size_t length = strlen(text);
	int fd, error = 0;
	ssize_t n;

	fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	if (fd < 0)
		return errno;
	text[length++] = '\n';
	n = write(fd, text, length);
	if (n != (ssize_t)length)
		error = n < 0 ? errno : EIO;
	text[length - 1] = 0;
	close(fd);
	if (!error)
		putchar('=');
	return error;
}

static int look(const char *path, int wanted)
{
	int there = !access(path, F_OK);

	if (there != wanted)
		return there ? EEXIST : ENOENT;
	putchar('=');
	return 0;
}

/* Do a step and put its word; return 0 if it failed. */
static int do_step(char *step)
{
	char letter = step[0], *path = step + !!letter, *text;
	int error = EINVAL;

	if (letter && path[0] == ' ')
		path++;
	text = strchr(path, ' ');
	if (letter == 'r' || letter == 'R') {
		error = read_file(path);
	} else if ((letter == 'w' || letter == 'W') && text) {
		*text++ = 0;
		error = write_file(path, text);
	} else if (letter == 'p' || letter == 'a') {
		error = look(path, letter == 'p');
	}
	if (error == ENOENT && (letter == 'R' || letter == 'W')) {
		putchar('-');
		error = 0;
	}
	if (error)
		printf("!%s: %s", path, strerror(error));
	putchar('\t');
	return !error;
}

int main(void)
{
	char *line = NULL, *rest, *step;
	size_t room = 0;
	ssize_t length;

	while ((length = getline(&line, &room, stdin)) > 0) {
		line[length - 1] = 0;
		rest = line;
		while ((step = strsep(&rest, "\t")) && do_step(step))
			;
		putchar('\n');
		if (fflush(stdout))
			return 1;
	}
	return 0;
}
