// SPDX-License-Identifier: GPL-2.0-only
/* Keep processors free of everything but what pins itself to them. */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "operations.h"
#include "text.h"

#define WORKQUEUES "/sys/devices/virtual/workqueue/cpumask"

/* Move the threads of a process; kernel threads of one CPU refuse. */
static unsigned int move_threads(const char *pid, const cpu_set_t *cpus)
{
	unsigned int moved = 0;
	struct dirent *entry;
	char path[300];
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%s/task", pid);
	tasks = opendir(path);
	if (!tasks)
		return 0;
	while ((entry = readdir(tasks)))
		if (isdigit((unsigned char)*entry->d_name) &&
		    !sched_setaffinity(atoi(entry->d_name), sizeof(*cpus),
				       cpus))
			moved++;
	closedir(tasks);
	return moved;
}

/* Have unbound workqueues use one CPU; false if the kernel refuses. */
static bool move_workqueues(uint64_t cpu)
{
	int fd = open(WORKQUEUES, O_WRONLY | O_CLOEXEC);
	bool done;

	if (fd < 0)
		return false;
	done = dprintf(fd, "%lx\n", 1ul << cpu) > 0;
	return !close(fd) && done;
}

void op_confine(struct args *a, struct reply *r)
{
	unsigned int moved = 0;
	struct dirent *entry;
	cpu_set_t cpus;
	uint64_t cpu;
	DIR *all;

	if (!word_u64(a, r, 0, &cpu))
		return;
	if (cpu >= 64) {
		reply_usage(r, "confine: a CPU is a number below 64");
		return;
	}
	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	all = must(opendir("/proc"));
	while ((entry = readdir(all)))
		if (isdigit((unsigned char)*entry->d_name))
			moved += move_threads(entry->d_name, &cpus);
	closedir(all);
	reply_set(r, "ok threads=%u workqueues=%d", moved,
		  move_workqueues(cpu));
}
