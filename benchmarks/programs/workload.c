/* Times one system call, or one spawn, in a loop: prints "NAME NANOSECONDS" for each loop named in argv.
 * The minimum of nine rounds, because other tenants of the machine only ever add. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
static int null_fd, udp_fd, listener;
static struct sockaddr_in udp_address, tcp_address;

static void do_ioctl(void) { syscall(SYS_ioctl, null_fd, 0x46c9, 0); }
static void do_getppid(void) { syscall(SYS_getppid); }
static void do_udp(void) { connect(udp_fd, (void *)&udp_address, sizeof(udp_address)); }

static void do_tcp(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct linger now = {1, 0};
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	connect(fd, (void *)&tcp_address, sizeof(tcp_address));
	int peer = accept(listener, NULL, NULL);
	close(fd);
	close(peer);
}

static void do_spawn(void)
{
	char *argv[] = {"true", NULL};
	pid_t child;
	if (posix_spawn(&child, "/bin/true", NULL, NULL, argv, environ) == 0)
		waitpid(child, NULL, 0);
}

static double run(void (*act)(void), int count)
{
	double best = 1e18;
	for (int round = 0; round < 9; round++) {
		struct timespec begin, end;
		clock_gettime(CLOCK_MONOTONIC, &begin);
		for (int i = 0; i < count; i++)
			act();
		clock_gettime(CLOCK_MONOTONIC, &end);
		double each = ((end.tv_sec - begin.tv_sec) * 1e9 + end.tv_nsec - begin.tv_nsec) / count;
		if (each < best)
			best = each;
	}
	return best;
}

int main(int argc, char **argv)
{
	struct { const char *name; void (*act)(void); int count; } loops[] = {
		{"ioctl", do_ioctl, 100000}, {"getppid", do_getppid, 100000}, {"udp", do_udp, 20000},
		{"tcp", do_tcp, 500}, {"spawn", do_spawn, 100},
	};
	socklen_t size = sizeof(tcp_address);
	null_fd = open(argc > 1 ? argv[1] : "/dev/null", O_RDWR);
	udp_fd = socket(AF_INET, SOCK_DGRAM, 0);
	udp_address.sin_family = tcp_address.sin_family = AF_INET;
	udp_address.sin_port = htons(9);
	udp_address.sin_addr.s_addr = tcp_address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	bind(listener, (void *)&tcp_address, sizeof(tcp_address));
	listen(listener, 16);
	getsockname(listener, (void *)&tcp_address, &size);
	for (unsigned i = 0; i < sizeof(loops) / sizeof(loops[0]); i++)
		for (int arg = 2; arg < argc; arg++)
			if (!strcmp(argv[arg], loops[i].name))
				printf("%s %.1f\n", loops[i].name, run(loops[i].act, loops[i].count));
	return 0;
}
