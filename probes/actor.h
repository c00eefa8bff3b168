/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The actor: a process in the guest that opens, exports, maps, peeks, pokes and
 * revokes on request.  It reports what it saw and judges nothing.
 */
#ifndef ACTOR_H
#define ACTOR_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define ACTOR_PROTOCOL 1
#define DEADLINE_DEFAULT 10 /* seconds */
#define DEADLINE_MAX 86400
#define LINE_MAX_BYTES (4u << 20)
#define PAGE 4096ull

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))

/* ---- text.c: lines in, replies out ---- */

struct reply {
	char *text;
	size_t length;
	size_t room;
	bool last; /* the actor ends after this reply */
};

struct option {
	char *key;
	char *value;
};

#define ARGS_MAX 16
#define OPTIONS_MAX 16

/* One parsed line; all strings point into the line itself. */
struct args {
	char *op;
	char *word[ARGS_MAX];
	unsigned int words;
	struct option option[OPTIONS_MAX];
	unsigned int options;
};

void *must(void *memory);

void reply_reset(struct reply *r);
void reply_add(struct reply *r, const char *fmt, ...) PRINTF(2, 3);
void reply_set(struct reply *r, const char *fmt, ...) PRINTF(2, 3);
void reply_errno(struct reply *r, int error, const char *what);
void reply_usage(struct reply *r, const char *fmt, ...) PRINTF(2, 3);

bool parse_line(char *line, struct args *a, struct reply *r);
bool parse_u64(const char *text, uint64_t *value);
const char *option_text(const struct args *a, const char *key);
bool word_u64(const struct args *a, struct reply *r, unsigned int index,
	      uint64_t *value);
bool option_u64(const struct args *a, struct reply *r, const char *key,
		uint64_t absent, uint64_t *value);

/* A name and the number that the kernel knows it by. */
struct token {
	const char *name;
	uint64_t value;
};

bool parse_tokens(const char *text, const struct token *table, size_t size,
		  uint64_t *value);

/* ---- object.c: what an actor holds, by name ---- */

enum kind {
	DEVICE = 1,
	BUFFER = 2,
	MAPPING = 4,
};

struct object {
	struct object *next;
	char name[24];
	enum kind kind;
	int fd;	       /* DEVICE, BUFFER */
	int anchor[2]; /* DEVICE: group and container, or the iommufd; else -1 */
	int wakeup;    /* DEVICE: the eventfd of `lowpower wakeup`, else -1 */
	unsigned char *base;  /* MAPPING */
	uint64_t length;      /* MAPPING: rounded up to pages */
	unsigned int hammers; /* MAPPING: how many are at work on it */
};

extern struct object *objects;

struct object *object_new(enum kind kind);
void object_drop(struct object *object);
struct object *object_find(const char *name);
struct object *word_object(const struct args *a, struct reply *r,
			   unsigned int index, unsigned int kinds);
char kind_letter(enum kind kind);
bool kind_from_letter(char letter, enum kind *kind);

/* ---- fault.c: signals and deadlines ---- */

struct fault {
	int signal; /* SIGBUS or SIGSEGV; SIGALRM when the deadline passed */
	int code;
	uintptr_t address;
};

void faults_init(void);
bool attempt(void (*body)(void *), void *context, struct fault *fault);
bool guarded(void (*body)(void *), void *context, struct fault *fault);
void reply_fault(struct reply *r, const struct fault *f,
		 const struct object *mapping);
const char *fault_code(const struct fault *f, char *buffer, size_t size);
void deadline_start(unsigned int seconds);
void deadline_stop(void);
bool deadline_passed(void);
int deadline_left(int grace);

/* ---- access.c: one instruction of exactly the asked width ---- */

struct access {
	unsigned char *place;
	unsigned int width; /* bits */
	uint64_t value;
};

void access_load(void *access);
void access_store(void *access);

/* ---- process.c: other actors ---- */

struct reader {
	int fd;
	char *buffer;
	size_t used;
	size_t room;
	size_t scanned;
	bool overlong;
};

enum line_status {
	LINE_OK,
	LINE_UNFIT, /* too long, or with a NUL inside */
	LINE_END,
	LINE_LATE,
};

enum line_status reader_line(struct reader *reader, char **line, int grace);
bool write_all(int fd, const char *data, size_t length);
void process_init(bool is_child, int (*serve)(void));
void process_resume(int (*serve)(void));
bool process_is_child(void);
void relay(char *line, struct reply *r);
pid_t word_process(const struct args *a, struct reply *r, unsigned int index);

/* ---- lifecycle.c: a DMABUF's life ---- */

struct tally {
	struct {
		int error; /* 0: done */
		uint64_t times;
	} entry[16];
};

/* -1 with errno if it is refused */
int export_beginning(int device, uint32_t bar, uint64_t length);
bool tally_count(struct tally *tally, int error);
void reply_tally(struct reply *r, const struct tally *tally);

/* ---- exec.c: an actor that replaced itself ---- */

bool resume(void);

/* ---- operations ---- */

typedef void operation_fn(struct args *a, struct reply *r);

struct operation {
	const char *usage; /* name, arguments; also what validation goes by */
	const char *help;
	operation_fn *run;
};

bool revoke_dmabuf(struct args *a, struct reply *r);
int revoke_by_default(int device, int buffer);
void hammers_forget(void);
bool count_fds(struct reply *r, unsigned int *count);

bool is_bdf(const char *text);
int open_node(struct object *device, const char *bdf, struct reply *r);
void device_close(struct object *device);
void reply_bars(const struct object *device, struct reply *r);
int device_region(const struct object *device, uint64_t index,
		  uint64_t *position);

struct object *mapping_part(struct args *a, struct reply *r, uint64_t *offset,
			    uint64_t *length);

extern const struct operation operations[];
extern const size_t operations_count;

bool execute(char *line, struct reply *r);
int serve(void);
int replay(const char *path);

operation_fn op_open, op_info, op_region, op_reset, op_read, op_write;
operation_fn op_probe, op_ioctl, op_export, op_revoke, op_memattr;
operation_fn op_loadlist, op_touch, op_fdflags, op_exec;
operation_fn op_map, op_unmap, op_load, op_store, op_loadpages, op_stamp;
operation_fn op_fill, op_compare, op_madvise, op_mprotect, op_mremap;
operation_fn op_close, op_dup, op_seek, op_fdinfo, op_fds, op_setrlimit;
operation_fn op_pagetable, op_vmas, op_faults, op_version;
operation_fn op_hammer, op_hammered, op_unhammer, op_reclaim, op_pin;
operation_fn op_make, op_syscopy, op_lowpower, op_hotreset;
operation_fn op_join, op_import, op_wakeups, op_resource, op_fence;
operation_fn op_count, op_counted, op_loadeach, op_resets, op_resetsdone;
operation_fn op_watch, op_watched, op_cycle, op_outlive, op_attempts, op_reopen;
operation_fn op_together;
operation_fn op_abi, op_hold, op_footprint;
operation_fn op_msync, op_mlock, op_mlockall, op_memory, op_mapover, op_mapat;
operation_fn op_remapfile, op_mseal, op_userfault;
operation_fn op_seize, op_release, op_peek, op_poke, op_pinpages, op_advise;
operation_fn op_mapfile, op_mapped, op_fdio, op_setfl;
operation_fn op_unshare, op_orphan, op_abort;
operation_fn op_spawn, op_fork, op_send, op_recv, op_signal, op_reap, op_exit;

const char *revoke_offers(void);
const char *memattr_offers(void);

#endif
