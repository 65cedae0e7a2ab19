"""Which device numbers are GPUs, and what we call them.

Devices are known by number (major, minor), never by path: NVIDIA's nodes are made by user space, appear late, and
any container may have its own. What is not found in /proc or /sys can be declared, on the command line or in
/etc/ebpfaudit/gpu-devices.toml:

    [[device]]
    path = "/dev/newgpu0"     # a character device
    driver = "nvidia"         # whose commands it understands: a name in gpu.drivers
    label = "nvidia:9"        # optional; what profiles and events call it
    uuid = "GPU-…"            # optional
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from ebpfaudit.errors import UsageError
from ebpfaudit.gpu.drivers import ALIASES, BY_NAME, FIXED_MAJORS, KERNEL_NAMES, MAJOR_NAMES, Driver

CONFIG = Path("/etc/ebpfaudit/gpu-devices.toml")

NVIDIA_GPUS = 248
"""Minors of major 195 that are GPUs; 254 is nvidia-modeset, 255 nvidiactl (nv.h)."""
_NVIDIA_NODES = {254: "modeset", 255: "ctl"}

UNKNOWN_GPU = 0
"""Index of the entry that stands for a GPU of which only an unlisted UUID is known."""

_UUID = re.compile(
    r"(?:GPU|MIG)-([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{12})", re.IGNORECASE
)


class GpuDevice(msgspec.Struct, frozen=True):
    """A device, or (`minor` None) all the minors of a major that are not listed themselves."""

    driver: Driver
    label: str
    """Name in events and profiles: "nvidia:0", "nvidia:ctl", "amd:128", "kfd"."""
    major: int = 0
    minor: int | None = None
    uuid: str = ""


class _Declared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str
    driver: str
    label: str = ""
    uuid: str = ""


class _Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    device: list[_Declared] = []


def uuid_bytes(text: str) -> bytes | None:
    """The 16 bytes by which a driver knows "GPU-…"; None if it is not such a UUID."""
    match = _UUID.fullmatch(text)
    return bytes.fromhex("".join(match.groups())) if match else None


def uuid_text(raw: bytes) -> str:
    digits = raw.hex()
    return "GPU-" + "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


# ---- declared


def parse_declaration(text: str) -> GpuDevice:
    """ "/dev/x=nvidia", "/dev/x=nvidia:ctl", "/dev/x=kfd". Raises UsageError with the reason."""
    path, equals, what = text.rpartition("=")
    if not equals or not path or not what:
        raise UsageError(f"--gpu-device wants PATH=DRIVER, such as /dev/nvidia9=nvidia, not '{text}'")
    driver, _, suffix = what.partition(":")
    return _declared(
        _Declared(path, driver, f"{_driver(driver).vendor}:{suffix}" if suffix else ""), "--gpu-device"
    )


def read_config(path: Path = CONFIG) -> list[GpuDevice]:
    """Devices declared in a file; none if there is no file. Raises UsageError."""
    try:
        config = msgspec.toml.decode(path.read_bytes(), type=_Config)
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    return [_declared(device, str(path)) for device in config.device]


def _driver(name: str) -> Driver:
    driver = BY_NAME.get(ALIASES.get(name, name))
    if driver is None:
        raise UsageError(
            f"no GPU driver is called '{name}'; known are {', '.join(sorted({*BY_NAME, *ALIASES}))}"
        )
    return driver


def _declared(declared: _Declared, origin: str) -> GpuDevice:
    driver = _driver(declared.driver)
    try:
        status = os.stat(declared.path)
    except OSError as error:
        raise UsageError(
            f"{origin} names {declared.path}, which cannot be looked at: {error.strerror}. It must exist now, because "
            "devices are known by their numbers."
        ) from error
    if not stat.S_ISCHR(status.st_mode):
        raise UsageError(f"{origin} names {declared.path}, which is not a character device")
    if declared.uuid and uuid_bytes(declared.uuid) is None:
        raise UsageError(
            f"{origin}: '{declared.uuid}' is not a UUID such as GPU-01234567-89ab-cdef-0123-456789abcdef"
        )
    minor = os.minor(status.st_rdev)
    return GpuDevice(
        driver, declared.label or driver.label(str(minor)), os.major(status.st_rdev), minor, declared.uuid
    )


# ---- found


def discover(
    declared: Iterable[GpuDevice] = (), *, proc: Path = Path("/proc"), sysfs: Path = Path("/sys")
) -> list[GpuDevice]:
    """All devices that are GPUs on this host, now; the first stands for an unknown one (see `UNKNOWN_GPU`).

    What is declared outranks what is found. Majors whose number is fixed are there even if their driver is not.
    """
    found: dict[tuple[int, int | None], GpuDevice] = {}
    sources = (_majors(proc), _nvidia(proc), _drm(sysfs), _misc(proc), declared)
    for source in sources:
        for device in source:
            found[device.major, device.minor] = device
    unknown = GpuDevice(BY_NAME["nvidia-uvm"], "nvidia:uvm")
    return [unknown, *found.values()]


def character_majors(proc: Path = Path("/proc")) -> dict[int, list[str]]:
    """Names by major, as registered."""
    majors: dict[int, list[str]] = {}
    try:
        text = (proc / "devices").read_text()
    except OSError:
        return majors
    for line in text.partition("Block devices:")[0].splitlines()[1:]:
        number, _, name = line.strip().partition(" ")
        if number.isdecimal():
            majors.setdefault(int(number), []).append(name.strip())
    return majors


def _majors(proc: Path) -> Iterator[GpuDevice]:
    """The rest of each major: minors that nothing else names."""
    drivers = dict(FIXED_MAJORS)
    for major, names in character_majors(proc).items():
        for name in names:
            if name in MAJOR_NAMES:
                drivers[major] = MAJOR_NAMES[name]
    for major, name in drivers.items():
        driver = BY_NAME[name]
        yield GpuDevice(driver, driver.label("other"), major)
        if name == "habanalabs" or name == "neuron" or name == "gasket":
            yield from (GpuDevice(driver, driver.label(str(minor)), major, minor) for minor in range(64))


def _nvidia(proc: Path) -> Iterator[GpuDevice]:
    driver, major = BY_NAME["nvidia"], 195
    uuids = _nvidia_uuids(proc)
    for minor in range(NVIDIA_GPUS):
        yield GpuDevice(driver, f"nvidia:{minor}", major, minor, uuids.get(minor, ""))
    for minor, name in _NVIDIA_NODES.items():
        yield GpuDevice(driver, f"nvidia:{name}", major, minor)


def _nvidia_uuids(proc: Path) -> dict[int, str]:
    """UUID by minor, as the driver tells."""
    uuids = {}
    for path in sorted(proc.glob("driver/nvidia/gpus/*/information")):
        try:
            text = path.read_text()
        except OSError:
            continue
        fields = {
            name.strip(): value.strip()
            for name, _, value in (line.partition(":") for line in text.splitlines())
        }
        minor, uuid = fields.get("Device Minor", ""), fields.get("GPU UUID", "")
        if (
            minor.isdecimal() and uuid_bytes(uuid) is not None
        ):  # "GPU-????????-…" until the GPU was first used
            uuids[int(minor)] = uuid
    return uuids


def _drm(sysfs: Path) -> Iterator[GpuDevice]:
    for entry in sorted(sysfs.glob("dev/char/226:*")) + sorted(sysfs.glob("dev/char/261:*")):
        try:
            kernel_name = Path(os.readlink(entry / "device" / "driver")).name
        except OSError:
            continue
        major, minor = (int(part) for part in entry.name.split(":"))
        driver = BY_NAME.get(KERNEL_NAMES.get(kernel_name, kernel_name)) or BY_NAME[FIXED_MAJORS[major]]
        yield GpuDevice(driver, driver.label(str(minor)), major, minor)


def _misc(proc: Path) -> Iterator[GpuDevice]:
    """WSL's /dev/dxg has a misc minor of its own."""
    try:
        lines = (proc / "misc").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        minor, _, name = line.strip().partition(" ")
        if name == "dxg" and minor.isdecimal():
            driver = BY_NAME["dxgkrnl"]
            yield GpuDevice(driver, driver.label("0"), 10, int(minor))
