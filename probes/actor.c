// SPDX-License-Identifier: GPL-2.0-only
/*
 * The actor's front door: the table of operations, the loop that serves them,
 * and the replay of a transcript.  The protocol is described in PROTOCOL.md.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "actor.h"

/*
 * The usage is also what a line is checked against: plain words are positional,
 * key=VALUE are options, brackets make either optional.
 */
const struct operation operations[] = {
	{ "open vfio BDF [via=group|cdev|node]",
	  "open a device bound to vfio-pci, with an IOMMU of its own",
	  op_open },
	{ "info DEV", "device flags, numbers of regions and interrupts",
	  op_info },
	{ "region DEV INDEX", "size, file offset and flags of a region",
	  op_region },
	{ "reset DEV", "VFIO_DEVICE_RESET", op_reset },
	{ "resets DEV count=N", "so many VFIO_DEVICE_RESETs, in a thread",
	  op_resets },
	{ "resetsdone", "wait for the end of that; how many there were",
	  op_resetsdone },
	{ "join DEV BDF",
	  "open another device of the same IOMMU group, by the same way",
	  op_join },
	{ "hotreset DEV [by=DEV]",
	  "VFIO_DEVICE_PCI_HOT_RESET, with a device's group as the proof",
	  op_hotreset },
	{ "lowpower DEV enter|wakeup|exit",
	  "VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, _ENTRY_WITH_WAKEUP, or _EXIT",
	  op_lowpower },
	{ "wakeups DEV", "how often what woke it up was signalled, since asked",
	  op_wakeups },
	{ "read DEV INDEX|config OFFSET BYTES",
	  "pread() 1, 2, 4 or 8 bytes of a region", op_read },
	{ "write DEV INDEX|config OFFSET BYTES VALUE",
	  "pwrite() 1, 2, 4 or 8 bytes of a region", op_write },
	{ "probe DEV FEATURE get|set",
	  "is this VFIO_DEVICE_FEATURE number known?", op_probe },
	{ "ioctl DEV|BUF|FD REQUEST [data=HEX,NAME,...] [guard=1] [argument=N]",
	  "any ioctl; data is what its argument points to, returned as it is "
	  "afterwards",
	  op_ioctl },
	{ "abi", "the numbers of features that the headers give", op_abi },
	{ "hold FD", "give a name to a descriptor that a raw ioctl returned",
	  op_hold },
	{ "footprint",
	  "what a call could leave behind: descriptors, DMABUFs, log",
	  op_footprint },
	{ "export DEV bar=N ranges=OFFSET:LENGTH,... [flags=N] "
	  "[open_flags=rdwr,cloexec]",
	  "make a DMABUF of ranges of a BAR", op_export },
	{ "revoke DEV BUF [via=feature|pci|ioctl]",
	  "revoke a DMABUF; by default the way that the headers offer",
	  op_revoke },
	{ "reclaim DEV BUF MAP VALUE [offset=N] [stride=N] [release=HAM] [tries=N] "
	  "[via=feature|pci|ioctl]",
	  "revoke, and at once store a value in every 32-bit word of a mapping",
	  op_reclaim },
	{ "memattr DEV BUF nc|wc", "set the memory attribute of a DMABUF",
	  op_memattr },
	{ "map DEV|BUF length=N [bar=N] [offset=N] [prot=rw] [flags=shared] "
	  "[align=N] [congruent=N]",
	  "mmap(); the address is congruent modulo align where that is given",
	  op_map },
	{ "unmap MAP [offset=N] [length=N]", "munmap() all or a part",
	  op_unmap },
	{ "mprotect MAP PROT [offset=N] [length=N]", "mprotect() all or a part",
	  op_mprotect },
	{ "madvise MAP ADVICE [offset=N] [length=N]", "madvise() all or a part",
	  op_madvise },
	{ "mremap MAP LENGTH [flags=maymove] [duplicate=1]",
	  "mremap() to another length or place", op_mremap },
	{ "mapover MAP BUF [offset=N] [length=N] [from=N] [noreplace=1]",
	  "put a part of a buffer where a part of a mapping is", op_mapover },
	{ "mapat BUF ADDRESS length=N [offset=N]",
	  "mmap() at an address where nothing is", op_mapat },
	{ "remapfile MAP PAGE [offset=N] [length=N]",
	  "remap_file_pages(): another page of the same file", op_remapfile },
	{ "msync MAP async|sync|invalidate [offset=N] [length=N]", "msync()",
	  op_msync },
	{ "mlock MAP [offset=N] [length=N]", "mlock()", op_mlock },
	{ "mlockall none|current|future", "mlockall(), or munlockall()",
	  op_mlockall },
	{ "mseal MAP [offset=N] [length=N]", "mseal()", op_mseal },
	{ "userfault MAP missing|wp|wpasync|minor",
	  "ask for the faults of a mapping by a userfaultfd", op_userfault },
	{ "pinpages MAP direct|vmsplice|uring|futex [offset=N] [length=N]",
	  "have the kernel pin the pages of a mapping", op_pinpages },
	{ "peek NAME|self MAP OFFSET via=mem|ptrace|vm",
	  "read 32 bits of a mapping of another process as a debugger does",
	  op_peek },
	{ "poke NAME|self MAP OFFSET VALUE via=mem|ptrace|vm",
	  "write 32 bits likewise", op_poke },
	{ "advise NAME|self MAP ADVICE",
	  "process_madvise(), with the number of an advice", op_advise },
	{ "mapfile MAP", "open() of the mapping in /proc/self/map_files",
	  op_mapfile },
	{ "mapped", "the files that this process has mapped shared",
	  op_mapped },
	{ "memory", "what of this process is in memory, and locked there",
	  op_memory },
	{ "fdio BUF read|write|pread|pwrite|spliceout|splicein|sendfile|copy|"
	  "truncate|punch",
	  "any way to move bytes that a file may have", op_fdio },
	{ "setfl BUF rdonly|wronly|rdwr", "fcntl() F_SETFL", op_setfl },
	{ "load8 MAP OFFSET [raw=1]", "one load of 8 bits", op_load },
	{ "load16 MAP OFFSET [raw=1]", "one load of 16 bits", op_load },
	{ "load32 MAP OFFSET [raw=1]", "one load of 32 bits", op_load },
	{ "load64 MAP OFFSET [raw=1]", "one load of 64 bits", op_load },
	{ "store8 MAP OFFSET VALUE [raw=1]", "one store of 8 bits", op_store },
	{ "store16 MAP OFFSET VALUE [raw=1]", "one store of 16 bits",
	  op_store },
	{ "store32 MAP OFFSET VALUE [raw=1]", "one store of 32 bits",
	  op_store },
	{ "store64 MAP OFFSET VALUE [raw=1]", "one store of 64 bits",
	  op_store },
	{ "loadpages MAP [offset=N] [length=N]",
	  "load the first 32-bit word of every page, faults included",
	  op_loadpages },
	{ "loadlist MAP OFFSET,OFFSET,...",
	  "load the 32-bit words at these offsets, in this order",
	  op_loadlist },
	{ "loadeach MAP:OFFSET,MAP:OFFSET,...",
	  "load the 32-bit words at these places of several mappings",
	  op_loadeach },
	{ "touch MAP [value=N] [offset=N] [length=N]",
	  "load from every page, or store there, and count the page faults",
	  op_touch },
	{ "stamp MAP [seed=N] [offset=N] [length=N]",
	  "store page number + seed in the first 32-bit word of every page",
	  op_stamp },
	{ "fill MAP VALUE [offset=N] [length=N]",
	  "store a value in every 32-bit word", op_fill },
	{ "compare MAP VALUE [offset=N] [length=N]",
	  "load every 32-bit word up to the first that differs", op_compare },
	{ "syscopy MAP out|in [offset=N] [bytes=N] [value=N]",
	  "write() from a mapping to a pipe, or read() into it", op_syscopy },
	{ "hammer MAP [value=N] [access=store|load|both] [threads=N] "
	  "[cpus=N,...] [width=N] [offset=N] [length=N] [stride=N] [held=1] "
	  "[in=thread|handler|clone]",
	  "threads that keep accessing a mapping whatever becomes of it",
	  op_hammer },
	{ "hammered HAM [more=N]",
	  "what each thread has done, once it has tried that many times more",
	  op_hammered },
	{ "unhammer HAM", "end its threads; what each has done", op_unhammer },
	{ "watch MAP [offset=N] [length=N]",
	  "load the first 32-bit word of every page over and over, in a thread",
	  op_watch },
	{ "watched", "end that; how many loads, and all values they gave",
	  op_watched },
	{ "pagetable MAP", "what this process's page table holds of a mapping",
	  op_pagetable },
	{ "vmas MAP", "the VMAs of a mapping, with their flags", op_vmas },
	{ "faults", "page faults of this process so far", op_faults },
	{ "count FUNCTION",
	  "count the kernel's calls of one of its functions in this thread",
	  op_count },
	{ "counted", "end that; how many there were", op_counted },
	{ "fence", "let no store be held back any longer", op_fence },
	{ "seek BUF [offset=N] [whence=set|cur|end]", "lseek(); the size",
	  op_seek },
	{ "fdinfo DEV|BUF", "/proc/self/fdinfo of a descriptor", op_fdinfo },
	{ "fds", "number of open descriptors", op_fds },
	{ "setrlimit nofile=N", "limit the number of open descriptors",
	  op_setrlimit },
	{ "make udmabuf|heap|memfd|eventfd length=N",
	  "a buffer that is not of VFIO, or not even a DMABUF", op_make },
	{ "resource BDF BAR [wc=1]",
	  "a BAR as sysfs offers it, write-combining if asked", op_resource },
	{ "import DEV BUF length=N iova=N",
	  "have iommufd import a DMABUF, in a new address space of the device",
	  op_import },
	{ "dup BUF [via=fcntl|dup]", "a second descriptor of the same DMABUF",
	  op_dup },
	{ "fdflags DEV|BUF", "is it close-on-exec, what may be done with it",
	  op_fdflags },
	{ "reopen BUF [open_flags=rdwr,cloexec]",
	  "open() of /proc/self/fd/N; path is O_PATH", op_reopen },
	{ "cycle DEV bar=N length=N count=N [ranges=N] [revoke=1] [keep=1]",
	  "export, map, load, revoke (every other pair), unmap and close, in "
	  "turns",
	  op_cycle },
	{ "outlive DEV bar=N length=N count=N [ranges=N] [revoke=1]",
	  "the same with the device closed first; how many were dead then",
	  op_outlive },
	{ "attempts DEV bar=N length=N count=N",
	  "export and close; how often it was done, or refused how",
	  op_attempts },
	{ "together DEV export|revoke bar=N length=N count=N threads=N",
	  "the same call in several threads at once; how often it was done, or "
	  "refused how",
	  op_together },
	{ "close DEV|BUF", "close the descriptor (a device: all of its own)",
	  op_close },
	{ "spawn NAME [uid=N]",
	  "start a fresh actor that inherits no descriptor", op_spawn },
	{ "fork NAME", "fork: the child has all that this actor has", op_fork },
	{ "send DEV|BUF NAME", "send a descriptor to an actor, or to 'parent'",
	  op_send },
	{ "recv [NAME]", "receive a descriptor, from the parent by default",
	  op_recv },
	{ "signal NAME stop|cont|term|kill", "signal an actor", op_signal },
	{ "seize NAME",
	  "stop an actor, and all its threads, as a debugger does", op_seize },
	{ "release NAME", "let it go on", op_release },
	{ "reap NAME", "wait for an actor's end", op_reap },
	{ "orphan", "go on in a child, and end the process that there was",
	  op_orphan },
	{ "unshare user,mount,pid,net,ipc,uts",
	  "leave namespaces; that of PIDs is left by the actors to be made",
	  op_unshare },
	{ "abort", "end with a core dump of all that may be in one", op_abort },
	{ "pin [CPU,CPU...]", "run on these CPUs only; which they are",
	  op_pin },
	{ "exec", "exec() this program: only descriptors stay, if at all",
	  op_exec },
	{ "version", "protocol, and what the headers offered", op_version },
	{ "exit", "end this actor", op_exit },
};

