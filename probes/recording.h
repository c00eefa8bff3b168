/* SPDX-License-Identifier: GPL-2.0-only */
/* A transcript, read from its file. */
#ifndef RECORDING_H
#define RECORDING_H

#include <stdbool.h>
#include <stddef.h>

struct step {
	char mark;	   /* '>' for an operation, '!' for another step */
	unsigned int line; /* in the file, from 1 */
	char *text;	   /* without the mark */
	char *recorded;	   /* the reply, NULL if there was none */
	char *expected;	   /* the pattern of a "= " line, NULL without one */
};

struct recording {
	bool old; /* without a version: operations of one actor only */
	struct step *steps;
	size_t count;
};

/* Read a transcript; false, with a message on stderr, if it is none. */
bool recording_read(struct recording *recording, const char *path);
/* Whether the reply is a measurement, which another run need not repeat. */
bool step_measured(const struct step *step);
/* Whether a scenario repeats the operation until it has the right reply. */
bool step_polls(const struct step *step);

#endif
