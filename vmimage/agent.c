// SPDX-License-Identifier: GPL-2.0
/*
 * The agent: starts programs in the guest on request (harness/vm/agent.py).
 *
 * It stays for the life of the machine.  A program costs neither sshd nor a
 * shell, and what it reads and prints goes through no other process: its
 * standard input and output are a TCP connection of the host.
 *
 * The agent itself reads and writes a channel of SSH.  It reads a secret of
 * SECRET bytes, and then only waits for the end, with which its programs end.
 * A new agent ends an older one, as of a machine that was saved.  It writes
 * frames: a letter, the number of a program, the length of the data, both
 * little-endian with 32 bits, then the data.
 *
 *   L  it listens for connections; the number is 0
 *   R  data of a program's standard error
 *   X  a program has ended; its exit status, or -N for signal N, with 32 bits
 *
 * A connection begins with the secret and a frame:
 *
 *   S  start a program; its words, each with a NUL at its end
 *   T  start a program from a template; the words of the template.  The
 *      first such order starts the template, which stays.
 *
 *   C  the frames go to this connection from now on, and its end ends the
 *      agent.  The programs of before are killed.  The host does so once the
 *      agent listens, as sshd delays frames, and with the agent of a machine
 *      that was loaded from a snapshot.
 *
 * A template is a program that forks programs of its own kind, which starts
 * them sooner (probes/probe.py, Template).  Its last word is the number of a
 * socket.  If it ends, so does the agent.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PORT 23
#define RECORD "/run/patchproof/agent.pid"
#define SECRET 32
#define HEAD 9
#define CHUNK 65536
#define MAX_WORDS 64
#define MAX_ORDER 16384 /* bytes of words */
#define MAX_VISITORS 64 /* connections that have not said all they must */
#define BIND_TRIES 500
#define BIND_WAIT_US 20000
#define FIXED 4	      /* descriptors that poll() waits for in any case */
#define TEMPLATE_FD 3 /* of the template's socket, in the template */
#define TEMPLATE_WORD "3"

struct program {
	struct program *next;
	uint32_t number;
	pid_t pid; /* 0 for one of the template */
	int err;   /* -1 once closed */
	bool ended;
};

struct visitor {
	struct visitor *next;
	int fd; /* -1 once it is served */
	size_t length;
	char data[SECRET + HEAD + MAX_ORDER + 1];
};

static char secret[SECRET];
static struct program *programs;
static struct visitor *visitors; /* the newest first */
static int template = -1;	 /* its socket */

static void write_all(const char *data, size_t length)
{
	size_t done = 0;
	ssize_t n;

	while (done < length) {
		n = write(STDOUT_FILENO, data + done, length - done);
		if (n < 0 && errno != EINTR)
			exit(1);
		if (n > 0)
			done += n;
	}
}

static void send_frame(char letter, uint32_t number, const void *data,
		       uint32_t length)
{
	static char frame[HEAD + CHUNK];
	uint32_t head[2] = { htole32(number), htole32(length) };

	frame[0] = letter;
	memcpy(frame + 1, head, sizeof(head));
	memcpy(frame + HEAD, data, length);
	write_all(frame, HEAD + length);
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Start a program with these descriptors as 0, 1, 2 and, if there is one, 3. */
static pid_t spawn(char **words, const int fds[4])
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attributes;
	sigset_t none, all;
	pid_t pid = -1;
	int error, i;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID |
						      POSIX_SPAWN_SETSIGMASK |
						      POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &all);
	posix_spawn_file_actions_init(&files);
	for (i = 0; i < 4; i++)
		if (fds[i] >= 0)
			posix_spawn_file_actions_adddup2(&files, fds[i], i);
	error = posix_spawnp(&pid, words[0], &files, &attributes, words,
			     environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attributes);
	errno = error;
	return error ? -1 : pid;
}

static void start_template(char **words)
{
	int fds[4] = { -1, -1, -1, -1 }, ends[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		exit(1);
	fds[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
	fds[1] = fds[0];
	fds[2] = STDERR_FILENO;
	fds[TEMPLATE_FD] = ends[1];
	if (spawn(words, fds) < 0)
		exit(1);
	close(fds[0]);
	close(ends[1]);
	template = ends[0];
}

/* Have the template fork a program with these descriptors as 0, 1 and 2. */
static void fork_template(uint32_t number, const int fds[3])
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(3 * sizeof(int))];
	} control = {};
	uint32_t order = htole32(number);
	struct iovec data = { &order, sizeof(order) };
	struct msghdr message = {
		.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};

	control.head.cmsg_level = SOL_SOCKET;
	control.head.cmsg_type = SCM_RIGHTS;
	control.head.cmsg_len = CMSG_LEN(3 * sizeof(int));
	memcpy(CMSG_DATA(&control.head), fds, 3 * sizeof(int));
	if (sendmsg(template, &message, MSG_NOSIGNAL) != sizeof(order))
		exit(1);
}

