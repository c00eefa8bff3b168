// SPDX-License-Identifier: GPL-2.0
/*
 * The steps of the guest beside the actors' operations: drivers of devices,
 * files of the kernel.  harness/guest/ has the same in shell.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kit.h"

#define DEVICES "/sys/bus/pci/devices"
#define BUFINFO "/sys/kernel/debug/dma_buf/bufinfo"
#define IMPORTER "/importer.ko"
#define OVERRIDE "vfio-pci"
#define LONGEST_REPLY 200 /* as in harness/guest/guest.py */
#define STEP_MS 40000	  /* for one step, as for an actor: actor.c */
#define LOOK_MS 2
#define FAULT_LOOKS 50

static bool exists(const char *format, const char *address)
{
	char *path = printed("%s/%s/%s", DEVICES, address, format);
	bool found = !access(path, F_OK);

	free(path);
	return found;
}

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	bool good;

	if (fd < 0)
		return false;
	good = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return good;
}

static bool write_to_device(const char *address, const char *file,
			    const char *text)
{
	char *path = printed("%s/%s/%s", DEVICES, address, file);
	bool good = write_file(path, text);

	free(path);
	return good;
}

static bool late(long long start)
{
	return !patient && now_ms() - start > STEP_MS;
}

static void pause_ms(unsigned int ms)
{
	struct timespec pause = { ms / 1000, ms % 1000 * 1000000L };

	nanosleep(&pause, NULL);
}

/* An actor ends when nobody can write to it any more, a child of this process included. */
static void close_others(void)
{
	close_range(STDERR_FILENO + 1, ~0u, 0);
}

/*
 * Let a child process do what the kernel may never end; false if it is late.
 * The child's exit status tells whether it succeeded.
 */
static bool in_child(bool (*act)(const char *address), const char *address,
		     bool *good)
{
	long long start = now_ms();
	char answer = 0;
	int ends[2];
	pid_t child;

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK))
		give_up("No pipe could be made: %s.", strerror(errno));
	child = fork();
	if (child < 0)
		give_up("No process could be made: %s.", strerror(errno));
	if (!child) {
		dup2(ends[1], STDOUT_FILENO);
		close_others();
		answer = act(address) ? 'y' : 'n';
		_exit(write(STDOUT_FILENO, &answer, 1) != 1);
	}
	close(ends[1]);
	while (read(ends[0], &answer, 1) < 0) {
		if (late(start))
			return false;
		pause_ms(LOOK_MS);
	}
	close(ends[0]);
	*good = answer == 'y';
	return true;
}

/* ---- drivers ---- */

static bool unbind(const char *address)
{
	return !exists("driver", address) ||
	       write_to_device(address, "driver/unbind", address);
}

static bool replug(const char *address)
{
	return write_to_device(address, "remove", "1") &&
	       write_file("/sys/bus/pci/rescan", "1") && exists("", address);
}

/* An unbind that has begun ends with the last close. */
static bool await_unbound(const char *address)
{
	while (exists("driver", address))
		pause_ms(LOOK_MS);
	return true;
}

static char *unbinding; /* the address of a device that begins to be unbound */

/* Give a device to @driver, "-" for none; false if it hangs. */
static bool bind(const char *address, const char *driver, const char *override)
{
	char *path;
	bool good;

	if (unbinding && !strcmp(unbinding, address)) {
		if (!in_child(await_unbound, address, &good))
			return false;
		free(unbinding);
		unbinding = NULL;
	}
	if (!in_child(unbind, address, &good))
		return false;
	if (!good)
		give_up("%s could not be unbound.", address);
	if (!write_to_device(address, "driver_override", override))
		give_up("%s could not be given an override: %s.", address,
			strerror(errno));
	if (!strcmp(driver, "-"))
		return true;
	path = printed("/sys/bus/pci/drivers/%s/bind", driver);
	if (!write_file(path, address))
		give_up("%s could not be bound to %s: %s.", address, driver,
			strerror(errno));
	free(path);
	if (!exists("driver", address))
		give_up("%s was bound to %s, and has no driver.", address,
			driver);
	return true;
}

static void begin_unbind(const char *address)
{
	long long start = now_ms();

	if (!fork()) {
		close_others();
		write_to_device(address, "driver/unbind", address);
		_exit(0);
	}
	while (exists("vfio-dev", address)) {
		if (late(start))
			give_up("The driver of %s does not begin to unbind it.",
				address);
		pause_ms(LOOK_MS);
	}
	unbinding = must(strdup(address));
}

/* ---- files ---- */

