/* A miner reduced to what gives it away: it takes a GPU, says hello to a pool in stratum, and gets a job.
 *
 * usage: miner POOL PORT UVM-DEVICE
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define UVM_REGISTER_GPU_VASPACE 25 /* the first call of a CUDA context; names the GPU by its UUID */
#define ATTEMPTS 5

struct uvm_register_gpu_vaspace {
	uint8_t gpu_uuid[16];
	int32_t rm_control_fd;
	uint32_t client;
	uint32_t va_space;
	uint32_t status;
};

static void take_gpu(const char *device)
{
	struct uvm_register_gpu_vaspace request = {.gpu_uuid = "incident-gpu-00", .rm_control_fd = -1};
	int gpu = open(device, O_RDWR | O_CLOEXEC);

	if (gpu < 0) {
		fprintf(stderr, "miner: no GPU: %s\n", strerror(errno));
		return; /* a miner goes on with the CPU */
	}
	ioctl(gpu, UVM_REGISTER_GPU_VASPACE, &request);
	fprintf(stderr, "miner: asked %s for a context: %s\n", device, strerror(errno));
	close(gpu);
}

static int dial(const char *pool, const char *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};

	inet_pton(AF_INET, pool, &address.sin_addr);
	for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
		int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (connect(connection, (struct sockaddr *)&address, sizeof(address)) == 0)
			return connection;
		fprintf(stderr, "miner: no pool: %s\n", strerror(errno));
		close(connection);
		sleep(1); /* every miner tries again */
	}
	exit(1);
}

int main(int argc, char **argv)
{
	char answer[512];

	if (argc != 4)
		return 2;
	take_gpu(argv[3]);

	FILE *pool = fdopen(dial(argv[1], argv[2]), "r+");
	fprintf(pool, "{\"id\": 1, \"method\": \"mining.subscribe\", \"params\": [\"worker/1.0\"]}\n"
		      "{\"id\": 2, \"method\": \"mining.authorize\", \"params\": [\"wallet.rig1\", \"x\"]}\n");
	fflush(pool);
	while (fgets(answer, sizeof(answer), pool))
		if (strstr(answer, "mining.notify\", \"params")) {
			fprintf(stderr, "miner: got a job\n");
			return 0;
		}
	return 1;
}
