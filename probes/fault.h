/* SPDX-License-Identifier: GPL-2.0-only */
/* Faults of guarded accesses, and the deadline of an operation. */
#ifndef FAULT_H
#define FAULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "object.h"
#include "text.h"

struct fault {
	int signal; /* SIGBUS or SIGSEGV; SIGALRM when the deadline passed */
	int code;
	uintptr_t address;
};

void faults_init(void);
bool attempt(void (*body)(void *), void *context, struct fault *fault);
bool guarded(void (*body)(void *), void *context, struct fault *fault);
void reply_fault(struct reply *r, const struct fault *f,
		 const struct object *mapping);
const char *fault_code(const struct fault *f, char *buffer, size_t size);
void deadline_start(unsigned int seconds);
void deadline_stop(void);
bool deadline_passed(void);
int deadline_left(int grace);

#endif
