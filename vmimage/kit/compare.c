// SPDX-License-Identifier: GPL-2.0
/* Compare a reply with the pattern of a "= " line, and with that of the run (probes/PROTOCOL.md). */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "kit.h"

/* Return the next word of @text and its length, 0 at the end. */
static const char *next_word(const char *text, size_t *length)
{
	text += strspn(text, " ");
	*length = strcspn(text, " ");
	return text;
}

/* Skip "0x" and leading zeros of a number in hexadecimal; false for another word. */
static bool significant(const char **word, size_t *length)
{
	if (*length < 3 || *length > 18 || strncmp(*word, "0x", 2) ||
	    strspn(*word + 2, "0123456789abcdef") < *length - 2)
		return false;
	*word += 2;
	*length -= 2;
	while (*length > 1 && **word == '0') {
		(*word)++;
		(*length)--;
	}
	return true;
}

static bool same_word(const char *one, size_t length, const char *other,
		      size_t other_length)
{
	const char *digits = one, *other_digits = other;
	size_t count = length, other_count = other_length;

	if (significant(&digits, &count) &&
	    significant(&other_digits, &other_count))
		return count == other_count &&
		       !memcmp(digits, other_digits, count);
	return length == other_length && !memcmp(one, other, length);
}

/*
 * Compare word by word; after "error" only the errno counts.  With @open a last
 * word "*" of @wanted stands for any words.
 */
static bool same_words(const char *wanted, const char *reply, bool open)
{
	size_t length, other_length;
	const char *other;
	unsigned int i;
	bool error;

	for (i = 0, error = false;; i++) {
		wanted = next_word(wanted, &length);
		other = next_word(reply, &other_length);
		if (open && length == 1 && *wanted == '*' &&
		    !wanted[1 + strspn(wanted + 1, " ")])
			return true;
		if (!length || !other_length)
			return length == other_length;
		if (!same_word(wanted, length, other, other_length))
			return false;
		error = error ||
			(!i && length == 5 && !memcmp(wanted, "error", length));
		if (error && i == 1)
			return true;
		wanted += length;
		reply = other + other_length;
	}
}

bool reply_matches(const char *pattern, const char *reply)
{
	bool negated = !strncmp(pattern, "not ", strlen("not "));
	char *copy = must(strdup(pattern + (negated ? strlen("not ") : 0)));
	char *one = copy, *bar;
	bool found = false;

	for (; one; one = bar) {
		bar = strstr(one, " | ");
		if (bar) {
			*bar = '\0';
			bar += strlen(" | ");
		}
		found = found || same_words(one, reply, true);
	}
	free(copy);
	return found != negated;
}

bool reply_alike(const char *one, const char *other)
{
	return same_words(one, other, false);
}