/* Return the content of a file with a NUL after it, which the caller frees; NULL with errno set. */
static char *content_of(const char *path, size_t *length)
{
	FILE *file = fopen(path, "re");
	size_t room = 4096, got;
	char *content;

	if (!file)
		return NULL;
	content = must(malloc(room + 1));
	*length = 0;
	while ((got = fread(content + *length, 1, room - *length, file))) {
		*length += got;
		if (*length == room) {
			room *= 2;
			content = must(realloc(content, room + 1));
		}
	}
	fclose(file);
	content[*length] = '\0';
	return content;
}

/* The content itself if it is one short line, else its length. */
static char *read_file(const char *path)
{
	size_t length, i, start = 0, end;
	char *content = content_of(path, &length), *reply;

	if (!content)
		give_up("%s cannot be read: %s.", path, strerror(errno));
	end = length;
	while (start < end && isspace((unsigned char)content[start]))
		start++;
	while (end > start && isspace((unsigned char)content[end - 1]))
		end--;
	for (i = start; i < end; i++)
		if (!isprint((unsigned char)content[i]))
			break;
	if (i < end || end - start > LONGEST_REPLY)
		reply = printed("ok bytes=%zu", length);
	else if (start == end)
		reply = printed("ok");
	else
		reply = printed("ok %.*s", (int)(end - start), content + start);
	free(content);
	return reply;
}

static void await_suspend(const char *address)
{
	char *path = printed("%s/%s/power/runtime_status", DEVICES, address);
	long long start = now_ms();
	char *state = NULL;
	size_t length;

	for (;;) {
		free(state);
		state = content_of(path, &length);
		if (state && !strncmp(state, "suspended", 9))
			break;
		if (late(start))
			give_up("%s is not suspended.", address);
		pause_ms(LOOK_MS);
	}
	free(state);
	free(path);
}

int count_dmabufs(void)
{
	FILE *file = fopen(BUFINFO, "re");
	char line[256];
	int number = -1;

	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file))
		sscanf(line, "Total %d objects", &number);
	fclose(file);
	return number;
}

/* ---- faults of the IOMMU, by the interrupts that report them ---- */

static long long sum(const char *counts)
{
	long long total = 0;
	char *end;

	for (;; counts = end + 1) {
		total += strtoll(counts, &end, 10);
		if (*end != ',')
			return total;
	}
}

static long long total_faults(void)
{
	DIR *folder = opendir("/sys/kernel/irq");
	char *path, *actions, *counts;
	struct dirent *entry;
	long long total = 0;
	size_t length;

	if (!folder)
		give_up("The faults of the IOMMU cannot be counted.");
	while ((entry = readdir(folder))) {
		path = printed("/sys/kernel/irq/%s/actions", entry->d_name);
		actions = content_of(path, &length);
		free(path);
		path = printed("/sys/kernel/irq/%s/per_cpu_count",
			       entry->d_name);
		counts = content_of(path, &length);
		if (actions && counts && !strncmp(actions, "dmar", 4))
			total += sum(counts);
		free(path);
		free(actions);
		free(counts);
	}
	closedir(folder);
	return total;
}

static char *iommu_faults(long long above)
{
	static long long first = -1;
	long long total;
	int looks;

	if (first < 0)
		first = total_faults();
	for (looks = 0; looks < FAULT_LOOKS; looks++) {
		total = total_faults() - first;
		if (total > above)
			break;
		pause_ms(LOOK_MS);
	}
	return printed("ok %lld", total);
}

static void load_importer(void)
{
	int fd = open(IMPORTER, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
		give_up("The test importer could not be loaded: %s.",
			strerror(errno));
	close(fd);
}

bool guest_step(char **words, unsigned int count, char **reply)
{
	const char *what = words[0], *target = count > 1 ? words[1] : "";
	const char *value = count > 2 ? words[2] : "";
	bool good = true;
	char *text;

	if (!strcmp(what, "bind"))
		return bind(target, value, value);
	if (!strcmp(what, "unbind"))
		return bind(target, "-", OVERRIDE);
	if (!strcmp(what, "restore"))
		return bind(target, value, "\n");
	if (!strcmp(what, "replug")) {
		if (!in_child(replug, target, &good))
			return false;
		if (!good)
			give_up("%s did not come back.", target);
	} else if (!strcmp(what, "begin-unbind")) {
		begin_unbind(target);
	} else if (!strcmp(what, "await-suspend")) {
		await_suspend(target);
	} else if (!strcmp(what, "read")) {
		*reply = read_file(target);
	} else if (!strcmp(what, "write")) {
		text = printed("%s\n", value);
		if (!write_file(target, text))
			give_up("%s cannot be written: %s.", target,
				strerror(errno));
		free(text);
	} else if (!strcmp(what, "iommu-faults")) {
		*reply = iommu_faults(
			strtoll(target + strlen("above="), NULL, 0));
	} else if (!strcmp(what, "load-importer")) {
		load_importer();
	} else {
		give_up("This step of the guest is not known here: %s.", what);
	}
	return true;
}
