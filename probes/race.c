// SPDX-License-Identifier: GPL-2.0-only
/*
 * The same call by several threads at the same time.  They wait for each other
 * without sleeping, so that nothing but the system call itself is between them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "buffer.h"
#include "fault.h"
#include "lifecycle.h"
#include "object.h"
#include "operations.h"
#include "text.h"

#define THREADS_MAX 16

struct crowd {
	int device;
	uint32_t bar;
	uint64_t length;
	bool revokes;
	uint64_t count;
	unsigned int threads;
	int shared; /* what all of them revoke in this round */
	bool over;  /* after the last round, or a failed one */
	pthread_barrier_t rounds;
	atomic_uint there; /* in this round */
};

struct member {
	struct crowd *crowd;
	pthread_t thread;
	int error; /* of this round; 0: done */
};

/* The call itself; what it makes is closed when all have made it. */
static void take_part(struct member *member)
{
	struct crowd *crowd = member->crowd;
	int result;

	atomic_fetch_add(&crowd->there, 1);
	while (atomic_load(&crowd->there) < crowd->threads)
		;
	if (crowd->revokes)
		result = revoke_by_default(crowd->device, crowd->shared);
	else
		result = export_beginning(crowd->device, crowd->bar,
					  crowd->length);
	member->error = result < 0 ? errno : 0;
	pthread_barrier_wait(&crowd->rounds);
	if (!crowd->revokes && result >= 0)
		close(result);
}

static void *follow(void *context)
{
	struct member *member = context;

	for (;;) {
		pthread_barrier_wait(&member->crowd->rounds);
		if (member->crowd->over)
			return NULL;
		take_part(member);
	}
}

/* One round, led by the first; 0, or what kept it from beginning. */
static int lead(struct crowd *crowd, struct member *first)
{
	if (crowd->revokes) {
		crowd->shared = export_beginning(crowd->device, crowd->bar,
						 crowd->length);
		if (crowd->shared < 0)
			return errno;
	}
	atomic_store(&crowd->there, 0);
	pthread_barrier_wait(&crowd->rounds);
	take_part(first);
	if (crowd->revokes)
		close(crowd->shared);
	return 0;
}

static void start(struct crowd *crowd, struct member *members)
{
	sigset_t all, before;
	unsigned int i;

	/* The deadline is for the thread that leads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (i = 0; i < crowd->threads; i++) {
		members[i] = (struct member){ .crowd = crowd };
		if (i && pthread_create(&members[i].thread, NULL, follow,
					&members[i]))
			must(NULL); /* short of memory, that is */
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void run(struct crowd *crowd, struct reply *r)
{
	struct member members[THREADS_MAX];
	struct tally tally = { 0 };
	unsigned int i;
	uint64_t round;
	int error = 0;

	pthread_barrier_init(&crowd->rounds, NULL, crowd->threads);
	start(crowd, members);
	for (round = 0; round < crowd->count && !deadline_passed(); round++) {
		error = lead(crowd, &members[0]);
		if (error)
			break;
		for (i = 0; i < crowd->threads; i++)
			tally_count(&tally, members[i].error);
	}
	crowd->over = true;
	pthread_barrier_wait(&crowd->rounds);
	for (i = 1; i < crowd->threads; i++)
		pthread_join(members[i].thread, NULL);
	pthread_barrier_destroy(&crowd->rounds);
	if (deadline_passed())
		reply_set(r, "timeout");
	else if (error)
		reply_errno(r, error, "together: export");
	else
		reply_tally(r, &tally);
}

void op_together(struct args *a, struct reply *r)
{
	struct object *device = word_object(a, r, 0, DEVICE);
	uint64_t bar, threads;
	struct crowd crowd = { 0 };

	if (!device || !option_u64(a, r, "bar", 0, &bar) ||
	    !option_u64(a, r, "length", 0, &crowd.length) ||
	    !option_u64(a, r, "count", 0, &crowd.count) ||
	    !option_u64(a, r, "threads", 0, &threads))
		return;
	crowd.revokes = !strcmp(a->word[1], "revoke");
	if (!crowd.revokes && strcmp(a->word[1], "export")) {
		reply_usage(r, "together: '%s' is not export or revoke",
			    a->word[1]);
		return;
	}
	if (bar > UINT32_MAX || threads < 2 || threads > THREADS_MAX) {
		reply_usage(r,
			    "together: threads= is from 2 to %d, bar= has "
			    "32 bits",
			    THREADS_MAX);
		return;
	}
	crowd.device = device->fd;
	crowd.bar = (uint32_t)bar;
	crowd.threads = (unsigned int)threads;
	run(&crowd, r);
}
