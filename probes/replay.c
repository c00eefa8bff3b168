// SPDX-License-Identifier: GPL-2.0-only
/* Carry out a transcript again and show the replies that differ. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "line.h"
#include "replay.h"
#include "text.h"

struct progress {
	unsigned int line;
	unsigned int operations;
	unsigned int different;
	char *asked; /* the operation whose reply has not been read yet */
	unsigned int asked_line;
	struct reply reply;
};

/* Run the operation and compare the reply; show it if none was recorded. */
static void run_and_compare(struct progress *p, const char *expected)
{
	char *copy;

	if (!p->asked)
		return;
	copy = must(strdup(p->asked));
	fflush(stdout);
	execute(copy, &p->reply);
	free(copy);
	p->operations++;
	if (!expected) {
		printf("line %u: > %s\n  recorded: nothing\n  now:      %s\n",
		       p->asked_line, p->asked, p->reply.text);
	} else if (strcmp(expected, p->reply.text)) {
		p->different++;
		printf("line %u: > %s\n  recorded: %s\n  now:      %s\n",
		       p->asked_line, p->asked, expected, p->reply.text);
	}
	free(p->asked);
	p->asked = NULL;
}

static bool take_line(struct progress *p, char *line)
{
	p->line++;
	line[strcspn(line, "\r\n")] = '\0';
	if (!strncmp(line, "> ", 2)) {
		run_and_compare(p, NULL);
		line += 2;
		line += strspn(line, " \t");
		if (!*line || *line == '#')
			return true; /* asks for nothing, so has no reply */
		p->asked = must(strdup(line));
		p->asked_line = p->line;
		return true;
	}
	/* Steps beside the actor, and what was expected. */
	if (!*line || *line == '#' || !strncmp(line, "! ", 2) ||
	    !strncmp(line, "= ", 2))
		return true;
	if (!p->asked) {
		fprintf(stderr,
			"actor: line %u: a reply without an operation; "
			"is this a transcript?\n",
			p->line);
		return false;
	}
	run_and_compare(p, line);
	return true;
}

int replay(const char *path)
{
	struct progress progress = { 0 };
	char *line = NULL;
	size_t room = 0;
	bool good = true;
	FILE *file = fopen(path, "re");

	if (!file) {
		fprintf(stderr, "actor: %s: %s\n", path, strerror(errno));
		return 2;
	}
	while (good && !progress.reply.last && getline(&line, &room, file) > 0)
		good = take_line(&progress, line);
	if (good && ferror(file)) {
		fprintf(stderr, "actor: %s: %s\n", path, strerror(errno));
		good = false;
	}
	if (good)
		run_and_compare(&progress, NULL);
	free(line);
	fclose(file);
	if (!good)
		return 2;
	printf("%u operations, %u replies differ\n", progress.operations,
	       progress.different);
	return progress.different ? 1 : 0;
}
