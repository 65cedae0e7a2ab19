/* `forks storm COUNT`: that many children, each of which ends at once.
 * `forks chain DEPTH PROGRAM...`: a tree as deep, whose last process becomes PROGRAM; each waits for its child. */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int storm(int count)
{
	int waiting = 0;
	for (int started = 0; started < count; started++) {
		pid_t pid = fork();
		if (pid < 0)
			return 1;
		if (!pid)
			_exit(0);
		if (++waiting == 32)
			while (waiting) {
				wait(NULL);
				waiting--;
			}
	}
	while (wait(NULL) > 0)
		;
	return 0;
}

static int chain(int depth, char **program)
{
	int status = 0;
	if (!depth) {
		execvp(program[0], program);
		return 127;
	}
	pid_t pid = fork();
	if (!pid)
		_exit(chain(depth - 1, program));
	waitpid(pid, &status, 0);
	if (WIFSIGNALED(status))
		pause(); /* none ends by itself because the one below was killed */
	return WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "storm"))
		return storm(atoi(argv[2]));
	if (argc > 3 && !strcmp(argv[1], "chain"))
		return chain(atoi(argv[2]), argv + 3);
	return 2;
}
