"""Programs as they are lowered for an H200, on machines that have none."""

from typing import Any

from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh
from jax.stages import Lowered, Wrapped

H200 = AbstractDevice(device_kind="NVIDIA H200", num_cores=132, platform="gpu")


def lower_for_h200(run: Wrapped, *operands: Any, **options: Any) -> Lowered:
    """What `run` lowers to for these arguments, which may be shapes alone."""
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=H200)):
        return run.trace(*operands, **options).lower(lowering_platforms=("cuda",))
