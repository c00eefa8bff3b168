/* SPDX-License-Identifier: GPL-2.0-only */
/* The test importer's words. */
#ifndef IMPORTER_WORDS_H
#define IMPORTER_WORDS_H

#include "importer_uapi.h"
#include "object.h"
#include "text.h"

const char *importer_event_name(uint64_t event);
struct object *word_importer(const struct args *a, struct reply *r);

#endif
