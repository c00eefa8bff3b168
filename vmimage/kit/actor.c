// SPDX-License-Identifier: GPL-2.0
/* The top-level actors: one process each, with a pipe for lines and a pipe for replies. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kit.h"

/* As for a recorded run, whose guest is emulated: harness/actor/session.py. */
#define MARGIN_SECONDS 40
#define SECONDS 10 /* the actor's default for one operation */
#define READ_BYTES 65536
#define ACTORS_MAX 64

struct actor {
	pid_t pid;
	int input;
	int output;
	char *buffer;
	size_t used;
	size_t room;
	bool lost; /* it did not answer, or has ended */
};

bool patient; /* a debugger stops the guest, so no deadline counts */

static struct actor actors[ACTORS_MAX];
static unsigned int count;
static struct actor *chosen;

void actor_start(void)
{
	static char *const argv[] = { ACTOR, NULL };
	static char *const envp[] = { "PATH=/bin", "HOME=/", NULL };
	struct actor *actor = &actors[count];
	int input[2], output[2];

	if (count == ACTORS_MAX)
		give_up("The transcript has more than %d actors.", ACTORS_MAX);
	if (pipe2(input, O_CLOEXEC) || pipe2(output, O_CLOEXEC))
		give_up("No pipe could be made: %s.", strerror(errno));
	actor->pid = fork();
	if (!actor->pid) {
		setsid();
		dup2(input[0], STDIN_FILENO);
		dup2(output[1], STDOUT_FILENO);
		execve(argv[0], argv, envp);
		_exit(127);
	}
	if (actor->pid < 0)
		give_up("No process could be made: %s.", strerror(errno));
	close(input[0]);
	close(output[1]);
	actor->input = input[1];
	actor->output = output[0];
	fcntl(actor->input, F_SETFL, O_NONBLOCK);
	count++;
	chosen = actor;
}

unsigned int actors_begun(void)
{
	return count;
}

void actor_choose(unsigned int number)
{
	if (!number || number > count)
		give_up("The transcript speaks of an actor %u, and has %u.",
			number, count);
	chosen = &actors[number - 1];
}

/* The operation's own deadline: its option deadline=SECONDS. */
static unsigned int seconds_of(const char *operation)
{
	const char *option = strstr(operation, " deadline=");

	return option ? strtoul(option + strlen(" deadline="), NULL, 0)
		      : SECONDS;
}

long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Wait until @fd is ready; false at the deadline. */
static bool wait_for(int fd, short events, long long deadline)
{
	struct pollfd poller = { .fd = fd, .events = events };
	long long left;
	int ready;

	do {
		left = deadline - now_ms();
		if (patient)
			left = 1000;
		else if (left <= 0)
			return false;
		ready = poll(&poller, 1, (int)left);
	} while (ready == 0 || (ready < 0 && errno == EINTR));
	return true;
}

static bool send_all(struct actor *actor, const char *data, size_t length,
		     long long deadline)
{
	ssize_t done;

	while (length) {
		done = write(actor->input, data, length);
		if (done < 0 && errno == EAGAIN) {
			if (!wait_for(actor->input, POLLOUT, deadline))
				return false;
			continue;
		}
		if (done < 0 && errno != EINTR)
			return false;
		if (done > 0) {
			data += done;
			length -= done;
		}
	}
	return true;
}

/* Return the next line without its newline, which the caller frees; NULL if none comes. */
static char *receive(struct actor *actor, long long deadline)
{
	size_t scanned = 0;
	char *newline, *line;
	ssize_t got;

	for (;;) {
		newline = memchr(actor->buffer + scanned, '\n',
				 actor->used - scanned);
		if (newline)
			break;
		scanned = actor->used;
		if (actor->used + READ_BYTES > actor->room) {
			actor->room = 2 * actor->room + READ_BYTES;
			actor->buffer =
				must(realloc(actor->buffer, actor->room));
		}
		if (!wait_for(actor->output, POLLIN, deadline))
			return NULL;
		got = read(actor->output, actor->buffer + actor->used,
			   READ_BYTES);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return NULL;
		actor->used += got;
	}
	*newline++ = '\0';
	line = must(strdup(actor->buffer));
	actor->used -= newline - actor->buffer;
	memmove(actor->buffer, newline, actor->used);
	return line;
}

char *actor_ask(const char *operation)
{
	long long deadline =
		now_ms() + 1000LL * (seconds_of(operation) + MARGIN_SECONDS);
	char *reply = NULL;

	if (!chosen)
		give_up("The transcript does not say whose operation this is: %s.",
			operation);
	if (chosen->lost)
		return NULL;
	if (send_all(chosen, operation, strlen(operation), deadline) &&
	    send_all(chosen, "\n", 1, deadline))
		reply = receive(chosen, deadline);
	chosen->lost = !reply;
	return reply;
}

static void end(struct actor *actor)
{
	struct timespec pause = { .tv_nsec = 2000000 };
	long long deadline = now_ms() + 1000LL * MARGIN_SECONDS;

	if (actor->input < 0)
		return;
	close(actor->input);
	actor->input = -1;
	/* main.c reaps each child when it has ended. */
	while (!actor->lost && !kill(actor->pid, 0) && now_ms() < deadline)
		nanosleep(&pause, NULL);
	close(actor->output);
	if (chosen == actor)
		chosen = NULL;
}

void actor_end(unsigned int number)
{
	actor_choose(number);
	end(chosen);
}

void actors_end(void)
{
	unsigned int i;

	for (i = 0; i < count; i++)
		end(&actors[i]);
}
