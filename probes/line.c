// SPDX-License-Identifier: GPL-2.0-only
/*
 * Find the operation of a line, check the line against its usage, and run it
 * under a deadline.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fault.h"
#include "line.h"
#include "operations.h"
#include "process.h"
#include "reader.h"
#include "text.h"

static const struct operation *operation_find(const char *name)
{
	size_t length = strlen(name), i;

	for (i = 0; i < operations_count; i++)
		if (strcspn(operations[i].usage, " ") == length &&
		    !memcmp(operations[i].usage, name, length))
			return &operations[i];
	return NULL;
}

static const char *next_word(const char *usage, size_t *length)
{
	usage += strspn(usage, " ");
	*length = strcspn(usage, " ");
	return usage;
}

/* Look for the option @key in @usage: "[key=..." or "key=...". */
static bool usage_takes(const char *usage, const char *key)
{
	size_t length;

	for (usage = next_word(usage, &length); length;
	     usage = next_word(usage + length, &length)) {
		const char *word = usage + (*usage == '[');

		if (!strncmp(word, key, strlen(key)) &&
		    word[strlen(key)] == '=')
			return true;
	}
	return false;
}

/* Compare a line with the usage text of its operation. */
static bool check_usage(const struct operation *operation, const struct args *a,
			struct reply *r)
{
	unsigned int least = 0, most = 0, i;
	const char *usage = operation->usage, *word;
	size_t length, name;
	char key[32];

	next_word(usage, &length);
	for (word = next_word(usage + length, &length); length;
	     word = next_word(word + length, &length)) {
		bool optional = *word == '[';

		name = strcspn(word, "=");
		if (name >= length) {
			least += !optional;
			most++;
			continue;
		}
		snprintf(key, sizeof(key), "%.*s", (int)name, word);
		if (!optional && !option_text(a, key)) {
			reply_usage(r, "%s", usage);
			return false;
		}
	}
	if (a->words < least || a->words > most) {
		reply_usage(r, "%s", usage);
		return false;
	}
	for (i = 0; i < a->options; i++) {
		if (strcmp(a->option[i].key, "deadline") &&
		    !usage_takes(usage, a->option[i].key)) {
			reply_usage(r, "%s: no option %s=; %s", a->op,
				    a->option[i].key, usage);
			return false;
		}
	}
	return true;
}

/* Find the deadline= of a line, in seconds, before the line is parsed. */
static bool line_deadline(const char *line, struct reply *r,
			  unsigned int *seconds)
{
	static const char key[] = " deadline=";
	const char *found = strstr(line, key);
	char number[16];
	uint64_t value;

	*seconds = DEADLINE_DEFAULT;
	if (!found)
		return true;
	found += strlen(key);
	snprintf(number, sizeof(number), "%.*s", (int)strcspn(found, " \t\r"),
		 found);
	if (!parse_u64(number, &value) || !value || value > DEADLINE_MAX) {
		reply_usage(r, "deadline= is a number of seconds from 1 to %d",
			    DEADLINE_MAX);
		return false;
	}
	*seconds = (unsigned int)value;
	return true;
}

static void run_line(char *line, struct reply *r)
{
	const struct operation *operation;
	struct args a;

	if (*line == '@' || *line == '&') {
		relay(line, r);
		return;
	}
	if (!parse_line(line, &a, r))
		return;
	operation = operation_find(a.op);
	if (!operation) {
		reply_usage(r,
			    "there is no operation '%s'; actor --help lists "
			    "them",
			    a.op);
		return;
	}
	if (check_usage(operation, &a, r))
		operation->run(&a, r);
}

static struct span latest, previous;

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

struct span line_previous(void)
{
	return previous;
}

/*
 * Carry out one line; false if it is blank or a comment.  A call that SIGALRM
 * interrupts returns EINTR, which is no answer of the kernel's: a timeout.
 */
bool execute(char *line, struct reply *r)
{
	unsigned int seconds;

	line += strspn(line, " \t\r");
	if (!*line || *line == '#')
		return false;
	reply_reset(r);
	if (!line_deadline(line, r, &seconds))
		return true;
	previous = latest;
	deadline_start(seconds);
	latest.began = now();
	run_line(line, r);
	latest.ended = now();
	deadline_stop();
	if (deadline_passed() && !strncmp(r->text, "error EINTR ", 12))
		reply_set(r, "timeout");
	return true;
}

/* Serve stdin until its end; return the exit code. */
int serve(void)
{
	struct reader reader = { .fd = STDIN_FILENO };
	struct reply reply = { 0 };
	bool person = isatty(STDIN_FILENO);
	enum line_status status;
	char *line;

	for (;;) {
		if (person)
			write_all(STDOUT_FILENO, "> ", 2);
		status = reader_line(&reader, &line, -1);
		if (status == LINE_END)
			return 0;
		reply_reset(&reply);
		if (status == LINE_UNFIT)
			reply_usage(&reply,
				    "a line has at most %u bytes, none "
				    "of them NUL",
				    LINE_MAX_BYTES);
		else if (!execute(line, &reply))
			continue;
		reply_add(&reply, "\n");
		if (!write_all(STDOUT_FILENO, reply.text, reply.length))
			return 1;
		if (reply.last)
			return 0;
	}
}
