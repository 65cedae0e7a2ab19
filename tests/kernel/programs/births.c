/* Every way to be born that might shed a tag. `births WAY` starts one child by WAY, which executes
 * `/bin/true WAY`, and ends when that has ended. Prints the child's pid as it was before the exec. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *way;

static void be_true(void)
{
	execl("/bin/true", "true", way, NULL);
	_exit(99);
}

static void say(pid_t pid)
{
	printf("%d\n", pid);
	fflush(stdout);
}

static void *fork_here(void *unused)
{
	pid_t pid = fork();
	if (!pid)
		be_true();
	say(pid);
	waitpid(pid, NULL, 0);
	return unused;
}

static void *exec_here(void *unused)
{
	usleep(20000); /* the leader has had time to end */
	be_true();
	return unused;
}

static void daemonise(void)
{
	int ends[2];
	char byte;
	if (pipe2(ends, O_CLOEXEC))
		_exit(98);
	if (!fork()) {
		setsid();
		pid_t pid = fork();
		if (pid) {
			say(pid);
			_exit(0);
		}
		usleep(20000); /* our parent is dead: somebody else's child now */
		be_true();
	}
	wait(NULL);
	close(ends[1]);
	if (read(ends[0], &byte, 1))
		_exit(97);
}

static void spawn(void)
{
	pid_t pid;
	char *arguments[] = {"true", (char *)way, NULL};
	if (posix_spawn(&pid, "/bin/true", NULL, NULL, arguments, NULL))
		_exit(96);
	say(pid);
	waitpid(pid, NULL, 0);
}

static void clone_with(unsigned long flags)
{
	pid_t pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
	if (!pid)
		be_true();
	say(pid);
	if (flags & CLONE_PARENT)
		usleep(200000); /* our parent waits for it */
	else
		waitpid(pid, NULL, 0);
}

static void by_threads(int leader_ends)
{
	pid_t pid = fork();
	if (!pid) {
		pthread_t thread;
		pthread_create(&thread, NULL, exec_here, NULL);
		if (leader_ends)
			syscall(SYS_exit, 0);
		pthread_join(thread, NULL);
	}
	say(pid);
	waitpid(pid, NULL, 0);
}

int main(int argc, char **argv)
{
	way = argc > 1 ? argv[1] : "";
	if (!strcmp(way, "fork"))
		fork_here(NULL);
	else if (!strcmp(way, "vfork")) {
		pid_t pid = vfork();
		if (!pid)
			be_true();
		say(pid);
		waitpid(pid, NULL, 0);
	} else if (!strcmp(way, "thread")) {
		pthread_t thread;
		pthread_create(&thread, NULL, fork_here, NULL);
		pthread_join(thread, NULL);
	} else if (!strcmp(way, "daemon"))
		daemonise();
	else if (!strcmp(way, "clone-parent"))
		clone_with(CLONE_PARENT);
	else if (!strcmp(way, "spawn"))
		spawn();
	else if (!strcmp(way, "new-namespaces"))
		clone_with(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWCGROUP);
	else if (!strcmp(way, "thread-exec"))
		by_threads(0);
	else if (!strcmp(way, "leaderless-exec"))
		by_threads(1);
	else
		return 2;
	return 0;
}
