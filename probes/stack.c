// SPDX-License-Identifier: GPL-2.0-only
/* Report where in the kernel another actor is. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fault.h"
#include "operations.h"
#include "process.h"
#include "text.h"

#define LOOKS 20 /* at a sleep, a millisecond apart, before it counts */

/* Read the state of a process, such as D; 0 if it has none any more. */
static char state_of(pid_t process)
{
	char path[32], line[256], *end;
	char state = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", process);
	file = fopen(path, "re");
	if (!file)
		return 0;
	/* The name in parentheses may hold anything; proc_pid_stat(5). */
	if (fgets(line, sizeof(line), file) && (end = strrchr(line, ')')) &&
	    end[1] == ' ')
		state = end[2];
	fclose(file);
	return state;
}

/* Add the functions of a kernel stack, "[<0>] NAME+0x1/0x2", from the top. */
static void add_functions(FILE *file, struct reply *r)
{
	const char *separator = "";
	char *line = NULL, *name;
	size_t room = 0;

	while (getline(&line, &room, file) > 0) {
		name = strstr(line, "] ");
		if (!name)
			continue;
		name += 2;
		name[strcspn(name, "+ \n")] = '\0';
		reply_add(r, "%s%s", separator, name);
		separator = ",";
	}
	free(line);
}

/* Set the reply to the state and the kernel stack of a process. */
static bool reply_place(const struct args *a, struct reply *r, pid_t process)
{
	char path[32], state;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stack", process);
	file = fopen(path, "re");
	state = file ? state_of(process) : 0;
	if (state) {
		reply_set(r, "ok state=%c stack=", state);
		add_functions(file, r);
	} else {
		reply_errno(r, errno, a->op);
	}
	if (file)
		fclose(file);
	return state;
}

/*
 * Report where the main thread of a child is.  The stack of a process that runs
 * is out of date when it is read.
 */
void op_stack(struct args *a, struct reply *r)
{
	pid_t process = word_process(a, r, 0);

	if (process >= 0)
		reply_place(a, r, process);
}

/* Look for one of the @functions, separated by commas, in a kernel stack. */
static bool is_inside(const char *stack, const char *functions)
{
	const char *name, *here;
	size_t length, depth;

	for (name = functions; *name; name += length + !!name[length]) {
		length = strcspn(name, ",");
		for (here = stack; *here; here += depth + !!here[depth]) {
			depth = strcspn(here, ",");
			/* A clone of the compiler: NAME.isra.0 */
			if (length && !strncmp(here, name, length) &&
			    strchr(".,", here[length]))
				return true;
		}
	}
	return false;
}

/*
 * Wait until a child sleeps in a function, or ends what it has begun.  A lock
 * that it waits for shows in no function: /proc/PID/stack leaves them out.  So
 * `asleep` is any uninterruptible sleep that lasts for a number of looks.
 */
void op_held(struct args *a, struct reply *r)
{
	struct timespec moment = { .tv_nsec = 1000000 };
	bool anywhere = !strcmp(a->word[1], "asleep");
	pid_t process = word_process(a, r, 0);
	struct reply last = { 0 };
	unsigned int looks = 0;

	reply_set(&last, "none");
	while (process >= 0 && child_works(a, r)) {
		const char *stack;
		char state;

		if (deadline_passed()) {
			reply_set(r, "timeout");
			break;
		}
		if (!reply_place(a, r, process))
			break;
		state = r->text[strlen("ok state=")];
		stack = strstr(r->text, "stack=") + strlen("stack=");
		if (strcmp(r->text, last.text) || state != 'D')
			looks = 0;
		if (anywhere ? looks++ == LOOKS
			     : strchr("DS", state) &&
				       is_inside(stack, a->word[1]))
			break;
		reply_set(&last, "%s", r->text);
		nanosleep(&moment, NULL);
	}
	free(last.text);
}
