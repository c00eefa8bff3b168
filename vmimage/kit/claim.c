// SPDX-License-Identifier: GPL-2.0
/* Carry out the steps of the claim, and decide whether it shows again. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kit.h"

#define CLAIM "/claim"
#define TRANSCRIPT "/transcript"
#define SHOWN_MAX 400 /* characters of a reply in the report */
#define DIFFERENCES_MAX 10
#define SETTLE_TRIES 200 /* fput() is deferred: 10 ms each */
#define POLL_TRIES 500	 /* until the answer that the scenario waited for */

enum claim_kind {
	CLAIM_REPLY,	 /* the answer to the step at a line is wrong */
	CLAIM_SILENCE,	 /* the step at a line is not answered in time */
	CLAIM_LEFTOVER,	 /* DMABUFs are left when all actors have ended */
	CLAIM_COMPLAINT, /* the kernel complains: run.sh reads the console */
	CLAIM_DEATH,	 /* the kernel dies: likewise */
	CLAIM_ANSWERS, /* the answers up to the step at a line; which are wrong is not known */
	CLAIM_CONFORMS, /* nothing is wrong */
};

static const char *const kinds[] = {
	[CLAIM_REPLY] = "reply",       [CLAIM_SILENCE] = "silence",
	[CLAIM_LEFTOVER] = "leftover", [CLAIM_COMPLAINT] = "complaint",
	[CLAIM_DEATH] = "death",       [CLAIM_ANSWERS] = "answers",
	[CLAIM_CONFORMS] = "conforms",
};

struct claim {
	enum claim_kind kind;
	unsigned int line;
};

static void claim_kind_read(struct claim *claim, const char *word)
{
	size_t i;

	for (i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (!strcmp(kinds[i], word)) {
			claim->kind = i;
			return;
		}
	give_up("The kit has a claim of an unknown kind: %s.", word);
}

static struct step *step_at(struct transcript *transcript, unsigned int line)
{
	size_t i;

	for (i = 0; i < transcript->count; i++)
		if (transcript->steps[i].line == line)
			return &transcript->steps[i];
	give_up("The transcript has no step at line %u.", line);
}

/* The file has one word and its values a line. */
static void claim_read(struct claim *claim, struct transcript *transcript)
{
	FILE *file = fopen(CLAIM, "re");
	char line[256], first[32], second[64];
	unsigned long long size;
	unsigned int number;

	if (!file)
		give_up("%s cannot be read: %s.", CLAIM, strerror(errno));
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "kind %31s", first) == 1)
			claim_kind_read(claim, first);
		else if (sscanf(line, "memory %31s %63s %llu", first, second,
				&size) == 3)
			memory_add(first, second, size);
		else if (sscanf(line, "measured %u", &number) == 1)
			step_at(transcript, number)->measured = true;
		else if (sscanf(line, "polled %u", &number) == 1)
			step_at(transcript, number)->polled = true;
		else if (sscanf(line, "left-out %u", &number) == 1)
			step_at(transcript, number)->left_out = true;
		else if (sscanf(line, "line %u", &claim->line) != 1)
			give_up("The kit has a damaged claim: %s", line);
	}
	fclose(file);
}

/* ---- the report ---- */

static void note_text(const char *what, const char *text)
{
	note("  %-9s %.*s%s\n", what, SHOWN_MAX, text ? text : "(nothing)",
	     text && strlen(text) > SHOWN_MAX ? " ..." : "");
}

static void note_step(const struct step *step, const char *now)
{
	note("line %u: %c %.*s\n", step->line,
	     step->kind == STEP_OPERATION ? '>' : '!', SHOWN_MAX, step->text);
	if (step->expected)
		note_text("expected", step->expected);
	note_text("the run", step->recorded);
	note_text("now", now);
}

/* ---- the verdict ---- */

/* Decide a claim about the answer to a step. */
static void decide_reply(const struct step *step, const char *now,
			 const struct step *earlier)
{
	note_step(step, now);
	if (step->expected && reply_matches(step->expected, now))
		verdict("conforms", "The answer is the expected one.");
	if (step->recorded && reply_alike(step->recorded, now))
		verdict("shown", "The answer is that of the run.");
	if (earlier)
		verdict("unsaid",
			"Line %u was already answered in another way than in the run.",
			earlier->line);
	if (step->expected)
		verdict("shown",
			"The answer is neither the expected one nor that of the run.");
	verdict("unsaid", "The answer is another one than in the run.");
}

static void decide_silence(const struct step *step, const char *now)
{
	note_step(step, now);
	if (now && !strncmp(now, "timeout", strlen("timeout")))
		verdict("shown", "The deadline was missed, as in the run.");
	verdict("conforms", "It ended in time.");
}

