"""Named tensors of a file as arrays on the mesh: copied as they are, dequantised there."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import gguf
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array

from models.dequantize import ON_DEVICE, dequantize, dequantize_on_host
from models.errors import ModelFileError
from models.gguf_file import GGUFFile, TensorInfo
from models.mesh import sharding
from models.weights import Axes, Dense, Int8, Products, Weight, round_to_int8

type Progress = Callable[[float], None]
# of an array as the file has it: another layout; the same function for all layers, which is
# compiled once for them
type Arrange = Callable[[Array], Array]

# Tensors whose raw bytes may wait on the device at once: enough to overlap the copy with the work,
# too few to hold a second model.
WINDOW = 8

# So many of the file's bytes are on their way to the device at once, in pieces of such a size. JAX
# has a thread copy each to memory that the device reads, and a program is not started before its
# tensors are there: without others ahead one thread would copy at a time. More would be slower: the
# system makes that memory more slowly than it is filled, and JAX never gives it back.
AHEAD_BYTES = 128 << 20
PIECE_BYTES = 16 << 20


@dataclass(frozen=True)
class _Pending:
    """An array on its way to the device: `finite` is a result of the same program."""

    finite: Array
    names: tuple[str, ...]
    num_bytes: int


@dataclass(frozen=True)
class _Raw:
    """A tensor's bytes on every device, in pieces, and the type to read them as."""

    pieces: list[Array]
    type: gguf.GGMLQuantizationType

    @property
    def num_bytes(self) -> int:
        return sum(piece.nbytes for piece in self.pieces)


class TensorReader:
    """Turns named tensors of a file into arrays on the mesh, a few at a time.

    Args:
        order: names of tensors as they will be asked for, each once; others may come between.
    """

    def __init__(
        self,
        file: GGUFFile,
        mesh: Mesh,
        dtype: str,
        progress: Progress,
        products: Products,
        order: Iterable[str] = (),
    ):
        self._file = file
        self._mesh = mesh
        self._int8 = dtype == "int8"
        self._dtype = "float32" if self._int8 else dtype
        self._progress = progress
        self._products = products
        self._pending: deque[_Pending] = deque()
        self._coming = dict.fromkeys(order)
        self._ahead: dict[str, _Raw] = {}
        self._on_their_way: deque[Array] = deque()
        self._done = 0

    def vector(self, name: str) -> Array:
        """A norm's scale, float32, on every device."""
        return self._build([name], self._file.tensors[name].shape, (None,), dtype="float32")

    def biases(
        self, names: list[str], shape: tuple[int, ...], *, arrange: Arrange | None = None
    ) -> Array:
        """Biases, float32, joined and cut like the matrix they belong to."""
        axes: Axes = ("kv_heads", None)
        return self._build(names, shape, axes, dtype="float32", join_axis=1, arrange=arrange)

    def matrix(
        self,
        names: list[str],
        shape: tuple[int, ...],
        axes: Axes,
        *,
        join_axis: int = 0,
        arrange: Arrange | None = None,
    ) -> Array:
        """Tensors joined along an axis of `shape`, in the model's dtype."""
        return self._build(
            names, shape, axes, dtype=self._dtype, join_axis=join_axis, arrange=arrange
        )

    def weight(
        self,
        names: list[str],
        shape: tuple[int, ...],
        axes: Axes,
        *,
        num_out: int,
        join_axis: int = 0,
        arrange: Arrange | None = None,
    ) -> Weight:
        """The same as a weight for products; the first `num_out` axes are its outputs."""
        if not self._int8:
            values = self.matrix(names, shape, axes, join_axis=join_axis, arrange=arrange)
            return Dense(values, axes, products=self._products)
        raw, types = self._raw(names)
        values, scales, finite = _assemble_int8(
            raw,
            types=types,
            shape=shape,
            num_out=num_out,
            join_axis=join_axis,
            arrange=arrange,
            placement=(sharding(self._mesh, axes), sharding(self._mesh, axes[:num_out])),
        )
        self._track(finite, names)
        return Int8(values, scales, axes, num_out=num_out)

    def finish(self) -> None:
        """Waits for what is still on its way."""
        while self._pending:
            self._settle()

    def _build(
        self,
        names: list[str],
        shape: tuple[int, ...],
        axes: Axes,
        *,
        dtype: str,
        join_axis: int = 0,
        arrange: Arrange | None = None,
    ) -> Array:
        raw, types = self._raw(names)
        array, finite = _assemble(
            raw,
            types=types,
            shape=shape,
            join_axis=join_axis,
            arrange=arrange,
            dtype=dtype,
            placement=sharding(self._mesh, axes),
        )
        self._track(finite, names)
        return array

    def _raw(
        self, names: list[str]
    ) -> tuple[list[list[Array]], tuple[gguf.GGMLQuantizationType, ...]]:
        """The tensors' bytes on every device, and the types to read them as."""
        own = [self._ahead.pop(name) if name in self._ahead else self._send(name) for name in names]
        while self._coming and sum(raw.num_bytes for raw in self._ahead.values()) < AHEAD_BYTES:
            following = next(iter(self._coming))
            self._ahead[following] = self._send(following)
        return [raw.pieces for raw in own], tuple(raw.type for raw in own)

    def _send(self, name: str) -> _Raw:
        self._coming.pop(name, None)
        data, type_ = _device_form(self._file.tensors[name])
        pieces = in_pieces(data, PIECE_BYTES) if is_copied(self._mesh) else [data]
        return _Raw([self._put(piece) for piece in pieces], type_)

    def _put(self, piece: np.ndarray) -> Array:
        """Starts a piece on its way, as soon as few others are."""
        on_their_way = self._on_their_way
        while on_their_way and sum(x.nbytes for x in on_their_way) + piece.nbytes > AHEAD_BYTES:
            on_their_way.popleft().block_until_ready()
        on_their_way.append(jax.device_put(piece, sharding(self._mesh, (None, None))))
        return on_their_way[-1]

    def _track(self, finite: Array, names: list[str]) -> None:
        num_bytes = sum(self._file.tensors[name].num_bytes for name in names)
        self._pending.append(_Pending(finite, tuple(names), num_bytes))
        if len(self._pending) > WINDOW:
            self._settle()

    def _settle(self) -> None:
        pending = self._pending.popleft()
        if not pending.finite:  # waits for the array as well
            raise ModelFileError(
                "holds numbers that are not finite",
                path=self._file.path,
                subject=f"tensor {', '.join(pending.names)}",
            )
        self._done += pending.num_bytes
        self._progress(min(1.0, self._done / self._file.num_bytes))


