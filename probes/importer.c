// SPDX-License-Identifier: GPL-2.0-only
/* Have the test importer, a kernel module, import a DMABUF. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include "device.h"
#include "fault.h"
#include "importer.h"
#include "operations.h"

struct object *word_importer(const struct args *a, struct reply *r)
{
	return word_object(a, r, 0, IMPORTER);
}

void op_importer(struct args *a, struct reply *r)
{
	struct object *importer;
	int fd = open("/dev/" IMPORTER_NAME, O_RDWR | O_CLOEXEC);

	(void)a;
	if (fd < 0) {
		reply_errno(r, errno, "importer");
		return;
	}
	importer = object_new(IMPORTER);
	importer->fd = fd;
	reply_set(r, "ok %s", importer->name);
}

static void call(struct args *a, struct reply *r, unsigned long request,
		 void *argument)
{
	struct object *importer = word_importer(a, r);

	if (!importer)
		return;
	if (ioctl(importer->fd, request, argument))
		reply_errno(r, errno, a->op);
	else
		reply_set(r, "ok");
}

/* Parse the option @key, the address of a PCI function. */
static bool option_address(const struct args *a, struct reply *r,
			   const char *key, __u64 *address)
{
	const char *text = option_text(a, key);
	unsigned int domain, bus, slot, function;

	*address = IMPORTER_NO_DEVICE;
	if (!text)
		return true;
	if (!is_bdf(text) || sscanf(text, "%4x:%2x:%2x.%1x", &domain, &bus,
				    &slot, &function) != 4) {
		reply_usage(r, "%s: %s=%s is not like 0000:02:00.0", a->op, key,
			    text);
		return false;
	}
	*address = (__u64)domain << 16 | bus << 8 | slot << 3 | function;
	return true;
}

void op_impattach(struct args *a, struct reply *r)
{
	static const struct token words[] = {
		{ "dynamic", IMPORTER_DYNAMIC },
		{ "static", IMPORTER_STATIC },
		{ "nop2p", IMPORTER_NO_P2P },
		{ "nocallback", IMPORTER_NO_CALLBACK },
	};
	const char *word = option_text(a, "as") ?: "dynamic";
	struct object *buffer = word_object(a, r, 1, BUFFER);
	struct importer_attach attach = { 0 };
	uint64_t class;

	if (!buffer)
		return;
	if (!parse_tokens(word, words, ARRAY_SIZE(words), &class) ||
	    class > IMPORTER_NO_CALLBACK) {
		reply_usage(r,
			    "impattach: as=%s is not dynamic, static, nop2p or "
			    "nocallback",
			    word);
		return;
	}
	if (!option_address(a, r, "device", &attach.device) ||
	    !option_address(a, r, "exporter", &attach.exporter))
		return;
	attach.fd = buffer->fd;
	attach.class = (__u32)class;
	call(a, r, IMPORTER_ATTACH, &attach);
}

/* Parse the option @key: milliseconds, or never. */
static bool option_ms(const struct args *a, struct reply *r, const char *key,
		      __u32 *ms)
{
	const char *text = option_text(a, key);
	uint64_t value;

	*ms = IMPORTER_NEVER;
	if (text && !strcmp(text, "never"))
		return true;
	if (!option_u64(a, r, key, 0, &value))
		return false;
	if (value > IMPORTER_LONGEST) {
		reply_usage(r, "%s: %s= is at most %u ms, or never", a->op, key,
			    IMPORTER_LONGEST);
		return false;
	}
	*ms = (__u32)value;
	return true;
}

