// SPDX-License-Identifier: GPL-2.0-only
/*
 * Threads that keep accessing a mapping while it is revoked.  A worker counts
 * each fault and tries the next place.  It makes no system call, so the kernel
 * cannot delay it between two accesses.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "access.h"
#include "buffer.h"
#include "fault.h"
#include "hammer.h"
#include "mapping.h"
#include "object.h"
#include "operations.h"
#include "text.h"

#define THREADS_MAX 64
#define CLONE_STACK (256u << 10)

enum outcome {
	STORED,
	LOADED,
	SIGBUSES, /* BUS_ADRERR, and at the place that was accessed */
	SIGSEGVS,
	OTHER, /* SIGBUS with another code or address */
	OUTCOMES,
};

static const char *const outcomes[] = { "stored", "loaded", "sigbus", "sigsegv",
					"other" };

struct worker {
	struct hammer *hammer;
	pthread_t thread;
	unsigned int cpu;
	bool loading; /* the next access is a load */
	uint64_t at;  /* offset of that access in the part */
	struct access access;
	/* Written by this thread alone. */
	_Atomic uint64_t count[OUTCOMES];
	atomic_bool ended;
};

struct hammer {
	struct hammer *next;
	char name[24];
	struct object *mapping;
	unsigned char *part;
	uint64_t length;
	uint64_t stride;
	const struct context *context; /* in which the workers run */
	bool stores;
	bool loads;
	atomic_bool held; /* the workers wait for `reclaim` */
	atomic_bool stop;
	unsigned int threads;
	struct worker worker[];
};

static struct hammer *hammers;

/* ---- the threads ---- */

static void advance(struct worker *worker, enum outcome outcome)
{
	const struct hammer *hammer = worker->hammer;
	_Atomic uint64_t *count = &worker->count[outcome];

	if (!worker->loading && hammer->loads) {
		worker->loading = true;
	} else {
		worker->loading = !hammer->stores;
		worker->at = (worker->at + hammer->stride) % hammer->length;
		worker->access.place = hammer->part + worker->at;
	}
	atomic_store_explicit(
		count, atomic_load_explicit(count, memory_order_relaxed) + 1,
		memory_order_release);
}

static bool should_stop(const struct worker *worker)
{
	return atomic_load_explicit(&worker->hammer->stop,
				    memory_order_relaxed);
}

static void access_loop(void *argument)
{
	struct worker *worker = argument;
	struct access load;

	while (!should_stop(worker)) {
		if (worker->loading) {
			load = worker->access;
			access_load(&load);
			advance(worker, LOADED);
		} else {
			access_store(&worker->access);
			advance(worker, STORED);
		}
	}
}

static enum outcome outcome_of(const struct worker *worker,
			       const struct fault *fault)
{
	if (fault->signal == SIGSEGV)
		return SIGSEGVS;
	if (fault->code == BUS_ADRERR &&
	    fault->address == (uintptr_t)worker->access.place)
		return SIGBUSES;
	return OTHER;
}

static void access_until_stop(struct worker *worker)
{
	struct fault fault;

	while (!attempt(access_loop, worker, &fault))
		advance(worker, outcome_of(worker, &fault));
}

static _Thread_local struct worker *handling;

static void on_usr1(int number)
{
	(void)number;
	access_until_stop(handling);
}

/* Access in a signal handler, which returns when the hammer is to stop. */
static void access_in_handler(struct worker *worker)
{
	const struct sigaction action = { .sa_handler = on_usr1 };
	sigset_t set;

	handling = worker;
	sigaction(SIGUSR1, &action, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	pthread_kill(pthread_self(), SIGUSR1);
}

static int clone_main(void *worker)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	access_until_stop(worker);
	return 0;
}

/*
 * Access in a process that shares the memory.  The process uses the thread's
 * thread-local memory (`recovery` in fault.c), so the thread waits for its end.
 */
static void access_in_clone(struct worker *worker)
{
	unsigned char *stack = must(malloc(CLONE_STACK));
	pid_t clone_pid;

	clone_pid = clone(clone_main, stack + CLONE_STACK,
			  CLONE_VM | CLONE_VFORK | SIGCHLD, worker);
	if (clone_pid > 0)
		waitpid(clone_pid, NULL, 0);
	free(stack);
}

static const struct context {
	const char *name;
	void (*run)(struct worker *worker);
} contexts[] = {
	{ "thread", access_until_stop },
	{ "handler", access_in_handler },
	{ "clone", access_in_clone },
};

