// SPDX-License-Identifier: GPL-2.0-only
/*
 * Child actors.  A child reads and writes lines on a stream socket, its stdin
 * and stdout.  A second socket, always fd 3, passes descriptors (SCM_RIGHTS).
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fault.h"
#include "hammer.h"
#include "object.h"
#include "operations.h"
#include "process.h"
#include "reader.h"
#include "text.h"

#define RIGHTS_FD 3
#define GRACE_MS 2000 /* so that a child reports its timeout itself */

struct child {
	struct child *next;
	char name[24];
	pid_t pid;
	int rights;
	struct reader reader;
	unsigned int pending; /* replies not read yet, late ones included */
	bool half_line; /* read half a line: the next one would be appended */
	bool begun;	/* carries out a line whose reply `finish` is to read */
	bool ended;
	int status;
};

static struct child *children;
static bool has_parent;
static int (*serve_lines)(void); /* the main loop, for a forked child */

/* ---- making children ---- */

void process_init(bool is_child, int (*serve)(void))
{
	int null;

	has_parent = is_child;
	serve_lines = serve;
	/* The parent may have left descriptors open that are not ours. */
	close_range(is_child ? RIGHTS_FD + 1 : RIGHTS_FD, ~0u, 0);
	if (is_child)
		return;
	/* Occupy fd 3, so that become_child() never gets a socket there. */
	null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (null != RIGHTS_FD)
		_exit(3);
}

/* Continue after exec(), with the descriptors that are still open. */
void process_resume(int (*serve)(void))
{
	has_parent = true;
	serve_lines = serve;
}

bool process_is_child(void)
{
	return has_parent;
}

static struct child *child_find(const char *name)
{
	struct child *child;

	for (child = children; child; child = child->next)
		if (!strcmp(child->name, name))
			return child;
	return NULL;
}

static struct child *word_child(const struct args *a, struct reply *r,
				unsigned int index)
{
	struct child *child = child_find(a->word[index]);

	if (!child)
		reply_usage(r, "%s: there is no actor '%s' here", a->op,
			    a->word[index]);
	return child;
}

/* Return the process of the child that a word names; -1 with the reply set. */
pid_t word_process(const struct args *a, struct reply *r, unsigned int index)
{
	const struct child *child = word_child(a, r, index);

	if (child && child->ended)
		reply_usage(r, "%s: the actor '%s' has ended", a->op,
			    child->name);
	return child && !child->ended ? child->pid : -1;
}

static bool name_is_free(const struct args *a, struct reply *r)
{
	const char *name = a->word[0], *c;

	for (c = name; *c; c++)
		if (!islower((unsigned char)*c) && !isdigit((unsigned char)*c))
			break;
	if (*c || strlen(name) >= sizeof(children->name) ||
	    !strcmp(name, "parent")) {
		reply_usage(r,
			    "%s: '%s' is no name of up to 23 letters and "
			    "digits",
			    a->op, name);
		return false;
	}
	if (child_find(name)) {
		reply_usage(r, "%s: there is an actor '%s' already", a->op,
			    name);
		return false;
	}
	return true;
}

/* In the new process: put its sockets in place and close the parent's. */
static void become_child(int line, int rights)
{
	struct child *child;

	dup2(line, STDIN_FILENO);
	dup2(line, STDOUT_FILENO);
	dup2(rights, RIGHTS_FD);
	close(line);
	close(rights);
	while ((child = children)) {
		children = child->next;
		close(child->reader.fd);
		close(child->rights);
		free(child->reader.buffer);
		free(child);
	}
	hammers_forget();
	has_parent = true;
}

static void become_user(uint64_t uid)
{
	if (setgroups(0, NULL) || setresgid(uid, uid, uid) ||
	    setresuid(uid, uid, uid))
		_exit(126);
}

