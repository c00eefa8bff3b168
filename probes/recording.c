// SPDX-License-Identifier: GPL-2.0-only
/* Read a transcript: PROTOCOL.md, "Transcripts". */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "recording.h"
#include "text.h"

/* harness/actor/steps.py has the same names. */
static const char *const measured[] = {
	"footprint",  "hammered", "unhammer", "attempts", "together",
	"faults",     "memory",	  "touch",    "watched",  "counted",
	"clock",      "stack",	  "held",     "ended",	  "impcounts",
	"imprecords", "wakeups",  "fds",      "confine",  "version",
};
static const char *const polled[] = { "read",  "ended",	    "ready",
				      "stack", "impcounts", "hammered" };

static bool is_one_of(const struct step *step, const char *const *names,
		      size_t count)
{
	const char *verb = step->text;
	size_t i;

	if (step->mark != '>')
		return false;
	while (*verb == '@' || *verb == '&') {
		verb += strcspn(verb, " ");
		verb += strspn(verb, " ");
	}
	for (i = 0; i < count; i++)
		if (strcspn(verb, " ") == strlen(names[i]) &&
		    !strncmp(verb, names[i], strlen(names[i])))
			return true;
	return false;
}

bool step_measured(const struct step *step)
{
	return is_one_of(step, measured, ARRAY_SIZE(measured));
}

bool step_polls(const struct step *step)
{
	return is_one_of(step, polled, ARRAY_SIZE(polled));
}

static void add(struct recording *recording, char mark, const char *text,
		unsigned int line)
{
	struct step *step;

	recording->steps = must(realloc(
		recording->steps, (recording->count + 1) * sizeof(*step)));
	step = &recording->steps[recording->count++];
	memset(step, 0, sizeof(*step));
	step->mark = mark;
	step->line = line;
	step->text = must(strdup(text));
}

static bool misplaced(unsigned int number, const char *what)
{
	fprintf(stderr,
		"actor: line %u: %s without an operation; is this a "
		"transcript?\n",
		number, what);
	return false;
}

static bool take_line(struct recording *recording, const char *line,
		      unsigned int number)
{
	struct step *last = NULL;

	if (recording->count)
		last = &recording->steps[recording->count - 1];
	if (number == 1)
		recording->old = strcmp(line, "# transcript 2");
	if (!*line || *line == '#')
		return true;
	if (!strncmp(line, "> ", 2) || !strncmp(line, "! ", 2)) {
		char mark = *line;

		line += 2;
		line += strspn(line, " \t");
		if (*line && *line != '#')
			add(recording, mark, line, number);
		return true;
	}
	if (!strncmp(line, "= ", 2)) {
		if (!last || last->expected)
			return misplaced(number, "a pattern");
		last->expected = must(strdup(line + 2));
		return true;
	}
	if (!last || last->recorded)
		return misplaced(number, "a reply");
	last->recorded = must(strdup(line));
	return true;
}

bool recording_read(struct recording *recording, const char *path)
{
	FILE *file = fopen(path, "re");
	unsigned int number = 0;
	char *line = NULL;
	size_t room = 0;
	bool good = true;

	memset(recording, 0, sizeof(*recording));
	if (!file) {
		fprintf(stderr, "actor: %s: %s\n", path, strerror(errno));
		return false;
	}
	while (good && getline(&line, &room, file) > 0) {
		line[strcspn(line, "\r\n")] = '\0';
		good = take_line(recording, line, ++number);
	}
	if (good && ferror(file)) {
		fprintf(stderr, "actor: %s: %s\n", path, strerror(errno));
		good = false;
	}
	free(line);
	fclose(file);
	return good;
}
