/* Starts a program inside a cgroup by clone3 from outside: `intrude CGROUP PROGRAM...`. Prints its pid. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	struct clone_args how = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD};
	int cgroup = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (cgroup < 0)
		return 3;
	how.cgroup = cgroup;
	int status = 0;
	pid_t pid = syscall(SYS_clone3, &how, sizeof(how));
	if (pid < 0)
		return 4;
	if (!pid) {
		execvp(argv[2], argv + 2);
		_exit(127);
	}
	printf("%d\n", pid);
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}
