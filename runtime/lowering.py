"""Lowers programs in processes beside this one: tracing and lowering hold the interpreter.

A 7B's programs take half a minute of Python; each process needs seconds to start.
"""

import io
import os
import pickle
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Any, Self

import jax

from models.mesh import make_mesh
from pallas_kernels.hopper import is_hopper
from runtime.exported import Exported, Setting, export_program, lower_exported
from runtime.program_store import relevant_settings
from runtime.recipe import Recipe

# What is imported there is what is imported here.
BOOT = """
import runpy, sys
sys.path[:] = sys.argv[1:]
runpy.run_module("runtime.lowering_process", {}, "__main__")
"""
CORES = 4  # that a process should have to itself and the threads that compile what it gives
MAX_PROCESSES = 4  # then compiling is what a start waits for
# a device, which does not travel, and where arrays are put does not change a program of shapes
STAYS = "jax_default_device"


class LoweringFailed(Exception):
    """A process that lowers cannot go on."""


def num_processes(device: Any, num_devices: int) -> int:
    """How many processes lower for this device.

    None where there are no kernels, which are what takes long, nor for several devices, for which a
    program that is handed over would have to name them.
    """
    if not is_hopper(device) or num_devices > 1:
        return 0
    return min(len(os.sched_getaffinity(0)) // CORES, MAX_PROCESSES)


class LoweringProcess:
    """`with LoweringProcess(device) as process:`; it lowers for this device, and has none.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, device: Any):
        self._setting: Setting | None = _setting(device)
        paths = [os.path.abspath(path) for path in sys.path if isinstance(path, str)]
        ours, theirs = socket.socketpair()
        self._channel = ours.makefile("rwb")
        with ours, theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", BOOT, *paths],
                stdin=theirs.fileno(),
                stdout=2,  # what is printed there is for who reads errors
                env={**os.environ, "JAX_PLATFORMS": "cpu"},  # the GPU's memory is taken
                start_new_session=True,  # an interrupt is for its owner, with which it ends
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        with suppress(OSError):  # what was not sent is wanted no more
            self._channel.close()

    def lower(self, recipe: Recipe) -> Any:
        """As `Recipe.lower`, elsewhere.

        Raises:
            LoweringFailed: the recipe cannot be sent, or the process has ended; it has told why.
        """
        message = _pickled(recipe)
        try:
            if self._setting is not None:
                pickle.dump(self._setting, self._channel)
                self._setting = None
            self._channel.write(message)
            self._channel.flush()
            exported: Exported = pickle.load(self._channel)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise LoweringFailed(f"the process for {recipe.name} has ended: {error!r}") from error
        for event, seconds in exported.seconds.items():
            jax.monitoring.record_event_duration_secs(event, seconds, fun_name=recipe.name)
        return lower_exported(exported.content, recipe)


def lower_alike(device: Any, recipe: Recipe) -> Any:
    """As a process for the device does, here: byte by byte the same."""
    return lower_exported(export_program(recipe.of_shapes(), _setting(device)).content, recipe)


class _Pickler(pickle.Pickler):
    """Takes jitted functions by their names, as pickle does with others."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, jax.stages.Wrapped):
            return NotImplemented
        return f"{value.__qualname__}"  # type: ignore[attr-defined]  # it wraps a function


def _pickled(recipe: Recipe) -> bytes:
    message = io.BytesIO()
    try:
        _Pickler(message).dump(recipe.of_shapes())
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise LoweringFailed(f"{recipe.name} cannot be sent: {error}") from error
    return message.getvalue()


def _setting(device: Any) -> Setting:
    options = {name: value for name, value in relevant_settings().items() if name != STAYS}
    return Setting(make_mesh(1, [device]).abstract_mesh.abstract_device, options)