const size_t operations_count = ARRAY_SIZE(operations);

static const struct operation *operation_find(const char *name)
{
	size_t length = strlen(name), i;

	for (i = 0; i < operations_count; i++)
		if (strcspn(operations[i].usage, " ") == length &&
		    !memcmp(operations[i].usage, name, length))
			return &operations[i];
	return NULL;
}

static const char *next_word(const char *usage, size_t *length)
{
	usage += strspn(usage, " ");
	*length = strcspn(usage, " ");
	return usage;
}

/* Does @usage have the option @key ("[key=..." or "key=...")? */
static bool usage_takes(const char *usage, const char *key)
{
	size_t length;

	for (usage = next_word(usage, &length); length;
	     usage = next_word(usage + length, &length)) {
		const char *word = usage + (*usage == '[');

		if (!strncmp(word, key, strlen(key)) &&
		    word[strlen(key)] == '=')
			return true;
	}
	return false;
}

/* Compare a line with the usage text of its operation. */
static bool check_usage(const struct operation *operation, const struct args *a,
			struct reply *r)
{
	unsigned int least = 0, most = 0, i;
	const char *usage = operation->usage, *word;
	size_t length, name;
	char key[32];

	next_word(usage, &length);
	for (word = next_word(usage + length, &length); length;
	     word = next_word(word + length, &length)) {
		bool optional = *word == '[';

		name = strcspn(word, "=");
		if (name >= length) {
			least += !optional;
			most++;
			continue;
		}
		snprintf(key, sizeof(key), "%.*s", (int)name, word);
		if (!optional && !option_text(a, key)) {
			reply_usage(r, "%s", usage);
			return false;
		}
	}
	if (a->words < least || a->words > most) {
		reply_usage(r, "%s", usage);
		return false;
	}
	for (i = 0; i < a->options; i++) {
		if (strcmp(a->option[i].key, "deadline") &&
		    !usage_takes(usage, a->option[i].key)) {
			reply_usage(r, "%s: no option %s=; %s", a->op,
				    a->option[i].key, usage);
			return false;
		}
	}
	return true;
}

