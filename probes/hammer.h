/* SPDX-License-Identifier: GPL-2.0-only */
/* Threads that keep accessing a mapping. */
#ifndef HAMMER_H
#define HAMMER_H

void hammers_forget(void);

#endif
