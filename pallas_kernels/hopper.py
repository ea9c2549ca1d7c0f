"""Whether a device runs the Mosaic GPU kernels."""

from typing import Any


def is_hopper(device: Any) -> bool:
    """Hopper alone: Blackwell has other instructions for products in place of the kernels'."""
    capability: str = getattr(device, "compute_capability", "")
    return capability.startswith("9.")
