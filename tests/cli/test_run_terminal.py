"""Ctrl-C, Ctrl-Z and fg on a real terminal: the command has it while it runs, and it comes back."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import sys
import time
import uuid
from pathlib import Path

import pytest
from audited import MAIN, NO_POLICY, PYTHON, clear, leftovers, processes_of, until

pytestmark = pytest.mark.kernel

SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
def foreground(group): os.tcsetpgrp(0, group)
ready, go = os.pipe()
pid = os.fork()
if pid == 0:
    for number in (signal.SIGTTOU, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.setpgid(0, 0)
    os.close(go)
    os.read(ready, 1)
    os.execv(sys.argv[1], sys.argv[1:])
os.close(ready)
foreground(pid)
os.close(go)
while True:
    _, status = os.waitpid(pid, os.WUNTRACED)
    mine = os.tcgetpgrp(0) == pid
    foreground(os.getpgrp())
    if os.WIFSTOPPED(status):
        print(f"<stopped {mine}>", flush=True)
        sys.stdin.readline()
        foreground(pid)
        os.killpg(pid, signal.SIGCONT)
    else:
        print(f"<ended {os.waitstatus_to_exitcode(status)} {mine}>", flush=True)
        break
"""
"""A shell with job control, as far as one job needs it: fork, foreground, wait for a stop, fg at a line of input.
`mine`: the terminal was with the job's own group again when it stopped or ended."""


class Terminal:
    """A pseudo-terminal, with that shell in it running an audited command."""

    def __init__(self, folder: Path, command: list[str], policy: str = NO_POLICY) -> None:
        self.episode = f"test-{uuid.uuid4().hex[:12]}"
        (folder / "profile.toml").write_text(policy)
        arguments = [
            "run",
            "--profile",
            str(folder / "profile.toml"),
            "--trail",
            "none",
            "--episode",
            self.episode,
        ]
        job = [*MAIN, *arguments, "--quiet", "--", *command]
        job[0] = os.path.realpath(job[0]) if not Path(job[0]).is_absolute() else job[0]
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            os.chdir("/")
            os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", SHELL, *job])
        self.said = b""

    def expect(self, text: bytes, timeout_s: float = 30) -> None:
        """Reads until `text` was said; what was said up to there is used up."""
        end = time.monotonic() + timeout_s
        while text not in self.said:
            ready, _, _ = select.select([self._descriptor], [], [], max(0, end - time.monotonic()))
            assert ready, f"waited in vain for {text!r}; heard {self.said!r}"
            try:
                heard = os.read(self._descriptor, 65536)
            except OSError:  # the other side is closed
                heard = b""
            assert heard, f"the terminal closed; heard {self.said!r}"
            self.said += heard
        self.said = self.said.partition(text)[2]

    def type(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._descriptor)


@pytest.fixture
def terminal(kernel, tmp_path):
    opened = []

    def run(*command: str, policy: str = NO_POLICY) -> Terminal:
        opened.append(Terminal(tmp_path, list(command), policy))
        return opened[-1]

    yield run
    for each in opened:
        each.close()
        left = list(leftovers(each.episode))
        clear(each.episode)
        assert left == []


COUNTING = """
import os, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: (os.write(1, b"caught\\n"), os._exit(9)))
os.write(1, b"ready\\n")
while True:
    with open(sys.argv[1], "a") as stream:
        stream.write("x")
    time.sleep(0.01)
"""


def test_ctrl_c_goes_to_the_command(terminal, tmp_path):
    tty = terminal(*PYTHON, "-c", COUNTING, str(tmp_path / "count"))
    tty.expect(b"ready")
    tty.type(b"\x03")
    tty.expect(b"caught")
    tty.expect(b"<ended 9 True>")


def test_ctrl_c_ends_a_command_that_does_not_catch_it(terminal):
    tty = terminal(
        *PYTHON,
        "-c",
        "import signal, time; signal.signal(2, signal.SIG_DFL); print('ready', flush=True); time.sleep(60)",
    )
    tty.expect(b"ready")
    tty.type(b"\x03")
    tty.expect(b"<ended 130 True>")


def test_ctrl_z_stops_the_episode_and_fg_goes_on(terminal, tmp_path):
    count = tmp_path / "count"
    tty = terminal(*PYTHON, "-c", COUNTING, str(count))
    tty.expect(b"ready")
    for _ in range(2):
        before = size(count)
        until(lambda before=before: size(count) > before, "it works")
        tty.type(b"\x1a")
        tty.expect(b"<stopped True>")
        stopped = size(count)
        time.sleep(0.2)
        assert size(count) == stopped, "the command runs on while its auditor stands still"
        tty.type(b"fg\n")
        until(lambda stopped=stopped: size(count) > stopped, "it works again")
    tty.type(b"\x03")
    tty.expect(b"<ended 9 True>")


def test_the_command_may_read_the_terminal(terminal):
    tty = terminal(
        "/bin/sh",
        "-c",
        "echo ready; read line; echo got $line; test -t 0 && test -t 1 && stty size >/dev/null && exit 6",
    )
    tty.expect(b"ready")
    tty.type(b"a line\n")
    tty.expect(b"got a line")
    tty.expect(b"<ended 6 True>")


ALERT_ON_TRUE = (
    NO_POLICY
    + """
[[rule]]
id = "seen"
on = "exec"
when = { exe = "*/true" }
action = "alert"
"""
)


def test_a_command_cannot_stop_its_auditor_by_the_terminals_tostop(terminal):
    tty = terminal("/bin/sh", "-c", "stty tostop; /bin/true; sleep 0.5; exit 3", policy=ALERT_ON_TRUE)
    tty.expect(b"ALERT")
    tty.expect(b"<ended 3 True>")


def test_a_terminal_that_closes_ends_the_episode(terminal, tmp_path):
    tty = terminal(*PYTHON, "-c", COUNTING, str(tmp_path / "count"))
    tty.expect(b"ready")
    tty.close()
    tty.close = lambda: None
    until(lambda: not list(leftovers(tty.episode)), "all is gone")
    assert processes_of(tty.episode) == []


def size(path):
    return path.stat().st_size if path.exists() else 0


TYPE = """
import fcntl, termios
for request in (termios.TIOCSTI, 0x541C):
    try:
        fcntl.ioctl(0, request, b"x")
        print("typed")
    except OSError as error:
        print("refused", error.errno)
fcntl.ioctl(0, termios.TIOCGWINSZ, b"12345678")
print("other requests pass", flush=True)
"""


def test_the_command_cannot_type_into_the_shell_that_called_us(terminal):
    tty = terminal(*PYTHON, "-c", TYPE)
    tty.expect(b"refused 1")
    tty.expect(b"refused 1")
    tty.expect(b"other requests pass")
    tty.expect(b"<ended 0 True>")


BLOCK = """
import os, sys, termios, time
termios.tcflow(1, termios.TCOOFF)
os.spawnv(os.P_WAIT, "/bin/true", ["true"])
time.sleep(0.3)
child = os.spawnv(os.P_WAIT, "/bin/sleep", ["sleep", "30"])
termios.tcflow(1, termios.TCOON)
print("the second ended with", child, flush=True)
"""


def test_a_terminal_that_the_command_stopped_does_not_hold_up_the_auditor(terminal):
    kill = '\n[[rule]]\nid = "sleeper"\non = "exec"\nwhen = { exe = "*/sleep" }\naction = "kill"\n'
    tty = terminal(*PYTHON, "-c", BLOCK, policy=ALERT_ON_TRUE + kill)
    tty.expect(b"the second ended with -9")
    tty.expect(b"<ended 0 True>")
