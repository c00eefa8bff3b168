// SPDX-License-Identifier: GPL-2.0-only
/* Load and unload a kernel module.  The guest has no kmod. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "operations.h"
#include "text.h"

void op_loadmodule(struct args *a, struct reply *r)
{
	int fd = open(a->word[0], O_RDONLY | O_CLOEXEC);

	if (fd < 0) {
		reply_errno(r, errno, "loadmodule: open");
		return;
	}
	reply_set(r, "ok");
	if (syscall(SYS_finit_module, fd, "", 0))
		reply_errno(r, errno, "loadmodule");
	close(fd);
}

/* O_NONBLOCK: a module that is in use is an error, not a wait. */
void op_unloadmodule(struct args *a, struct reply *r)
{
	reply_set(r, "ok");
	if (syscall(SYS_delete_module, a->word[0], O_NONBLOCK))
		reply_errno(r, errno, "unloadmodule");
}
