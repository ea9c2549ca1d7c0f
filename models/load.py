"""Loads a GGUF file into a model: raw blocks to the device, dequantised and laid out there."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import gguf
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array

from models.config import ModelConfig
from models.dequantize import ON_DEVICE, dequantize, dequantize_on_host
from models.errors import ModelFileError
from models.gguf_file import GGUFFile, TensorInfo
from models.mesh import TP, sharding
from models.qwen2 import MLP, Decoder, Head, Layer, Qwen2, RMSNorm, SelfAttention
from models.weights import Axes, Dense, Int8, Weight, round_to_int8

type Progress = Callable[[float], None]

# Tensors whose raw bytes may wait on the device at once: enough to overlap the copy with the work,
# too few to hold a second model.
WINDOW = 8


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the architecture and its shape, outermost first."""
    d, f, h = config.width, config.ffn_width, config.head_dim
    n, k = config.num_heads, config.num_kv_heads
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (d,),
        "attn_q.weight": (n * h, d),
        "attn_k.weight": (k * h, d),
        "attn_v.weight": (k * h, d),
        "attn_q.bias": (n * h,),
        "attn_k.bias": (k * h,),
        "attn_v.bias": (k * h,),
        "attn_output.weight": (d, n * h),
        "ffn_norm.weight": (d,),
        "ffn_gate.weight": (f, d),
        "ffn_up.weight": (f, d),
        "ffn_down.weight": (d, f),
    }
    shapes = {"token_embd.weight": (config.vocab_size, d), "output_norm.weight": (d,)}
    if not config.tied_embeddings:
        shapes["output.weight"] = (config.vocab_size, d)
    for i in range(config.num_layers):
        shapes |= {f"blk.{i}.{name}": shape for name, shape in layer.items()}
    return shapes


