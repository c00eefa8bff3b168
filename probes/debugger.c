// SPDX-License-Identifier: GPL-2.0-only
/*
 * Ways to the pages of a mapping that are no load and no store: a debugger's,
 * and those of the parts of the kernel that want to pin them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/futex.h>
#include <linux/io_uring.h>

#include "actor.h"

#define DISK "/dev/vda"

/* ---- a debugger ---- */

/* Stop one thread as a debugger does; it is ours until PTRACE_DETACH. */
static int seize(pid_t thread)
{
	int status;

	if (ptrace(PTRACE_SEIZE, thread, NULL, NULL) ||
	    ptrace(PTRACE_INTERRUPT, thread, NULL, NULL))
		return -1;
	return waitpid(thread, &status, __WALL) == thread ? 0 : -1;
}

static int let_go(pid_t thread)
{
	return (int)ptrace(PTRACE_DETACH, thread, NULL, NULL);
}

/* Do the same to each thread of a process; -1 at the first that refuses. */
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
	trace(a, r, let_go);
}

/* ---- one word of another process ---- */

struct word {
	pid_t process;
	uintptr_t address;
	bool storing;
	uint32_t value;
};

/* All of these: 0, or -1 with errno set. */
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

/* ptrace() knows words of 64 bits only. */
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
	let_go(word->process);
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

/* The mapping is where it was when the child was forked. */
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

static void reach(struct args *a, struct reply *r, struct word *word)
{
	static const struct {
		const char *name;
		int (*reach)(struct word *word);
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
	else if (ways[i].reach(word))
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
		reach(a, r, &word);
}

void op_poke(struct args *a, struct reply *r)
{
	struct word word = { .storing = true };
	uint64_t value;

	if (!find_word(a, r, &word) || !word_u64(a, r, 3, &value))
		return;
	word.value = (uint32_t)value;
	reach(a, r, &word);
}

/* ---- who wants to pin pages ---- */

/* All of these: what the call returned, -1 with errno set. */
static long pin_direct(unsigned char *place, size_t length)
{
	int fd = open(DISK, O_RDONLY | O_DIRECT | O_CLOEXEC), error;
	long done;

	if (fd < 0)
		return -1;
	done = pread(fd, place, length, 0);
	error = errno;
	close(fd);
	errno = error;
	return done;
}

static long pin_vmsplice(unsigned char *place, size_t length)
{
	struct iovec part = { place, length };
	int ends[2], error;
	long done;

	if (pipe2(ends, O_CLOEXEC))
		return -1;
	done = vmsplice(ends[1], &part, 1, SPLICE_F_NONBLOCK);
	error = errno;
	close(ends[0]);
	close(ends[1]);
	errno = error;
	return done;
}

static long pin_uring(unsigned char *place, size_t length)
{
	struct io_uring_params parameters = { 0 };
	struct iovec part = { place, length };
	int fd, error;
	long done;

	fd = (int)syscall(SYS_io_uring_setup, 1, &parameters);
	if (fd < 0)
		return -1;
	done = syscall(SYS_io_uring_register, fd, IORING_REGISTER_BUFFERS,
		       &part, 1);
	error = errno;
	close(fd);
	errno = error;
	return done;
}

/* Not FUTEX_PRIVATE_FLAG: what is shared is known by its page. */
static long pin_futex(unsigned char *place, size_t length)
{
	(void)length;
	return syscall(SYS_futex, place, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static const struct {
	const char *name;
	long (*pin)(unsigned char *place, size_t length);
} pinners[] = {
	{ "direct", pin_direct },
	{ "vmsplice", pin_vmsplice },
	{ "uring", pin_uring },
	{ "futex", pin_futex },
};

void op_pinpages(struct args *a, struct reply *r)
{
	uint64_t offset, length;
	struct object *mapping = mapping_part(a, r, &offset, &length);
	unsigned int i;
	long done;

	if (!mapping)
		return;
	for (i = 0; i < ARRAY_SIZE(pinners); i++)
		if (!strcmp(pinners[i].name, a->word[1]))
			break;
	if (i == ARRAY_SIZE(pinners)) {
		reply_usage(r,
			    "pinpages: '%s' is not direct, vmsplice, uring or "
			    "futex",
			    a->word[1]);
		return;
	}
	done = pinners[i].pin(mapping->base + offset, length);
	if (done < 0)
		reply_errno(r, errno, "pinpages");
	else
		reply_set(r, "ok %ld", done);
}

/* madvise() of another process, or of this one as if it was another. */
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

/* The file of a mapping, opened anew by way of the mapping. */
void op_mapfile(struct args *a, struct reply *r)
{
	struct object *mapping = word_object(a, r, 0, MAPPING), *buffer;
	char path[96];
	int fd;

	if (!mapping)
		return;
	snprintf(path, sizeof(path), "/proc/self/map_files/%jx-%jx",
		 (uintmax_t)(uintptr_t)mapping->base,
		 (uintmax_t)(uintptr_t)mapping->base + mapping->length);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		reply_errno(r, errno, "mapfile");
		return;
	}
	buffer = object_new(BUFFER);
	buffer->fd = fd;
	reply_set(r, "ok %s", buffer->name);
}
