/* A tree of COUNT processes that wait; then its top commits the offence (connects to a forbidden address), and
 * would go on for ever. With "bomb" for COUNT its members fork without end. Prints nothing. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void offend(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(80)};
	address.sin_addr.s_addr = inet_addr("169.254.169.254");
	connect(socket(AF_INET, SOCK_DGRAM, 0), (void *)&address, sizeof(address));
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	if (!strcmp(argv[1], "bomb")) {
		signal(SIGCHLD, SIG_IGN);
		if (fork() == 0)
			for (;;)
				if (fork() < 0)
					usleep(100);
		usleep(150000);
	} else {
		for (int i = 1; i < atoi(argv[1]); i++)
			if (fork() == 0) {
				if (i % 10 == 0)
					setsid();
				for (;;)
					pause();
			}
		usleep(20000 + 100 * atoi(argv[1]));
	}
	offend();
	for (;;)
		pause();
}
