"""The drivers whose commands we know: how each tells its ioctls apart, and what its devices are called."""

from __future__ import annotations

from typing import NamedTuple


class Driver(NamedTuple):
    number: int
    """In the probe's maps; 1 and up."""
    name: str
    """As in ioctls.tsv, and in a declaration: /dev/x=NAME."""
    vendor: str
    """First part of the label of its devices."""
    match: str
    """Which number names its commands (`gpu.MATCHES`)."""
    sections: tuple[str, ...]
    """Rows of ioctls.tsv that are its own; the first that has a command wins."""
    suffix: str = ""
    """Second part of the label where a driver's nodes are not numbered."""

    def label(self, suffix: str) -> str:
        """Name of a device: "VENDOR:SUFFIX", or "kfd", which profiles know by that name."""
        return "kfd" if self.name == "amdkfd" else f"{self.vendor}:{self.suffix or suffix}"


_DRM = "drm-core"
_SPECS = (
    ("nvidia", "nvidia", "nr", ("nvidia",), ""),
    ("nvidia-uvm", "nvidia", "cmd", ("nvidia-uvm",), "uvm"),
    ("nvidia-caps", "nvidia", "nr", (), "caps"),
    ("nvidia-nvswitch", "nvidia", "nr", (), "nvswitch"),
    ("nvidia-drm", "nvidia-drm", "nr", (_DRM,), ""),
    ("amdkfd", "amd", "nr", ("amdkfd",), "kfd"),
    ("amdgpu", "amd", "nr", ("amdgpu", _DRM), ""),
    ("i915", "intel", "nr", ("i915", _DRM), ""),
    ("xe", "intel", "nr", ("xe", _DRM), ""),
    ("nouveau", "nouveau", "nr", ("nouveau", _DRM), ""),
    ("virtio_gpu", "virtio", "nr", ("virtio_gpu", _DRM), ""),
    ("drm", "drm", "nr", (_DRM,), ""),
    ("habanalabs", "habana", "nr", ("habanalabs", _DRM), ""),
    ("ivpu", "intel-npu", "nr", ("ivpu", _DRM), ""),
    ("qaic", "qaic", "nr", ("qaic", _DRM), ""),
    ("amdxdna", "amd-npu", "nr", ("amdxdna", _DRM), ""),
    ("accel", "accel", "nr", (_DRM,), ""),
    ("dxgkrnl", "dxg", "nr", ("dxgkrnl",), ""),
    ("davinci", "ascend", "type-nr", ("davinci",), ""),
    ("neuron", "neuron", "nr", ("neuron",), ""),
    ("gasket", "apex", "nr", ("gasket",), ""),
)
DRIVERS = tuple(Driver(number, *spec) for number, spec in enumerate(_SPECS, 1))
BY_NAME = {driver.name: driver for driver in DRIVERS}

ALIASES = {"kfd": "amdkfd", "amd": "amdgpu", "intel": "i915", "virtio": "virtio_gpu", "dxg": "dxgkrnl"}
"""Other names that a declaration may use."""

KERNEL_NAMES = {
    "intel_vpu": "ivpu",
    "virtio-gpu": "virtio_gpu",
    "nvidia": "nvidia-drm",
    "habanalabs": "habanalabs",
}
"""Driver as sysfs names it below a DRM or accel device -> ours, where they differ."""

MAJOR_NAMES = {
    "nvidia": "nvidia", "nvidia-frontend": "nvidia", "nvidiactl": "nvidia", "nvidia-modeset": "nvidia",
    "nvidia-uvm": "nvidia-uvm", "nvidia-caps": "nvidia-caps", "nvidia-caps-imex-channels": "nvidia-caps",
    "nvidia-nvswitch": "nvidia-nvswitch", "kfd": "amdkfd", "habanalabs": "habanalabs", "neuron": "neuron",
    "apex": "gasket", "davinci_manager": "davinci", "davinci": "davinci", "devmm_svm": "davinci",
}  # fmt: skip
"""Name in /proc/devices -> driver. NVIDIA's majors other than 195 are dynamic, kfd's is: only names find them."""

FIXED_MAJORS = {195: "nvidia", 226: "drm", 261: "accel"}
"""Known even before their modules are loaded (Documentation/admin-guide/devices.txt; nv.h)."""
