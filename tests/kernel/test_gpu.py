"""The GPU probe on the running kernel: genuine NVIDIA commands through stand-in devices.

The stand-ins are nodes of the tun and fuse drivers, declared as nvidiactl and nvidia-uvm. Their drivers answer with
errors; what the probe sees is what the process asked.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import count

import pytest

from ebpfaudit.episodes import Episode
from ebpfaudit.events import Gpu, GpuCount
from ebpfaudit.gpu.devices import parse_declaration
from ebpfaudit.kernel.compile import Compiler
from ebpfaudit.kernel.gpu import GpuTables
from ebpfaudit.kernel.loader import load
from ebpfaudit.kernel.tables import Tables
from ebpfaudit.kernel.trials import Missing, cgroup2_root
from ebpfaudit.pipeline import Pipeline
from ebpfaudit.profiles.load import parse_profile
from ebpfaudit.verdicts import Verdict

pytestmark = pytest.mark.kernel

TUN, FUSE = os.makedev(10, 200), os.makedev(10, 229)
UUID_A = "GPU-00112233-4455-6677-8899-aabbccddeeff"
UUID_B = "GPU-ffeeddcc-bbaa-9988-7766-554433221100"

PRELUDE = """
import ctypes, errno, os, struct, sys, threading
CTL, UVM = sys.argv[1:3]
def F(nr, size, magic=0x46):                     # _IOWR('F', nr, size)
    return 0xC0000000 | size << 16 | magic << 8 | nr
libc = ctypes.CDLL(None, use_errno=True)
def call(fd, command, argument=b""):
    buffer = ctypes.create_string_buffer(bytes(argument), max(len(argument), 8))
    return libc.ioctl(fd, ctypes.c_ulong(command), buffer) and ctypes.get_errno()
def address(raw):
    buffer = ctypes.create_string_buffer(raw, len(raw))
    kept.append(buffer)
    return ctypes.addressof(buffer)
kept = []
def alloc(h_class, parameters=0):                # NVOS64
    return struct.pack("=IIIIQQIIII", 1, 2, 3, h_class, parameters, 0, 0, 0, 0, 0)
def vaspace(uuid):                               # UVM_REGISTER_GPU_VASPACE_PARAMS
    return bytes.fromhex(uuid[4:].replace("-", "")) + struct.pack("=iIII", 0, 1, 2, 0)
