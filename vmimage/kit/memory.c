// SPDX-License-Identifier: GPL-2.0
/*
 * The host's access to the memory behind a RAM BAR.
 *
 * A kit has no program on the host that could do it.  Its machine has a second
 * device for the same memory (harness/vm/kit_machine.py), which no actor knows
 * and no driver has.  Unlike the device under test it always decodes its
 * addresses, and the kernel under test has no part in the access.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kit.h"

#define MEMORIES_MAX 8
#define PAGE 4096
#define RUNS_MAX 64 /* as in harness/vm/word_runs.py */
#define WORDS_LEAST_BYTES 64

struct memory {
	char *role;
	volatile uint8_t *place;
	size_t size;
};

static struct memory memories[MEMORIES_MAX];
static unsigned int count;

void memory_add(const char *role, const char *address, size_t size)
{
	char *path = printed("/sys/bus/pci/devices/%s/resource2", address);
	struct memory *memory = &memories[count];
	int fd;

	if (count == MEMORIES_MAX)
		give_up("The machine has more than %d memories.", MEMORIES_MAX);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		give_up("%s cannot be opened: %s.", path, strerror(errno));
	memory->place =
		mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory->place == MAP_FAILED)
		give_up("%s cannot be mapped: %s.", path, strerror(errno));
	close(fd);
	free(path);
	memory->role = must(strdup(role));
	memory->size = size;
	count++;
}

/* ---- the notation of lists, as in harness/vm/word_runs.py ---- */

static uint32_t crc32_of(const uint8_t *data, size_t length)
{
	uint32_t crc = ~0u;
	size_t i;
	int bit;

	for (i = 0; i < length; i++) {
		crc ^= data[i];
		for (bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
	}
	return ~crc;
}

static char *told_checksum(const void *data, size_t length)
{
	return printed("ok crc32=0x%08x", crc32_of(data, length));
}

static char *told_words(const uint32_t *words, size_t number)
{
	size_t i = 0, runs = 0, length;
	char *text, *longer;
	uint32_t step;

	text = printed("ok");
	while (i < number) {
		if (runs++ == RUNS_MAX) {
			free(text);
			return told_checksum(words, number * sizeof(*words));
		}
		step = 0;
		length = 1;
		if (i + 1 < number && words[i + 1] - words[i] <= 1) {
			step = words[i + 1] - words[i];
			while (i + length < number &&
			       words[i + length] ==
				       words[i] + step * (uint32_t)length)
				length++;
		}
		if (length == 1)
			longer = printed("%s 0x%08x", text, words[i]);
		else
			longer = printed("%s 0x%08x%c%zu", text, words[i],
					 step ? '+' : '*', length);
		free(text);
		text = longer;
		i += length;
	}
	return text;
}

static char *told_bytes(const uint8_t *data, size_t number)
{
	char *text = printed("ok"), *longer;
	size_t i = 0, runs = 0, length;

	if (!number)
		return text;
	if (number <= WORDS_LEAST_BYTES) {
		free(text);
		text = must(malloc(3 + 2 * number + 1));
		strcpy(text, "ok ");
		for (; i < number; i++)
			sprintf(text + 3 + 2 * i, "%02x", data[i]);
		return text;
	}
	for (; i < number; i += length) {
		if (runs++ == RUNS_MAX) {
			free(text);
			return told_checksum(data, number);
		}
		for (length = 1;
		     i + length < number && data[i + length] == data[i];)
			length++;
		longer = printed("%s %02x*%zu", text, data[i], length);
		free(text);
		text = longer;
	}
	return text;
}

/* ---- the steps ---- */

static uint64_t number_of(char **words, unsigned int number, unsigned int index)
{
	char *end;
	uint64_t value;

	if (index >= number)
		give_up("A step of the host has too few words.");
	value = strtoull(words[index], &end, 0);
	if (*end)
		give_up("A step of the host has '%s' in place of a number.",
			words[index]);
	return value;
}

static void check(const struct memory *memory, uint64_t offset, uint64_t length)
{
	if (length > memory->size || offset > memory->size - length)
		give_up("A step of the host is not inside of the memory of %s.",
			memory->role);
}

static char *read_bytes(const struct memory *memory, uint64_t offset,
			uint64_t length)
{
	uint8_t *copy = must(malloc(length + 1));
	char *told;

	check(memory, offset, length);
	memcpy(copy, (const void *)(memory->place + offset), length);
	told = told_bytes(copy, length);
	free(copy);
	return told;
}

static char *read_words(const struct memory *memory, uint64_t offset,
			uint64_t length, uint64_t stride)
{
	uint64_t number = stride ? (length + stride - 1) / stride : 0, i;
	uint32_t *copy = must(malloc(number * sizeof(*copy) + 1));
	char *told;

	check(memory, offset, length);
	for (i = 0; i < number; i++)
		copy[i] = *(const volatile uint32_t *)(memory->place + offset +
						       i * stride);
	told = told_words(copy, number);
	free(copy);
	return told;
}

static void write_bytes(const struct memory *memory, uint64_t offset,
			const char *digits)
{
	size_t length = strlen(digits) / 2, i;
	unsigned int byte;

	check(memory, offset, length);
	for (i = 0; i < length; i++) {
		if (sscanf(digits + 2 * i, "%2x", &byte) != 1)
			give_up("A step of the host has '%s' in place of "
				"bytes.",
				digits);
		memory->place[offset + i] = byte;
	}
}

static void stamp(const struct memory *memory, uint32_t seed, uint64_t length)
{
	uint32_t page;

	check(memory, 0, length);
	for (page = 0; page < length / PAGE; page++)
		*(volatile uint32_t *)(memory->place + (size_t)page * PAGE) =
			page + seed;
}

char *memory_step(char **words, unsigned int number)
{
	const struct memory *memory = NULL;
	const char *what = words[0];
	uint64_t first;
	unsigned int i;

	for (i = 0; i < count; i++)
		if (number > 2 && !strcmp(memories[i].role, words[1]))
			memory = &memories[i];
	if (!memory)
		give_up("There is no memory for this step of the host: %s.",
			what);
	first = number_of(words, number, 2);
	if (!strcmp(what, "read"))
		return read_bytes(memory, first, number_of(words, number, 3));
	if (!strcmp(what, "word"))
		return read_words(memory, first, 4, 4);
	if (!strcmp(what, "words"))
		return read_words(memory, first, number_of(words, number, 3),
				  number_of(words, number, 4));
	if (!strcmp(what, "write") && number > 3) {
		write_bytes(memory, first, words[3]);
	} else if (!strcmp(what, "stamp")) {
		stamp(memory, first,
		      number > 3 ? number_of(words, number, 3) : memory->size);
	} else if (!strcmp(what, "fill")) {
		check(memory, number_of(words, number, 3),
		      number_of(words, number, 4));
		memset((void *)(memory->place + number_of(words, number, 3)),
		       (int)first, number_of(words, number, 4));
	} else {
		give_up("This step of the host is not known here: %s.", what);
	}
	return NULL;
}
