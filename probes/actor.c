// SPDX-License-Identifier: GPL-2.0-only
/*
 * The actor: a process in the guest that opens, exports, maps, accesses and
 * revokes on request.  It reports what it observes and judges nothing.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>

#include "exec.h"
#include "fault.h"
#include "line.h"
#include "operations.h"
#include "process.h"
#include "replay.h"

static void help(void)
{
	size_t i;

	puts("usage: actor [--replay FILE]\n\n"
	     "Reads one operation per line and answers each with one line:\n"
	     "ok, error, sigbus, sigsegv, timeout or died. Lines that begin\n"
	     "with # and empty lines are skipped. '@NAME operation' has the\n"
	     "actor NAME do it. Every operation takes deadline=SECONDS,\n"
	     "10 by default. Numbers are decimal or 0x hexadecimal and may\n"
	     "end in K, M or G.\n\n"
	     "  --replay FILE  carry out a transcript ('> operation', then its\n"
	     "                 reply) up to the reply that was expected to be\n"
	     "                 another one; exit 0 if it is the expected one\n"
	     "                 now, or no reply differs, 1 if it is the\n"
	     "                 recorded one, 2 if it is neither\n\n"
	     "operations:");
	for (i = 0; i < operations_count; i++)
		printf("  %s\n      %s\n", operations[i].usage,
		       operations[i].help);
}

int main(int argc, char **argv)
{
	bool child = argc == 2 && !strcmp(argv[1], "--child");

	faults_init();
	if (argc == 2 && !strcmp(argv[1], "--resume")) {
		process_resume(serve);
		return resume() ? serve() : 1;
	}
	process_init(child, serve);
	if (argc == 1 || child)
		return serve();
	if (argc == 2 && !strcmp(argv[1], "--help")) {
		help();
		return 0;
	}
	if (argc == 3 && !strcmp(argv[1], "--replay"))
		return replay(argv[2]);
	fprintf(stderr, "actor: unknown arguments; see actor --help\n");
	return 2;
}