BEFORE
os.write(1, b"r")
sys.stdin.readline()                             # the barrier: we are tagged now
"""
OPEN = "ctl, uvm = os.open(CTL, os.O_RDWR), os.open(UVM, os.O_RDWR)\n"


class Workbench:
    """Probes, and a way to run a script as an episode under them."""

    def __init__(self, probes, tables, gpu, pipeline, nodes):
        self.probes, self.tables, self.gpu, self.pipeline, self.nodes = probes, tables, gpu, pipeline, nodes
        self._numbers = count(1)

    def run(self, script, section="", *, before="", enforce=True, tagged=True, nodes=None, number=None):
        """(exit status, events and verdicts, counters). `before` runs before the process is tagged."""
        number, items = next(self._numbers) if number is None else number, []
        profile = parse_profile(f'name = "test"\ndescription = "A test."\n{section}', "test")
        self.gpu.write_section(number, profile)
        self.tables.set_episode(number, profile, enforce=enforce)
        episode = Episode(number, "test", profile, listener=lambda _, batch: items.extend(batch))
        self.pipeline.add(episode)
        command = [sys.executable, "-c", PRELUDE.replace("BEFORE", before) + script, *(nodes or self.nodes)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout.read(1) == b"r"
        if tagged:
            self.tables.tag_process(number, process.pid)
        process.stdin.write(b"\n")
        process.stdin.close()
        process.stdout.close()
        while process.poll() is None:
            self.pipeline.turn(20)
        self.pipeline.drain()
        self.gpu.finish(episode)
        self.pipeline.remove(number)
        counters = self.tables.counters(number)
        self.tables.forget_episode(number)
        return process.returncode, items, counters


def make_node(path, device):
    os.mknod(path, 0o600 | 0o020000, device)
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError as error:
        pytest.skip(f"no driver behind device {os.major(device)}:{os.minor(device)}: {error.strerror}")
    return str(path)


def build(folder, **options):
    try:
        root = cgroup2_root()
    except Missing as missing:
        pytest.skip(str(missing))
    nodes = [make_node(folder / "ctl", TUN), make_node(folder / "uvm", FUSE)]
    compiler = Compiler.start(**options)
    try:
        probes = load(compiler, root)
    finally:
        compiler.stop()
    try:
        assert not {"syscalls:sys_exit_ioctl", "device"} & probes.missing.keys(), probes.missing
        tables = Tables(probes)
        gpu = GpuTables(probes, [f"{nodes[0]}=nvidia:ctl", f"{nodes[1]}=nvidia-uvm"])
        pipeline = Pipeline(probes, tables)
        gpu.register(pipeline.decoder)
        yield Workbench(probes, tables, gpu, pipeline, nodes)
        pipeline.close()
    finally:
        probes.close()


@pytest.fixture(scope="module")
def bench(kernel, tmp_path_factory):
    yield from build(tmp_path_factory.mktemp("nodes"))


def gpu_events(items):
    return [item for item in items if isinstance(item, Gpu)]


def totals(items):
    """{(kind, device): (calls, bytes)} over all processes."""
    found = {}
    for item in items:
        if isinstance(item, GpuCount):
            calls, size = found.get((item.event, item.device), (0, 0))
            found[item.event, item.device] = calls + item.count, size + item.bytes
    return found


SEVEN = f"""
parameters = address(struct.pack("=64xQ", 8 << 30).ljust(128, b"\\0"))
call(ctl, F(0x2b, 48), alloc(0xcbc0))
call(ctl, F(0x2b, 48), alloc(0x40, parameters))
call(ctl, F(0xd2, 72, magic=0x00), bytes(72))
call(ctl, F(0xd3, 16), struct.pack("=IIQ", 0x29, 16, address(bytes(16))))
call(ctl, F(0x2a, 32), struct.pack("=IIIIQII", 1, 2, 0xc36f0108, 0, 0, 0, 0))
call(uvm, 0x19, vaspace("{UUID_A}"))
call(uvm, 0x49, struct.pack("=QQQ", 0x7f0000000000, 2 << 20, 0))
"""


def test_genuine_commands_are_decoded(bench):
    status, items, counters = bench.run(OPEN + SEVEN)
    assert status == 0
    assert [(e.event, e.device, e.command, e.uuid, e.bytes, e.decision) for e in gpu_events(items)] == [
        ("open", "nvidia:ctl", "", "", 0, ""),
        ("open", "nvidia:uvm", "", "", 0, ""),
        ("context", "nvidia:ctl", "HOPPER_COMPUTE_A", "", 0, ""),
        ("alloc", "nvidia:ctl", "NV01_MEMORY_LOCAL_USER", "", 8 << 30, ""),
        ("enumerate", "nvidia:ctl", "NV_ESC_CHECK_VERSION_STR", "", 0, ""),
        ("other", "nvidia:ctl", "NV_ESC_RM_FREE", "", 0, ""),
        ("channel", "nvidia:ctl", "NVC36F_CTRL_CMD_GPFIFO_GET_WORK_SUBMIT_TOKEN", "", 0, ""),
        ("context", "nvidia:uvm", "UVM_REGISTER_GPU_VASPACE", UUID_A, 0, ""),
        ("alloc", "nvidia:uvm", "UVM_CREATE_EXTERNAL_RANGE", "", 2 << 20, ""),
    ]
    assert counters.lost == 0


def test_an_unlisted_command_class_or_control_passes_through(bench):
    script = """
