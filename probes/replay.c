// SPDX-License-Identifier: GPL-2.0-only
/*
 * Carry out a transcript again, and tell apart what was expected, what was
 * recorded, and what is now.  Each top-level actor is a process of its own.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fault.h"
#include "line.h"
#include "pattern.h"
#include "reader.h"
#include "recording.h"
#include "replay.h"
#include "text.h"

#define ACTORS_MAX 64
#define MARGIN_SECONDS 20 /* for an actor to report its timeout itself */
#define POLL_TRIES 500	  /* 10 ms each */

enum {
	CONFORMS = 0,
	SHOWN_AGAIN = 1,
	NEITHER = 2
};

struct actor {
	pid_t pid; /* 0 if it has not begun, or has ended */
	struct reader reader;
};

struct replay {
	struct actor actors[ACTORS_MAX];
	struct actor *current;
	unsigned int operations;
	unsigned int different;
	unsigned int skipped;
};

static bool actor_start(struct actor *actor)
{
	char *argv[] = { "actor", NULL };
	int lines[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, lines))
		return false;
	fflush(stdout);
	actor->pid = fork();
	if (!actor->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(lines[1], STDIN_FILENO);
		dup2(lines[1], STDOUT_FILENO);
		execv("/proc/self/exe", argv);
		_exit(127);
	}
	close(lines[1]);
	memset(&actor->reader, 0, sizeof(actor->reader));
	actor->reader.fd = lines[0];
	return actor->pid > 0;
}

/* Close its input, and wait for its end; kill one that does not end. */
static void actor_end(struct actor *actor)
{
	char *line;

	if (!actor->pid)
		return;
	shutdown(actor->reader.fd, SHUT_WR);
	deadline_start(MARGIN_SECONDS);
	while (reader_line(&actor->reader, &line, 0) == LINE_OK)
		;
	if (deadline_passed())
		kill(actor->pid, SIGKILL);
	deadline_stop();
	close(actor->reader.fd);
	free(actor->reader.buffer);
	/* One that is stuck in the kernel does not end. */
	waitpid(actor->pid, NULL, WNOHANG);
	actor->pid = 0;
}

static unsigned int seconds_of(const char *operation)
{
	static const char key[] = " deadline=";
	const char *found = strstr(operation, key);
	unsigned long seconds =
		found ? strtoul(found + strlen(key), NULL, 0) : 0;

	if (!seconds || seconds > DEADLINE_MAX)
		seconds = DEADLINE_DEFAULT;
	return (unsigned int)seconds;
}

/* Return the reply, which the caller frees; NULL without one. */
static char *actor_ask(struct actor *actor, const char *operation)
{
	enum line_status status = LINE_END;
	char *line, *answer = NULL;

	if (!actor || !actor->pid)
		return NULL;
	deadline_start(seconds_of(operation) + MARGIN_SECONDS);
	if (write_all(actor->reader.fd, operation, strlen(operation)) &&
	    write_all(actor->reader.fd, "\n", 1))
		status = reader_line(&actor->reader, &line, 0);
	if (status == LINE_OK)
		answer = must(strdup(line));
	deadline_stop();
	return answer;
}

/* Begin an actor, choose it, or end it; false for another step. */
static bool actor_step(struct replay *replay, const struct step *step)
{
	unsigned int number;

	if (sscanf(step->text, "actor %u ", &number) == 1 && number &&
	    number <= ACTORS_MAX) {
		replay->current = &replay->actors[number - 1];
		return replay->current->pid || actor_start(replay->current);
	}
	if (sscanf(step->text, "end %u", &number) == 1 && number &&
	    number <= ACTORS_MAX) {
		actor_end(&replay->actors[number - 1]);
		return true;
	}
	return !strncmp(step->text, "machine ", strlen("machine ")) ||
	       !strncmp(step->text, "device ", strlen("device "));
}

