"""Starting the audited command: held until it is tagged, as the right user, with the terminal in its hands."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import pwd
import shutil
import signal
import struct
import sys
from collections.abc import Mapping, Sequence

from msgspec import Struct

from ebpfaudit.errors import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, LaunchError, UsageError

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class User(Struct, frozen=True):
    """Whom the command runs as."""

    name: str
    uid: int
    gid: int
    home: str
    groups: tuple[int, ...] = ()


def choose_user(wanted: str | None, environment: Mapping[str, str] = os.environ) -> User | None:
    """The user asked for; else whoever called sudo; else None: stay who we are. Raises UsageError."""
    if wanted is None:
        if os.geteuid() != 0 or environment.get("SUDO_UID", "0") == "0":
            return None
        wanted = environment["SUDO_UID"]
    try:
        entry = pwd.getpwuid(int(wanted)) if wanted.isdigit() else pwd.getpwnam(wanted)
    except KeyError as error:
        raise UsageError(
            f"there is no user {wanted!r} on this host; --user takes a name or a number that "
            "'getent passwd' lists"
        ) from error
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir, groups)


class Launcher:
    """The command's root process, from before its first instruction to its status.

    Everything that has to be looked up (the user, the program in PATH) is looked up before, so that the episode's
    first event is the command's own. The process is in a process group of its own, which gets the terminal if we
    have it; we become its descendants' reaper, because killed processes that nobody reaps still count against a
    pids limit.
    """

    def __init__(self, command: Sequence[str], user: User | None, environment: Mapping[str, str]) -> None:
        """Raises LaunchError if the program is nowhere in PATH."""
        self._command = list(command)
        self._program = _find_program(command[0], environment)
        self.status: int | None = None
        """Once it has ended: its exit code, or minus the signal that killed it."""
        self._terminal = _foreground_terminal()
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        go_read, self._go = os.pipe()
        self._failure, failure_write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._go)
            os.close(self._failure)
            self._become(go_read, failure_write, user, dict(environment))
        os.close(go_read)
        os.close(failure_write)
        with contextlib.suppress(OSError):
            os.setpgid(self.pid, self.pid)
        if self._terminal is not None:
            _give_terminal(self._terminal, self.pid)

    def _become(self, go: int, failure: int, user: User | None, environment: dict[str, str]) -> None:
        """In the child: wait to be let go, then turn into the command. Never returns."""
        try:
            with contextlib.suppress(OSError):
                os.setpgid(0, 0)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE,
                           signal.SIGTSTP, signal.SIGTTOU, signal.SIGTTIN, signal.SIGCHLD, signal.SIGXFSZ):  # fmt: skip
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            if os.read(go, 1) != b"g":
                os._exit(EXIT_NOT_EXECUTABLE)
            if any(os.isatty(descriptor) for descriptor in range(3)):
                _forbid_typing()
            if user is not None:
                os.setgroups(user.groups)
                os.setgid(user.gid)
                os.setuid(user.uid)
                environment.update(HOME=user.home, USER=user.name, LOGNAME=user.name)
            # The harness does not outlive its auditor. (Cleared by setuid, hence last.)
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            os.execve(self._program, self._command, environment)
        except OSError as error:
            os.write(failure, b"%d" % (error.errno or errno.EINVAL))
        except BaseException:
            os.write(failure, b"%d" % errno.EINVAL)
        finally:
            os._exit(EXIT_NOT_EXECUTABLE)

    def release(self) -> None:
        """Let the command begin. Raises LaunchError if it cannot be executed."""
        os.write(self._go, b"g")
        os.close(self._go)
        self._go = -1
        answer = os.read(self._failure, 16)
        os.close(self._failure)
        self._failure = -1
        if answer:
            self.wait()
            raise _launch_error(self._command[0], int(answer))

    def reap(self) -> bool:
        """Collect whoever has ended. True if the root has stopped (Ctrl-Z) and we own a terminal."""
        stopped = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return stopped
            if pid == 0:
                return stopped
            if pid == self.pid:
                if os.WIFSTOPPED(status):
                    stopped = self._terminal is not None
                else:
                    self.status = os.waitstatus_to_exitcode(status)

    def wait(self) -> None:
        """Block until the root has ended."""
        while self.status is None:
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, 0)
                if pid == self.pid:
                    self.status = os.waitstatus_to_exitcode(status)

    def forward(self, number: int) -> None:
        """Pass a signal on to the command's process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def suspend(self) -> None:
        """Stop with the command, as one job of the shell; on return both go on."""
        assert self._terminal is not None
        if not _has_job_control():  # nobody would ever continue us
            self.forward(signal.SIGCONT)
            return
        _give_terminal(self._terminal, os.getpgrp())
        os.kill(os.getpid(), signal.SIGSTOP)
        _give_terminal(self._terminal, self.pid)
        self.forward(signal.SIGCONT)

    def close(self) -> None:
        """Give the terminal back. The command, if it was never let go, ends. May be called twice."""
        for descriptor in (self._go, self._failure):
            if descriptor >= 0:
                os.close(descriptor)
        self._go = self._failure = -1
        if self._terminal is not None:
            _give_terminal(self._terminal, os.getpgrp())
            os.close(self._terminal)
            self._terminal = None


