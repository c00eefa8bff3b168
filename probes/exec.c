// SPDX-License-Identifier: GPL-2.0-only
/* exec() of this program: only descriptors without close-on-exec remain. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "exec.h"
#include "fault.h"
#include "object.h"
#include "operations.h"
#include "process.h"
#include "reader.h"
#include "text.h"

/* The path of each DMABUF in /proc begins so: fs/dcache.c, d_path() */
#define DMABUF "/dmabuf:"

/* Only a failure is answered here; the new image answers a success. */
void op_exec(struct args *a, struct reply *r)
{
	char *argv[] = { "actor", "--resume", NULL };
	char *none[] = { NULL };

	(void)a;
	if (!process_is_child()) {
		reply_usage(r, "exec: this actor has no parent, so the "
			       "transcript would end here");
		return;
	}
	/* A timer survives exec(), a signal handler does not. */
	deadline_stop();
	execve("/proc/self/exe", argv, none);
	reply_errno(r, errno, "exec");
}

static unsigned int dmabuf_vmas(void)
{
	FILE *maps = must(fopen("/proc/self/maps", "re"));
	unsigned int count = 0;
	char *line = NULL;
	size_t room = 0;

	while (getline(&line, &room, maps) > 0)
		count += !!strstr(line, " " DMABUF);
	free(line);
	fclose(maps);
	return count;
}

/* Name the DMABUFs that are still open; count those still mapped. */
static void reply_resumed(struct reply *r)
{
	DIR *folder = must(opendir("/proc/self/fd"));
	struct dirent *entry;
	struct object *buffer;
	char target[64];

	reply_set(r, "ok vmas=%u", dmabuf_vmas());
	while ((entry = readdir(folder))) {
		ssize_t length = readlinkat(dirfd(folder), entry->d_name,
					    target, sizeof(target) - 1);

		target[length < 0 ? 0 : length] = '\0';
		if (strncmp(target, DMABUF, strlen(DMABUF)))
			continue;
		buffer = object_new(BUFFER);
		buffer->fd = atoi(entry->d_name);
		reply_add(r, " %s", buffer->name);
	}
	closedir(folder);
	reply_add(r, "\n");
}

/* Write the pending reply of op_exec(); false if nobody reads it. */
bool resume(void)
{
	struct reply reply = { 0 };
	bool written;

	reply_resumed(&reply);
	written = write_all(STDOUT_FILENO, reply.text, reply.length);
	free(reply.text);
	return written;
}