/* The deadline= that a line asks for, wherever it stands; seconds. */
static bool line_deadline(const char *line, struct reply *r,
			  unsigned int *seconds)
{
	static const char key[] = " deadline=";
	const char *found = strstr(line, key);
	char number[16];
	uint64_t value;

	*seconds = DEADLINE_DEFAULT;
	if (!found)
		return true;
	found += strlen(key);
	snprintf(number, sizeof(number), "%.*s", (int)strcspn(found, " \t\r"),
		 found);
	if (!parse_u64(number, &value) || !value || value > DEADLINE_MAX) {
		reply_usage(r, "deadline= is a number of seconds from 1 to %d",
			    DEADLINE_MAX);
		return false;
	}
	*seconds = (unsigned int)value;
	return true;
}

static void run_line(char *line, struct reply *r)
{
	const struct operation *operation;
	struct args a;

	if (*line == '@') {
		relay(line, r);
		return;
	}
	if (!parse_line(line, &a, r))
		return;
	operation = operation_find(a.op);
	if (!operation) {
		reply_usage(r,
			    "there is no operation '%s'; actor --help lists "
			    "them",
			    a.op);
		return;
	}
	if (check_usage(operation, &a, r))
		operation->run(&a, r);
}

/*
 * Carry out one line; false when it asked for nothing (blank, comment).  A call
 * that the deadline interrupted says EINTR, which is not the kernel's answer.
 */
