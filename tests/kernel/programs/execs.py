"""Every way to run a program that an auditor might miss or misread: `execs.py FOLDER COLDNAME`.

Each has a marker of its own among its arguments, so that the test finds it among the events.
"""

import ctypes
import json
import os
import shutil
import sys
import threading

folder, coldname = sys.argv[1:]
os.chdir(folder)
TRUE = os.path.realpath("/bin/true")
LOADER = os.path.realpath("/lib64/ld-linux-x86-64.so.2")
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
libc = ctypes.CDLL(None, use_errno=True)
said = {"path-of-true": TRUE, "path-of-loader": LOADER}


def run(name, act, *arguments):
    """`act` in a child; its pid is what the test knows it by."""
    pid = os.fork()
    if pid == 0:
        try:
            act(*arguments)
        except OSError:
            os._exit(77)
        finally:
            os._exit(78)
    said[name] = [pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]


def block(marker, size):
    """Arguments that fill exactly `size` bytes, each with its terminating zero; one may be 128 KiB at most."""
    arguments = [b"true", marker]
    left = size - sum(len(argument) + 1 for argument in arguments)
    while left:
        take = min(left, 40000)
        arguments.append(b"x" * (take - 1))
        left -= take
    return arguments


def execveat(directory, name, arguments, flags):
    argv = (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None)
    libc.syscall(322, directory, name, argv, None, flags)
    raise OSError(ctypes.get_errno(), "execveat")


def copy_of_true(name):
    shutil.copy(TRUE, name)
    return os.open(name, os.O_RDONLY)


hostile = [
    b"true", b"hostile", b"\x1b[2J\x1b]0;pwned\x07", b"[/red][conceal]gone[/conceal]", b"\xff\xfe\x85",
    "\u0085 \u202e \u00e9".encode(), b"back\\slash \\x41", b"new\nline\rreturn\ttab", b"",
]  # fmt: skip
hostile += [b"\x1b[31m\xf0[b]" * 4000, *(b"%d" % n * 20 for n in range(100, 300))]
hostile.append(b"z" * (102400 - 1 - sum(len(argument) + 1 for argument in hostile)))
said["hostile-argv"] = b"".join(argument + b"\0" for argument in hostile).hex()
run("hostile", os.execv, TRUE, hostile)
for size in (32768, 65536, 65537):
    run(f"block-{size}", os.execv, TRUE, block(b"block-%d" % size, size))
run("no-argv", execveat, AT_FDCWD, TRUE.encode(), [], 0)

with open("script", "w") as script:
    script.write("#!/bin/sh -e\nexit 5\n")
os.chmod("script", 0o755)
run("script", os.execv, "./script", ["ignored", "script-marker"])

memory = os.memfd_create("hidden name")
with open(TRUE, "rb") as source:
    os.sendfile(memory, source.fileno(), 0, os.fstat(source.fileno()).st_size)
run("memfd", os.execv, f"/proc/self/fd/{memory}", ["true", "memfd-marker"])
run("memfd-at", execveat, memory, b"", [b"true", b"memfd-at-marker"], AT_EMPTY_PATH)

gone = copy_of_true("gone")
os.unlink("gone")
run("deleted", execveat, gone, b"", [b"true", b"deleted-marker"], AT_EMPTY_PATH)

kept = copy_of_true("kept")
run("by-fd", execveat, kept, b"", [b"true", b"by-fd-marker"], AT_EMPTY_PATH)
here = os.open(".", os.O_RDONLY)
run("at", execveat, here, b"kept", [b"true", b"at-marker"], 0)
os.link("kept", "second-name")
run("hard-link", os.execv, "./second-name", ["true", "hard-link-marker"])
os.symlink("kept", "link")
run("symlink", os.execv, "./link", ["true", "symlink-marker"])
strange = os.path.join(os.fsencode(folder), b"\xff\x1b[31m\nstrange")
shutil.copy(TRUE, strange)
run("strange", os.execv, strange, ["true", "strange-marker"])
run("renamed-argv0", os.execv, TRUE, ["[kworker/0:1]", "argv0-marker"])
run("shell-exec-a", os.execv, "/bin/bash", ["bash", "-c", f"exec -a '[sshd]' {TRUE} shell-marker"])
run("loader", os.execv, LOADER, [LOADER, "./kept", "loader-marker"])

with open("plain", "w") as plain:
    plain.write("not a program\n")
with open("cold", "w") as cold:
    cold.write("/no/such/cold/name")
run("enoent", os.execv, "/no/such/program", ["x"])
run("eacces", os.execv, "./plain", ["x"])
run("at-enoent", execveat, AT_FDCWD, b"/no/such/at", [b"x"], 0)
run("at-eacces", execveat, here, b"plain", [b"x"], 0)
os.chmod("plain", 0o755)
run("enoexec", os.execv, "./plain", ["x"])
run("failed-strange", os.execv, b"/no/\x1b[31m\xff", ["x"])
run("cold", os.execv, coldname, ["coldname", "cold"])


def deep(names):
    for name in names:
        os.mkdir(name)
        os.chdir(name)
    os.execv(TRUE, ["true", "deep-marker"])


run("deep", deep, ["d" * 77] * 10)


def deeper():
    os.mkdir("deeper")
    os.chdir("deeper")
    for number in range(70):
        os.mkdir(f"n{number}")
        os.chdir(f"n{number}")
    os.execv(TRUE, ["true", "deeper-marker"])


run("deeper", deeper)


def by_thread():
    done = threading.Event()
    threading.Thread(target=os.execv, args=(TRUE, ["true", "thread-marker"])).start()
    done.wait(20)


run("thread", by_thread)
for number in range(23):
    run(f"many-{number}", os.execv, TRUE, ["true", "many-marker", str(number)])
print(json.dumps(said))
