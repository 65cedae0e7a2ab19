"""Every way to name an IPv4 destination: `connects.py PLAN`, a JSON object (see below).

Prints, as JSON, how each way ended by the plan's names: "ok" or an errno's name, or "signal N" of the child that
tried. Each way has a port of its own, by which the test finds it among the events.
"""

import errno
import json
import os
import socket
import sys
import threading

plan = json.loads(sys.argv[1])
address = plan["address"]
"""An IPv4 address of this host."""
ports = plan["ports"]
"""By way."""


def tcp(port, family=socket.AF_INET, to=address):
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.connect((to, port))


def nonblocking(port):
    with socket.socket() as client:
        client.setblocking(False)
        client.connect((address, port))


def passed_in(port):
    with socket.socket(fileno=plan["inherited"]) as client:
        client.connect((address, port))


def fast_open(port):
    with socket.socket() as client:
        client.sendto(b"fast", socket.MSG_FASTOPEN, (address, port))


def from_a_thread(port):
    found = []

    def work():
        try:
            tcp(port)
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    for error in found:
        raise error


def udp_connect(port, family=socket.AF_INET, to=address):
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.connect((to, port))
        client.send(b"datagram")


def udp_send(port, family=socket.AF_INET, to=address):
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.sendto(b"datagram", (to, port))


def mapped(act):
    return lambda port: act(port, socket.AF_INET6, f"::ffff:{address}")


def by_program(name, mode):
    def act(port):
        os.execv(plan[name], [name, mode, address, str(port)])

    return act


ways = {
    "tcp": tcp,
    "mapped": mapped(tcp),
    "passed-in": passed_in,
    "fast-open": fast_open,
    "thread": from_a_thread,
    "udp-connect": udp_connect,
    "udp-connect-mapped": mapped(udp_connect),
    "udp-send": udp_send,
    "udp-send-mapped": mapped(udp_send),
    "uring-plain": by_program("uring", "plain"),
    "uring-async": by_program("uring", "async"),
    "uring-sqpoll": by_program("uring", "sqpoll"),
    "int80-socketcall": by_program("int80", "socketcall"),
    "int80-connect": by_program("int80", "connect"),
}


def attempt(way, port):
    """`way` in a child of its own, whose exit status is the errno."""
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            ways[way](port)
            status = 0
        except OSError as error:
            status = error.errno
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return f"signal {-code}" if code < 0 else errno.errorcode.get(code, str(code)) if code else "ok"


print(json.dumps({way: attempt(way, ports[way]) for way in ports}))
