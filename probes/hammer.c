// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who takes back and who does not let go.  A hammer is a set of threads that
 * keep accessing a mapping whatever becomes of it: a fault is counted, and the
 * next place is tried.  They make no system call, so between two accesses there
 * is nothing by which the kernel could hold them back.
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

struct striker {
	struct hammer *hammer;
	pthread_t thread;
	unsigned int cpu;
	bool loading; /* the next access is a load */
	uint64_t at;  /* where it is, from the beginning of the part */
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
	const struct station *station; /* from where the blows are struck */
	bool stores;
	bool loads;
	atomic_bool held; /* not begun yet */
	atomic_bool stop;
	unsigned int threads;
	struct striker striker[];
};

static struct hammer *hammers;

/* ---- the threads ---- */

static void advance(struct striker *striker, enum outcome outcome)
{
	const struct hammer *hammer = striker->hammer;
	_Atomic uint64_t *count = &striker->count[outcome];

	if (!striker->loading && hammer->loads) {
		striker->loading = true;
	} else {
		striker->loading = !hammer->stores;
		striker->at = (striker->at + hammer->stride) % hammer->length;
		striker->access.place = hammer->part + striker->at;
	}
	atomic_store_explicit(
		count, atomic_load_explicit(count, memory_order_relaxed) + 1,
		memory_order_release);
}

static bool told_to_stop(const struct striker *striker)
{
	return atomic_load_explicit(&striker->hammer->stop,
				    memory_order_relaxed);
}

static void strike(void *context)
{
	struct striker *striker = context;
	struct access load;

	while (!told_to_stop(striker)) {
		if (striker->loading) {
			load = striker->access;
			access_load(&load);
			advance(striker, LOADED);
		} else {
			access_store(&striker->access);
			advance(striker, STORED);
		}
	}
}

static enum outcome outcome_of(const struct striker *striker,
			       const struct fault *fault)
{
	if (fault->signal == SIGSEGV)
		return SIGSEGVS;
	if (fault->code == BUS_ADRERR &&
	    fault->address == (uintptr_t)striker->access.place)
		return SIGBUSES;
	return OTHER;
}

static void strike_on(struct striker *striker)
{
	struct fault fault;

	while (!attempt(strike, striker, &fault))
		advance(striker, outcome_of(striker, &fault));
}

static _Thread_local struct striker *handling;

static void on_call(int number)
{
	(void)number;
	strike_on(handling);
}

/* From a signal handler, which does not return before the end. */
static void strike_in_handler(struct striker *striker)
{
	const struct sigaction action = { .sa_handler = on_call };
	sigset_t set;

	handling = striker;
	sigaction(SIGUSR1, &action, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	pthread_kill(pthread_self(), SIGUSR1);
}

static int begin_clone(void *striker)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	strike_on(striker);
	return 0;
}

/*
 * From a process of its own in the same memory.  It has the thread's own memory
 * (landing, in fault.c), too: the thread sleeps until it has ended.
 */
static void strike_in_clone(struct striker *striker)
{
	unsigned char *stack = must(malloc(CLONE_STACK));
	pid_t clone_pid;

	clone_pid = clone(begin_clone, stack + CLONE_STACK,
			  CLONE_VM | CLONE_VFORK | SIGCHLD, striker);
	if (clone_pid > 0)
		waitpid(clone_pid, NULL, 0);
	free(stack);
}

static const struct station {
	const char *name;
	void (*strike)(struct striker *striker);
} stations[] = {
	{ "thread", strike_on },
	{ "handler", strike_in_handler },
	{ "clone", strike_in_clone },
};

static void *run(void *context)
{
	struct striker *striker = context;

	while (atomic_load(&striker->hammer->held) && !told_to_stop(striker))
		sched_yield();
	striker->hammer->station->strike(striker);
	atomic_store(&striker->ended, true);
	return NULL;
}

/* A thread on a CPU of its own that no signal but a fault interrupts. */
static int start(struct striker *striker)
{
	pthread_attr_t attributes;
	sigset_t all, before;
	cpu_set_t cpus;
	int error;

	CPU_ZERO(&cpus);
	CPU_SET(striker->cpu, &cpus);
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSEGV);
	pthread_attr_init(&attributes);
	pthread_attr_setaffinity_np(&attributes, sizeof(cpus), &cpus);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&striker->thread, &attributes, run, striker);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return error;
}

static void pause_shortly(void)
{
	struct timespec moment = { .tv_nsec = 500000 };

	nanosleep(&moment, NULL);
}