def _find_program(name: str, environment: Mapping[str, str]) -> str:
    """The file that `name` stands for, as execvp(3) would find it."""
    if "/" in name:
        return name
    found = shutil.which(name, path=environment.get("PATH", os.defpath))
    if found is None:
        raise _launch_error(name, errno.ENOENT)
    return found


def _launch_error(name: str, number: int) -> LaunchError:
    error = LaunchError(
        f"cannot execute {name!r}: {os.strerror(number)}. Check the path and its permissions "
        "(for the user the command runs as), and that it is a program or a script with a '#!' line."
    )
    error.exit_code = EXIT_NOT_FOUND if number == errno.ENOENT else EXIT_NOT_EXECUTABLE
    return error


def _has_job_control() -> bool:
    """A shell of our session looks after our process group (setpgid(2): the group is not orphaned)."""
    parent = os.getppid()
    try:
        return os.getsid(parent) == os.getsid(0) and os.getpgid(parent) != os.getpgrp()
    except ProcessLookupError:
        return False


def _forbid_typing() -> None:
    """Keep this process and its descendants from typing into the terminal that they share with a person.

    ioctl TIOCSTI puts characters into the terminal's input, where the shell that called us reads them when we have
    ended; TIOCLINUX pastes. A seccomp filter answers EPERM to these two requests of ioctl(2), native, i386 and x32.
    Raises OSError.
    """
    if platform.machine() != "x86_64":
        return
    load_number, load_request = (0x20, 0, 0, 0), (0x20, 0, 0, 24)  # offsets in struct seccomp_data
    allow, refuse = (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050000 | errno.EPERM)
    program = (
        load_number, (0x15, 2, 0, 16), (0x15, 1, 0, 54), (0x15, 0, 3, 0x40000202),
        load_request, (0x15, 2, 0, 0x5412), (0x15, 1, 0, 0x541C), allow, refuse,
    )  # fmt: skip
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))
    header = struct.pack("@HP", len(program), ctypes.addressof(code))
    seccomp, set_filter = 317, 1
    if ctypes.CDLL(None, use_errno=True).syscall(seccomp, set_filter, 0, header) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def _foreground_terminal() -> int | None:
    """A descriptor of our controlling terminal, if we are in its foreground."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    with contextlib.suppress(OSError):
        if os.tcgetpgrp(terminal) == os.getpgrp():
            return terminal
    os.close(terminal)
    return None


def _give_terminal(terminal: int, group: int) -> None:
    """Make `group` the foreground. We may be in the background by now: SIGTTOU would stop us."""
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.tcsetpgrp(terminal, group)
    signal.signal(signal.SIGTTOU, before)
