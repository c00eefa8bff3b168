/* SPDX-License-Identifier: GPL-2.0-only */
/* An actor that has replaced itself by exec(). */
#ifndef EXEC_H
#define EXEC_H

#include <stdbool.h>

bool resume(void);

#endif
