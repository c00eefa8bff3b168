// SPDX-License-Identifier: GPL-2.0-only
/* Report what /proc and debugfs tell of this process: page table, VMAs, fds. */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "buffer.h"
#include "object.h"
#include "operations.h"
#include "proc.h"
#include "text.h"

/*
 * x86 only: "current_kernel" walks the page table of the process that reads it,
 * user half included (arch/x86/mm/debug_pagetables.c), so each actor has to
 * read it itself.
 */
#define PAGE_TABLE "/sys/kernel/debug/page_tables/current_kernel"

/*
 * Parse a line of the dump, "0xSTART-0xEND  64M USR RW PCD NX pte"; a span that
 * is not present has only the level.  Add 0xFROM-0xTO:LEVEL:USR,RW,PCD,NX with
 * offsets in the mapping, cut to it.
 */
static void add_span(char *line, const struct object *mapping, struct reply *r)
{
	uintptr_t low = (uintptr_t)mapping->base, high = low + mapping->length;
	unsigned long long start, end;
	const char *flag[16];
	unsigned int flags = 0, i;
	char *word, *rest;
	int used = 0;

	if (sscanf(line, "0x%llx-0x%llx %*s%n", &start, &end, &used) != 2 ||
	    !used || end <= low || start >= high)
		return;
	rest = line + used;
	while ((word = strsep(&rest, " \n")))
		if (*word && flags < ARRAY_SIZE(flag))
			flag[flags++] = word;
	if (flags < 2)
		return;
	start = start < low ? low : start;
	end = end > high ? high : end;
	reply_add(r, " 0x%llx-0x%llx:%s:", start - low, end - low,
		  flag[flags - 1]);
	for (i = 0; i < flags - 1; i++)
		reply_add(r, "%s%s", i ? "," : "", flag[i]);
}

/*
 * The kernel formats a file of debugfs into a buffer of one page, and starts
 * again with twice the room until all fits (fs/seq_file.c, seq_read_iter()).
 * The open file keeps the buffer, so it stays open.  Each pread() from the start
 * walks the page table anew.
 */
static int page_table_fd = -1;

/* Read the whole dump in one call, as text; NULL with errno set. */
static char *read_page_table(void)
{
	size_t room = 32 << 10;
	char *text = NULL;
	ssize_t length;

	if (page_table_fd < 0)
		page_table_fd = open(PAGE_TABLE, O_RDONLY | O_CLOEXEC);
	if (page_table_fd < 0)
		return NULL;
	for (;; room *= 2) {
		text = must(realloc(text, room));
		length = pread(page_table_fd, text, room - 1, 0);
		if (length < 0) {
			free(text);
			return NULL;
		}
		if ((size_t)length < room - 1)
			break;
	}
	text[length] = '\0';
	return text;
}

void op_pagetable(struct args *a, struct reply *r)
{
	struct object *mapping = word_object(a, r, 0, MAPPING);
	char *text, *rest, *line;

	if (!mapping)
		return;
	text = read_page_table();
	if (!text) {
		reply_errno(r, errno, "pagetable: " PAGE_TABLE);
		return;
	}
	reply_set(r, "ok");
	for (rest = text; (line = strsep(&rest, "\n"));)
		add_span(line, mapping, r);
	free(text);
}

/* Add a field as one word without commas, whatever bytes it holds. */
static void add_word(struct reply *r, const char *text)
{
	for (; *text && *text != '\n'; text++) {
		if (isgraph((unsigned char)*text) && *text != ',')
			reply_add(r, "%c", *text);
		else
			reply_add(r, "\\%03o", (unsigned char)*text);
	}
}

/* Add the last line of a VMA in smaps, "VmFlags: rd wr sh". */
static void add_flags(struct reply *r, char *line)
{
	char *rest = line + strlen("VmFlags:"), *word;
	const char *separator = ",";

	while ((word = strsep(&rest, " \n"))) {
		if (!*word)
			continue;
		reply_add(r, "%s%s", separator, word);
		separator = "+";
	}
}

/*
 * Report each VMA of a mapping: FROM-TO,PERMS,PGOFF,NAME,FLAG+FLAG, offsets in
 * the mapping.  Device and inode numbers differ on every run and are left out.
 */
void op_vmas(struct args *a, struct reply *r)
{
	struct object *mapping = word_object(a, r, 0, MAPPING);
	unsigned long long start, end, pgoff;
	uintptr_t low, high;
	char perms[8], *line = NULL;
	bool inside = false;
	size_t room = 0;
	FILE *smaps;
	int name;

	if (!mapping)
		return;
	low = (uintptr_t)mapping->base;
	high = low + mapping->length;
	smaps = fopen("/proc/self/smaps", "re");
	if (!smaps) {
		reply_errno(r, errno, "vmas: /proc/self/smaps");
		return;
	}
	reply_set(r, "ok");
	while (getline(&line, &room, smaps) > 0) {
		name = 0;
		if (sscanf(line, "%llx-%llx %7s %llx %*s %*s %n", &start, &end,
			   perms, &pgoff, &name) == 4 &&
		    name) {
			inside = start < high && end > low;
			if (!inside)
				continue;
			start = start < low ? low : start;
			end = end > high ? high : end;
			reply_add(r, " 0x%llx-0x%llx,%s,0x%llx,", start - low,
				  end - low, perms, pgoff);
			add_word(r, line + name);
		} else if (inside && !strncmp(line, "VmFlags:", 8)) {
			add_flags(r, line);
		}
	}
	free(line);
	fclose(smaps);
}

