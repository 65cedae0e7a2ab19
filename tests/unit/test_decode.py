"""Records as the probes write them, read back; and records as no probe writes them, counted."""

from __future__ import annotations

import errno
import struct

from hypothesis import given
from hypothesis import strategies as st

from ebpfaudit.events import Connect, Exec, Exit, Fork
from ebpfaudit.kernel import layout
from ebpfaudit.kernel.decode import Decoder
from ebpfaudit.text import hide


def ring(*records):
    """What the ring buffer holds after these records: heads, data, padding."""
    whole = b"".join(
        struct.pack("=II", len(record), 0) + record + b"\0" * (-len(record) % 8) for record in records
    )
    return memoryview(bytearray(whole))


def header(kind, *, episode=1, ts_ns=7, start_ns=30_000_001, pid=40, uid=1000, comm=b"agent"):
    return (kind, episode, ts_ns, start_ns, pid, uid, comm)


def connect(
    address, *, kind=layout.CONNECT, port=443, family=4, protocol=6, decision=1, error=0, thread=41, **rest
):
    return layout.CONNECT_RECORD.layout.pack(
        *header(kind, **rest), address, port, family, protocol, decision, error, thread
    )


def execute(
    exe=b"true\0bin\0usr\0", cwd=b"work\0", filename=b"/usr/bin/true\0", argv=b"true\0", flags=0, total=None,
    stdio=(b"\0" * 16, 0, 0),
):  # fmt: skip
    fixed = layout.EXEC_RECORD.layout.pack(
        *header(layout.EXEC), 77, (254 << 20) | 3, 39, flags, 0, len(exe), len(cwd), len(filename), len(argv),
        len(argv) if total is None else total, *stdio,
    )  # fmt: skip
    return fixed + exe + cwd + filename + argv


def decode(*records):
    decoder = Decoder()
    data = ring(*records)
    batch, size = decoder.decode(data, data.cast("I"), 0, len(data))
    assert size == len(data)
    return batch, decoder


MAPPED = b"\0" * 10 + b"\xff\xff"


def test_a_fork_and_an_exit():
    fork = layout.FORK_RECORD.layout.pack(*header(layout.FORK), 50_000_000, 60)
    killed = layout.EXIT_RECORD.layout.pack(*header(layout.EXIT, pid=60), 9)
    exited = layout.EXIT_RECORD.layout.pack(*header(layout.EXIT, pid=61, episode=2), 3 << 8)
    batch, _ = decode(fork, killed, exited)
    assert batch == {1: [Fork(7, 40, 3, 60, 5), Exit(7, 60, 3, 0, 9)], 2: [Exit(7, 61, 3, 3, 0)]}


def test_ipv4_arrives_mapped_and_is_written_as_ipv4():
    batch, _ = decode(connect(MAPPED + bytes([10, 0, 0, 7])), connect(b"\xfd" + b"\0" * 14 + b"\1", family=6))
    first, second = batch[1]
    assert (first.family, first.dst, first.port, first.decision) == ("ipv4", "10.0.0.7", 443, "allow")
    assert (second.family, second.dst) == ("ipv6", "fd00::1")


def test_a_refused_answer_and_a_denied_attempt():
    address = MAPPED + bytes([10, 0, 0, 7])
    done = connect(address, kind=layout.CONNECT_DONE, decision=0, error=errno.ECONNREFUSED)
    batch, _ = decode(connect(address, decision=2), connect(address), done)
    assert [(each.phase, each.result, each.decision) for each in batch[1]] == [
        ("attempt", "denied", "deny"),
        ("attempt", "", "allow"),
        ("done", "refused", ""),
    ]


def test_a_failure_without_an_address_is_that_of_the_threads_last_attempt():
    failure = connect(
        b"\0" * 16, kind=layout.CONNECT_DONE, family=0, port=0, protocol=0, error=errno.ENETUNREACH
    )
    batch, _ = decode(connect(MAPPED + bytes([10, 9, 8, 7]), thread=41), failure)
    assert batch[1][1] == Connect(7, 40, 3, "agent", "ipv4", "tcp", "10.9.8.7", 443, "done", "unreachable")


def test_a_failure_nobody_attempted_is_silent_but_counted():
    failure = connect(b"\0" * 16, kind=layout.CONNECT_DONE, family=0, error=errno.ENETUNREACH)
    batch, decoder = decode(failure)
    assert batch == {}
    assert decoder.silent == {1: 1}


