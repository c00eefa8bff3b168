/* SPDX-License-Identifier: GPL-2.0-only */
/* Transcripts, carried out again. */
#ifndef REPLAY_H
#define REPLAY_H

int replay(const char *path);

#endif
