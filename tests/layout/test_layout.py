"""probes/events.h against its Python mirrors, by the C compiler: a field that moved fails by name."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess

import pytest

from ebpfaudit.gpu import records as gpu_records
from ebpfaudit.kernel import layout, tables
from ebpfaudit.resources import folder

PROBES = folder("probes")
RECORDS = (*layout.RECORDS, gpu_records.GPU_RECORD)


def test_every_record_of_the_header_is_mirrored():
    declared = re.findall(r"^struct (\w+) \{", (PROBES / "events.h").read_text(), re.MULTILINE)
    assert sorted(declared) == sorted(record.c_name for record in RECORDS)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.c_name)
def test_offsets_and_sizes_agree(record, tmp_path):
    assertions = [f'_Static_assert(sizeof(struct {record.c_name}) == {record.layout.size}, "size");']
    offset = (
        struct.calcsize("=" + "".join(form for _, form in layout.HEADER_FIELDS)) if record.has_header else 0
    )
    for name, form in record.fields:
        where = f"__builtin_offsetof(struct {record.c_name}, {name})"
        assertions.append(f'_Static_assert({where} == {offset}, "{record.c_name}.{name}");')
        size = struct.calcsize("=" + form)
        assertions.append(
            f'_Static_assert(sizeof(((struct {record.c_name} *)0)->{name}) == {size}, "size of {name}");'
        )
        offset += size
    compile_c('#include "events.h"\n' + "\n".join(assertions), tmp_path)


def test_a_moved_field_is_noticed(tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as failure:
        compile_c(
            '#include "events.h"\n_Static_assert(__builtin_offsetof(struct exit_record, status) == 1, "status moved");',
            tmp_path,
        )
    assert b"status moved" in failure.value.stderr


def test_kinds_agree(tmp_path):
    names = (
        "FORK",
        "EXEC",
        "EXEC_FAILED",
        "EXIT",
        "CONNECT",
        "CONNECT_DONE",
        "CONNECT_UNIX",
        "CGROUP_MOVE",
        "GPU",
    )
    lines = [f'_Static_assert(RECORD_{name} == {getattr(layout, name)}, "{name}");' for name in names]
    flags = ("SCRIPT", "DELETED", "DETACHED", "EXE_TRUNCATED", "CWD_TRUNCATED", "ARGV_UNREADABLE")
    lines += [
        f'_Static_assert(EXEC_{flag} == {getattr(layout, "EXEC_" + flag)}, "{flag}");' for flag in flags
    ]
    lines += [
        f'_Static_assert(DECISION_{name.upper() or "NONE"} == {number}, "decision");'
        for number, name in enumerate(layout.DECISIONS)
    ]
    compile_c('#include "events.h"\n' + "\n".join(lines), tmp_path)


@pytest.mark.parametrize(
    ("source", "c_struct", "size"),
    [
        ("common.bpf.h", "tag", tables._TAG.size),
        ("common.bpf.h", "episode_config", tables._EPISODE_CONFIG.size),
        ("common.bpf.h", "episode_counters", tables._COUNTERS.size),
        ("connect.bpf.c", "network_key", tables._NETWORK_KEY.size),
        ("connect.bpf.c", "port_rule", tables._PORT_RULE.size),
        ("connect.bpf.c", "unix_key", tables._UNIX_KEY.size),
        ("exec.bpf.c", "exec_key", tables._EXEC_KEY.size),
    ],
)
def test_map_keys_and_values_agree(source, c_struct, size, tmp_path):
    text = (PROBES / source).read_text()
    body = re.search(rf"^struct {c_struct} \{{.*?^\}};", text, re.MULTILINE | re.DOTALL)
    assert body is not None
    compile_c(
        f'#include "events.h"\n{body[0]}\n_Static_assert(sizeof(struct {c_struct}) == {size}, "size");',
        tmp_path,
    )


def compile_c(text, folder_):
    compiler = shutil.which("cc")
    assert compiler, "the layout tests need a C compiler: apt-get install gcc"
    source = folder_ / "check.c"
    source.write_text(
        "#include <linux/types.h>\ntypedef __u8 u8; typedef __u16 u16; typedef __u32 u32; typedef __u64 u64;\n"
        + text
    )
    subprocess.run([compiler, "-fsyntax-only", f"-I{PROBES}", str(source)], check=True, capture_output=True)
