// SPDX-License-Identifier: GPL-2.0-only
/*
 * Return the signal of a faulting access as a value, and interrupt an operation
 * at its deadline.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/time.h>
#include <time.h>

#include "fault.h"
#include "object.h"
#include "text.h"

/* The place where this thread continues after a fault of a guarded access. */
struct recovery {
	sigjmp_buf place;
	struct fault fault;
};

static _Thread_local struct recovery *recovery;
static volatile sig_atomic_t expired;
static struct timespec deadline;

/*
 * Continue after the guarded access.  A fault outside of one is a bug in the
 * actor: restore the default action, so that the fault repeats and kills it.
 */
static void on_fault(int number, siginfo_t *info, void *context)
{
	(void)context;
	if (!recovery) {
		signal(number, SIG_DFL);
		return;
	}
	recovery->fault.signal = number;
	recovery->fault.code = info->si_code;
	recovery->fault.address = (uintptr_t)info->si_addr;
	siglongjmp(recovery->place, 1);
}

static void on_alarm(int number)
{
	expired = 1;
	if (!recovery)
		return; /* a system call is interrupted and returns EINTR */
	recovery->fault.signal = number;
	siglongjmp(recovery->place, 1);
}

void faults_init(void)
{
	/* SA_NODEFER: siglongjmp() need not restore the signal mask (slow). */
	struct sigaction fault = {
		.sa_sigaction = on_fault,
		.sa_flags = SA_SIGINFO | SA_NODEFER,
	};
	struct sigaction alarm = {
		.sa_handler = on_alarm,
		.sa_flags = SA_NODEFER,
	};

	sigaction(SIGBUS, &fault, NULL);
	sigaction(SIGSEGV, &fault, NULL);
	sigaction(SIGALRM, &alarm, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/*
 * Run @body in any thread, regardless of the deadline; false, with @fault set,
 * if a signal ended it.
 */
bool attempt(void (*body)(void *), void *context, struct fault *fault)
{
	struct recovery here = { 0 };

	if (sigsetjmp(here.place, 0)) {
		recovery = NULL;
		*fault = here.fault;
		return false;
	}
	recovery = &here;
	body(context);
	recovery = NULL;
	return true;
}

/* Run @body of an operation; @fault is SIGALRM if the deadline has passed. */
bool guarded(void (*body)(void *), void *context, struct fault *fault)
{
	if (!expired)
		return attempt(body, context, fault);
	fault->signal = SIGALRM;
	return false;
}

const char *fault_code(const struct fault *f, char *buffer, size_t size)
{
	static const struct {
		int signal;
		int code;
		const char *name;
	} names[] = {
		{ SIGBUS, BUS_ADRALN, "adraln" },
		{ SIGBUS, BUS_ADRERR, "adrerr" },
		{ SIGBUS, BUS_OBJERR, "objerr" },
		{ SIGBUS, BUS_MCEERR_AR, "mceerr_ar" },
		{ SIGBUS, BUS_MCEERR_AO, "mceerr_ao" },
		{ SIGSEGV, SEGV_MAPERR, "maperr" },
		{ SIGSEGV, SEGV_ACCERR, "accerr" },
		{ SIGSEGV, SEGV_BNDERR, "bnderr" },
		{ SIGSEGV, SEGV_PKUERR, "pkuerr" },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i].signal == f->signal && names[i].code == f->code)
			return names[i].name;
	snprintf(buffer, size, "%d", f->code);
	return buffer;
}

/*
 * Report a fault.  Its address is shown as an offset in the mapping, which is
 * the same on every run, or as it is if it lies outside.
 */
void reply_fault(struct reply *r, const struct fault *f,
		 const struct object *mapping)
{
	uintptr_t base = (uintptr_t)mapping->base;
	char number[16];

	if (f->signal == SIGALRM) {
		reply_set(r, "timeout");
		return;
	}
	reply_set(r, "%s code=%s ", f->signal == SIGBUS ? "sigbus" : "sigsegv",
		  fault_code(f, number, sizeof(number)));
	if (f->address - base < mapping->length)
		reply_add(r, "offset=0x%jx", (uintmax_t)(f->address - base));
	else
		reply_add(r, "address=0x%jx", (uintmax_t)f->address);
}

/*
 * Start the timer of an operation.  It repeats, because a signal that arrives
 * just before a system call does not interrupt that call.
 */
void deadline_start(unsigned int seconds)
{
	struct itimerval timer = {
		.it_value.tv_sec = seconds,
		.it_interval.tv_usec = 100000,
	};

	clock_gettime(CLOCK_MONOTONIC, &deadline);
	deadline.tv_sec += seconds;
	expired = 0;
	setitimer(ITIMER_REAL, &timer, NULL);
}

void deadline_stop(void)
{
	struct itimerval none = { 0 };

	setitimer(ITIMER_REAL, &none, NULL);
}

bool deadline_passed(void)
{
	return expired;
}

/* Return the milliseconds until @grace ms after the deadline, at least 0. */
int deadline_left(int grace)
{
	struct timespec now;
	int64_t left;

	clock_gettime(CLOCK_MONOTONIC, &now);
	left = (deadline.tv_sec - now.tv_sec) * 1000LL +
	       (deadline.tv_nsec - now.tv_nsec) / 1000000 + grace;
	return left > 0 ? (int)left : 0;
}