static void decide_leftover(int before)
{
	struct timespec pause = { .tv_nsec = 10000000 };
	int now = count_dmabufs(), tries;

	for (tries = 0; tries < SETTLE_TRIES && now > before; tries++) {
		nanosleep(&pause, NULL);
		now = count_dmabufs();
	}
	note("DMABUFs before: %d, after all actors have ended: %d\n", before,
	     now);
	if (before < 0 || now < 0)
		verdict("unsaid", "The DMABUFs could not be counted.");
	if (now > before)
		verdict("shown", "DMABUFs are left over.");
	verdict("conforms", "No DMABUF is left over.");
}

static void no_answer(const struct claim *claim, const struct step *step)
{
	note_step(step, NULL);
	if (claim->kind == CLAIM_SILENCE && claim->line == step->line)
		verdict("shown", "There was no answer in time, as in the run.");
	verdict("unsaid",
		"Line %u was not answered in time, or its actor "
		"has ended.",
		step->line);
}

/* ---- the steps ---- */

/* Return the reply, NULL without one. */
static char *carry_out(const struct claim *claim, const struct step *step)
{
	char *reply;

	if (step->kind == STEP_OPERATION) {
		reply = actor_ask(step->text);
		if (!reply)
			no_answer(claim, step);
	} else if (!environment(step->text, &reply)) {
		no_answer(claim, step);
	}
	return reply;
}

static bool differs(const struct step *step, const char *now)
{
	return step->recorded && now && !reply_alike(step->recorded, now);
}

/* Whether an answer is of another kind: another errno or signal, success for a refusal. */
static bool is_of_another_kind(const char *one, const char *other)
{
	size_t length = strcspn(one, " ");

	if (length != strcspn(other, " ") || memcmp(one, other, length))
		return true;
	return !strncmp(one, "error ", strlen("error ")) &&
	       !reply_alike(one, other);
}

/* Carry out a step; one that a scenario repeats, until the answer that it waited for. */
static char *poll_for(const struct claim *claim, const struct step *step)
{
	struct timespec pause = { .tv_nsec = 10000000 };
	char *reply = carry_out(claim, step);
	int tries;

	for (tries = 0;
	     step->polled && differs(step, reply) && tries < POLL_TRIES;
	     tries++) {
		nanosleep(&pause, NULL);
		free(reply);
		reply = carry_out(claim, step);
	}
	return reply;
}

void claim_try(void)
{
	struct transcript transcript = { 0 };
	const struct step *strange = NULL, *step;
	struct claim claim = { 0 };
	unsigned int differences = 0, measurements = 0;
	int before;
	size_t i;
	char *now;

	transcript_read(&transcript, TRANSCRIPT);
	claim_read(&claim, &transcript);
	before = count_dmabufs();
	for (i = 0; i < transcript.count; i++) {
		step = &transcript.steps[i];
		if (step->left_out)
			continue;
		say("%c %.*s\n", step->kind == STEP_OPERATION ? '>' : '!',
		    SHOWN_MAX, step->text);
		now = poll_for(&claim, step);
		if (now)
			say("%.*s\n", SHOWN_MAX, now);
		if (claim.line == step->line && claim.kind == CLAIM_REPLY)
			decide_reply(step, now ? now : "", strange);
		if (claim.line == step->line && claim.kind == CLAIM_SILENCE)
			decide_silence(step, now);
		if (!step->measured && differs(step, now)) {
			if (!strange && is_of_another_kind(step->recorded, now))
				strange = step;
			if (differences++ < DIFFERENCES_MAX)
				note_step(step, now);
		}
		if (step->measured && differs(step, now))
			measurements++;
		if (claim.line == step->line)
			note_step(step, now);
		free(now);
		if (claim.line == step->line)
			break;
	}
	actors_end();
	if (claim.kind == CLAIM_LEFTOVER)
		decide_leftover(before);
	if (claim.kind == CLAIM_COMPLAINT || claim.kind == CLAIM_DEATH)
		verdict("silent", "All operations were carried out.");
	if (differences)
		verdict("unsaid", "%u answers are not those of the run.",
			differences);
	if (claim.kind == CLAIM_ANSWERS && measurements)
		verdict("unsaid",
			"%u measurements are not those of the run, and only the scenario knows which ones conform.",
			measurements);
	if (claim.kind == CLAIM_ANSWERS)
		verdict("shown", "All answers are those of the run.");
	verdict("conforms",
		"All answers are those of the run, which conformed.");
}