void op_implan(struct args *a, struct reply *r)
{
	/* enum dma_resv_usage */
	static const struct token usages[] = {
		{ "kernel", 0 },
		{ "write", 1 },
		{ "read", 2 },
		{ "bookkeep", 3 },
	};
	const char *fence = option_text(a, "fence");
	struct importer_plan plan = { 0 };
	uint64_t usage = 0, remap, unpin;

	if (!option_ms(a, r, "stall", &plan.stall_ms) ||
	    !option_ms(a, r, "signal", &plan.fence_ms) ||
	    !option_ms(a, r, "unmap", &plan.unmap_ms) ||
	    !option_u64(a, r, "remap", 0, &remap) ||
	    !option_u64(a, r, "unpin", 0, &unpin))
		return;
	if (fence &&
	    (!parse_tokens(fence, usages, ARRAY_SIZE(usages), &usage) ||
	     usage > 3)) {
		reply_usage(r,
			    "implan: fence=%s is not kernel, write, read or "
			    "bookkeep",
			    fence);
		return;
	}
	plan.fence_usage = (__u32)usage;
	plan.flags = (fence ? IMPORTER_PLAN_FENCE : 0) |
		     (remap ? IMPORTER_PLAN_REMAP : 0) |
		     (unpin ? IMPORTER_PLAN_UNPIN : 0);
	call(a, r, IMPORTER_PLAN, &plan);
}

void op_impmap(struct args *a, struct reply *r)
{
	/* enum dma_data_direction */
	static const struct token words[] = {
		{ "both", 0 },
		{ "to", 1 },
		{ "from", 2 },
	};
	const char *word = option_text(a, "direction") ?: "both";
	uint64_t value;
	__u32 direction;

	if (!parse_tokens(word, words, ARRAY_SIZE(words), &value) ||
	    value > 2) {
		reply_usage(r, "impmap: direction=%s is not both, to or from",
			    word);
		return;
	}
	direction = (__u32)value;
	call(a, r, IMPORTER_MAP, &direction);
}

void op_impdetach(struct args *a, struct reply *r)
{
	call(a, r, IMPORTER_DETACH, NULL);
}

void op_imppin(struct args *a, struct reply *r)
{
	call(a, r, IMPORTER_PIN, NULL);
}

void op_impunpin(struct args *a, struct reply *r)
{
	call(a, r, IMPORTER_UNPIN, NULL);
}

void op_impunmap(struct args *a, struct reply *r)
{
	call(a, r, IMPORTER_UNMAP, NULL);
}

void op_impvmap(struct args *a, struct reply *r)
{
	call(a, r, IMPORTER_VMAP, NULL);
}

void op_imprelease(struct args *a, struct reply *r)
{
	call(a, r, IMPORTER_RELEASE, NULL);
}

/* Write the memory bit, as a client of VFIO does that suspends the device. */
static int write_command(const struct object *device, uint64_t config,
			 bool memory)
{
	uint64_t at = config + PCI_COMMAND;
	uint16_t command;

	if (pread(device->fd, &command, sizeof(command), at) < 0)
		return -1;
	command = memory ? command | PCI_COMMAND_MEMORY
			 : command & ~PCI_COMMAND_MEMORY;
	return pwrite(device->fd, &command, sizeof(command), at) < 0 ? -1 : 0;
}

void op_impcycle(struct args *a, struct reply *r)
{
	struct object *device = word_object(a, r, 1, DEVICE), *importer;
	uint64_t config, count, done;
	__u32 both = 0;

	if (!device || !(importer = word_importer(a, r)) ||
	    !option_u64(a, r, "count", 0, &count))
		return;
	if (device_region(device, VFIO_PCI_CONFIG_REGION_INDEX, &config)) {
		reply_errno(r, errno, "impcycle: region");
		return;
	}
	for (done = 0; done < count && !deadline_passed(); done++) {
		if (ioctl(importer->fd, IMPORTER_MAP, &both) ||
		    write_command(device, config, false) ||
		    write_command(device, config, true)) {
			reply_errno(r, errno, a->op);
			return;
		}
	}
	if (done < count)
		reply_set(r, "timeout");
	else
		reply_set(r, "ok cycles=%ju", (uintmax_t)done);
}

void op_impwait(struct args *a, struct reply *r)
{
	struct importer_wait wait = { 0 };
	uint64_t count;
	__u32 event;

	if (!option_u64(a, r, "count", 1, &count))
		return;
	for (event = 1; event < IMPORTER_EVENTS; event++)
		if (!strcmp(importer_event_name(event), a->word[1]))
			break;
	if (event == IMPORTER_EVENTS || count > UINT32_MAX) {
		reply_usage(r, "impwait: '%s' is no event of an importer",
			    a->word[1]);
		return;
	}
	wait.event = event;
	wait.count = (__u32)count;
	call(a, r, IMPORTER_WAIT, &wait);
}
