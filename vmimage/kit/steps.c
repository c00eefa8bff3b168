// SPDX-License-Identifier: GPL-2.0
/* The steps of a transcript that begin with "! " (probes/PROTOCOL.md). */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "kit.h"

#define WORDS_MAX 8
#define GUEST_WORDS 4 /* "guest write PATH TEXT": the text may have blanks */

/* Cut @text at its blanks; the last of @most words has the rest. */
static unsigned int split(char *text, char **words, unsigned int most)
{
	unsigned int count;

	for (count = 0; text && count + 1 < most; count++)
		words[count] = strsep(&text, " ");
	if (text)
		words[count++] = text;
	return count;
}

/* "actor N KIND": the actor N begins, or the operations that follow are its own. */
static void actor_step(char **words, unsigned int count)
{
	unsigned int number = count > 1 ? strtoul(words[1], NULL, 10) : 0;

	if (number == actors_begun() + 1)
		actor_start();
	else
		actor_choose(number);
}

bool environment(const char *text, char **reply)
{
	char *copy = must(strdup(text)), *words[WORDS_MAX];
	bool guest = !strncmp(text, "guest ", strlen("guest "));
	unsigned int count =
		split(copy, words, guest ? GUEST_WORDS : WORDS_MAX);
	bool ended = true;

	*reply = NULL;
	if (guest && count > 1)
		ended = guest_step(words + 1, count - 1, reply);
	else if (!strcmp(words[0], "host") && count > 1)
		*reply = memory_step(words + 1, count - 1);
	else if (!strcmp(words[0], "actor"))
		actor_step(words, count);
	else if (!strcmp(words[0], "end") && count > 1)
		actor_end(strtoul(words[1], NULL, 10));
	else if (strcmp(words[0], "machine") && strcmp(words[0], "device"))
		give_up("This step is not known here: %s.", text);
	free(copy);
	return ended;
}
