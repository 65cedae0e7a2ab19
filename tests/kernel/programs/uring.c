/* Connects by io_uring: `uring plain|async|sqpoll ADDRESS PORT`. Exits with the errno of the answer. */
#include <arpa/inet.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SETUP_FAILED 200

int main(int argc, char **argv)
{
	struct io_uring_params setup = {0};
	struct sockaddr_in to = {.sin_family = AF_INET};
	if (argc != 4)
		return SETUP_FAILED;
	inet_pton(AF_INET, argv[2], &to.sin_addr);
	to.sin_port = htons(atoi(argv[3]));
	int sqpoll = !strcmp(argv[1], "sqpoll");
	if (sqpoll) {
		setup.flags = IORING_SETUP_SQPOLL;
		setup.sq_thread_idle = 1000;
	}
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	int ring = syscall(SYS_io_uring_setup, 4, &setup);
	if (fd < 0 || ring < 0)
		return SETUP_FAILED;
	int shared = MAP_SHARED | MAP_POPULATE;
	char *sq = mmap(NULL, setup.sq_off.array + setup.sq_entries * 4, PROT_READ | PROT_WRITE, shared, ring,
			IORING_OFF_SQ_RING);
	char *cq = mmap(NULL, setup.cq_off.cqes + setup.cq_entries * sizeof(struct io_uring_cqe),
			PROT_READ | PROT_WRITE, shared, ring, IORING_OFF_CQ_RING);
	struct io_uring_sqe *entry =
		mmap(NULL, setup.sq_entries * sizeof(*entry), PROT_READ | PROT_WRITE, shared, ring, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || (void *)entry == MAP_FAILED)
		return SETUP_FAILED;

	entry->opcode = IORING_OP_CONNECT;
	entry->fd = fd;
	entry->addr = (unsigned long)&to;
	entry->off = sizeof(to);
	entry->flags = strcmp(argv[1], "async") ? 0 : IOSQE_ASYNC;
	((unsigned *)(sq + setup.sq_off.array))[0] = 0;
	__atomic_store_n((unsigned *)(sq + setup.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS | (sqpoll ? IORING_ENTER_SQ_WAKEUP : 0),
		    NULL, 0) < 0)
		return SETUP_FAILED;
	while (!__atomic_load_n((unsigned *)(cq + setup.cq_off.tail), __ATOMIC_ACQUIRE))
		usleep(1000);
	return -((struct io_uring_cqe *)(cq + setup.cq_off.cqes))->res;
}