bool execute(char *line, struct reply *r)
{
	unsigned int seconds;

	line += strspn(line, " \t\r");
	if (!*line || *line == '#')
		return false;
	reply_reset(r);
	if (!line_deadline(line, r, &seconds))
		return true;
	deadline_start(seconds);
	run_line(line, r);
	deadline_stop();
	if (deadline_passed() && !strncmp(r->text, "error EINTR ", 12))
		reply_set(r, "timeout");
	return true;
}

/* Serve stdin until it ends; the exit code. */
int serve(void)
{
	struct reader reader = { .fd = STDIN_FILENO };
	struct reply reply = { 0 };
	bool person = isatty(STDIN_FILENO);
	enum line_status status;
	char *line;

	for (;;) {
		if (person)
			write_all(STDOUT_FILENO, "> ", 2);
		status = reader_line(&reader, &line, -1);
		if (status == LINE_END)
			return 0;
		reply_reset(&reply);
		if (status == LINE_UNFIT)
			reply_usage(&reply,
				    "a line has at most %u bytes, none "
				    "of them NUL",
				    LINE_MAX_BYTES);
		else if (!execute(line, &reply))
			continue;
		reply_add(&reply, "\n");
		if (!write_all(STDOUT_FILENO, reply.text, reply.length))
			return 1;
		if (reply.last)
			return 0;
	}
}

static void help(void)
{
	size_t i;

	puts("usage: actor [--replay FILE]\n\n"
	     "Reads one operation per line and answers each with one line:\n"
	     "ok, error, sigbus, sigsegv, timeout or died. Lines that begin\n"
	     "with # and empty lines are skipped. '@NAME operation' has the\n"
	     "actor NAME do it. Every operation takes deadline=SECONDS\n"
	     "(10 unless said). Numbers are decimal or 0x hexadecimal and may\n"
	     "end in K, M or G.\n\n"
	     "  --replay FILE  carry out a transcript ('> operation', then the\n"
	     "                 reply it had) and show the replies that differ;\n"
	     "                 exit 1 if any does, 2 if FILE is no transcript\n\n"
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
