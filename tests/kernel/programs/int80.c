/* A 64-bit program that connects by the 32-bit entry: `int80 socketcall|connect ADDRESS PORT`.
 * Exits with the errno of the answer. Everything the kernel reads must lie below 4 GiB. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define SETUP_FAILED 200
#define I386_SOCKETCALL 102
#define I386_CONNECT 362
#define SOCKETCALL_CONNECT 3

static int call32(int number, unsigned first, unsigned second, unsigned third)
{
	int result;
	asm volatile("int $0x80"
		     : "=a"(result)
		     : "a"(number), "b"(first), "c"(second), "d"(third)
		     : "memory", "r8", "r9", "r10", "r11");
	return result;
}

struct low {
	struct sockaddr_in to;
	unsigned arguments[3];
};

int main(int argc, char **argv)
{
	struct low *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (argc != 4 || low == MAP_FAILED || fd < 0)
		return SETUP_FAILED;
	low->to.sin_family = AF_INET;
	inet_pton(AF_INET, argv[2], &low->to.sin_addr);
	low->to.sin_port = htons(atoi(argv[3]));
	unsigned to = (unsigned)(unsigned long)&low->to;
	low->arguments[0] = fd;
	low->arguments[1] = to;
	low->arguments[2] = sizeof(low->to);
	int result;
	if (!strcmp(argv[1], "socketcall"))
		result = call32(I386_SOCKETCALL, SOCKETCALL_CONNECT, (unsigned)(unsigned long)low->arguments, 0);
	else
		result = call32(I386_CONNECT, fd, to, sizeof(low->to));
	return result < 0 ? -result : 0;
}
