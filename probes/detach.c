// SPDX-License-Identifier: GPL-2.0-only
/* Leave namespaces, continue as an orphan, abort with a core dump. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "hammer.h"
#include "operations.h"
#include "process.h"
#include "reader.h"
#include "text.h"

/*
 * Leave namespaces.  Later children inherit the new ones; a new PID namespace
 * is for the children only.
 */
void op_unshare(struct args *a, struct reply *r)
{
	static const struct token spaces[] = {
		{ "user", CLONE_NEWUSER }, { "mount", CLONE_NEWNS },
		{ "pid", CLONE_NEWPID },   { "net", CLONE_NEWNET },
		{ "ipc", CLONE_NEWIPC },   { "uts", CLONE_NEWUTS },
	};
	uint64_t flags;

	if (!parse_tokens(a->word[0], spaces, ARRAY_SIZE(spaces), &flags) ||
	    flags > INT32_MAX)
		reply_usage(r,
			    "unshare: '%s' is not a list of user, mount, pid, "
			    "net, ipc and uts",
			    a->word[0]);
	else if (unshare((int)flags))
		reply_errno(r, errno, "unshare");
	else
		reply_set(r, "ok");
}

/*
 * Fork, continue in the child, and end this process.  The actor keeps its names
 * and its sockets, but the process that its parent knows has ended.
 */
void op_orphan(struct args *a, struct reply *r)
{
	pid_t before = getpid(), child;

	(void)a;
	if (!process_is_child()) {
		reply_usage(r, "orphan: this actor has no parent to wait for "
			       "its process");
		return;
	}
	child = fork();
	if (child < 0) {
		reply_errno(r, errno, "orphan");
		return;
	}
	if (child)
		_exit(0);
	hammers_forget();
	while (getppid() == before)
		usleep(1000);
	reply_set(r, "ok");
}

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool done = fd >= 0 && write_all(fd, text, strlen(text));

	if (fd >= 0)
		close(fd);
	return done;
}

/*
 * Abort with a core dump of all that may be in one: coredump_filter in
 * Documentation/filesystems/proc.rst, 3.7.
 */
void op_abort(struct args *a, struct reply *r)
{
	const struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };

	(void)a;
	if (!process_is_child()) {
		reply_usage(r, "abort: this actor has no parent, so the "
			       "transcript would end here");
		return;
	}
	if (setrlimit(RLIMIT_CORE, &limit) ||
	    !write_file("/proc/self/coredump_filter", "0x7f"))
		reply_errno(r, errno, "abort: the limits of a core");
	else
		abort();
}