call(ctl, F(0x77, 16), bytes(16))
call(ctl, F(0x2b, 48), alloc(0xfec0))
call(ctl, F(0x2a, 32), struct.pack("=IIIIQII", 1, 2, 0x20809999, 0, 0, 0, 0))
"""
    _, items, _ = bench.run(OPEN + script)
    assert [(e.event, e.command) for e in gpu_events(items)[2:]] == [
        ("unknown", "0xc0104677"),
        ("context", "class 0xfec0"),  # compute classes end in c0
        ("enumerate", "control 0x20809999"),
    ]


def test_results_are_told(bench):
    # TUNGETFEATURES has the number of NV_ESC_FREE_OS_EVENT, and succeeds.
    _, items, _ = bench.run(OPEN + "call(ctl, 0x800454cf, bytes(4)); call(ctl, F(0x2b, 48), alloc(0xcbc0))")
    freed, context = gpu_events(items)[2:]
    assert (freed.command, freed.result) == ("NV_ESC_FREE_OS_EVENT", "")
    assert context.result == "EBADFD"


def test_every_context_is_an_event_and_other_kinds_once(bench):
    script = """
for _ in range(23):
    call(ctl, F(0x2b, 48), alloc(0xcbc0))
    call(ctl, F(0x2a, 32), bytes(32))
"""
    _, items, _ = bench.run(OPEN + script)
    kinds = [event.event for event in gpu_events(items)]
    assert kinds.count("context") == 23
    assert kinds.count("enumerate") == 1
    assert totals(items)["enumerate", "nvidia:ctl"] == (23, 0)


COUNTED = """
def work():
    for _ in range(1009):
        call(ctl, F(0x2a, 32), bytes(32))
        call(uvm, 0x49, struct.pack("=QQQ", 0, 4096, 0))
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_counts_are_exact_over_threads_and_processes(bench):
    script = (
        COUNTED
        + "for _ in range(3):\n    if os.fork() == 0: work(); os._exit(0)\nfor _ in range(3): os.wait()\n"
    )
    _, items, _ = bench.run(OPEN + script)
    calls = 7 * 1009
    assert totals(items) == {
        ("open", "nvidia:ctl"): (1, 0),
        ("open", "nvidia:uvm"): (1, 0),
        ("enumerate", "nvidia:ctl"): (calls, 0),
        ("alloc", "nvidia:uvm"): (calls, calls * 4096),
    }
    assert list(bench.gpu._counters.keys()) == [], "counters of ended processes stay behind"


def test_counts_are_exact_though_records_are_lost(kernel, tmp_path):
    script = OPEN + "for _ in range(503): call(ctl, F(0x2b, 48), alloc(0xcbc0))"
    for bench in build(tmp_path, ring_bytes=4096):
        bench.pipeline.turn = lambda _: time.sleep(0.02)  # a reader that has stopped
        _, items, counters = bench.run(script)
    seen = len(gpu_events(items))
    assert seen < 503
    assert counters.lost > 0
    assert totals(items)["context", "nvidia:ctl"] == (503, 0)


def test_descriptors_beyond_the_first_64_are_seen(bench):
    script = (
        OPEN + "high = os.dup2(ctl, 900); call(high, F(0x2b, 48), alloc(0xcbc0)); call(64, 1); call(5000, 1)"
    )
    _, items, _ = bench.run(script)
    assert [event.event for event in gpu_events(items)] == ["open", "open", "context"]


def test_a_device_is_known_by_number_not_by_path(bench, tmp_path):
    alias = tmp_path / "innocent"
    os.mknod(alias, 0o600 | 0o020000, TUN)
    _, items, _ = bench.run("call(os.open(CTL, os.O_RDWR), F(0xc8, 8))", nodes=(str(alias), bench.nodes[1]))
    assert [(e.event, e.device) for e in gpu_events(items)] == [
        ("open", "nvidia:ctl"),
        ("enumerate", "nvidia:ctl"),
    ]


def test_other_files_and_untagged_processes_are_left_out(bench):
    script = "r, w = os.pipe(); call(r, 0x541b); call(os.open('/dev/null', 0), F(0x2b, 48)); call(2, 0x5401)"
    _, items, _ = bench.run(script)
    assert gpu_events(items) == []
    _, items, counters = bench.run(OPEN + SEVEN, tagged=False)
    assert items == []
    assert counters.emitted == 0


def test_a_host_wide_trace_sees_untagged_processes(kernel, tmp_path):
    for bench in build(tmp_path, trace_untagged=True):
        script = OPEN + "call(ctl, F(0x2a, 32), bytes(32)); " * 3
        _, items, _ = bench.run(script, tagged=False, number=0)
    mine = [event for event in gpu_events(items) if event.device == "nvidia:ctl"]
    assert [(event.event, event.decision) for event in mine] == [("open", ""), ("enumerate", "")]
    assert totals(items)["enumerate", "nvidia:ctl"] == (3, 0)