/* Start this program anew, with no inherited descriptor but its sockets. */
static void exec_actor(int image)
{
	char *argv[] = { "actor", "--child", NULL };
	char *none[] = { NULL };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	close_range(RIGHTS_FD + 1, ~0u, CLOSE_RANGE_CLOEXEC);
	fexecve(image, argv, none);
	_exit(127);
}

static void reply_died(struct reply *r, const struct child *child)
{
	if (WIFSIGNALED(child->status))
		reply_set(r, "died %s signal=%d", child->name,
			  WTERMSIG(child->status));
	else
		reply_set(r, "died %s exit=%d", child->name,
			  WEXITSTATUS(child->status));
}

/* Send a line to the child; false with the reply set if that fails. */
static bool tell(struct child *child, const char *line, struct reply *r)
{
	if (child->ended) {
		reply_died(r, child);
		return false;
	}
	if (child->begun) {
		reply_usage(r,
			    "the actor '%s' carries out an operation; 'finish "
			    "%s' first",
			    child->name, child->name);
		return false;
	}
	if (!child->half_line &&
	    write_all(child->reader.fd, line, strlen(line)) &&
	    write_all(child->reader.fd, "\n", 1))
		child->pending++;
	else if (errno == EINTR)
		child->half_line = true;
	if (child->half_line)
		reply_set(r, "timeout");
	return !child->half_line;
}

/* Wait for the end of a child that has closed its line; false if it is late. */
static bool has_ended(struct child *child)
{
	pid_t pid;

	do {
		pid = waitpid(child->pid, &child->status, 0);
	} while (pid < 0 && errno == EINTR && deadline_left(GRACE_MS));
	child->ended = pid == child->pid;
	return child->ended;
}

/* Read the reply to the last line, unless the child is late or dead. */
static void hear(struct child *child, struct reply *r)
{
	enum line_status status;
	bool answered;
	char *answer;

	do {
		status = reader_line(&child->reader, &answer, GRACE_MS);
		answered = status == LINE_OK || status == LINE_UNFIT;
		child->pending -= answered;
	} while (answered && child->pending);
	if (status == LINE_LATE || (status == LINE_END && !has_ended(child))) {
		reply_set(r, "timeout");
		return;
	}
	child->begun = false;
	if (status == LINE_OK)
		reply_set(r, "%s", answer);
	else if (status == LINE_UNFIT)
		reply_usage(r,
			    "the reply of the actor '%s' has a NUL, or more "
			    "than %u bytes",
			    child->name, LINE_MAX_BYTES);
	else
		reply_died(r, child);
}

static void ask(struct child *child, const char *line, struct reply *r)
{
	if (tell(child, line, r))
		hear(child, r);
}

/*
 * Have the child begin a line.  It must owe no late reply, which would be taken
 * for the one to this line.
 */
static void begin(struct child *child, const char *line, struct reply *r)
{
	if (child->pending && !child->begun) {
		reply_usage(r, "the actor '%s' owes a reply from before",
			    child->name);
		return;
	}
	if (tell(child, line, r)) {
		child->begun = true;
		reply_set(r, "ok");
	}
}

static struct child *child_add(const char *name, pid_t pid, int line,
			       int rights)
{
	struct child *child = must(calloc(1, sizeof(*child)));

	strcpy(child->name, name);
	child->pid = pid;
	child->reader.fd = line;
	child->rights = rights;
	child->next = children;
	children = child;
	return child;
}

/*
 * Wait for the first reply of a child.  A child that is stopped before its
 * PR_SET_PDEATHSIG would outlive its parent and keep the device open.
 */
static void child_begin(struct child *child, struct reply *r)
{
	ask(child, "version", r);
	if (!strncmp(r->text, "ok", 2))
		reply_set(r, "ok");
}

