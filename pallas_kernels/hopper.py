"""Whether devices run the Mosaic GPU kernels, and those that write to each other's memory."""

import ctypes
import itertools
from collections.abc import Sequence
from typing import Any

# CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED and …_NATIVE_ATOMIC_SUPPORTED, which PCIe has not
NVLINK_ATTRIBUTES = (2, 3)


def is_hopper(device: Any) -> bool:
    """Hopper alone: Blackwell has other instructions for products in place of the kernels'."""
    capability: str = getattr(device, "compute_capability", "")
    return capability.startswith("9.")


def reach_each_other(devices: Sequence[Any]) -> bool:
    """Whether there are several GPUs, each beside every other at NVLink.

    PCIe lets GPUs write to each other too, but a line of 128 bytes may arrive in parts, and
    `pallas_kernels.peer_packets` would take old words for new ones.
    """
    numbers = [device.local_hardware_id for device in devices]
    if len(numbers) < 2:
        return False
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    pairs = itertools.permutations(numbers, 2)
    return all(_has(driver, attribute, *pair) for pair in pairs for attribute in NVLINK_ATTRIBUTES)


def _has(driver: ctypes.CDLL, attribute: int, own: int, other: int) -> bool:
    """By cuDeviceGetP2PAttribute; JAX has initialised the driver."""
    value = ctypes.c_int(0)
    failed: int = driver.cuDeviceGetP2PAttribute(ctypes.byref(value), attribute, own, other)
    return not failed and value.value == 1
