// SPDX-License-Identifier: GPL-2.0
/* Read a transcript (probes/PROTOCOL.md). */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kit.h"

static struct step *add(struct transcript *transcript)
{
	transcript->steps = must(
		realloc(transcript->steps,
			(transcript->count + 1) * sizeof(*transcript->steps)));
	return memset(&transcript->steps[transcript->count++], 0,
		      sizeof(*transcript->steps));
}

static void take_line(struct transcript *transcript, const char *line,
		      unsigned int number)
{
	struct step *last = NULL, *step;

	if (transcript->count)
		last = &transcript->steps[transcript->count - 1];
	if (!*line || *line == '#')
		return;
	if (!strncmp(line, "> ", 2) || !strncmp(line, "! ", 2)) {
		step = add(transcript);
		step->kind = *line == '>' ? STEP_OPERATION : STEP_ENVIRONMENT;
		step->line = number;
		step->text = must(strdup(line + 2));
	} else if (!strncmp(line, "= ", 2)) {
		if (!last)
			give_up("Line %u of the transcript expects a reply "
				"that nothing asks for.",
				number);
		last->expected = must(strdup(line + 2));
	} else if (last && !last->recorded) {
		last->recorded = must(strdup(line));
	} else {
		give_up("Line %u of the transcript is a reply that nothing "
			"asks for.",
			number);
	}
}

void transcript_read(struct transcript *transcript, const char *path)
{
	FILE *file = fopen(path, "re");
	unsigned int number = 0;
	char *line = NULL;
	size_t room = 0;

	if (!file)
		give_up("%s cannot be read: %s.", path, strerror(errno));
	while (getline(&line, &room, file) > 0) {
		line[strcspn(line, "\r\n")] = '\0';
		take_line(transcript, line, ++number);
	}
	if (ferror(file))
		give_up("%s cannot be read: %s.", path, strerror(errno));
	free(line);
	fclose(file);
}
