// SPDX-License-Identifier: GPL-2.0
/*
 * The first process of the guest.
 *
 * It comes in a small initramfs, together with the SSH keys of one run.  It
 * mounts a throw-away overlay over the read-only root disk, brings up the
 * network, and starts one sshd for each connection.  It reports each step on
 * the console, which the host reads (harness/vm/machine.py).
 *
 * This process owns the listening socket, and starts "sshd -i" for a
 * connection.  So the guest accepts connections before any sshd has started,
 * and no daemon has to be supervised.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROOT_DISK "/dev/vda"
/* QEMU's user network: the address of its first guest, and its gateway. */
#define ADDRESS "10.0.2.15"
#define NETMASK "255.255.255.0"
#define GATEWAY "10.0.2.2"
#define SSH_PORT 22
#define MAX_FILES 65536
#define ACCEPT_PAUSE 100000 /* microseconds */

/* Write one line to the console. */
static void report(const char *format, ...)
{
	char line[512];
	va_list args;
	int n;

	n = snprintf(line, sizeof(line), "patchproof-init: ");
	va_start(args, format);
	vsnprintf(line + n, sizeof(line) - n - 1, format, args);
	va_end(args);
	strcat(line, "\n");
	/* One write(), so that no kernel message splits the line. */
	if (write(STDOUT_FILENO, line, strlen(line)) < 0)
		return;
}

static void power_off(void)
{
	sync();
	reboot(RB_POWER_OFF);
	/*
	 * If the power cannot be switched off, the exit of the first process
	 * panics the kernel, which ends QEMU as well.
	 */
	_exit(1);
}

/* Report the message and errno, then power off. */
#define die(format, ...)                                       \
	do {                                                   \
		report("fatal: " format ": %s", ##__VA_ARGS__, \
		       strerror(errno));                       \
		power_off();                                   \
	} while (0)

static void mount_or_die(const char *source, const char *target,
			 const char *type, unsigned long flags,
			 const char *options)
{
	mkdir(target, 0755);
	if (mount(source, target, type, flags, options))
		die("cannot mount %s (%s) on %s", source, type, target);
}

/* Mount a file system that only some kernel configurations have. */
static void mount_if_built(const char *type, const char *target)
{
	if (mount(type, target, type, 0, NULL) && errno != ENODEV &&
	    errno != ENOENT)
		report("cannot mount %s: %s", type, strerror(errno));
}

static void mount_root(void)
{
	mount_or_die("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	mount_or_die(ROOT_DISK, "/lower", "squashfs", MS_RDONLY, NULL);
	mount_or_die("tmpfs", "/scratch", "tmpfs", 0, "mode=0755");
	mkdir("/scratch/upper", 0755);
	mkdir("/scratch/work", 0755);
	mount_or_die(
		"overlay", "/root", "overlay", 0,
		"lowerdir=/lower,upperdir=/scratch/upper,workdir=/scratch/work");
	mount_or_die("/dev", "/root/dev", NULL, MS_MOVE, NULL);
	mount_or_die("proc", "/root/proc", "proc", 0, NULL);
	mount_or_die("sysfs", "/root/sys", "sysfs", 0, NULL);
	mount_or_die("tmpfs", "/root/run", "tmpfs", 0, "mode=0755");
	mount_or_die("tmpfs", "/root/dev/shm", "tmpfs", 0, "mode=1777");
	mount_or_die("devpts", "/root/dev/pts", "devpts", 0,
		     "mode=0620,ptmxmode=0666");
	mount_if_built("debugfs", "/root/sys/kernel/debug");
	mount_if_built("tracefs", "/root/sys/kernel/tracing");
	report("root file system is mounted");
}

static void copy(const char *from, const char *to, mode_t mode)
{
	char buffer[4096];
	ssize_t n;
	int in, out;

	in = open(from, O_RDONLY);
	if (in < 0)
		die("cannot open %s", from);
	out = open(to, O_WRONLY | O_CREAT | O_TRUNC, mode);
	if (out < 0)
		die("cannot make %s", to);
	while ((n = read(in, buffer, sizeof(buffer))) > 0)
		if (write(out, buffer, n) != n)
			die("cannot write %s", to);
	if (n < 0)
		die("cannot read %s", from);
	close(in);
	close(out);
}

static void install_files(void)
{
	/* sshd's chroot before the login */
	mkdir("/root/run/sshd", 0755);
	mkdir("/root/run/patchproof", 0700);
	copy("/keys/host", "/root/run/patchproof/host", 0600);
	copy("/keys/authorized", "/root/run/patchproof/authorized", 0600);
	copy("/agent", "/root/run/patchproof/agent", 0755);
	copy("/files", "/root/run/patchproof/files", 0755);
}

static void enter_root(void)
{
	if (chdir("/root") || mount(".", "/", NULL, MS_MOVE, NULL) ||
	    chroot(".") || chdir("/"))
		die("cannot enter the root file system");
}

static struct sockaddr_in socket_address(const char *text, unsigned short port)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
	};

	inet_pton(AF_INET, text, &address.sin_addr);
	return address;
}