static void *run(void *argument)
{
	struct worker *worker = argument;

	while (atomic_load(&worker->hammer->held) && !should_stop(worker))
		sched_yield();
	worker->hammer->context->run(worker);
	atomic_store(&worker->ended, true);
	return NULL;
}

/* Start a thread on one CPU; of all signals only a fault interrupts it. */
static int start(struct worker *worker)
{
	pthread_attr_t attributes;
	sigset_t all, before;
	cpu_set_t cpus;
	int error;

	CPU_ZERO(&cpus);
	CPU_SET(worker->cpu, &cpus);
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSEGV);
	pthread_attr_init(&attributes);
	pthread_attr_setaffinity_np(&attributes, sizeof(cpus), &cpus);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&worker->thread, &attributes, run, worker);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return error;
}

static void pause_shortly(void)
{
	struct timespec moment = { .tv_nsec = 500000 };

	nanosleep(&moment, NULL);
}

/* End the threads; false when one is still in an access at the deadline. */
static bool stop(struct hammer *hammer)
{
	unsigned int i;

	atomic_store(&hammer->stop, true);
	for (i = 0; i < hammer->threads; i++) {
		while (!atomic_load(&hammer->worker[i].ended)) {
			if (deadline_passed())
				return false;
			pause_shortly();
		}
	}
	for (i = 0; i < hammer->threads; i++)
		pthread_join(hammer->worker[i].thread, NULL);
	return true;
}

/* Drop the parent's hammers in a forked child, which has no such threads. */
void hammers_forget(void)
{
	struct hammer *hammer;

	while ((hammer = hammers)) {
		hammers = hammer->next;
		hammer->mapping->hammers = 0;
		free(hammer);
	}
}

/* ---- CPUs ---- */

/* Parse CPU,CPU,...; without @text take the CPUs of this actor, last first. */
static bool choose_cpus(const struct args *a, struct reply *r, const char *text,
			unsigned int *cpu, unsigned int *count)
{
	char *copy, *rest, *word;
	uint64_t number = 0;
	cpu_set_t allowed;
	int i;

	*count = 0;
	if (!text) {
		sched_getaffinity(0, sizeof(allowed), &allowed);
		for (i = CPU_SETSIZE - 1; i >= 0; i--)
			if (CPU_ISSET(i, &allowed))
				cpu[(*count)++] = i;
		return true;
	}
	rest = copy = must(strdup(text));
	while ((word = strsep(&rest, ","))) {
		if (!parse_u64(word, &number) || number >= CPU_SETSIZE ||
		    *count == CPU_SETSIZE)
			break;
		cpu[(*count)++] = (unsigned int)number;
	}
	free(copy);
	if (word)
		reply_usage(r, "%s: '%s' is not a list of CPU numbers", a->op,
			    text);
	return !word;
}

void op_pin(struct args *a, struct reply *r)
{
	unsigned int cpu[CPU_SETSIZE], count;
	const char *separator = " ";
	cpu_set_t cpus;
	int i;

	CPU_ZERO(&cpus);
	if (!choose_cpus(a, r, a->words ? a->word[0] : NULL, cpu, &count))
		return;
	while (count--)
		CPU_SET(cpu[count], &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus) ||
	    sched_getaffinity(0, sizeof(cpus), &cpus)) {
		reply_errno(r, errno, "pin");
		return;
	}
	reply_set(r, "ok");
	for (i = 0; i < CPU_SETSIZE; i++) {
		if (!CPU_ISSET(i, &cpus))
			continue;
		reply_add(r, "%s%d", separator, i);
		separator = ",";
	}
}

/* ---- operations ---- */

static bool choose_context(struct args *a, struct reply *r,
			   struct hammer *hammer)
{
	const char *text = option_text(a, "in") ?: "thread";
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(contexts); i++)
		if (!strcmp(contexts[i].name, text))
			hammer->context = &contexts[i];
	if (!hammer->context)
		reply_usage(r, "hammer: in=%s is not thread, handler or clone",
			    text);
	return hammer->context;
}

/* Parse the width, value, stride and kind of the accesses. */
static bool parse_accesses(struct args *a, struct reply *r,
			   struct hammer *hammer, struct access *access)
{
	static const struct token kinds[] = {
		{ "store", 1 },
		{ "load", 2 },
		{ "both", 3 },
	};
	const char *text = option_text(a, "access") ?: "store";
	uint64_t width, kind;

