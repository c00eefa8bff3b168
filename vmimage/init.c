// SPDX-License-Identifier: GPL-2.0
/*
 * First process of the guest.
 *
 * Carried in a small initramfs together with the keys of this run.  It puts a
 * throw-away overlay over the read-only root disk, brings up the network, and
 * starts one sshd per connection.  Every stage is said on the console, so that
 * the host knows at once how far the guest came.
 *
 * The listening socket belongs to this process and "sshd -i" to the
 * connection: the guest is reachable without waiting for an sshd to start, and
 * there is no daemon whose death would have to be noticed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
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
#define ADDRESS \
	"10.0.2.15" /* QEMU's user network gives this to its first guest */
#define NETMASK "255.255.255.0"
#define GATEWAY "10.0.2.2"
#define SSH_PORT 22
#define MAX_FILES 65536

static void say(const char *format, ...)
{
	char line[512];
	va_list args;
	int n;

	n = snprintf(line, sizeof(line), "patchproof-init: ");
	va_start(args, format);
	vsnprintf(line + n, sizeof(line) - n - 1, format, args);
	va_end(args);
	strcat(line, "\n");
	/* One write(), so that the line is not torn by one of the kernel's. */
	if (write(STDOUT_FILENO, line, strlen(line)) < 0)
		return;
}

static void power_off(void)
{
	sync();
	reboot(RB_POWER_OFF);
	/* Without a way to power off, exiting panics, which ends QEMU as well. */
	_exit(1);
}

#define die(format, ...)                                                      \
	do {                                                                  \
		say("fatal: " format ": %s", ##__VA_ARGS__, strerror(errno)); \
		power_off();                                                  \
	} while (0)

static void must_mount(const char *source, const char *target, const char *type,
		       unsigned long flags, const char *options)
{
	mkdir(target, 0755);
	if (mount(source, target, type, flags, options))
		die("cannot mount %s (%s) on %s", source, type, target);
}

/* For file systems that only some kernel configurations have. */
static void may_mount(const char *type, const char *target)
{
	if (mount(type, target, type, 0, NULL) && errno != ENODEV &&
	    errno != ENOENT)
		say("cannot mount %s: %s", type, strerror(errno));
}

static void mount_root(void)
{
	must_mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	must_mount(ROOT_DISK, "/lower", "squashfs", MS_RDONLY, NULL);
	must_mount("tmpfs", "/scratch", "tmpfs", 0, "mode=0755");
	mkdir("/scratch/upper", 0755);
	mkdir("/scratch/work", 0755);
	must_mount(
		"overlay", "/root", "overlay", 0,
		"lowerdir=/lower,upperdir=/scratch/upper,workdir=/scratch/work");
	must_mount("/dev", "/root/dev", NULL, MS_MOVE, NULL);
	must_mount("proc", "/root/proc", "proc", 0, NULL);
	must_mount("sysfs", "/root/sys", "sysfs", 0, NULL);
	must_mount("tmpfs", "/root/run", "tmpfs", 0, "mode=0755");
	must_mount("tmpfs", "/root/dev/shm", "tmpfs", 0, "mode=1777");
	must_mount("devpts", "/root/dev/pts", "devpts", 0,
		   "mode=0620,ptmxmode=0666");
	may_mount("debugfs", "/root/sys/kernel/debug");
	may_mount("tracefs", "/root/sys/kernel/tracing");
	say("root file system is mounted");
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

static void install_keys(void)
{
	mkdir("/root/run/sshd",
	      0755); /* where sshd confines itself before login */
	mkdir("/root/run/patchproof", 0700);
	copy("/keys/host", "/root/run/patchproof/host", 0600);
	copy("/keys/authorized", "/root/run/patchproof/authorized", 0600);
}

static void enter_root(void)
{
	if (chdir("/root") || mount(".", "/", NULL, MS_MOVE, NULL) ||
	    chroot(".") || chdir("/"))
		die("cannot enter the root file system");
}

static struct sockaddr_in address_of(const char *text, unsigned short port)
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
	struct sockaddr_in address = address_of(text, 0);
	struct sockaddr_in netmask = address_of(mask, 0);

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
	struct sockaddr_in gateway = address_of(GATEWAY, 0);
	struct sockaddr_in any = address_of("0.0.0.0", 0);
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
	struct sockaddr_in any = address_of("0.0.0.0", SSH_PORT);
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

	/* sshd talks to its client on 0 and 1; errors stay on the console, 2. */
	setsid();
	dup2(connection, STDIN_FILENO);
	dup2(connection, STDOUT_FILENO);
	execve(argv[0], argv, envp);
	dprintf(STDERR_FILENO, "patchproof-init: cannot start %s: %s\n",
		argv[0], strerror(errno));
	_exit(127);
}

static void reap(int signal)
{
	int saved = errno;

	(void)signal;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	errno = saved;
}

static void terminated(int signal)
{
	(void)signal;
	power_off();
}

static void serve(int sock)
{
	int connection;

	for (;;) {
		connection = accept4(sock, NULL, NULL, SOCK_CLOEXEC);
		if (connection < 0) {
			if (errno == EINTR || errno == ECONNABORTED)
				continue;
			die("cannot accept a connection");
		}
		switch (fork()) {
		case 0:
			become_sshd(connection);
		case -1:
			say("cannot fork for sshd: %s", strerror(errno));
		}
		close(connection);
	}
}

int main(void)
{
	struct rlimit files = { MAX_FILES, MAX_FILES };
	struct sigaction on_child = { .sa_handler = reap };
	struct sigaction on_term = { .sa_handler = terminated };
	int sock;

	if (getpid() != 1) {
		fprintf(stderr,
			"This is the first process of a patchproof guest; it cannot run as another.\n");
		return 2;
	}
	sigaction(SIGCHLD, &on_child, NULL);
	sigaction(SIGTERM, &on_term, NULL);
	umask(022);
	mount_root();
	install_keys();
	enter_root();
	start_network();
	if (sethostname("patchproof", strlen("patchproof")))
		say("cannot set the host name: %s", strerror(errno));
	if (setrlimit(RLIMIT_NOFILE, &files))
		say("cannot raise the limit of open files: %s",
		    strerror(errno));
	sock = listen_for_ssh();
	say("ready for ssh");
	serve(sock);
}
