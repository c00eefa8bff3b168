// SPDX-License-Identifier: GPL-2.0-only
/*
 * One call in several threads at once.  The threads wait for each other without
 * sleeping, so that their system calls begin as close together as they can.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
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
#define LOOKS_MAX 1000

struct race {
	int device;
	uint32_t bar;
	uint64_t length;
	bool revokes;
	uint64_t count;
	unsigned int threads;
	int buffer; /* the DMABUF that all revoke in this round */
	bool over;  /* no round follows */
	pthread_barrier_t barrier;
	atomic_uint arrived; /* threads, in this round */
};

struct worker {
	struct race *race;
	pthread_t thread;
	int error; /* of this round; 0: done */
};

/* Make the call; close its result once all threads have made theirs. */
static void make_call(struct worker *worker)
{
	struct race *race = worker->race;
	unsigned int looks = 0;
	int result;

	atomic_fetch_add(&race->arrived, 1);
	while (atomic_load(&race->arrived) < race->threads)
		if (++looks % LOOKS_MAX == 0)
			sched_yield(); /* the other may need this processor */
	if (race->revokes)
		result = revoke_by_default(race->device, race->buffer);
	else
		result =
			export_beginning(race->device, race->bar, race->length);
	worker->error = result < 0 ? errno : 0;
	pthread_barrier_wait(&race->barrier);
	if (!race->revokes && result >= 0)
		close(result);
}

static void *worker_main(void *argument)
{
	struct worker *worker = argument;

	for (;;) {
		pthread_barrier_wait(&worker->race->barrier);
		if (worker->race->over)
			return NULL;
		make_call(worker);
	}
}

/* Run a round; 0, or the errno of the export that it needs. */
static int run_round(struct race *race, struct worker *first)
{
	if (race->revokes) {
		race->buffer =
			export_beginning(race->device, race->bar, race->length);
		if (race->buffer < 0)
			return errno;
	}
	atomic_store(&race->arrived, 0);
	pthread_barrier_wait(&race->barrier);
	make_call(first);
	if (race->revokes)
		close(race->buffer);
	return 0;
}

static void start(struct race *race, struct worker *workers)
{
	sigset_t all, before;
	unsigned int i;

	/* SIGALRM is for the main thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (i = 0; i < race->threads; i++) {
		workers[i] = (struct worker){ .race = race };
		if (i && pthread_create(&workers[i].thread, NULL, worker_main,
					&workers[i]))
			must(NULL); /* short of memory */
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void run(struct race *race, struct reply *r)
{
	struct worker workers[THREADS_MAX];
	struct tally tally = { 0 };
	unsigned int i;
	uint64_t round;
	int error = 0;

	pthread_barrier_init(&race->barrier, NULL, race->threads);
	start(race, workers);
	for (round = 0; round < race->count && !deadline_passed(); round++) {
		error = run_round(race, &workers[0]);
		if (error)
			break;
		for (i = 0; i < race->threads; i++)
			tally_count(&tally, workers[i].error);
	}
	race->over = true;
	pthread_barrier_wait(&race->barrier);
	for (i = 1; i < race->threads; i++)
		pthread_join(workers[i].thread, NULL);
	pthread_barrier_destroy(&race->barrier);
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
	struct race race = { 0 };

	if (!device || !option_u64(a, r, "bar", 0, &bar) ||
	    !option_u64(a, r, "length", 0, &race.length) ||
	    !option_u64(a, r, "count", 0, &race.count) ||
	    !option_u64(a, r, "threads", 0, &threads))
		return;
	race.revokes = !strcmp(a->word[1], "revoke");
	if (!race.revokes && strcmp(a->word[1], "export")) {
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
	race.device = device->fd;
	race.bar = (uint32_t)bar;
	race.threads = (unsigned int)threads;
	run(&race, r);
}