	if (!option_u64(a, r, "value", 0, &access->value) ||
	    !option_u64(a, r, "width", 32, &width) ||
	    !option_u64(a, r, "stride", width / 8, &hammer->stride))
		return false;
	if (!parse_tokens(text, kinds, ARRAY_SIZE(kinds), &kind) || !kind ||
	    kind > 3) {
		reply_usage(r, "hammer: access=%s is not store, load or both",
			    text);
		return false;
	}
	if (width != 8 && width != 16 && width != 32 && width != 64) {
		reply_usage(r, "hammer: width= is 8, 16, 32 or 64");
		return false;
	}
	if (width < 64 && access->value >> width) {
		reply_usage(r, "hammer: value= does not fit in %ju bits",
			    (uintmax_t)width);
		return false;
	}
	if (!hammer->length || hammer->length % (width / 8) ||
	    (uintptr_t)hammer->part % (width / 8) || !hammer->stride ||
	    hammer->stride % (width / 8)) {
		reply_usage(r, "hammer: offset=, length= and stride= are whole "
			       "accesses; length= and stride= at least one");
		return false;
	}
	access->width = (unsigned int)width;
	hammer->stores = kind & 1;
	hammer->loads = kind & 2;
	return true;
}

/* Let each thread begin at another place. */
static void place_workers(struct hammer *hammer, const struct access *access,
			  const unsigned int *cpu, unsigned int cpus)
{
	uint64_t share = hammer->length / hammer->threads;
	unsigned int i;

	for (i = 0; i < hammer->threads; i++) {
		struct worker *worker = &hammer->worker[i];

		worker->hammer = hammer;
		worker->cpu = cpu[i % cpus];
		worker->loading = !hammer->stores;
		worker->at = i * share - i * share % hammer->stride;
		worker->access = *access;
		worker->access.place = hammer->part + worker->at;
	}
}

static struct hammer *hammer_new(uint64_t threads)
{
	size_t size = sizeof(struct hammer) + threads * sizeof(struct worker);
	struct hammer *hammer = must(calloc(1, size));

	hammer->threads = (unsigned int)threads;
	return hammer;
}

static void hammer_add(struct hammer *hammer)
{
	static unsigned int count;

	snprintf(hammer->name, sizeof(hammer->name), "ham%u", ++count);
	hammer->mapping->hammers++;
	hammer->next = hammers;
	hammers = hammer;
}

void op_hammer(struct args *a, struct reply *r)
{
	unsigned int cpu[CPU_SETSIZE], cpus, i;
	struct access access = { 0 };
	struct hammer *hammer;
	uint64_t threads, offset, held;
	int error;

	if (!option_u64(a, r, "threads", 1, &threads) ||
	    !option_u64(a, r, "held", 0, &held) ||
	    !choose_cpus(a, r, option_text(a, "cpus"), cpu, &cpus))
		return;
	if (!threads || threads > THREADS_MAX) {
		reply_usage(r, "hammer: threads= is 1 to %d", THREADS_MAX);
		return;
	}
	hammer = hammer_new(threads);
	hammer->mapping = mapping_part(a, r, &offset, &hammer->length);
	if (hammer->mapping)
		hammer->part = hammer->mapping->base + offset;
	if (!hammer->mapping || !choose_context(a, r, hammer) ||
	    !parse_accesses(a, r, hammer, &access)) {
		free(hammer);
		return;
	}
	hammer->held = held;
	place_workers(hammer, &access, cpu, cpus);
	for (i = 0; i < threads; i++) {
		error = start(&hammer->worker[i]);
		if (error)
			break;
	}
	if (i == threads) {
		hammer_add(hammer);
		reply_set(r, "ok %s", hammer->name);
		return;
	}
	hammer->threads = i;
	if (stop(hammer))
		free(hammer);
	reply_errno(r, error, "hammer");
}

static struct hammer *hammer_find(const struct args *a, struct reply *r,
				  const char *name)
{
	struct hammer *hammer = hammers;

	while (hammer && strcmp(hammer->name, name))
		hammer = hammer->next;
	if (!hammer)
		reply_usage(r, "%s: '%s' does not name a hammer of this actor",
			    a->op, name);
	return hammer;
}

/* Count the accesses that have ended, faults included. */
static uint64_t tried(const struct worker *worker)
{
	uint64_t sum = 0;
	unsigned int i;

	for (i = 0; i < OUTCOMES; i++)
		sum += atomic_load_explicit(&worker->count[i],
					    memory_order_acquire);
	return sum;
}

