"""The command table: every row is read, and means what we say it means."""

from __future__ import annotations

import pytest

from ebpfaudit.gpu import KINDS, MATCHES
from ebpfaudit.gpu.arguments import ARGUMENTS
from ebpfaudit.gpu.drivers import ALIASES, BY_NAME, DRIVERS, FIXED_MAJORS, KERNEL_NAMES, MAJOR_NAMES
from ebpfaudit.gpu.table import TABLE, all_commands, commands_of, name_of, parse_table

NVIDIA, UVM, KFD, AMD = (BY_NAME[name] for name in ("nvidia", "nvidia-uvm", "amdkfd", "amdgpu"))


def kind_of(driver, match, number):
    return commands_of(driver)[match, number].kind


def test_every_row_is_read():
    rows = [line for line in TABLE.read_text().splitlines() if line and not line.startswith("#")]
    assert len(all_commands()) == len(rows) == 522


def test_every_section_belongs_to_a_driver():
    assert {command.section for command in all_commands()} == {name for d in DRIVERS for name in d.sections}


def test_no_number_of_a_section_is_listed_twice():
    keys = [(command.section, command.match, command.number) for command in all_commands()]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("driver", "match", "number", "kind"),
    [
        (UVM, "cmd", 0x19, "context"),
        (UVM, "cmd", 0x1B, "channel"),
        (UVM, "cmd", 0x30000001, "enumerate"),
        (UVM, "cmd", 0x49, "alloc"),
        (UVM, "cmd", 0x22, "other"),
        (NVIDIA, "hclass", 0xCBC0, "context"),
        (NVIDIA, "hclass", 0xC86F, "channel"),
        (NVIDIA, "hclass", 0xC8B5, "channel"),
        (NVIDIA, "hclass", 0x2080, "enumerate"),
        (NVIDIA, "hclass", 0xCB33, "enumerate"),  # NV_CONFIDENTIAL_COMPUTE asks, and makes nothing
        (NVIDIA, "hclass", 0x40, "alloc"),
        (NVIDIA, "ctrl", 0xC36F0108, "channel"),
        (NVIDIA, "nr", 0x2B, "unknown"),  # until its class is read
        (NVIDIA, "nr", 0x2A, "enumerate"),
        (NVIDIA, "nr", 0x4D, "admin"),
        (KFD, "nr", 0x02, "context"),
        (KFD, "nr", 0x16, "alloc"),
        (AMD, "nr", 0x44, "submit"),
        (AMD, "nr", 0x00, "enumerate"),  # DRM_IOCTL_VERSION, of the core
    ],
)
def test_kinds(driver, match, number, kind):
    assert kind_of(driver, match, number) == kind


def test_every_driver_that_has_contexts_has_one_that_is_recognised():
    without = {
        "nvidia", "nvidia-caps", "nvidia-nvswitch", "nvidia-drm", "drm", "accel",
        # Their first sign of use is submitted work; gasket maps its registers.
        "habanalabs", "ivpu", "qaic", "gasket",
    }  # fmt: skip
    for driver in DRIVERS:
        kinds = {c.kind for (match, _), c in commands_of(driver).items() if match == driver.match}
        assert ("context" in kinds) == (driver.name not in without), driver.name


def test_arguments_are_those_of_known_commands():
    assert set(ARGUMENTS) <= {command.name for command in all_commands()}
    assert all(a.inner is None or a.inner[1] in MATCHES for a in ARGUMENTS.values())


def test_names():
    assert name_of(UVM, "cmd", 0x19) == "UVM_REGISTER_GPU_VASPACE"
    assert name_of(NVIDIA, "hclass", 0xDEC0) == "class 0xdec0"
    assert name_of(NVIDIA, "cmd", 0xC0104677) == "0xc0104677"


def test_davinci_modules_are_told_apart_by_type():
    davinci = BY_NAME["davinci"]
    assert name_of(davinci, "type-nr", 0x4D03) == "DEVMM_SVM_ALLOC"
    assert name_of(davinci, "type-nr", 0x4403) == "TSDRV_ALLOC_EVENT_ID"


@pytest.mark.parametrize(
    "row", ["nvidia\tx\tnr:zz\tN\tquery", "nvidia\tx\tnr:0x1\tN\tguess", "nvidia x", "a\tb\tq:1\tn\tquery"]
)
def test_a_row_that_is_none_is_an_error_with_its_line(row):
    with pytest.raises(ValueError, match="line 2 of the command table"):
        parse_table("# comment\n" + row)


def test_names_of_drivers_lead_to_drivers():
    for mapping in (ALIASES, KERNEL_NAMES, MAJOR_NAMES, FIXED_MAJORS):
        assert set(mapping.values()) <= set(BY_NAME)
    assert len(DRIVERS) < 32, "the probe's array has room for 32"
    assert all(command.kind in KINDS for command in all_commands())