def test_devices_that_appear_later_are_taken_up(bench):
    script = (
        "call(os.open('/dev/null', 0), 0x4e01); call(os.open('/dev/zero', 0), 0x4e15, struct.pack('Q', 4096))"
    )
    assert gpu_events(bench.run(script)[1]) == []
    for new in ("/dev/null=neuron:0", "/dev/zero=neuron:1"):
        bench.gpu._declared.append(parse_declaration(new))
        bench.gpu.refresh()
    try:
        _, items, _ = bench.run(script)
    finally:
        bench.gpu._majors[(1).to_bytes(4, sys.byteorder)] = bytes(4)
    assert [(e.event, e.device, e.command, e.bytes) for e in gpu_events(items)] == [
        ("open", "neuron:0", "", 0),
        ("admin", "neuron:0", "NEURON_IOCTL_DEVICE_RESET", 0),
        ("open", "neuron:1", "", 0),
        ("alloc", "neuron:1", "NEURON_IOCTL_MEM_ALLOC", 4096),
    ]


# ---- policy

DENY = '[gpu]\ndefault = "deny"\n'
KILL = '[gpu]\ndefault = "kill"\n'
EXPECT_EPERM = """
try:
    os.open(CTL, os.O_RDWR)
except OSError as error:
    sys.exit(7 if error.errno == errno.EPERM else 8)
"""


def test_a_denied_open_gives_no_descriptor(bench):
    status, items, _ = bench.run(EXPECT_EPERM, DENY)
    assert status == 7
    (event,) = gpu_events(items)
    assert (event.event, event.device, event.result, event.decision) == (
        "open",
        "nvidia:ctl",
        "denied",
        "deny",
    )
    assert [item.action for item in items if isinstance(item, Verdict)] == ["deny"]


def test_a_kill_at_open(bench, require):
    require("signal from device")
    status, items, _ = bench.run(EXPECT_EPERM, KILL)
    assert status == -signal.SIGKILL
    assert [event.decision for event in gpu_events(items)] == ["kill"]


@pytest.mark.parametrize("section", [DENY, KILL])
def test_a_context_by_a_descriptor_from_before_is_answered_by_sigkill(bench, section):
    before = OPEN
    script = f"call(uvm, 0x19, vaspace('{UUID_A}')); os._exit(9)"
    status, items, _ = bench.run(script, section, before=before)
    assert status == -signal.SIGKILL
    (event,) = gpu_events(items)
    assert (event.event, event.uuid, event.decision) == ("context", UUID_A, "kill")
    assert any(isinstance(item, Verdict) for item in items)


def test_without_enforcement_nothing_is_stopped(bench):
    status, items, _ = bench.run(OPEN + SEVEN + "os._exit(9)", KILL, enforce=False)
    assert status == 9
    assert {event.decision for event in gpu_events(items)} == {"allow"}


def test_a_grant_by_uuid_holds_for_that_gpu_alone(bench):
    section = f'[gpu]\ndefault = "deny"\nallow = ["{UUID_A}"]\n'
    granted = OPEN + f"call(uvm, 0x19, vaspace('{UUID_A}'))\n"
    status, items, _ = bench.run(granted + "os._exit(9)", section)
    assert status == 9
    assert [item for item in items if isinstance(item, Verdict)] == []
    status, items, _ = bench.run(granted + f"call(uvm, 0x19, vaspace('{UUID_B}'))\nos._exit(9)", section)
    assert status == -signal.SIGKILL
    assert [(event.uuid, event.decision) for event in gpu_events(items) if event.event == "context"] == [
        (UUID_A, "allow"),
        (UUID_B, "kill"),
    ]


def test_episodes_are_judged_each_by_its_own_profile(bench):
    assert bench.run(EXPECT_EPERM, DENY)[0] == 7
    assert bench.run(EXPECT_EPERM, '[gpu]\ndefault = "deny"\nallow = ["nvidia:*"]\n')[0] == 0
    assert bench.run(EXPECT_EPERM)[0] == 0