static void set_address(int sock, const char *name, const char *text,
			const char *mask)
{
	struct ifreq request = {};
	struct sockaddr_in address = socket_address(text, 0);
	struct sockaddr_in netmask = socket_address(mask, 0);

	strncpy(request.ifr_name, name, sizeof(request.ifr_name) - 1);
	memcpy(&request.ifr_addr, &address, sizeof(address));
	if (ioctl(sock, SIOCSIFADDR, &request))
		die("cannot give %s the address %s", name, text);
	memcpy(&request.ifr_netmask, &netmask, sizeof(netmask));
	if (ioctl(sock, SIOCSIFNETMASK, &request))
		die("cannot give %s the mask %s", name, mask);
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	if (ioctl(sock, SIOCSIFFLAGS, &request))
		die("cannot bring up %s", name);
}

static void start_network(void)
{
	struct sockaddr_in gateway = socket_address(GATEWAY, 0);
	struct sockaddr_in any = socket_address("0.0.0.0", 0);
	struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY };
	int sock;

	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sock < 0)
		die("cannot open a socket");
	set_address(sock, "lo", "127.0.0.1", "255.0.0.0");
	set_address(sock, "eth0", ADDRESS, NETMASK);
	memcpy(&route.rt_gateway, &gateway, sizeof(gateway));
	memcpy(&route.rt_dst, &any, sizeof(any));
	memcpy(&route.rt_genmask, &any, sizeof(any));
	if (ioctl(sock, SIOCADDRT, &route))
		die("cannot set the route to %s", GATEWAY);
	close(sock);
}

static int listen_for_ssh(void)
{
	struct sockaddr_in any = socket_address("0.0.0.0", SSH_PORT);
	int sock;

	sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (sock < 0 || bind(sock, (struct sockaddr *)&any, sizeof(any)) ||
	    listen(sock, 16))
		die("cannot listen on port %d", SSH_PORT);
	return sock;
}

__attribute__((noreturn)) static void become_sshd(int connection)
{
	static char *const argv[] = { "/usr/sbin/sshd", "-i", "-e", NULL };
	static char *const envp[] = {
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root",
		NULL,
	};

	/* sshd -i uses 0 and 1 for its client; -e logs to 2, the console. */
	setsid();
	dup2(connection, STDIN_FILENO);
	dup2(connection, STDOUT_FILENO);
	execve(argv[0], argv, envp);
	dprintf(STDERR_FILENO, "patchproof-init: cannot start %s: %s\n",
		argv[0], strerror(errno));
	_exit(127);
}

static void reap_children(int signal)
{
	int saved = errno;

	(void)signal;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	errno = saved;
}

static void power_off_on_signal(int signal)
{
	(void)signal;
	power_off();
}

/*
 * Use the entropy that was written to /dev/urandom: all machines that were
 * loaded from one snapshot would draw the same random numbers.
 */
static void reseed_on_signal(int signal)
{
	int saved = errno;
	int random = open("/dev/urandom", O_WRONLY | O_CLOEXEC);

	(void)signal;
	if (random >= 0) {
		ioctl(random, RNDRESEEDCRNG);
		close(random);
	}
	errno = saved;
}

/*
 * Does accept4() fail for good?  The other errors are of memory, of open files,
 * or of a connection that has failed already (man 2 accept).
 */
static bool is_lasting(int error)
{
	return error == EBADF || error == EINVAL || error == ENOTSOCK ||
	       error == EFAULT;
}

/* Start an sshd for each connection; never returns. */
__attribute__((noreturn)) static void serve(int sock)
{
	int connection;

	for (;;) {
		connection = accept4(sock, NULL, NULL, SOCK_CLOEXEC);
		if (connection < 0) {
			if (errno == EINTR || errno == ECONNABORTED)
				continue;
			if (is_lasting(errno))
				die("cannot accept a connection");
			report("cannot accept a connection: %s",
			       strerror(errno));
			usleep(ACCEPT_PAUSE);
			continue;
		}
		switch (fork()) {
		case 0:
			become_sshd(connection);
		case -1:
			report("cannot fork for sshd: %s", strerror(errno));
		}
		close(connection);
	}
}

int main(void)
{
	struct rlimit files = { MAX_FILES, MAX_FILES };
	struct sigaction on_child = { .sa_handler = reap_children };
	struct sigaction on_term = { .sa_handler = power_off_on_signal };
	struct sigaction on_loaded = { .sa_handler = reseed_on_signal };
	int sock;

	if (getpid() != 1) {
		fprintf(stderr,
			"This program is the first process of a patchproof guest; it runs only as process 1.\n");
		return 2;
	}
	sigaction(SIGCHLD, &on_child, NULL);
	sigaction(SIGTERM, &on_term, NULL);
	sigaction(SIGUSR1, &on_loaded, NULL);
	umask(022);
	mount_root();
	install_files();
	enter_root();
	start_network();
	if (sethostname("patchproof", strlen("patchproof")))
		report("cannot set the host name: %s", strerror(errno));
	if (setrlimit(RLIMIT_NOFILE, &files))
		report("cannot raise the limit of open files: %s",
		       strerror(errno));
	sock = listen_for_ssh();
	report("ready for ssh");
	serve(sock);
}