/* Pass on what a program says on standard error. */
static void read_errors(struct program *one)
{
	static char data[CHUNK];
	ssize_t n;

	if (one->err < 0)
		return;
	n = read(one->err, data, sizeof(data));
	if (n > 0)
		send_frame('R', one->number, data, n);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		close_fd(&one->err);
}

static void end(struct program *one, int32_t status)
{
	uint32_t value = htole32((uint32_t)status);

	read_errors(one); /* a pipe holds no more than one read() takes */
	close_fd(&one->err);
	send_frame('X', one->number, &value, sizeof(value));
	one->ended = true;
}

static void start(char letter, uint32_t number, char *data, uint32_t length,
		  int connection)
{
	struct program *one = calloc(1, sizeof(*one));
	char *words[MAX_WORDS + 2] = {}, text[256];
	unsigned int count = 0;
	int err[2];
	uint32_t at;

	if (!one || pipe2(err, O_CLOEXEC))
		exit(1);
	for (at = 0; at < length && count < MAX_WORDS;
	     at += strlen(data + at) + 1)
		words[count++] = data + at;
	one->next = programs;
	one->number = number;
	one->err = err[0];
	programs = one;
	fcntl(err[0], F_SETFL, O_NONBLOCK);
	if (letter == 'T') {
		words[count] = TEMPLATE_WORD;
		if (template < 0)
			start_template(words);
		fork_template(number,
			      (int[]){ connection, connection, err[1] });
	} else {
		one->pid = spawn(words,
				 (int[]){ connection, connection, err[1], -1 });
	}
	close(err[1]);
	if (one->pid < 0) {
		snprintf(text, sizeof(text), "%.100s: %s\n",
			 count ? words[0] : "nothing", strerror(errno));
		send_frame('R', number, text, strlen(text));
		end(one, 127);
	}
}

static void kill_programs(void)
{
	const struct program *one;

	for (one = programs; one; one = one->next)
		if (one->pid > 0 && !one->ended)
			kill(one->pid, SIGKILL);
}

static void take_over(int connection)
{
	kill_programs();
	if (dup2(connection, STDIN_FILENO) < 0 ||
	    dup2(connection, STDOUT_FILENO) < 0)
		exit(1);
	send_frame('L', 0, "", 0);
}

/* Read what a connection must begin with; start its program once that is whole. */
static void read_visitor(struct visitor *one)
{
	char *head = one->data + SECRET, *words = head + HEAD;
	size_t needed = SECRET + HEAD;
	uint32_t numbers[2] = {};
	ssize_t n;

	for (;;) {
		if (one->length >= SECRET + HEAD) {
			memcpy(numbers, head + 1, sizeof(numbers));
			numbers[1] = le32toh(numbers[1]);
			if (memcmp(one->data, secret, SECRET) ||
			    numbers[1] > MAX_ORDER)
				break;
			needed = SECRET + HEAD + numbers[1];
		}
		if (one->length == needed) {
			words[numbers[1]] = 0;
			fcntl(one->fd, F_SETFL, 0);
			if (head[0] == 'C')
				take_over(one->fd);
			else
				start(head[0], le32toh(numbers[0]), words,
				      numbers[1], one->fd);
			break;
		}
		n = recv(one->fd, one->data + one->length, needed - one->length,
			 0);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0)
			break;
		one->length += n;
	}
	close_fd(&one->fd);
}

static void accept_visitor(int listening)
{
	struct visitor *one, **place = &visitors;
	int fd, count = 0, yes = 1;

	fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	one = calloc(1, sizeof(*one));
	if (!one)
		exit(1);
	one->fd = fd;
	one->next = visitors;
	visitors = one;
	read_visitor(one);
	/* The oldest has had the most time. */
	for (; *place; place = &(*place)->next)
		if (++count > MAX_VISITORS)
			close_fd(&(*place)->fd);
}

/* Forget the connections that are served, and the programs that have ended. */
static void forget(void)
{
	struct program **program = &programs, *old;
	struct visitor **visitor = &visitors, *gone;

	while ((old = *program)) {
		if (!old->ended) {
			program = &old->next;
			continue;
		}
		*program = old->next;
		free(old);
	}
	while ((gone = *visitor)) {
		if (gone->fd >= 0) {
			visitor = &gone->next;
			continue;
		}
		*visitor = gone->next;
		free(gone);
	}
}

static void reap(void)
{
	struct program *one;
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (one = programs; one; one = one->next)
			if (one->pid == pid && !one->ended) {
				end(one, WIFEXITED(status) ? WEXITSTATUS(status)
							   : -WTERMSIG(status));
				break;
			}
}

