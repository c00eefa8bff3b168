// SPDX-License-Identifier: GPL-2.0-only
/*
 * Access to another process as a debugger has it: stop its threads, read and
 * write its memory, and advise on its mappings.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "object.h"
#include "operations.h"
#include "process.h"
#include "text.h"

/* ---- stop and release ---- */

/* Stop one thread until PTRACE_DETACH. */
static int seize(pid_t thread)
{
	int status;

	if (ptrace(PTRACE_SEIZE, thread, NULL, NULL) ||
	    ptrace(PTRACE_INTERRUPT, thread, NULL, NULL))
		return -1;
	return waitpid(thread, &status, __WALL) == thread ? 0 : -1;
}

static int detach(pid_t thread)
{
	return (int)ptrace(PTRACE_DETACH, thread, NULL, NULL);
}

/* Call @act for each thread of a process; -1 at the first that fails. */
static int each_thread(pid_t process, int (*act)(pid_t thread))
{
	char path[32];
	struct dirent *entry;
	int failed = 0;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", process);
	tasks = opendir(path);
	if (!tasks)
		return -1;
	while (!failed && (entry = readdir(tasks)))
		if (entry->d_name[0] != '.')
			failed = act(atoi(entry->d_name));
	closedir(tasks);
	return failed;
}

static void trace(struct args *a, struct reply *r, int (*act)(pid_t thread))
{
	pid_t process = word_process(a, r, 0);

	if (process < 0)
		return;
	if (each_thread(process, act))
		reply_errno(r, errno, a->op);
	else
		reply_set(r, "ok");
}

void op_seize(struct args *a, struct reply *r)
{
	trace(a, r, seize);
}

void op_release(struct args *a, struct reply *r)
{
	trace(a, r, detach);
}

/* ---- read and write a word ---- */

struct word {
	pid_t process;
	uintptr_t address;
	bool storing;
	uint32_t value;
};

/* Each way returns 0, or -1 with errno set. */
static int by_mem(struct word *word)
{
	char path[32];
	ssize_t done;
	int fd, error;

	snprintf(path, sizeof(path), "/proc/%d/mem", word->process);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -1;
	if (word->storing)
		done = pwrite(fd, &word->value, 4, (off_t)word->address);
	else
		done = pread(fd, &word->value, 4, (off_t)word->address);
	error = done < 0 ? errno : EIO;
	close(fd);
	errno = error;
	return done == 4 ? 0 : -1;
}

/* ptrace() transfers 64 bits, so a poke writes zeros to the upper half. */
static int by_ptrace(struct word *word)
{
	int failed, error;
	long found;

	if (seize(word->process))
		return -1;
	errno = 0;
	if (word->storing) {
		failed = (int)ptrace(PTRACE_POKEDATA, word->process,
				     (void *)word->address,
				     (void *)(uintptr_t)word->value);
	} else {
		found = ptrace(PTRACE_PEEKDATA, word->process,
			       (void *)word->address, NULL);
		failed = errno ? -1 : 0;
		word->value = (uint32_t)found;
	}
	error = errno;
	detach(word->process);
	errno = error;
	return failed;
}

static int by_vm(struct word *word)
{
	struct iovec here = { &word->value, 4 };
	struct iovec there = { (void *)word->address, 4 };
	ssize_t done;

	done = word->storing ? process_vm_writev(word->process, &here, 1,
						 &there, 1, 0)
			     : process_vm_readv(word->process, &here, 1, &there,
						1, 0);
	return done == 4 ? 0 : -1;
}

/* Parse NAME MAP OFFSET; a forked child has the mapping at our address. */
static bool find_word(struct args *a, struct reply *r, struct word *word)
{
	struct object *mapping = word_object(a, r, 1, MAPPING);
	uint64_t offset;

	if (!mapping || !word_u64(a, r, 2, &offset))
		return false;
	word->process =
		strcmp(a->word[0], "self") ? word_process(a, r, 0) : getpid();
	word->address = (uintptr_t)mapping->base + offset;
	return word->process >= 0;
}

static void access_word(struct args *a, struct reply *r, struct word *word)
{
	static const struct {
		const char *name;
		int (*access_word)(struct word *word);
	} ways[] = {
		{ "mem", by_mem },
		{ "ptrace", by_ptrace },
		{ "vm", by_vm },
	};
	const char *via = option_text(a, "via");
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(ways); i++)
		if (!strcmp(ways[i].name, via))
			break;
	if (i == ARRAY_SIZE(ways))
		reply_usage(r, "%s: via=%s is not mem, ptrace or vm", a->op,
			    via);
	else if (ways[i].access_word(word))
		reply_errno(r, errno, a->op);
	else if (word->storing)
		reply_set(r, "ok");
	else
		reply_set(r, "ok 0x%08x", word->value);
}

void op_peek(struct args *a, struct reply *r)
{
	struct word word = { 0 };

	if (find_word(a, r, &word))
		access_word(a, r, &word);
}

void op_poke(struct args *a, struct reply *r)
{
	struct word word = { .storing = true };
	uint64_t value;

	if (!find_word(a, r, &word) || !word_u64(a, r, 3, &value))
		return;
	word.value = (uint32_t)value;
	access_word(a, r, &word);
}

/* process_madvise() for another process, or for this one. */
void op_advise(struct args *a, struct reply *r)
{
	struct object *mapping = word_object(a, r, 1, MAPPING);
	uint64_t advice;
	struct iovec part;
	pid_t process;
	long done;
	int fd;

	if (!mapping || !word_u64(a, r, 2, &advice))
		return;
	process = strcmp(a->word[0], "self") ? word_process(a, r, 0) : getpid();
	if (process < 0)
		return;
	part.iov_base = mapping->base;
	part.iov_len = mapping->length;
	fd = (int)syscall(SYS_pidfd_open, process, 0);
	if (fd < 0) {
		reply_errno(r, errno, "advise: pidfd_open");
		return;
	}
	done = syscall(SYS_process_madvise, fd, &part, 1, (int)advice, 0);
	if (done < 0)
		reply_errno(r, errno, "advise");
	else
		reply_set(r, "ok 0x%lx", (unsigned long)done);
	close(fd);
}