/* Ask until the reply is the one that the scenario waited for. */
static char *poll_for(struct replay *replay, const struct step *step)
{
	struct timespec pause = { .tv_nsec = 10000000 };
	char *now = actor_ask(replay->current, step->text);
	int tries;

	for (tries = 0; now && step_polls(step) && !step->expected &&
			step->recorded && !step_measured(step) &&
			!reply_alike(step->recorded, now) && tries < POLL_TRIES;
	     tries++) {
		nanosleep(&pause, NULL);
		free(now);
		now = actor_ask(replay->current, step->text);
	}
	return now;
}

/* Whether the same operation follows, so that this one only waits. */
static bool repeated(const struct recording *recording, size_t place)
{
	const struct step *step = &recording->steps[place], *next = step + 1;

	return place + 1 < recording->count && step_polls(step) &&
	       !step->expected && next->mark == '>' &&
	       !strcmp(step->text, next->text);
}

static const char *or_nothing(const char *text)
{
	return text ? text : "nothing";
}

/* The reply to the step that decided: the last lines of the output. */
static int decide(const struct step *step, const char *now)
{
	int result = NEITHER;

	printf("line %u: > %s\n", step->line, step->text);
	if (now && reply_matches(step->expected, now))
		result = CONFORMS;
	else if (now ? step->recorded && reply_alike(step->recorded, now)
		     : !step->recorded)
		result = SHOWN_AGAIN;
	if (result == CONFORMS)
		puts("It conforms now: the reply is the expected one.");
	else if (result == SHOWN_AGAIN)
		puts("It shows again: the reply is the recorded one.");
	else
		puts("It says neither: the reply is another one.");
	printf("expected: %s\nrecorded: %s\nnow: %s\n", step->expected,
	       or_nothing(step->recorded), or_nothing(now));
	return result;
}

static void compare(struct replay *replay, const struct step *step,
		    const char *now)
{
	bool differs = step->recorded && !step_measured(step) &&
		       (!now || !reply_alike(step->recorded, now));

	replay->different += differs;
	if (differs || !step->recorded || !now)
		printf("line %u: > %s\n  recorded: %s\n  now:      %s\n",
		       step->line, step->text, or_nothing(step->recorded),
		       or_nothing(now));
}

/* Carry out all steps up to the one that decided; its place, or the end. */
static int run(struct replay *replay, const struct recording *recording)
{
	size_t i;

	for (i = 0; i < recording->count; i++) {
		const struct step *step = &recording->steps[i];
		char *now;

		if (step->mark == '!') {
			if (actor_step(replay, step))
				continue;
			replay->skipped++;
			printf("line %u: ! %s: left out, it is no operation "
			       "of an actor\n",
			       step->line, step->text);
			if (!step->expected)
				continue;
			printf("expected: %s\nrecorded: %s\nnow: nothing\n",
			       step->expected, or_nothing(step->recorded));
			return NEITHER;
		}
		if (repeated(recording, i))
			continue;
		now = poll_for(replay, step);
		replay->operations++;
		if (step->expected) {
			int result = decide(step, now);

			free(now);
			return result;
		}
		compare(replay, step, now);
		if (!now && step->recorded) {
			printf("line %u: the actor does not answer any more\n",
			       step->line);
			return NEITHER;
		}
		free(now);
	}
	if (replay->skipped)
		printf("%u steps were left out; `python -m harness reproduce` "
		       "does them\n",
		       replay->skipped);
	printf("%u operations, %u replies differ\n", replay->operations,
	       replay->different);
	return replay->different ? NEITHER : CONFORMS;
}

int replay(const char *path)
{
	struct recording recording;
	struct replay state = { 0 };
	int result;
	size_t i;

	if (!recording_read(&recording, path))
		return NEITHER;
	signal(SIGPIPE, SIG_IGN);
	state.current = &state.actors[0];
	if (recording.old && !actor_start(state.current)) {
		fprintf(stderr, "actor: no process could be made\n");
		return NEITHER;
	}
	result = run(&state, &recording);
	fflush(stdout);
	for (i = 0; i < ACTORS_MAX; i++)
		actor_end(&state.actors[i]);
	return result;
}
