/* SPDX-License-Identifier: GPL-2.0-only */
/* Compare a reply with the pattern of a "= " line, or with another reply. */
#ifndef PATTERN_H
#define PATTERN_H

#include <stdbool.h>

bool reply_matches(const char *pattern, const char *reply);
/* Whether two replies are the same answer; of an error only the errno counts. */
bool reply_alike(const char *one, const char *other);

#endif
