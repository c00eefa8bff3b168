/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The first process of a kit's guest.
 *
 * A kit is one file that shows one claim again without the harness
 * (harness/run/kit.py).  This program carries out the steps of a recorded
 * transcript (probes/PROTOCOL.md), says what is answered now, and ends with a
 * verdict, which run.sh reads.
 */
#ifndef KIT_H
#define KIT_H

#include <stdbool.h>
#include <stddef.h>

#include "pattern.h" /* probes/: reply_matches(), reply_alike() */

/* ---- main.c ---- */

/* Write to the log, which is the second serial port. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Add to the report, which the verdict writes below the log. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* End with this verdict and a sentence, which run.sh shows. */
void verdict(const char *word, const char *format, ...)
	__attribute__((format(printf, 2, 3), noreturn));
#define give_up(...) verdict("unsaid", __VA_ARGS__)
/* Return @pointer, or give up if it is NULL. */
void *must(void *pointer);
char *printed(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- transcript.c ---- */

enum step_kind {
	STEP_OPERATION,	  /* "> operation" of an actor */
	STEP_ENVIRONMENT, /* "! step" of the host or the guest */
};

struct step {
	enum step_kind kind;
	unsigned int line; /* in the transcript, from 1 */
	char *text;	   /* without the prompt */
	char *recorded;	   /* the reply of the run, NULL if there was none */
	char *expected;	   /* the pattern of a "= " line, NULL without one */
	bool measured;	   /* another run need not give the same reply */
	bool polled;	   /* repeated until the reply is the recorded one */
	bool left_out;	   /* the same as a later step that is polled */
};

struct transcript {
	struct step *steps;
	size_t count;
};

void transcript_read(struct transcript *transcript, const char *path);

/* ---- actor.c ---- */

#define ACTOR "/actor"

extern bool patient; /* a debugger stops the guest, so no deadline counts */

/* Return the milliseconds since the boot. */
long long now_ms(void);
/* Start the next top-level actor; the operations that follow are its own. */
void actor_start(void);
/* Return the number of actors that were started. */
unsigned int actors_begun(void);
/* Let the operations that follow be those of actor @number, from 1. */
void actor_choose(unsigned int number);
/*
 * Have the actor carry out an operation; return its reply, which the caller
 * frees, or NULL if it does not answer in time.
 */
char *actor_ask(const char *operation);
/* Close the input of an actor, or of all, and wait for the end. */
void actor_end(unsigned int number);
void actors_end(void);

/* ---- steps.c, guest.c, memory.c ---- */

/*
 * Carry out a step "actor ...", "guest ...", "host ..."; false if it does not
 * end in time.  @reply is its reply, which the caller frees, NULL without one.
 */
bool environment(const char *text, char **reply);
bool guest_step(char **words, unsigned int count, char **reply);
char *memory_step(char **words, unsigned int count);

/* Add the memory of @role, which is also BAR 2 of the device at @address. */
void memory_add(const char *role, const char *address, size_t size);
/* Return the number of DMABUFs that exist, -1 if it is not known. */
int count_dmabufs(void);

/* ---- claim.c ---- */

void claim_try(void) __attribute__((noreturn));

#endif