/* The template says that one of its programs has ended. */
static void read_template(void)
{
	struct program *one;
	uint32_t words[2];

	if (recv(template, words, sizeof(words), 0) != sizeof(words)) {
		fputs("agent: the template has ended\n", stderr);
		exit(1);
	}
	for (one = programs; one; one = one->next)
		if (one->number == le32toh(words[0]) && !one->ended) {
			end(one, (int32_t)le32toh(words[1]));
			return;
		}
}

/* Wait for anything to do; the first four are fixed. */
static struct pollfd *wait_for_work(int listening, int signals)
{
	static struct pollfd *fds;
	const struct program *one;
	const struct visitor *visitor;
	nfds_t needed = FIXED, at = FIXED;

	for (one = programs; one; one = one->next)
		needed++;
	for (visitor = visitors; visitor; visitor = visitor->next)
		needed++;
	fds = realloc(fds, needed * sizeof(*fds));
	if (!fds)
		exit(1);
	fds[0] = (struct pollfd){ .fd = STDIN_FILENO, .events = POLLIN };
	fds[1] = (struct pollfd){ .fd = signals, .events = POLLIN };
	fds[2] = (struct pollfd){ .fd = template, .events = POLLIN };
	fds[3] = (struct pollfd){ .fd = listening, .events = POLLIN };
	for (one = programs; one; one = one->next)
		fds[at++] = (struct pollfd){ .fd = one->err, .events = POLLIN };
	for (visitor = visitors; visitor; visitor = visitor->next)
		fds[at++] =
			(struct pollfd){ .fd = visitor->fd, .events = POLLIN };
	while (poll(fds, needed, -1) < 0)
		if (errno != EINTR)
			exit(1);
	return fds;
}

static void end_all(void)
{
	kill_programs();
	exit(0);
}

static void read_signal(int signals)
{
	struct signalfd_siginfo info;

	if (read(signals, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGTERM)
		end_all();
	reap();
}

static void serve(int listening, int signals)
{
	struct visitor *visitor;
	const struct pollfd *fds, *place;
	struct program *one;
	char rest[64];

	for (;;) {
		fds = wait_for_work(listening, signals);
		place = fds + FIXED;
		for (one = programs; one; one = one->next)
			if (place++->revents)
				read_errors(one);
		for (visitor = visitors; visitor; visitor = visitor->next)
			if (place++->revents)
				read_visitor(visitor);
		if (fds[1].revents)
			read_signal(signals);
		if (fds[2].revents)
			read_template();
		if (fds[3].revents)
			accept_visitor(listening);
		if (fds[0].revents &&
		    read(STDIN_FILENO, rest, sizeof(rest)) <= 0)
			end_all(); /* the connection is closed */
		forget();
	}
}

/* End an agent that another connection has started, and take its place. */
static void replace_older(void)
{
	char path[64], name[16] = "";
	FILE *file = fopen(RECORD, "r+");
	int pid = 0;

	if (!file)
		file = fopen(RECORD, "w+");
	if (!file)
		return;
	if (fscanf(file, "%d", &pid) == 1 && pid > 1) {
		FILE *comm;

		snprintf(path, sizeof(path), "/proc/%d/comm", pid);
		comm = fopen(path, "r");
		if (comm && fscanf(comm, "%15s", name) == 1 &&
		    !strcmp(name, "agent"))
			kill(pid, SIGTERM);
		if (comm)
			fclose(comm);
	}
	rewind(file);
	fprintf(file, "%d\n", getpid());
	fclose(file);
}

static int listen_for_host(unsigned short port)
{
	struct sockaddr_in any = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
	};
	int fd, bound, tries, yes = 1;

	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	for (tries = 0; tries < BIND_TRIES; tries++) {
		bound = bind(fd, (struct sockaddr *)&any, sizeof(any));
		if (!bound || errno != EADDRINUSE)
			break;
		usleep(BIND_WAIT_US); /* until the older one has ended */
	}
	if (bound || listen(fd, 64)) {
		perror("agent: cannot listen");
		exit(1);
	}
	return fd;
}

int main(int argc, char **argv)
{
	size_t length = 0;
	int signals, listening;
	sigset_t taken;
	ssize_t n;

	prctl(PR_SET_NAME, "agent");
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&taken);
	sigaddset(&taken, SIGCHLD);
	sigaddset(&taken, SIGTERM);
	sigprocmask(SIG_BLOCK, &taken, NULL);
	signals = signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals < 0) {
		perror("agent: signalfd");
		return 1;
	}
	if (argc == 1)
		replace_older();
	listening = listen_for_host(argc > 1 ? atoi(argv[1]) : PORT);
	while (length < SECRET) {
		n = read(STDIN_FILENO, secret + length, SECRET - length);
		if (n <= 0)
			return 1;
		length += n;
	}
	send_frame('L', 0, "", 0);
	serve(listening, signals);
}
