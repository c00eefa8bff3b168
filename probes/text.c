// SPDX-License-Identifier: GPL-2.0-only
/* Parse lines, which are not trusted, and compose replies. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

/* Return @memory; NULL ends the actor, as it tells nothing about the kernel. */
void *must(void *memory)
{
	if (!memory) {
		fputs("actor: out of memory\n", stderr);
		_Exit(3);
	}
	return memory;
}

void reply_reset(struct reply *r)
{
	r->length = 0;
	r->last = false;
}

static void reply_vadd(struct reply *r, const char *fmt, va_list values)
{
	va_list again;
	int needed;

	va_copy(again, values);
	needed = vsnprintf(NULL, 0, fmt, again);
	va_end(again);
	if (needed < 0)
		return;
	if (r->length + needed + 1 > r->room) {
		r->room = 2 * (r->length + needed + 1);
		r->text = must(realloc(r->text, r->room));
	}
	vsnprintf(r->text + r->length, r->room - r->length, fmt, values);
	r->length += needed;
}

void reply_add(struct reply *r, const char *fmt, ...)
{
	va_list values;

	va_start(values, fmt);
	reply_vadd(r, fmt, values);
	va_end(values);
}

void reply_set(struct reply *r, const char *fmt, ...)
{
	va_list values;

	r->length = 0;
	va_start(values, fmt);
	reply_vadd(r, fmt, values);
	va_end(values);
}

/* Return the name of an errno, or E524 in @buffer if it has none. */
const char *errno_name(int error, char *buffer, size_t size)
{
	const char *name = strerrorname_np(error);

	if (name)
		return name;
	snprintf(buffer, size, "E%d", error);
	return buffer;
}

/* Reply "error EINVAL map: Invalid argument". */
void reply_errno(struct reply *r, int error, const char *what)
{
	char number[16];

	reply_set(r, "error %s %s: %s",
		  errno_name(error, number, sizeof(number)), what,
		  strerror(error));
}

/* Reply to a wrong line; the user's words in it are cut and made printable. */
void reply_usage(struct reply *r, const char *fmt, ...)
{
	char text[400];
	va_list values;
	char *c;

	va_start(values, fmt);
	vsnprintf(text, sizeof(text), fmt, values);
	va_end(values);
	for (c = text; *c; c++)
		if (!isprint((unsigned char)*c))
			*c = '?';
	reply_set(r, "error usage: %s", text);
}

static bool is_option(const char *word)
{
	const char *equals = strchr(word, '=');

	return equals && equals != word && islower((unsigned char)*word);
}

/* Split a line into operation, words and key=value options. */
bool parse_line(char *line, struct args *a, struct reply *r)
{
	char *rest = line, *word;

	memset(a, 0, sizeof(*a));
	while ((word = strsep(&rest, " \t\r"))) {
		if (!*word)
			continue;
		if (!a->op) {
			a->op = word;
		} else if (is_option(word)) {
			if (a->options == OPTIONS_MAX) {
				reply_usage(r, "too many options");
				return false;
			}
			a->option[a->options].key = word;
			a->option[a->options].value = strchr(word, '=') + 1;
			a->option[a->options].value[-1] = '\0';
			a->options++;
		} else {
			if (a->words == ARGS_MAX) {
				reply_usage(r, "too many words");
				return false;
			}
			a->word[a->words++] = word;
		}
	}
	return true;
}

/* Parse a decimal or 0x hexadecimal number with an optional K, M or G. */
bool parse_u64(const char *text, uint64_t *value)
{
	static const char suffixes[] = "KMG";
	const char *suffix;
	unsigned int shift = 0;
	int base = 10;
	char *end;

	if (text[0] == '0' && text[1] == 'x') {
		text += 2;
		base = 16;
	}
	if (!isxdigit((unsigned char)text[0]) || text[1] == 'x')
		return false; /* strtoull() accepts blanks, signs and 0x */
	errno = 0;
	*value = strtoull(text, &end, base);
	if (errno || end == text)
		return false;
	if (*end) {
		suffix = strchr(suffixes, *end++);
		if (!suffix || *end)
			return false;
		shift = 10 * (suffix - suffixes + 1);
	}
	if (shift && *value >> (64 - shift))
		return false;
	*value <<= shift;
	return true;
}

const char *option_text(const struct args *a, const char *key)
{
	unsigned int i;

	for (i = 0; i < a->options; i++)
		if (!strcmp(a->option[i].key, key))
			return a->option[i].value;
	return NULL;
}

bool word_u64(const struct args *a, struct reply *r, unsigned int index,
	      uint64_t *value)
{
	if (parse_u64(a->word[index], value))
		return true;
	reply_usage(r, "%s: '%s' is not a number of at most 64 bits", a->op,
		    a->word[index]);
	return false;
}

bool option_u64(const struct args *a, struct reply *r, const char *key,
		uint64_t absent, uint64_t *value)
{
	const char *text = option_text(a, key);

	*value = absent;
	if (!text || parse_u64(text, value))
		return true;
	reply_usage(r, "%s: %s=%s is not a number of at most 64 bits", a->op,
		    key, text);
	return false;
}

/* Parse a number, or names of the table joined by commas, or-ed together. */
bool parse_tokens(const char *text, const struct token *table, size_t size,
		  uint64_t *value)
{
	const char *comma;
	size_t length, i;

	if (parse_u64(text, value))
		return true;
	*value = 0;
	for (;;) {
		comma = strchrnul(text, ',');
		length = comma - text;
		for (i = 0; i < size; i++)
			if (strlen(table[i].name) == length &&
			    !memcmp(table[i].name, text, length))
				break;
		if (i == size)
			return false;
		*value |= table[i].value;
		if (!*comma)
			return true;
		text = comma + 1;
	}
}