/* False when a thread is still in an access at the deadline. */
static bool stop(struct hammer *hammer)
{
	unsigned int i;

	atomic_store(&hammer->stop, true);
	for (i = 0; i < hammer->threads; i++) {
		while (!atomic_load(&hammer->striker[i].ended)) {
			if (deadline_passed())
				return false;
			pause_shortly();
		}
	}
	for (i = 0; i < hammer->threads; i++)
		pthread_join(hammer->striker[i].thread, NULL);
	return true;
}

/* In a forked child: the threads stayed with the parent. */
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

/* CPU,CPU,... ; those that this actor may run on, the last first, if absent. */
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

static bool choose_station(struct args *a, struct reply *r,
			   struct hammer *hammer)
{
	const char *text = option_text(a, "in") ?: "thread";
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(stations); i++)
		if (!strcmp(stations[i].name, text))
			hammer->station = &stations[i];
	if (!hammer->station)
		reply_usage(r, "hammer: in=%s is not thread, handler or clone",
			    text);
	return hammer->station;
}

/* The shape of the blows: width, value, stride, and what of both kinds. */
static bool shape(struct args *a, struct reply *r, struct hammer *hammer,
		  struct access *access)
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
			       "accesses, and not none");
		return false;
	}
	access->width = (unsigned int)width;
	hammer->stores = kind & 1;
	hammer->loads = kind & 2;
	return true;
}

/* Each thread begins in a part of its own. */
static void place(struct hammer *hammer, const struct access *access,
		  const unsigned int *cpu, unsigned int cpus)
{
	uint64_t share = hammer->length / hammer->threads;
	unsigned int i;

	for (i = 0; i < hammer->threads; i++) {
		struct striker *striker = &hammer->striker[i];

		striker->hammer = hammer;
		striker->cpu = cpu[i % cpus];
		striker->loading = !hammer->stores;
		striker->at = i * share - i * share % hammer->stride;
		striker->access = *access;
		striker->access.place = hammer->part + striker->at;
	}
}

static struct hammer *hammer_new(uint64_t threads)
{
	size_t size = sizeof(struct hammer) + threads * sizeof(struct striker);
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
	if (!hammer->mapping || !choose_station(a, r, hammer) ||
	    !shape(a, r, hammer, &access)) {
		free(hammer);
		return;
	}
	hammer->held = held;
	place(hammer, &access, cpu, cpus);
	for (i = 0; i < threads; i++) {
		error = start(&hammer->striker[i]);
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

/* Accesses that have come to an end, one way or the other. */
static uint64_t tried(const struct striker *striker)
{
	uint64_t sum = 0;
	unsigned int i;

	for (i = 0; i < OUTCOMES; i++)
		sum += atomic_load_explicit(&striker->count[i],
					    memory_order_acquire);
	return sum;
}

/*
 * Wait until each thread has begun and ended at least @more accesses after this
 * call; one of those that end is the one that was under way.
 */
static bool await(const struct hammer *hammer, uint64_t more)
{
	uint64_t goal[THREADS_MAX];
	unsigned int i;

	for (i = 0; i < hammer->threads; i++)
		goal[i] = tried(&hammer->striker[i]) + more + 1;
	for (i = 0; i < hammer->threads; i++) {
		while (tried(&hammer->striker[i]) < goal[i]) {
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
		const struct striker *striker = &hammer->striker[i];

		reply_add(r, " cpu=%u", striker->cpu);
		for (k = 0; k < OUTCOMES; k++)
			reply_add(r, ",%s=%ju", outcomes[k],
				  (uintmax_t)atomic_load(&striker->count[k]));
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

/* ---- the owner's part ---- */

struct words {
	unsigned char *base;
	uint64_t length;
	uint64_t stride;
	uint64_t at;
	uint32_t value;
};

static void overwrite(void *context)
{
	struct words *words = context;

	for (; words->at < words->length; words->at += words->stride)
		*(volatile uint32_t *)(words->base + words->at) = words->value;
}

/* Let the threads of a held hammer begin; false at the deadline. */
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
			sum += tried(&hammer->striker[i]);
	} while (sum < tries);
	return true;
}

static bool overwritten(const struct args *a, struct reply *r,
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
 * Revoke, and in the same breath write over all of a mapping.  Whatever the
 * revoke has left within reach for a moment longer is found in what was written.
 */
void op_reclaim(struct args *a, struct reply *r)
{
	const char *name = option_text(a, "release");
	struct hammer *hammer = NULL;
	struct words words = { 0 };
	struct fault fault;
	uint64_t tries;

	if (!overwritten(a, r, &words) || !option_u64(a, r, "tries", 0, &tries))
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
