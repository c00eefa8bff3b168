/* SPDX-License-Identifier: GPL-2.0-only */
/* The image after exec(). */
#ifndef EXEC_H
#define EXEC_H

#include <stdbool.h>

bool resume(void);

#endif