/* Make two socket pairs and fork; 0 in the child, which has them in place. */
static pid_t fork_child(const struct args *a, struct reply *r, int *line,
			int *rights)
{
	int lines[2], passing[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, lines)) {
		reply_errno(r, errno, a->op);
		return -1;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, passing)) {
		reply_errno(r, errno, a->op);
		close(lines[0]);
		close(lines[1]);
		return -1;
	}
	pid = fork();
	if (pid == 0) {
		close(lines[0]);
		close(passing[0]);
		become_child(lines[1], passing[1]);
		return 0;
	}
	if (pid < 0)
		reply_errno(r, errno, a->op);
	close(lines[1]);
	close(passing[1]);
	*line = lines[0];
	*rights = passing[0];
	if (pid < 0) {
		close(*line);
		close(*rights);
	}
	return pid;
}

void op_spawn(struct args *a, struct reply *r)
{
	uint64_t uid;
	int image, line, rights;
	pid_t pid;

	if (!name_is_free(a, r) || !option_u64(a, r, "uid", 0, &uid))
		return;
	if (uid > INT32_MAX) {
		reply_usage(r, "spawn: uid= is out of range");
		return;
	}
	image = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	if (image < 0) {
		reply_errno(r, errno, "spawn: /proc/self/exe");
		return;
	}
	pid = fork_child(a, r, &line, &rights);
	if (pid == 0) {
		if (uid)
			become_user(uid);
		exec_actor(image);
	}
	close(image);
	if (pid < 0)
		return;
	child_begin(child_add(a->word[0], pid, line, rights), r);
}

void op_fork(struct args *a, struct reply *r)
{
	int line, rights;
	pid_t pid;

	if (!name_is_free(a, r))
		return;
	pid = fork_child(a, r, &line, &rights);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(serve_lines());
	}
	if (pid < 0)
		return;
	child_begin(child_add(a->word[0], pid, line, rights), r);
}

/* Pass on the rest of "@NAME op ..." or "&NAME op ..." to the child NAME. */
void relay(char *line, struct reply *r)
{
	size_t length = strcspn(line, " \t");
	struct child *child;
	char *rest = line + length;

	if (*rest)
		*rest++ = '\0';
	rest += strspn(rest, " \t");
	child = child_find(line + 1);
	if (!child)
		reply_usage(r, "there is no actor '%s' here", line + 1);
	else if (!*rest || *rest == '#')
		reply_usage(r, "%s: no operation for it", line);
	else if (*line == '&')
		begin(child, rest, r);
	else
		ask(child, rest, r);
}

/* Return the child that a word names if it has begun an operation. */
static struct child *word_begun(const struct args *a, struct reply *r)
{
	struct child *child = word_child(a, r, 0);

	if (child && !child->begun) {
		reply_usage(r, "%s: the actor '%s' has begun nothing", a->op,
			    child->name);
		return NULL;
	}
	return child;
}

static bool has_reply(const struct child *child)
{
	struct pollfd poller = { .fd = child->reader.fd, .events = POLLIN };

	return poll(&poller, 1, 0) > 0;
}

void op_ended(struct args *a, struct reply *r)
{
	struct child *child = word_begun(a, r);

	if (child)
		reply_set(r, has_reply(child) ? "ok yes" : "ok no");
}

/* Has the first word's child not ended what it has begun?  Else a reply. */
bool child_works(const struct args *a, struct reply *r)
{
	struct child *child = word_begun(a, r);

	if (!child)
		return false;
	if (has_reply(child)) {
		reply_set(r, "ok ended");
		return false;
	}
	return true;
}

/* Wait until a child ends what it has begun; its reply is the reply. */
void op_finish(struct args *a, struct reply *r)
{
	struct child *child = word_begun(a, r);

	if (child)
		hear(child, r);
}

/* ---- descriptors ---- */

static int rights_socket(const struct args *a, struct reply *r,
			 const char *name)
{
	struct child *child;

	if (!strcmp(name, "parent")) {
		if (has_parent)
			return RIGHTS_FD;
		reply_usage(r, "%s: this actor has no parent", a->op);
		return -1;
	}
	child = child_find(name);
	if (child)
		return child->rights;
	reply_usage(r, "%s: there is no actor '%s' here", a->op, name);
	return -1;
}