def _device_form(tensor: TensorInfo) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
    """Bytes that the device can dequantise; types it cannot are dequantised here."""
    if tensor.type in ON_DEVICE:
        return tensor.data, tensor.type
    dense = np.ascontiguousarray(dequantize_on_host(tensor.data, tensor.type), dtype="<f4")
    return dense.view(np.uint8), gguf.GGMLQuantizationType.F32


def is_copied(mesh: Mesh) -> bool:
    """Whether the devices have memory of their own; a CPU reads a file's bytes where they are."""
    return bool(mesh.devices.flat[0].platform != "cpu")


def in_pieces(data: np.ndarray, num_bytes: int) -> list[np.ndarray]:
    """Its rows, in parts of about so many bytes."""
    return np.array_split(data, min(len(data), -(-data.nbytes // num_bytes)))


def _whole(pieces: list[Array]) -> Array:
    """The rows together; apart from what reads them, else XLA takes seconds to compile that."""
    if len(pieces) == 1:
        return pieces[0]
    return jax.lax.optimization_barrier(jnp.concatenate(pieces))


def _join(
    raw: list[list[Array]],
    types: tuple[gguf.GGMLQuantizationType, ...],
    shape: tuple[int, ...],
    join_axis: int,
    arrange: Arrange | None,
) -> Array:
    """The tensors as float32, side by side along `join_axis` of `shape`, padded with zeros."""
    leading = shape[:join_axis]
    parts = [
        dequantize(_whole(pieces), type_).reshape(*leading, -1, *shape[join_axis + 1 :])
        for pieces, type_ in zip(raw, types, strict=True)
    ]
    joined = jnp.concatenate(parts, axis=join_axis)
    missing = shape[join_axis] - joined.shape[join_axis]
    whole = jnp.pad(joined, [(0, missing * (axis == join_axis)) for axis in range(len(shape))])
    return whole if arrange is None else arrange(whole)


@partial(jax.jit, static_argnames=("types", "shape", "join_axis", "arrange", "dtype", "placement"))
def _assemble(
    raw: list[list[Array]],
    *,
    types: tuple[gguf.GGMLQuantizationType, ...],
    shape: tuple[int, ...],
    join_axis: int,
    arrange: Arrange | None,
    dtype: str,
    placement: NamedSharding,
) -> tuple[Array, Array]:
    joined = _join(raw, types, shape, join_axis, arrange)
    placed = jax.lax.with_sharding_constraint(joined.astype(dtype), placement)
    return placed, jnp.isfinite(joined).all()


@partial(
    jax.jit, static_argnames=("types", "shape", "num_out", "join_axis", "arrange", "placement")
)
def _assemble_int8(
    raw: list[list[Array]],
    *,
    types: tuple[gguf.GGMLQuantizationType, ...],
    shape: tuple[int, ...],
    num_out: int,
    join_axis: int,
    arrange: Arrange | None,
    placement: tuple[NamedSharding, NamedSharding],
) -> tuple[Array, Array, Array]:
    joined = _join(raw, types, shape, join_axis, arrange)
    shape = joined.shape
    values, scales = round_to_int8(joined.reshape(math.prod(shape[:num_out]), -1))
    laid_out = (values.reshape(shape), scales.reshape(shape[:num_out]))
    return *jax.lax.with_sharding_constraint(laid_out, placement), jnp.isfinite(joined).all()
