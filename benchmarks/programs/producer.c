/* Names RATE destinations a second for SECONDS, in steps of a millisecond: UDP connects to loopback, which cost
 * the caller little and the auditor a whole event each. Prints how many there were. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

int main(int argc, char **argv)
{
	long rate = atol(argv[1]), seconds = atol(argv[2]), made = 0;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct timespec next;
	if (argc < 3)
		return 2;
	clock_gettime(CLOCK_MONOTONIC, &next);
	for (long step = 0; step < seconds * 1000; step++) {
		for (long due = (step + 1) * rate / 1000; made < due; made++) {
			struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(1 + made % 97)};
			address.sin_addr.s_addr = htonl(0x7f000001 + made % 61);
			connect(fd, (void *)&address, sizeof(address));
		}
		next.tv_nsec += 1000000;
		if (next.tv_nsec >= 1000000000) {
			next.tv_nsec -= 1000000000;
			next.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
	}
	printf("%ld\n", made);
	return 0;
}
