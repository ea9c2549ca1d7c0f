"""Whether a device runs the Mosaic GPU kernels."""

from typing import Any


def is_hopper(device: Any) -> bool:
    """Hopper or newer: what the kernels' instructions need."""
    capability = getattr(device, "compute_capability", None)
    return capability is not None and float(capability) >= 9.0
