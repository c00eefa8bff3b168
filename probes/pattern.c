// SPDX-License-Identifier: GPL-2.0-only
/* Compare replies: PROTOCOL.md, "Transcripts". */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "pattern.h"

static const char *next_word(const char *text, size_t *length)
{
	text += strspn(text, " ");
	*length = strcspn(text, " ");
	return text;
}

/* Skip "0x" and the leading zeros of a number; false for another word. */
static bool significant(const char **word, size_t *length)
{
	if (*length < 3 || *length > 18 || strncmp(*word, "0x", 2) ||
	    strspn(*word + 2, "0123456789abcdef") < *length - 2)
		return false;
	for (*word += 2, *length -= 2; *length > 1 && **word == '0';
	     (*length)--)
		(*word)++;
	return true;
}

static bool same_word(const char *one, size_t length, const char *other,
		      size_t other_length)
{
	const char *first = one, *second = other;
	size_t digits = length, other_digits = other_length;

	if (significant(&first, &digits) && significant(&second, &other_digits))
		return digits == other_digits && !memcmp(first, second, digits);
	return length == other_length && !memcmp(one, other, length);
}

/* Compare up to @end of @wanted; with @open its last word may be "*". */
static bool same_words(const char *wanted, const char *end, const char *reply,
		       bool open)
{
	bool error = !strncmp(wanted, "error ", strlen("error "));
	size_t length, other_length;
	unsigned int i;

	for (i = 0; !error || i < 2; i++) {
		wanted = next_word(wanted, &length);
		if (wanted >= end)
			length = 0;
		reply = next_word(reply, &other_length);
		if (open && length == 1 && *wanted == '*' && wanted + 1 == end)
			return true;
		if (!length || !other_length)
			return length == other_length;
		if (!same_word(wanted, length, reply, other_length))
			return false;
		wanted += length;
		reply += other_length;
	}
	return true;
}

bool reply_matches(const char *pattern, const char *reply)
{
	bool negated = !strncmp(pattern, "not ", strlen("not "));
	const char *end;

	if (negated)
		pattern += strlen("not ");
	for (;; pattern = end + strlen(" | ")) {
		end = strstr(pattern, " | ");
		if (same_words(pattern, end ? end : pattern + strlen(pattern),
			       reply, true))
			return !negated;
		if (!end)
			return negated;
	}
}

bool reply_alike(const char *one, const char *other)
{
	return same_words(one, one + strlen(one), other, false);
}
