// SPDX-License-Identifier: GPL-2.0
/* The kit's init: bring the guest up, carry out the transcript, tell the verdict, power off. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "kit.h"

#define LOG "/dev/ttyS1" /* the console, ttyS0, is the kernel's */
#define MAX_FILES 65536	 /* as in vmimage/init.c */

static int log = STDERR_FILENO;
static FILE *report;
static char *report_text;

void *must(void *pointer)
{
	if (!pointer)
		give_up("There is no memory left.");
	return pointer;
}

char *printed(const char *format, ...)
{
	va_list args;
	char *text;
	int length;

	va_start(args, format);
	length = vasprintf(&text, format, args);
	va_end(args);
	return must(length < 0 ? NULL : text);
}

void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vdprintf(log, format, args);
	va_end(args);
}

void note(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(report, format, args);
	va_end(args);
}

static void power_off(void)
{
	tcdrain(log);
	sync();
	reboot(RB_POWER_OFF);
	/* The exit of the first process panics the kernel, which ends QEMU. */
	_exit(1);
}

void verdict(const char *word, const char *format, ...)
{
	va_list args;
	char *text;

	va_start(args, format);
	if (vasprintf(&text, format, args) < 0)
		text = "";
	va_end(args);
	fflush(report);
	say("report:\n%sverdict: %s: %s\n", report_text, word, text);
	power_off();
	for (;;)
		pause();
}

/* Without processing of the output: lines end with one character. */
static void open_log(void)
{
	struct termios settings;

	log = open(LOG, O_WRONLY | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (log < 0) {
		log = STDERR_FILENO;
		return;
	}
	if (!tcgetattr(log, &settings)) {
		cfmakeraw(&settings);
		settings.c_cflag |= CLOCAL;
		tcsetattr(log, TCSANOW, &settings);
	}
	fcntl(log, F_SETFL, 0);
}

static void mount_if_built(const char *type, const char *target)
{
	mkdir(target, 0755);
	if (mount(type, target, type, 0, NULL) && errno != ENODEV &&
	    errno != ENOENT && errno != EBUSY)
		give_up("%s cannot be mounted: %s.", target, strerror(errno));
}

static void mount_all(void)
{
	mount_if_built("devtmpfs", "/dev");
	mount_if_built("proc", "/proc");
	mount_if_built("sysfs", "/sys");
	mount_if_built("tmpfs", "/run");
	mount_if_built("tmpfs", "/tmp");
	mount_if_built("tmpfs", "/dev/shm");
	mount_if_built("debugfs", "/sys/kernel/debug");
	mount_if_built("tracefs", "/sys/kernel/tracing");
}

static void reap_children(int signal)
{
	int saved = errno;

	(void)signal;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	errno = saved;
}

/* A debugger may stop the guest for long: the word is on the command line. */
static void read_patience(void)
{
	char line[4096] = "";
	FILE *file = fopen("/proc/cmdline", "re");

	if (!file)
		return;
	if (fgets(line, sizeof(line), file))
		patient = strstr(line, "kit.patient") != NULL;
	fclose(file);
}

int main(void)
{
	struct rlimit files = { MAX_FILES, MAX_FILES };
	static size_t report_length;
	struct sigaction on_child = {
		.sa_handler = reap_children,
		.sa_flags = SA_RESTART,
	};

	if (getpid() != 1) {
		fprintf(stderr,
			"This program is the first process of a kit's guest; it runs only as process 1.\n");
		return 2;
	}
	sigaction(SIGCHLD, &on_child, NULL);
	signal(SIGPIPE, SIG_IGN);
	umask(022);
	report = open_memstream(&report_text, &report_length);
	if (!report)
		return 2;
	mount_all();
	open_log();
	read_patience();
	setrlimit(RLIMIT_NOFILE, &files);
	claim_try();
}