/*
 * Wait until each thread has begun and ended @more accesses after this call.
 * The goal is one higher, as an access may be under way already.
 */
static bool await(const struct hammer *hammer, uint64_t more)
{
	uint64_t goal[THREADS_MAX];
	unsigned int i;

	for (i = 0; i < hammer->threads; i++)
		goal[i] = tried(&hammer->worker[i]) + more + 1;
	for (i = 0; i < hammer->threads; i++) {
		while (tried(&hammer->worker[i]) < goal[i]) {
			if (deadline_passed())
				return false;
			pause_shortly();
		}
	}
	return true;
}

static void reply_counts(struct reply *r, const struct hammer *hammer)
{
	unsigned int i, k;

	reply_set(r, "ok");
	for (i = 0; i < hammer->threads; i++) {
		const struct worker *worker = &hammer->worker[i];

		reply_add(r, " cpu=%u", worker->cpu);
		for (k = 0; k < OUTCOMES; k++)
			reply_add(r, ",%s=%ju", outcomes[k],
				  (uintmax_t)atomic_load(&worker->count[k]));
	}
}

void op_hammered(struct args *a, struct reply *r)
{
	struct hammer *hammer = hammer_find(a, r, a->word[0]);
	uint64_t more;

	if (!hammer || !option_u64(a, r, "more", 0, &more))
		return;
	if (more > UINT32_MAX)
		reply_usage(r, "hammered: more= has 32 bits");
	else if (more && !await(hammer, more))
		reply_set(r, "timeout");
	else
		reply_counts(r, hammer);
}

void op_unhammer(struct args *a, struct reply *r)
{
	struct hammer *hammer = hammer_find(a, r, a->word[0]),
		      **link = &hammers;

	if (!hammer)
		return;
	if (!stop(hammer)) {
		reply_set(r, "timeout");
		return;
	}
	reply_counts(r, hammer);
	while (*link != hammer)
		link = &(*link)->next;
	*link = hammer->next;
	hammer->mapping->hammers--;
	free(hammer);
}

/* ---- revoke and overwrite ---- */

struct words {
	unsigned char *base;
	uint64_t length;
	uint64_t stride;
	uint64_t at;
	uint32_t value;
};

static void overwrite(void *argument)
{
	struct words *words = argument;

	for (; words->at < words->length; words->at += words->stride)
		*(volatile uint32_t *)(words->base + words->at) = words->value;
}

/*
 * Let the threads of a held hammer begin, and wait until they have tried @tries
 * accesses together; false at the deadline.
 */
static bool release(struct hammer *hammer, uint64_t tries)
{
	uint64_t sum;
	unsigned int i;

	atomic_store(&hammer->held, false);
	do {
		if (deadline_passed())
			return false;
		sum = 0;
		for (i = 0; i < hammer->threads; i++)
			sum += tried(&hammer->worker[i]);
	} while (sum < tries);
	return true;
}

static bool parse_reclaim(const struct args *a, struct reply *r,
			  struct words *words)
{
	const struct object *mapping = word_object(a, r, 2, MAPPING);
	uint64_t value;

	if (!mapping || !word_u64(a, r, 3, &value) ||
	    !option_u64(a, r, "offset", 0, &words->at) ||
	    !option_u64(a, r, "stride", 4, &words->stride))
		return false;
	if (value > UINT32_MAX || !words->stride || words->stride % 4 ||
	    words->at % 4) {
		reply_usage(r, "reclaim: works on whole 32-bit words");
		return false;
	}
	words->base = mapping->base;
	words->length = mapping->length;
	words->value = (uint32_t)value;
	return true;
}

/*
 * Revoke, and at once overwrite the mapping.  A worker's store that reaches the
 * memory after the revoke is then found as a word that differs.
 */
void op_reclaim(struct args *a, struct reply *r)
{
	const char *name = option_text(a, "release");
	struct hammer *hammer = NULL;
	struct words words = { 0 };
	struct fault fault;
	uint64_t tries;

	if (!parse_reclaim(a, r, &words) ||
	    !option_u64(a, r, "tries", 0, &tries))
		return;
	if (name && !(hammer = hammer_find(a, r, name)))
		return;
	if (hammer && !release(hammer, tries)) {
		reply_set(r, "timeout");
		return;
	}
	if (!revoke_dmabuf(a, r))
		return;
	if (guarded(overwrite, &words, &fault))
		reply_set(r, "ok");
	else
		reply_fault(r, &fault, object_find(a->word[2]));
}