def check_tensors(file: GGUFFile, config: ModelConfig) -> None:
    """Every tensor that the architecture needs is there with its shape, and no other.

    Raises:
        ModelFileError: names all that are missing, misshapen or left over.
    """
    expected = expected_shapes(config)
    found = {name: tensor.shape for name, tensor in file.tensors.items()}
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not part of {config.architecture}" for name in found.keys() - expected]
    problems += [
        f"{name} has shape {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if problems:
        shown = "; ".join(problems[:8]) + ("; …" if len(problems) > 8 else "")
        raise ModelFileError(
            f"{len(problems)} wrong tensors: {shown}", path=file.path, subject="tensors"
        )


def load_model(
    file: GGUFFile,
    config: ModelConfig,
    mesh: Mesh,
    *,
    dtype: str,
    progress: Progress = lambda _: None,
) -> Qwen2:
    """The model on the devices of `mesh`, its weights as `dtype`.

    Args:
        dtype: "float32", "bfloat16" or "int8" (products of 8 bits, the rest float32).
        progress: called with the share of the file's bytes that is done.

    Raises:
        ModelFileError: a tensor is missing, misshapen, left over or of an unknown type.
    """
    check_tensors(file, config)
    reader = _Reader(file, mesh, dtype, progress)
    layers = [_load_layer(reader, config, f"blk.{i}") for i in range(config.num_layers)]
    embedding = reader.matrix(
        ["token_embd.weight"], (config.vocab_size, config.width), (None, None)
    )
    head_name = "token_embd.weight" if config.tied_embeddings else "output.weight"
    vocab = -(-config.vocab_size // mesh.shape[TP]) * mesh.shape[TP]
    head = Head(
        RMSNorm(reader.vector("output_norm.weight"), config.rms_eps),
        reader.weight([head_name], (vocab, config.width), ("vocab", None), num_out=1),
    )
    reader.finish()
    return Qwen2(config, Decoder(config, embedding, layers), head)


def _load_layer(reader: "_Reader", config: ModelConfig, prefix: str) -> Layer:
    k, h, d, f = config.num_kv_heads, config.head_dim, config.width, config.ffn_width
    qkv = [f"{prefix}.attn_{x}" for x in "qkv"]
    group = config.num_heads // k
    return Layer(
        RMSNorm(reader.vector(f"{prefix}.attn_norm.weight"), config.rms_eps),
        SelfAttention(
            reader.weight(
                [f"{name}.weight" for name in qkv],
                (k, (group + 2) * h, d),
                ("kv_heads", None, None),
                num_out=2,
                join_axis=1,
            ),
            reader.biases([f"{name}.bias" for name in qkv], (k, (group + 2) * h)),
            reader.weight(
                [f"{prefix}.attn_output.weight"],
                (d, k, group * h),
                (None, "kv_heads", None),
                num_out=1,
            ),
            h,
        ),
        RMSNorm(reader.vector(f"{prefix}.ffn_norm.weight"), config.rms_eps),
        MLP(
            reader.weight(
                [f"{prefix}.ffn_gate.weight", f"{prefix}.ffn_up.weight"],
                (2, f, d),
                (None, "ffn", None),
                num_out=2,
            ),
            reader.weight([f"{prefix}.ffn_down.weight"], (d, f), (None, "ffn"), num_out=1),
        ),
    )


@dataclass(frozen=True)
class _Pending:
    """An array on its way to the device: `finite` is a result of the same program."""

    finite: Array
    names: tuple[str, ...]
    num_bytes: int


class _Reader:
    """Turns named tensors of a file into arrays on the mesh, a few at a time."""

    def __init__(self, file: GGUFFile, mesh: Mesh, dtype: str, progress: Progress):
        self._file = file
        self._mesh = mesh
        self._int8 = dtype == "int8"
        self._dtype = "float32" if self._int8 else dtype
        self._progress = progress
        self._pending: deque[_Pending] = deque()
        self._done = 0

    def vector(self, name: str) -> Array:
        """A norm's scale, float32, on every device."""
        return self._build([name], self._file.tensors[name].shape, (None,), dtype="float32")

    def biases(self, names: list[str], shape: tuple[int, ...]) -> Array:
        """Biases, float32, joined and cut like the matrix they belong to."""
        return self._build(names, shape, ("kv_heads", None), dtype="float32", join_axis=1)

    def matrix(
        self, names: list[str], shape: tuple[int, ...], axes: Axes, *, join_axis: int = 0
    ) -> Array:
        """Tensors joined along an axis of `shape`, in the model's dtype."""
        return self._build(names, shape, axes, dtype=self._dtype, join_axis=join_axis)

    def weight(
        self,
        names: list[str],
        shape: tuple[int, ...],
        axes: Axes,
        *,
        num_out: int,
        join_axis: int = 0,
    ) -> Weight:
        """The same as a weight for products; the first `num_out` axes are its outputs."""
        if not self._int8:
            values = self.matrix(names, shape, axes, join_axis=join_axis)
            return Dense(values, axes, num_out=num_out)
        raw, types = self._raw(names)
        values, scales, finite = _assemble_int8(
            raw,
            types=types,
            shape=shape,
            num_out=num_out,
            join_axis=join_axis,
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
    ) -> Array:
        raw, types = self._raw(names)
        array, finite = _assemble(
            raw,
            types=types,
            shape=shape,
            join_axis=join_axis,
            dtype=dtype,
            placement=sharding(self._mesh, axes),
        )
        self._track(finite, names)
        return array

    def _raw(self, names: list[str]) -> tuple[list[Array], tuple[gguf.GGMLQuantizationType, ...]]:
        """The tensors' bytes on every device, and the types to read them as."""
        everywhere = sharding(self._mesh, (None, None))
        read = [_device_form(self._file.tensors[name]) for name in names]
        return [jax.device_put(raw, everywhere) for raw, _ in read], tuple(t for _, t in read)

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


def _join(
    raw: list[Array],
    types: tuple[gguf.GGMLQuantizationType, ...],
    shape: tuple[int, ...],
    join_axis: int,
) -> Array:
    """The tensors as float32, side by side along `join_axis` of `shape`, padded with zeros."""
    leading = shape[:join_axis]
    parts = [
        dequantize(bytes_, type_).reshape(*leading, -1, *shape[join_axis + 1 :])
        for bytes_, type_ in zip(raw, types, strict=True)
    ]
    joined = jnp.concatenate(parts, axis=join_axis)
    missing = shape[join_axis] - joined.shape[join_axis]
    return jnp.pad(joined, [(0, missing * (axis == join_axis)) for axis in range(len(shape))])


@partial(jax.jit, static_argnames=("types", "shape", "join_axis", "dtype", "placement"))
def _assemble(
    raw: list[Array],
    *,
    types: tuple[gguf.GGMLQuantizationType, ...],
    shape: tuple[int, ...],
    join_axis: int,
    dtype: str,
    placement: NamedSharding,
) -> tuple[Array, Array]:
    joined = _join(raw, types, shape, join_axis)
    placed = jax.lax.with_sharding_constraint(joined.astype(dtype), placement)
    return placed, jnp.isfinite(joined).all()


@partial(jax.jit, static_argnames=("types", "shape", "num_out", "join_axis", "placement"))
def _assemble_int8(
    raw: list[Array],
    *,
    types: tuple[gguf.GGMLQuantizationType, ...],
    shape: tuple[int, ...],
    num_out: int,
    join_axis: int,
    placement: tuple[NamedSharding, NamedSharding],
) -> tuple[Array, Array, Array]:
    joined = _join(raw, types, shape, join_axis)
    values, scales = round_to_int8(joined.reshape(math.prod(shape[:num_out]), -1))
    laid_out = (values.reshape(shape), scales.reshape(shape[:num_out]))
    return *jax.lax.with_sharding_constraint(laid_out, placement), jnp.isfinite(joined).all()