union control {
	struct cmsghdr header;
	char bytes[CMSG_SPACE(sizeof(int))];
};

void op_send(struct args *a, struct reply *r)
{
	struct object *object =
		word_object(a, r, 0, DEVICE | BUFFER | IMPORTER);
	union control control = { 0 };
	struct iovec data;
	struct msghdr message = {
		.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *header;
	char letter;
	int socket;

	if (!object)
		return;
	socket = rights_socket(a, r, a->word[1]);
	if (socket < 0)
		return;
	letter = kind_letter(object->kind);
	data.iov_base = &letter;
	data.iov_len = 1;
	header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &object->fd, sizeof(int));
	if (sendmsg(socket, &message, 0) < 0)
		reply_errno(r, errno, "send");
	else
		reply_set(r, "ok");
}

void op_recv(struct args *a, struct reply *r)
{
	const char *from = a->words ? a->word[0] : "parent";
	union control control;
	struct iovec data;
	struct msghdr message = {
		.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *header;
	struct object *object;
	enum kind kind;
	char letter = 0;
	ssize_t got;
	int socket;

	socket = rights_socket(a, r, from);
	if (socket < 0)
		return;
	data.iov_base = &letter;
	data.iov_len = 1;
	got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
	if (got < 0) {
		reply_errno(r, errno, "recv");
		return;
	}
	header = CMSG_FIRSTHDR(&message);
	if (!got || !header || header->cmsg_type != SCM_RIGHTS ||
	    !kind_from_letter(letter, &kind)) {
		reply_set(r, "error EPIPE recv: %s sent no descriptor", from);
		return;
	}
	object = object_new(kind);
	memcpy(&object->fd, CMSG_DATA(header), sizeof(int));
	reply_set(r, "ok %s", object->name);
}

/* ---- signals and ends ---- */

/* Signal a child; wait until a stop has reached all its threads. */
static int signal_child(const struct child *child, int number)
{
	siginfo_t info;

	if (kill(child->pid, number))
		return -1;
	if (number != SIGSTOP)
		return 0;
	return waitid(P_PID, child->pid, &info, WSTOPPED | WEXITED | WNOWAIT);
}

void op_signal(struct args *a, struct reply *r)
{
	static const struct token signals[] = {
		{ "stop", SIGSTOP },
		{ "cont", SIGCONT },
		{ "term", SIGTERM },
		{ "kill", SIGKILL },
	};
	struct child *child = word_child(a, r, 0);
	uint64_t number;

	if (!child)
		return;
	if (!parse_tokens(a->word[1], signals, ARRAY_SIZE(signals), &number) ||
	    number > INT32_MAX) {
		reply_usage(r, "signal: '%s' is not stop, cont, term or kill",
			    a->word[1]);
		return;
	}
	if (child->ended)
		reply_died(r, child);
	else if (signal_child(child, (int)number))
		reply_errno(r, errno, "signal");
	else
		reply_set(r, "ok");
}

/* Wait for the child's end, and free its name. */
void op_reap(struct args *a, struct reply *r)
{
	struct child *child = word_child(a, r, 0), **link = &children;

	if (!child)
		return;
	if (!child->ended && waitpid(child->pid, &child->status, 0) < 0) {
		reply_errno(r, errno, "reap");
		return;
	}
	if (WIFSIGNALED(child->status))
		reply_set(r, "ok signal=%d", WTERMSIG(child->status));
	else
		reply_set(r, "ok exit=%d", WEXITSTATUS(child->status));
	while (*link != child)
		link = &(*link)->next;
	*link = child->next;
	close(child->reader.fd);
	close(child->rights);
	free(child->reader.buffer);
	free(child);
}

void op_exit(struct args *a, struct reply *r)
{
	(void)a;
	reply_set(r, "ok");
	r->last = true;
}