/* Report names and sizes of the files that are mapped shared. */
void op_mapped(struct args *a, struct reply *r)
{
	FILE *maps = must(fopen("/proc/self/maps", "re"));
	unsigned long long start, end;
	char sharing, *line = NULL;
	size_t room = 0;
	int name;

	(void)a;
	reply_set(r, "ok");
	while (getline(&line, &room, maps) > 0) {
		name = 0;
		if (sscanf(line, "%llx-%llx %*3s%c %*s %*s %*s %n", &start,
			   &end, &sharing, &name) != 3 ||
		    sharing != 's')
			continue;
		reply_add(r, " %.*s:0x%llx", (int)strcspn(line + name, " \t\n"),
			  line + name, end - start);
	}
	free(line);
	fclose(maps);
}

/* Report VmLck and VmRSS in KiB: fs/proc/task_mmu.c, task_mem(). */
void op_memory(struct args *a, struct reply *r)
{
	static const struct {
		const char *field;
		const char *name;
	} fields[] = { { "VmLck:", "locked" }, { "VmRSS:", "rss" } };
	FILE *status = fopen("/proc/self/status", "re");
	char *line = NULL;
	size_t room = 0, i;

	(void)a;
	if (!status) {
		reply_errno(r, errno, "memory: /proc/self/status");
		return;
	}
	reply_set(r, "ok");
	while (getline(&line, &room, status) > 0)
		for (i = 0; i < ARRAY_SIZE(fields); i++)
			if (!strncmp(line, fields[i].field,
				     strlen(fields[i].field)))
				reply_add(r, " %s=%d", fields[i].name,
					  atoi(line + strlen(fields[i].field)));
	free(line);
	fclose(status);
}

void op_faults(struct args *a, struct reply *r)
{
	struct rusage usage;

	(void)a;
	getrusage(RUSAGE_SELF, &usage);
	reply_set(r, "ok minor=%ld major=%ld", usage.ru_minflt,
		  usage.ru_majflt);
}

/* Report the lines of fdinfo as key=value, without inode and mount. */
void op_fdinfo(struct args *a, struct reply *r)
{
	struct object *object = word_object(a, r, 0, DEVICE | BUFFER);
	char path[64], *line = NULL, *value;
	size_t room = 0;
	FILE *info;

	if (!object)
		return;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", object->fd);
	info = fopen(path, "re");
	if (!info) {
		reply_errno(r, errno, "fdinfo");
		return;
	}
	reply_set(r, "ok");
	while (getline(&line, &room, info) > 0) {
		value = strchr(line, ':');
		if (!value || !strncmp(line, "ino:", 4) ||
		    !strncmp(line, "mnt_id:", 7))
			continue;
		*value++ = '\0';
		value += strspn(value, " \t");
		reply_add(r, " %s=", line);
		add_word(r, value);
	}
	free(line);
	fclose(info);
}

/* Count the open descriptors, except those used here; false with @r set. */
bool count_fds(struct reply *r, unsigned int *count)
{
	struct dirent *entry;
	DIR *folder;

	*count = 0;
	folder = opendir("/proc/self/fd");
	if (!folder) {
		reply_errno(r, errno, "fds: /proc/self/fd");
		return false;
	}
	while ((entry = readdir(folder)))
		if (isdigit((unsigned char)entry->d_name[0]) &&
		    atoi(entry->d_name) != dirfd(folder) &&
		    atoi(entry->d_name) != page_table_fd)
			(*count)++;
	closedir(folder);
	return true;
}

void op_fds(struct args *a, struct reply *r)
{
	unsigned int count;

	(void)a;
	if (count_fds(r, &count))
		reply_set(r, "ok %u", count);
}

void op_setrlimit(struct args *a, struct reply *r)
{
	struct rlimit limit;
	uint64_t count;

	if (!option_u64(a, r, "nofile", 0, &count))
		return;
	limit.rlim_cur = count;
	limit.rlim_max = count;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		reply_errno(r, errno, "setrlimit");
	else
		reply_set(r, "ok");
}

void op_version(struct args *a, struct reply *r)
{
	(void)a;
	reply_set(r, "ok protocol=%u probe=actor revoke=%s memattr=%s",
		  ACTOR_PROTOCOL, revoke_offers(), memattr_offers());
}
