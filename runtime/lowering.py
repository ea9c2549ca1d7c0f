"""Lowers programs in processes beside this one: tracing and lowering hold the interpreter.

A 7B's programs take half a minute of Python; each process needs seconds to start.
"""

import logging
import os
import pickle
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

import jax
from jax.sharding import AbstractDevice

from pallas_kernels.hopper import is_hopper
from runtime.exported import Exported, Order, Setting, lower_exported
from runtime.program_store import relevant_settings
from runtime.recipe import Recipe

COMMAND = (sys.executable, "-P", "-m", "runtime.lowering_process")
CORES = 4  # that a process should have to itself and the threads that compile what it gives
MAX_PROCESSES = 4  # then compiling is what a start waits for

logger = logging.getLogger(__name__)


def num_processes(device: Any, num_devices: int) -> int:
    """How many processes lower for this device; none where there are no kernels to lower."""
    if not is_hopper(device) or num_devices > 1:
        return 0
    return min(len(os.sched_getaffinity(0)) // CORES, MAX_PROCESSES)


class LoweringProcess:
    """`with LoweringProcess(device) as process:`; it lowers for this device, and has none."""

    def __init__(self, device: Any):
        # without the GPU, whose memory is taken, and with the modules that are imported here
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }
        self._process = subprocess.Popen(
            COMMAND,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # an interrupt is for its owner, with which it ends
        )
        self._setting: Setting | None = _setting(device)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def lower(self, recipe: Recipe) -> Any:
        """As `Recipe.lower`, elsewhere; here if the process has ended."""
        try:
            exported = self._export(recipe)
        except (OSError, EOFError, pickle.UnpicklingError) as failure:
            logger.warning("%s is lowered here, since a process ended: %r", recipe.name, failure)
            return recipe.lower()
        for event, seconds in exported.seconds.items():
            jax.monitoring.record_event_duration_secs(event, seconds, fun_name=recipe.name)
        return lower_exported(exported.content, recipe)

    def _export(self, recipe: Recipe) -> Exported:
        orders, answers = self._process.stdin, self._process.stdout
        assert orders is not None
        assert answers is not None
        if self._setting is not None:
            pickle.dump(self._setting, orders)
            self._setting = None
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), recipe.arguments)
        _Pickler(orders).dump(Order(recipe.function, shapes))
        orders.flush()
        exported: Exported = pickle.load(answers)
        return exported


class _Pickler(pickle.Pickler):
    """Takes jitted functions by their names, as pickle does with others."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, jax.stages.Wrapped):
            return NotImplemented
        return f"{value.__qualname__}"  # type: ignore[attr-defined]  # it wraps a function


def _setting(device: Any) -> Setting:
    return Setting(
        "cuda" if device.platform == "gpu" else device.platform,
        AbstractDevice(device.device_kind, getattr(device, "core_count", None), device.platform),
        relevant_settings(),
    )
