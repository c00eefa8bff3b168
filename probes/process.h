/* SPDX-License-Identifier: GPL-2.0-only */
/* Child actors. */
#ifndef PROCESS_H
#define PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

#include "text.h"

void process_init(bool is_child, int (*serve)(void));
void process_resume(int (*serve)(void));
bool process_is_child(void);
void relay(char *line, struct reply *r);
bool child_works(const struct args *a, struct reply *r);
pid_t word_process(const struct args *a, struct reply *r, unsigned int index);

#endif
