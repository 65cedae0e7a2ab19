"""The structs of probes/gpu.bpf.c against what Python packs, by the C compiler."""

from __future__ import annotations

import re

import pytest
from test_layout import PROBES, compile_c

from ebpfaudit.gpu import KINDS, MATCHES
from ebpfaudit.gpu.counts import KEY, VALUE
from ebpfaudit.kernel import gpu

SOURCE = (PROBES / "gpu.bpf.c").read_text()


def struct_of(name):
    body = re.search(rf"^struct {name} \{{.*?^\}};", SOURCE, re.MULTILINE | re.DOTALL)
    assert body is not None
    return body[0]


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("gpu_major", gpu._MAJOR), ("gpu_device", gpu._DEVICE), ("gpu_command", gpu._COMMAND),
        ("gpu_command_key", gpu._COMMAND_KEY), ("gpu_policy_key", gpu._POLICY_KEY), ("gpu_count_key", KEY),
        ("gpu_count", VALUE),
    ],
)  # fmt: skip
def test_map_keys_and_values_agree(name, packed, tmp_path):
    compile_c(f'{struct_of(name)}\n_Static_assert(sizeof(struct {name}) == {packed.size}, "size");', tmp_path)


def test_the_fields_of_a_command_are_in_the_order_they_are_packed(tmp_path):
    names = ("kind", "flags", "inner_match", "inner_at", "when_value", "when_at", "bytes_at", "pointer_at", "uuid_at",
             "status_at", "status_at_long")  # fmt: skip
    offsets = (0, 1, 2, 3, 4, 8, 10, 12, 14, 16, 18)
    lines = [
        f'_Static_assert(__builtin_offsetof(struct gpu_command, {name}) == {offset}, "{name}");'
        for name, offset in zip(names, offsets, strict=True)
    ]
    compile_c("\n".join([struct_of("gpu_command"), *lines]), tmp_path)


def test_kinds_and_matches_agree(tmp_path):
    names = [f"GPU_{kind.upper()}" for kind in KINDS] + ["GPU_KINDS"]
    lines = [f'_Static_assert({name} == {number}, "{name}");' for number, name in enumerate(names)]
    matches = ("NR", "TYPE_NR", "COMMAND", "CLASS", "CONTROL")
    lines += [
        f'_Static_assert(GPU_MATCH_{name} == {number}, "{name}");' for number, name in enumerate(matches)
    ]
    assert len(matches) == len(MATCHES)
    compile_c('#include "events.h"\n' + "\n".join(lines), tmp_path)
