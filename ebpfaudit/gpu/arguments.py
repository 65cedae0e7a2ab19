"""Where a command's argument tells more than its number: byte offsets into the structure that it points to.

The probe reads at exit, when drivers have copied the structure back. So amdgpu's GEM_CREATE, CTX and USERQ and
habanalabs' commands are not here: their answer overwrites the question (unions), and the size is gone.
"""

from __future__ import annotations

from typing import NamedTuple


class Argument(NamedTuple):
    bytes_at: int | None = None
    """u64: how much memory is asked for."""
    pointer_at: int | None = None
    """`bytes_at` counts from where this pointer points."""
    limit: bool = False
    """At `bytes_at` is the number of the last byte: the length less one."""
    uuid_at: int | None = None
    """16 bytes: the GPU's UUID."""
    status_at: int | None = None
    """u32: the driver's answer, while ioctl itself returns 0."""
    status_at_long: int | None = None
    """The same in an argument of 48 bytes and more, if it differs."""
    when: tuple[int, int] | None = None
    """(offset, value): it is what the table says only if the u32 there has this value, else "other"."""
    inner: tuple[int, str] | None = None
    """(offset, match): the u32 there, looked up as that, says what it really is."""
    envelope: bool = False
    """{u32 number, u32 size, u64 pointer} of the real command."""


ARGUMENTS: dict[str, Argument] = {
    # open-gpu-kernel-modules 515.43.04 to 595.45.04: nvos.h, nv-ioctl.h, uvm_ioctl.h.
    "NV_ESC_IOCTL_XFER_CMD": Argument(envelope=True),
    # NVOS21 (32 bytes; up to 525 its status was at 24, and reads as 0 here) or NVOS64 (48).
    "NV_ESC_RM_ALLOC": Argument(inner=(12, "hclass"), status_at=28, status_at_long=40),
    "NV_ESC_RM_ALLOC_OBJECT": Argument(inner=(12, "hclass"), status_at=16),
    "NV_ESC_RM_CONTROL": Argument(inner=(8, "ctrl"), status_at=28),
    "NV_ESC_RM_ALLOC_MEMORY": Argument(bytes_at=32, limit=True, status_at=40),
    "NV_ESC_RM_VID_HEAP_CONTROL": Argument(bytes_at=88, when=(8, 2)),
    "NV01_MEMORY_SYSTEM": Argument(bytes_at=64, pointer_at=16),
    "NV01_MEMORY_LOCAL_USER": Argument(bytes_at=64, pointer_at=16),
    "NV50_MEMORY_VIRTUAL": Argument(bytes_at=64, pointer_at=16),
    "UVM_REGISTER_GPU_VASPACE": Argument(uuid_at=0, status_at=28),
    "UVM_REGISTER_CHANNEL": Argument(uuid_at=0, status_at=48),
    "UVM_REGISTER_GPU": Argument(uuid_at=0, status_at=36),
    "UVM_CREATE_EXTERNAL_RANGE": Argument(bytes_at=8),
    # include/uapi of Linux 6.12.
    "AMDKFD_IOC_ALLOC_MEMORY_OF_GPU": Argument(bytes_at=8),
    "DRM_IOCTL_I915_GEM_CREATE": Argument(bytes_at=0),
    "DRM_IOCTL_I915_GEM_CREATE_EXT": Argument(bytes_at=0),
    "DRM_IOCTL_XE_GEM_CREATE": Argument(bytes_at=8),
    "DRM_IOCTL_NOUVEAU_GEM_NEW": Argument(bytes_at=8),
    "DRM_IOCTL_VIRTGPU_RESOURCE_CREATE_BLOB": Argument(bytes_at=16),
    "DRM_IOCTL_IVPU_BO_CREATE": Argument(bytes_at=0),
    "DRM_IOCTL_QAIC_CREATE_BO": Argument(bytes_at=0),
    "DRM_IOCTL_AMDXDNA_CREATE_BO": Argument(bytes_at=16),
    "DRM_IOCTL_MODE_CREATE_DUMB": Argument(bytes_at=24),
    # neuron_ioctl.h of aws-neuron-driver.
    "NEURON_IOCTL_MEM_ALLOC": Argument(bytes_at=0),
}
