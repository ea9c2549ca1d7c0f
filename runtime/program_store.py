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
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from importlib.metadata import distributions, version
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
# JAX's settings are part of the question, but for those that change no program.
NO_MATTER = (
    "jax_compilation_cache",
    "jax_debug_log",
    "jax_enable_compilation_cache",
    "jax_explain",
    "jax_log",
    "jax_persistent_cache",
    "jax_platform",
    "jax_traceback",
)
# what reading raises where an entry was cut short or is another build's
BROKEN = (EOFError, ValueError, pickle.UnpicklingError, zlib.error)

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
        """Whether there is an entry, which may still turn out to be broken; it counts as a use."""
        path = self._path(name, arguments)
        with suppress(OSError):
            os.utime(path)
        return path.exists()

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
            program = serialize_executable.deserialize_and_load(
                payload, *trees, execution_devices=self._devices, backend=self._devices[0].client
            )
        except FileNotFoundError:
            return None
        except BROKEN as error:
            logger.warning("%s is broken and deleted: %s", path, error)
            with suppress(OSError):
                path.unlink()  # else every start would find it
            return None
        except (OSError, jax.errors.JaxRuntimeError) as error:
            logger.warning("%s cannot be used: %s", path, error)
            return None
        with suppress(OSError):  # a folder that can only be read serves as well
            os.utime(path)
        jax.monitoring.record_event_duration_secs(READ, time.monotonic() - begin, fun_name=name)
        return program

    def save(self, name: str, arguments: tuple[Any, ...], program: Any) -> None:
        """Keeps a program; logs if it cannot be kept."""
        path = self._path(name, arguments)
        try:
            payload, _, _ = serialize_executable.serialize(program)
            self._folder.mkdir(parents=True, exist_ok=True)
            _write(path, zlib.compress(payload, COMPRESSION))
        except (OSError, ValueError, pickle.PicklingError, jax.errors.JaxRuntimeError) as error:
            logger.warning("%s is not kept for the next start: %s", name, error)

    def prune(self) -> None:
        """Deletes what nobody has used for a month."""
        for path in self._folder.glob(f"*{SUFFIX}*"):
            with suppress(OSError):  # another start may be faster
                if path.stat().st_mtime < time.time() - KEPT_SECONDS:
                    path.unlink()

    def _path(self, name: str, arguments: tuple[Any, ...]) -> Path:
        shapes = [(x.shape, str(x.dtype)) for x in jax.tree.leaves(arguments)]
        key = hashlib.sha256(repr((self._facts, name, shapes)).encode()).hexdigest()
        return self._folder / f"{name}-{key}{SUFFIX}"


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: another start may be reading."""
    descriptor, partial_name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(partial_name).rename(path)
    except BaseException:
        Path(partial_name).unlink()
        raise


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
        _libraries() if client.platform != "cpu" else "",
        [(device.id, device.device_kind) for device in devices],
        (_cpu_flags(), len(os.sched_getaffinity(0))) if client.platform == "cpu" else "",
        os.environ.get("XLA_FLAGS", ""),
        sorted((name, str(value)) for name, value in relevant_settings().items()),
        _digest(Path(path) for package in PACKAGES for path in package.__path__),
    ]


def relevant_settings() -> dict[str, Any]:
    """JAX's settings that may change a program."""
    values = jax.config.values.items()
    return {name: value for name, value in values if not name.startswith(NO_MATTER)}


def _libraries() -> list[tuple[str, str]]:
    """CUDA's libraries, whose algorithms a program may name."""
    found = ((part.metadata["Name"], part.version) for part in distributions())
    return sorted(item for item in found if item[0].startswith("nvidia"))


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
