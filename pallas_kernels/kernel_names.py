"""Kernels that are the same, byte by byte, in every program of a step.

Mosaic GPU compiles a kernel once in a process, and knows it again by its bytes. Those hold a name
for files that it may be asked to write, and the name holds the number of kernels before: so each
program's kernels are compiled again, one at a time (a third of a second each).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jax.experimental.mosaic import gpu as mosaic
from jaxlib.mlir import ir

FILE_NAME = "mosaic_gpu.dump_basename"
DIALECT: Any = mosaic.dialect  # type: ignore[attr-defined]  # which Mosaic and Pallas look into
NUMBERED = DIALECT.get_or_set_dump_options


@contextmanager
def without_numbers() -> Iterator[None]:
    """Where programs are lowered; of kernels of one name Mosaic would write one file.

    The first that ends of several at once ends it for all: what they lower then has numbers.
    """

    def name(module: ir.Module) -> Any:
        options = NUMBERED(module)
        attributes = module.operation.attributes
        attributes[FILE_NAME] = attributes["sym_name"]
        return options

    DIALECT.get_or_set_dump_options = name
    try:
        yield
    finally:
        DIALECT.get_or_set_dump_options = NUMBERED
