/* SPDX-License-Identifier: GPL-2.0-only */
/* Parse lines and compose replies. */
#ifndef TEXT_H
#define TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ACTOR_PROTOCOL 1 /* PROTOCOL.md */

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))

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
const char *errno_name(int error, char *buffer, size_t size);
void reply_errno(struct reply *r, int error, const char *what);
void reply_usage(struct reply *r, const char *fmt, ...) PRINTF(2, 3);

bool parse_line(char *line, struct args *a, struct reply *r);
bool parse_u64(const char *text, uint64_t *value);
const char *option_text(const struct args *a, const char *key);
bool word_u64(const struct args *a, struct reply *r, unsigned int index,
	      uint64_t *value);
bool option_u64(const struct args *a, struct reply *r, const char *key,
		uint64_t absent, uint64_t *value);

/* A name and the kernel's number for it. */
struct token {
	const char *name;
	uint64_t value;
};

bool parse_tokens(const char *text, const struct token *table, size_t size,
		  uint64_t *value);

#endif
