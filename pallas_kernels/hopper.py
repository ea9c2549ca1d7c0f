"""Whether devices run the Mosaic GPU kernels, and those that write to each other's memory."""

import ctypes
from collections.abc import Sequence
from typing import Any


def is_hopper(device: Any) -> bool:
    """Hopper alone: Blackwell has other instructions for products in place of the kernels'."""
    capability: str = getattr(device, "compute_capability", "")
    return capability.startswith("9.")


def reach_each_other(devices: Sequence[Any]) -> bool:
    """Whether there are several GPUs, and each can write to every other's memory."""
    numbers = [device.local_hardware_id for device in devices]
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return len(numbers) > 1 and all(
        _can_access(driver, own, other) for own in numbers for other in numbers if own != other
    )


def _can_access(driver: ctypes.CDLL, own: int, other: int) -> bool:
    """By cuDeviceCanAccessPeer; JAX has initialised the driver, and lets GPUs that can do so."""
    possible = ctypes.c_int(0)
    failed: int = driver.cuDeviceCanAccessPeer(ctypes.byref(possible), own, other)
    return not failed and possible.value == 1
