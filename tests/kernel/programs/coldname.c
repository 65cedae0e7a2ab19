/* Fails to execute a file whose name lies on a page that was never touched: `coldname FILE-WITH-NAME`. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char *arguments[] = {"cold", NULL};
	int fd = open(argc > 1 ? argv[1] : "", O_RDONLY);
	char *name = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
	if (fd < 0 || name == MAP_FAILED)
		return 1;
	madvise(name, 4096, MADV_DONTNEED);
	syscall(SYS_execve, name, arguments, NULL);
	return errno != ENOENT;
}
