"""The stage: two network namespaces, what stands in them, and the promise that nothing of it stays."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import places
import world

HERE = Path(__file__).resolve().parent
SSHD = "/usr/sbin/sshd"
GPU_STAND_IN = os.makedev(1, 7)
"""/dev/full's device: every kernel has it and ordinary work never opens it, so no driver is needed to show
what an ioctl with NVIDIA's numbers does."""


class Stage:
    """`with Stage() as stage: stage.build()`: gone on every way out of the `with`.

    `folder` is a temporary directory; `agent` and `world` are network namespaces, joined by a veth pair.
    """

    def __init__(self) -> None:
        self.agent = f"ebpfaudit-incident-{os.getpid()}-agent"
        self.world = f"ebpfaudit-incident-{os.getpid()}-world"
        self.gpu = Path(f"/dev/ebpfaudit-incident-{os.getpid()}/nvidia-uvm")
        self.keys = Path(f"/run/ebpfaudit-incident-{os.getpid()}")
        self.folder = Path()
        self._ledger = Path()
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Stage:
        return self

    def build(self) -> None:
        """Inside the `with`, so that whatever interrupts it, what already stands is taken down."""
        self.folder = Path(tempfile.mkdtemp(prefix="ebpfaudit-incident-"))
        self._undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._make_networks()
        self._make_gpu()
        self._open_world()
        self._open_ssh()

    def __exit__(self, *_reason: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # whoever is impatient would leave namespaces behind
        self._undo.close()

    def inside(self, namespace: str, command: list[str]) -> list[str]:
        """`command`, started in a namespace of this stage; it becomes the process itself, not a child."""
        return ["nsenter", f"--net=/run/netns/{namespace}", *command]

    def seen_outside(self) -> list[dict]:
        """What got through: every attack that the world's end of the wire saw succeed."""
        return [json.loads(line) for line in self._ledger.read_text().splitlines()]

    @property
    def ssh_key(self) -> Path:
        return self.keys / "agent_key"

    def _make_networks(self) -> None:
        for namespace in (self.agent, self.world):
            self._undo.callback(_remove_namespace, namespace)  # first, so that no moment is uncovered
            _ip("netns", "add", namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
        peer = ("peer", "name", "wire", "netns", self.world)
        _ip("link", "add", "wire", "netns", self.agent, "type", "veth", *peer)
        for namespace, address in ((self.agent, "192.0.2.2/30"), (self.world, "192.0.2.1/30")):
            _ip("-n", namespace, "address", "add", address, "dev", "wire")
            _ip("-n", namespace, "link", "set", "wire", "up")
        for address in (places.OUTSIDE, places.POOL, places.METADATA, *places.INTERNAL):
            _ip("-n", self.world, "address", "add", f"{address}/32", "dev", "lo")
        _ip("-n", self.agent, "route", "add", "default", "via", "192.0.2.1")

    def _make_gpu(self) -> None:
        self._undo.callback(shutil.rmtree, self.gpu.parent, ignore_errors=True)
        self.gpu.parent.mkdir()
        os.mknod(self.gpu, 0o666 | stat.S_IFCHR, GPU_STAND_IN)

    def _open_world(self) -> None:
        self._ledger = self.folder / "seen-outside.jsonl"
        self._ledger.touch()
        server = self._start(self.world, ["/usr/bin/python3", str(HERE / "world.py"), str(self._ledger)])
        assert server.stdout is not None
        if server.stdout.readline().strip() != world.READY:
            raise SystemExit("incident: the stand-ins for the outside did not start")

    def _open_ssh(self) -> None:
        """A real OpenSSH server, as an unprivileged account of every Debian, and so for that account only."""
        self._undo.callback(shutil.rmtree, self.keys, ignore_errors=True)
        self.keys.mkdir()  # not below self.folder, which may be where only root can go
        host_key = self.keys / "host_key"
        for key in (host_key, self.ssh_key):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        config = self.keys / "sshd_config"
        config.write_text(
            f"ListenAddress {places.OUTSIDE}\nPort {places.SSH_PORT}\nHostKey {host_key}\nPidFile none\n"
            f"AuthorizedKeysFile {self.ssh_key}.pub\nStrictModes no\nUsePAM no\nAllowTcpForwarding yes\n"
        )
        for path in (self.keys, host_key):
            shutil.chown(path, places.ACCOUNT)
        log = self.keys / "sshd.log"
        unprivileged = ["setpriv", f"--reuid={places.ACCOUNT}", f"--regid={places.ACCOUNT}", "--clear-groups"]
        self._start(self.world, [*unprivileged, SSHD, "-D", "-E", str(log), "-f", str(config)])
        deadline = time.monotonic() + 10
        while "Server listening" not in (said := log.read_text() if log.exists() else ""):
            if time.monotonic() > deadline:
                raise SystemExit(f"incident: sshd did not start: {said}")
            time.sleep(0.02)

    def _start(self, namespace: str, command: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.inside(namespace, command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=sys.stderr,
            text=True,
            start_new_session=True,  # a terminal's Ctrl-C is for the agent; these go last
        )
        self._undo.callback(_stop, process)
        return process


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


def _remove_namespace(namespace: str) -> None:
    """Nobody but this stage's processes can be in there."""
    if not Path("/run/netns", namespace).exists():
        return
    while pids := _processes_in(namespace):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    _ip("netns", "delete", namespace)


def _processes_in(namespace: str) -> list[int]:
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=True)
    return [int(pid) for pid in listed.stdout.split()]
