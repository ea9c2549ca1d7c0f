"""Compiled programs in a folder: a second start neither traces nor lowers nor compiles them.

XLA's own cache is asked with the lowered program; lowering the kernels of a model's programs takes
half a minute, in Python. Here the question is what a program is made from: this code, the model's
configuration, the shapes, the versions and the machine.
"""

import hashlib
import logging
import os
import pickle
import tempfile
import time
import zlib
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable

import models
import pallas_kernels
import runtime

PACKAGES = (models, pallas_kernels, runtime)
READ = "/ggjax/program_store/read_duration"  # what jax.monitoring tells
SUFFIX = ".program"
KEPT_SECONDS = 30 * 86_400  # after its last use
COMPRESSION = 1  # of zlib: a tenth of the size, in a tenth of a second
# What changes programs without being an argument of anything here.
SETTINGS = (
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_threefry_partitionable",
)
# What writing raises where it cannot be, and reading what was cut short or is another build's.
BROKEN = (
    EOFError,
    OSError,
    ValueError,
    pickle.UnpicklingError,
    zlib.error,
    jax.errors.JaxRuntimeError,
)

logger = logging.getLogger(__name__)


class ProgramStore:
    """Programs of one model on one mesh.

    Who can write to the folder decides what runs: entries are machine code, in a pickle.
    """

    def __init__(self, folder: Path, devices: list[Any], *facts: Any):
        """`facts`: what all programs are made from, besides this package's code."""
        self._folder = folder
        self._devices = devices
        self._facts = describe((_surroundings(devices), facts))

    def has(self, name: str, arguments: tuple[Any, ...]) -> bool:
        """Whether there is an entry, which may still turn out to be broken."""
        return self._path(name, arguments).exists()

    def load(self, name: str, arguments: tuple[Any, ...], result: Any) -> Any:
        """The program, or None if it is not there or cannot be read.

        Args:
            arguments: arrays, or their shapes.
            result: something with the structure of what it returns.
        """
        begin = time.monotonic()
        path = self._path(name, arguments)
        trees = jax.tree.structure((arguments, {})), jax.tree.structure(result)
        try:
            payload = zlib.decompress(path.read_bytes())
            os.utime(path)
            program = serialize_executable.deserialize_and_load(
                payload, *trees, execution_devices=self._devices, backend=self._devices[0].client
            )
        except FileNotFoundError:
            return None
        except BROKEN as error:
            logger.warning("%s is broken and deleted: %s", path, error)
            path.unlink(missing_ok=True)  # else every start would find it
            return None
        jax.monitoring.record_event_duration_secs(READ, time.monotonic() - begin, fun_name=name)
        return program

    def save(self, name: str, arguments: tuple[Any, ...], program: Any) -> None:
        """Keeps a program; logs if the folder takes nothing."""
        path = self._path(name, arguments)
        try:
            payload, _, _ = serialize_executable.serialize(program)
            self._folder.mkdir(parents=True, exist_ok=True)
            # whole or not at all: another start may be reading
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                file.write(zlib.compress(payload, COMPRESSION))
            Path(file.name).rename(path)
        except BROKEN as error:
            logger.warning("%s is not kept for the next start: %s", name, error)

    def prune(self) -> None:
        """Deletes what nobody has used for a month."""
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.stat().st_mtime < time.time() - KEPT_SECONDS:
                    path.unlink(missing_ok=True)

    def _path(self, name: str, arguments: tuple[Any, ...]) -> Path:
        shapes = [(x.shape, str(x.dtype)) for x in jax.tree.leaves(arguments)]
        key = hashlib.sha256(repr((self._facts, name, shapes)).encode()).hexdigest()
        return self._folder / f"{name}-{key}{SUFFIX}"


def describe(value: Any) -> str:
    """A text that is the same in every process: functions by their names, not their addresses."""
    if isinstance(value, partial):
        return f"partial({describe((value.func, value.args, sorted(value.keywords.items())))})"
    if is_dataclass(value) and not isinstance(value, type):
        parts = [f"{field.name}={describe(getattr(value, field.name))}" for field in fields(value)]
        return f"{type(value).__qualname__}({', '.join(parts)})"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(describe, value))}]"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


def _surroundings(devices: list[Any]) -> list[Any]:
    """Versions, machine, settings and the code itself."""
    client = devices[0].client
    return [
        (jax.__version__, version("jaxlib"), client.platform, client.platform_version),
        [(device.id, device.device_kind) for device in devices],
        _cpu_flags() if client.platform == "cpu" else "",
        os.environ.get("XLA_FLAGS", ""),
        [(name, str(getattr(jax.config, name))) for name in SETTINGS],
        _digest(Path(path) for package in PACKAGES for path in package.__path__),
    ]


def _cpu_flags() -> str:
    """Instructions that this machine has, as far as it says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _digest(folders: Iterable[Path]) -> str:
    """Of all Python files in these folders and below."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
