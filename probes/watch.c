// SPDX-License-Identifier: GPL-2.0-only
/*
 * A thread that loads from a mapping over and over and keeps every value seen.
 * It sees a value that is there only while the actor waits for its next line.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "access.h"
#include "fault.h"
#include "mapping.h"
#include "object.h"
#include "operations.h"
#include "text.h"

#define VALUES_MAX 16

static struct watch {
	pid_t owner; /* a forked child has this memory, but not the thread */
	pthread_t thread;
	unsigned char *part;
	uint64_t length;
	atomic_bool begun, stop, ended;
	/* Only the thread writes these while it runs. */
	uint64_t loads, sigbus, sigsegv;
	uint32_t value[VALUES_MAX];
	unsigned int values;
	bool more;
} watch;

static void remember(uint32_t value)
{
	unsigned int i;

	for (i = 0; i < watch.values; i++)
		if (watch.value[i] == value)
			return;
	if (watch.values < VALUES_MAX)
		watch.value[watch.values++] = value;
	else
		watch.more = true;
}

static void load_once(struct access *access)
{
	struct fault fault;

	if (attempt(access_load, access, &fault)) {
		watch.loads++;
		remember((uint32_t)access->value);
	} else if (fault.signal == SIGSEGV) {
		watch.sigsegv++;
	} else {
		watch.sigbus++;
	}
}

/* Begin the last round after the stop, so that no earlier value is missed. */
static void *run(void *context)
{
	struct access access = { .width = 32 };
	bool last;

	(void)context;
	do {
		uint64_t at;

		last = atomic_load(&watch.stop);
		for (at = 0; at < watch.length; at += PAGE) {
			access.place = watch.part + at;
			load_once(&access);
		}
		atomic_store(&watch.begun, true);
	} while (!last);
	atomic_store(&watch.ended, true);
	return NULL;
}

/* Wait for a flag; false at the deadline. */
static bool await(atomic_bool *flag)
{
	struct timespec moment = { .tv_nsec = 500000 };

	while (!atomic_load(flag)) {
		if (deadline_passed())
			return false;
		nanosleep(&moment, NULL);
	}
	return true;
}

static int start(void)
{
	sigset_t all, before;
	int error;

	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSEGV);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&watch.thread, NULL, run, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

void op_watch(struct args *a, struct reply *r)
{
	uint64_t offset, length;
	struct object *mapping = mapping_part(a, r, &offset, &length);
	int error;

	if (!mapping)
		return;
	if (watch.owner == getpid()) {
		reply_usage(r, "watch: this actor watches already");
		return;
	}
	if (offset % 4 || length < 4 || length % PAGE % 4) {
		reply_usage(r, "watch: loads whole 32-bit words, at least one");
		return;
	}
	memset(&watch, 0, sizeof(watch));
	watch.part = mapping->base + offset;
	watch.length = length;
	error = start();
	if (error) {
		reply_errno(r, error, "watch");
		return;
	}
	watch.owner = getpid();
	if (await(&watch.begun))
		reply_set(r, "ok");
	else
		reply_set(r, "timeout");
}

void op_watched(struct args *a, struct reply *r)
{
	const char *separator = "";
	unsigned int i;

	(void)a;
	if (watch.owner != getpid()) {
		reply_usage(r, "watched: this actor watches nothing");
		return;
	}
	atomic_store(&watch.stop, true);
	if (!await(&watch.ended)) {
		reply_set(r, "timeout");
		return;
	}
	pthread_join(watch.thread, NULL);
	watch.owner = 0;
	reply_set(r, "ok loads=%ju sigbus=%ju sigsegv=%ju values=",
		  (uintmax_t)watch.loads, (uintmax_t)watch.sigbus,
		  (uintmax_t)watch.sigsegv);
	for (i = 0; i < watch.values; i++) {
		reply_add(r, "%s0x%08x", separator, watch.value[i]);
		separator = ",";
	}
	if (watch.more)
		reply_add(r, ",more");
}
