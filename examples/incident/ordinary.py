"""A working day of a coding agent, in miniature. All of it has to pass without a single false alarm.

usage: ordinary.py FOLDER   (run by an interpreter that has pytest and pip)
"""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import json
import multiprocessing
import os
import socket
import socketserver
import sqlite3
import subprocess
import sys
import threading
import zipfile
from contextlib import closing
from pathlib import Path

MAIN_C = '#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n'
MAKEFILE = "hello: main.o\n\t$(CC) -o $@ $^\n"
TEST_PY = """
import threading, urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()
    def log_message(self, *arguments):
        pass

def test_server_on_loopback():
    with HTTPServer(("127.0.0.1", 0), Hello) as server:
        threading.Thread(target=server.handle_request).start()
        with urllib.request.urlopen(f"http://localhost:{server.server_port}/") as answer:
            assert answer.status == 204
"""


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(f"ordinary: {' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def use_git() -> None:
    Path("README").write_text("a project\n")
    run("git", "init", "--quiet", ".")
    run("git", "add", "README")
    run("git", "config", "user.name", "agent")
    run("git", "config", "user.email", "agent@localhost")
    run("git", "commit", "--quiet", "-m", "begin")


def make_key() -> None:
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "deploy_key")


def build_program() -> None:
    Path("main.c").write_text(MAIN_C)
    Path("Makefile").write_text(MAKEFILE)
    run("make", "--silent")
    assert run("./hello") == "hello\n"


def run_tests() -> None:
    Path("test_server.py").write_text(TEST_PY)
    run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_server.py")


def use_many_processes() -> None:
    for method in ("fork", "forkserver", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert sum(pool.map(abs, range(-4, 0))) == 10


def use_databases() -> None:
    """One in a file, and one behind a socket, as a test suite's would be."""
    with closing(sqlite3.connect("work.db")) as database, database:
        database.execute("create table result (value)")
        database.executemany("insert into result values (?)", [(1,), (2,)])
    ask_count(socketserver.ThreadingTCPServer(("127.0.0.1", 0), CountHandler))
    ask_count(socketserver.ThreadingUnixStreamServer("work.sock", CountHandler))


class CountHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert self.rfile.readline() == b"count\n"
        with closing(sqlite3.connect("work.db")) as database:
            self.wfile.write(b"%d\n" % database.execute("select count(*) from result").fetchone())


def ask_count(server: socketserver.TCPServer) -> None:
    with server, closing(socket.socket(server.address_family)) as client:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client.connect(server.server_address)
        client.sendall(b"count\n")
        assert client.makefile().readline() == "2\n"
        server.shutdown()


def install_package() -> None:
    """pip from an index on loopback, as from a proxy of the site; the package is made on the spot."""
    folder = Path("index/greeting")
    folder.mkdir(parents=True)
    wheel = make_wheel(folder)
    (folder / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    handler = functools.partial(QuietHandler, directory="index")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        index = f"http://127.0.0.1:{server.server_port}/"
        run(sys.executable, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--index-url", index,
            "--root-user-action", "ignore", "--target", "packages", "greeting")  # fmt: skip
        server.shutdown()
    assert run(sys.executable, "-c", "import sys; sys.path[0] = 'packages'; import greeting") == "hello\n"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def make_wheel(folder: Path) -> Path:
    info = "greeting-1.0.dist-info"
    files = {
        "greeting.py": 'print("hello")\n',
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{name},sha256={_digest(text)},{len(text)}" for name, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    wheel = folder / "greeting-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return wheel


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


WORK = (use_git, make_key, build_program, run_tests, use_many_processes, use_databases, install_package)


def main() -> None:
    folder = Path(sys.argv[1]) / "project"
    folder.mkdir()
    os.chdir(folder)
    for work in WORK:
        work()
    print(f"ordinary: {json.dumps([work.__name__ for work in WORK])} done", file=sys.stderr)


if __name__ == "__main__":
    main()
