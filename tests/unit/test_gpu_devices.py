"""Which devices are GPUs, on hosts that are folders."""

from __future__ import annotations

import os

import pytest

from ebpfaudit.errors import UsageError
from ebpfaudit.gpu.devices import UNKNOWN_GPU, discover, parse_declaration, read_config, uuid_bytes, uuid_text

UUID = "GPU-00112233-4455-6677-8899-aabbccddeeff"

DEVICES = """Character devices:
  1 mem
195 nvidia
195 nvidiactl
235 nvidia-caps
236 kfd
237 neuron
238 nvidia-uvm

Block devices:
  7 loop
236 not-kfd
"""


@pytest.fixture
def host(tmp_path):
    """A host with two NVIDIA GPUs, an AMD GPU and a Gaudi."""
    proc, sysfs = tmp_path / "proc", tmp_path / "sys"
    proc.mkdir()
    (proc / "devices").write_text(DEVICES)
    (proc / "misc").write_text(" 63 dxg\n200 tun\n")
    for slot, minor, uuid in (("01", 0, UUID), ("02", 1, "GPU-????????-????-????-????-????????????")):
        gpu = proc / f"driver/nvidia/gpus/0000:{slot}:00.0"
        gpu.mkdir(parents=True)
        (gpu / "information").write_text(
            f"Model: \t\t NVIDIA H200\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n"
        )
    for number, driver in (
        ("226:128", "amdgpu"),
        ("226:1", "nvidia"),
        ("226:2", "novel"),
        ("261:0", "habanalabs"),
    ):
        device = sysfs / "dev/char" / number / "device"
        device.mkdir(parents=True)
        (tmp_path / driver).mkdir()
        (device / "driver").symlink_to(tmp_path / driver)
    (sysfs / "dev/char/226:3").mkdir()  # no driver
    return {"proc": proc, "sysfs": sysfs}


def by_number(devices):
    return {(device.major, device.minor): device for device in devices}


def test_what_is_found(host):
    found = by_number(discover(**host))
    expected = {
        (195, 0): ("nvidia", "nvidia:0", UUID),
        (195, 1): ("nvidia", "nvidia:1", ""),  # its UUID is not known before its first use
        (195, 40): ("nvidia", "nvidia:40", ""),
        (195, 254): ("nvidia", "nvidia:modeset", ""),
        (195, 255): ("nvidia", "nvidia:ctl", ""),
        (235, None): ("nvidia-caps", "nvidia:caps", ""),
        (236, None): ("amdkfd", "kfd", ""),
        (237, 3): ("neuron", "neuron:3", ""),
        (238, None): ("nvidia-uvm", "nvidia:uvm", ""),
        (226, 128): ("amdgpu", "amd:128", ""),
        (226, 1): ("nvidia-drm", "nvidia-drm:1", ""),
        (226, 2): ("drm", "drm:2", ""),
        (226, None): ("drm", "drm:other", ""),
        (261, 0): ("habanalabs", "habana:0", ""),
        (10, 63): ("dxgkrnl", "dxg:0", ""),
    }
    assert {key: (found[key].driver.name, found[key].label, found[key].uuid) for key in expected} == expected
    assert (226, 3) not in found
    assert not any(device.major in (1, 7) for device in found.values())


def test_a_host_without_gpus_still_knows_the_fixed_numbers(tmp_path):
    found = by_number(discover(proc=tmp_path, sysfs=tmp_path))
    assert found[195, 0].label == "nvidia:0"
    assert found[226, None].label == "drm:other"


def test_the_first_entry_stands_for_an_unknown_gpu(host):
    device = discover(**host)[UNKNOWN_GPU]
    assert (device.label, device.minor, device.major) == ("nvidia:uvm", None, 0)


def test_a_declared_device_outranks_a_found_one(host):
    null = parse_declaration("/dev/null=nvidia:ctl")
    assert (null.major, null.minor, null.label) == (1, 3, "nvidia:ctl")
    found = by_number(discover([null, null.__class__(null.driver, "nvidia:7", 195, 0)], **host))
    assert found[1, 3] == null
    assert found[195, 0].label == "nvidia:7"


@pytest.mark.parametrize(
    ("text", "label", "driver"),
    [
        ("/dev/null=nvidia", "nvidia:3", "nvidia"),
        ("/dev/null=nvidia:0", "nvidia:0", "nvidia"),
        ("/dev/null=nvidia-uvm", "nvidia:uvm", "nvidia-uvm"),
        ("/dev/null=kfd", "kfd", "amdkfd"),
        ("/dev/null=amd", "amd:3", "amdgpu"),
        ("/dev/null=xe:128", "intel:128", "xe"),
    ],
)
def test_declarations(text, label, driver):
    device = parse_declaration(text)
    assert (device.label, device.driver.name) == (label, driver)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("/dev/null", "wants PATH=DRIVER"),
        ("=nvidia", "wants PATH=DRIVER"),
        ("/dev/null=", "wants PATH=DRIVER"),
        ("/dev/null=voodoo", "no GPU driver is called 'voodoo'"),
        ("/dev/absent=nvidia", "cannot be looked at: No such file"),
        ("/etc/passwd=nvidia", "not a character device"),
    ],
)
def test_bad_declarations(text, reason):
    with pytest.raises(UsageError, match=reason):
        parse_declaration(text)


def test_the_config_file(tmp_path):
    path = tmp_path / "gpu-devices.toml"
    assert read_config(path) == []
    path.write_text(
        f'[[device]]\npath = "/dev/null"\ndriver = "nvidia"\nlabel = "nvidia:9"\nuuid = "{UUID}"\n'
    )
    (device,) = read_config(path)
    assert (device.label, device.uuid, os.makedev(device.major, device.minor)) == (
        "nvidia:9",
        UUID,
        os.makedev(1, 3),
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            '[[device]]\npath = "/dev/null"\ndrvier = "nvidia"\n',
            "unknown field `drvier`|required field `driver`",
        ),
        ('[[device]]\npath = "/dev/null"\ndriver = "nvidia"\nuuid = "GPU-1"\n', "not a UUID"),
        ("[[device]\n", "cannot read"),
        ('[[device]]\npath = "/etc/passwd"\ndriver = "nvidia"\n', "gpu-devices.toml names /etc/passwd"),
    ],
)
def test_a_bad_config_file_is_named(tmp_path, text, reason):
    path = tmp_path / "gpu-devices.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=reason):
        read_config(path)


def test_uuids():
    raw = bytes.fromhex("00112233445566778899aabbccddeeff")
    assert uuid_bytes(UUID) == raw
    assert uuid_bytes("MIG" + UUID[3:]) == raw
    assert uuid_text(raw) == UUID
    assert uuid_bytes("GPU-????????-????-????-????-????????????") is None