def test_unix_sockets_by_path_and_abstract_name():
    def unix(path):
        return layout.CONNECT_UNIX_RECORD.layout.pack(*header(layout.CONNECT_UNIX), 1, 0, len(path), 41, path)

    batch, _ = decode(unix(b"/run/x.sock\0junk"), unix(b"\0hidden\x1b[2J"), unix(b"@hidden"))
    assert [(each.dst, each.protocol) for each in batch[1]] == [
        ("/run/x.sock", "stream"),
        ("@hidden\\x1b[2J", "stream"),
        ("\\x40hidden", "stream"),
    ]
    assert hide(batch[1][2].dst) == b"@hidden"


def test_an_exec_with_its_paths():
    batch, _ = decode(execute(argv=b"true\0\0b c\0"))
    event = batch[1][0]
    assert event == Exec(
        7, 40, 3, 39, "/usr/bin/true", ("true", "", "b c"), "/work", "agent", 1000, "254:3", 77
    )


def test_a_script_names_both_interpreter_and_script():
    batch, _ = decode(execute(b"bash\0bin\0", b"", b"./x.sh\0", b"/bin/bash\0./x.sh\0", layout.EXEC_SCRIPT))
    event = batch[1][0]
    assert (event.exe, event.filename, event.script, event.cwd) == ("/bin/bash", "./x.sh", True, "/")


def test_a_memory_file_and_a_deleted_one():
    gone = layout.EXEC_DELETED | layout.EXEC_DETACHED
    batch, _ = decode(
        execute(b"memfd:evil\0/\0", flags=gone), execute(b"x\0tmp\0", flags=layout.EXEC_DELETED)
    )
    memory, deleted = batch[1]
    assert (memory.exe, memory.memfd, memory.deleted) == ("memfd:evil", True, True)
    assert (deleted.exe, deleted.memfd, deleted.deleted) == ("/tmp/x", False, True)


def test_a_socket_among_the_standard_descriptors():
    batch, _ = decode(
        execute(),
        execute(stdio=(MAPPED + bytes([203, 0, 113, 9]), 4444, 4)),
        execute(stdio=(MAPPED + bytes([203, 0, 113, 9]), 4445, 6)),
        execute(stdio=(b"\xfd" + b"\0" * 14 + b"\1", 9, 6)),
        execute(stdio=(b"\0" * 16, 0, 6)),
    )
    assert [(event.stdio, event.stdio_port) for event in batch[1]] == [
        ("", 0), ("203.0.113.9", 4444), ("203.0.113.9", 4445), ("fd00::1", 9), ("::", 0),
    ]  # fmt: skip


def test_a_cut_argument_block_says_so():
    batch, _ = decode(execute(argv=b"x" * 100, total=9999))
    event = batch[1][0]
    assert (event.argv_truncated, event.argv_bytes) == (True, 9999)


@given(st.lists(st.binary(max_size=40).filter(lambda raw: b"\0" not in raw), min_size=1, max_size=6))
def test_argv_is_recovered_exactly(arguments):
    batch, _ = decode(execute(argv=b"".join(each + b"\0" for each in arguments)))
    assert [hide(each) for each in batch[1][0].argv] == arguments


def test_a_record_longer_than_it_is_does_not_crash():
    lying = bytearray(execute())
    struct.pack_into("=I", lying, layout.HEADER.layout.size + 36, 1 << 30)
    batch, decoder = decode(bytes(lying))
    assert batch == {}
    assert decoder.damaged == 1


@given(st.binary(min_size=8, max_size=400))
def test_no_record_crashes_the_decoder(raw):
    decoder = Decoder()
    data = ring(raw)
    _, size = decoder.decode(data, data.cast("I"), 0, len(data))
    assert size == len(data)


def test_a_record_being_written_stops_the_reading():
    data = ring(connect(MAPPED + b"\1\2\3\4"), connect(MAPPED + b"\1\2\3\4"))
    struct.pack_into("=I", data, len(data) // 2, layout.CONNECT_RECORD.layout.size | 1 << 31)
    batch, size = Decoder().decode(data, data.cast("I"), 0, len(data))
    assert size == len(data) // 2
    assert len(batch[1]) == 1


def test_a_discarded_record_is_skipped():
    data = ring(execute(), connect(MAPPED + b"\1\2\3\4"))
    struct.pack_into("=I", data, 0, struct.unpack_from("=I", data)[0] | 1 << 30)
    batch, size = Decoder().decode(data, data.cast("I"), 0, len(data))
    assert (len(batch[1]), size) == (1, len(data))
