"""Compiles every program of the step before the first request, in threads, through the cache."""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from models.kv_cache import KVCache
from models.mesh import CACHE_AXES, TP, partition
from models.operations import Operations
from models.qwen2 import AllReduce, whole
from runtime.buckets import Bucket, Buckets, SampleBucket, SampleMode
from runtime.compile_log import CompileLog
from runtime.program_store import ProgramStore
from runtime.recipes import Recipe, make_all
from runtime.slots import SlotState
from runtime.step import embed, forward, sample, set_extras
from runtime.step_input import StepShape, extras_packing, forward_packing, sample_packing

# With a pool that fills the device XLA believes it short of memory, and computes products again
# instead of keeping their results: 51 of them in a step of one row, 0.4 ms. The plan leaves room.
NOT_WANTED = "rematerialization"
DISABLED = "xla_disable_hlo_passes"

type Forward = Callable[[list[Array], KVCache, SlotState, Any], tuple[KVCache, SlotState, Array]]
# with SampleMode.FULL, a mask follows
type Sample = Callable[..., tuple[SlotState, Array]]
type Embed = Callable[[list[Array], Array], Array]
type SetExtras = Callable[[SlotState, Any], SlotState]


@dataclass(frozen=True)
class Programs:
    """The compiled step: forward and sample by their shapes, and one each for the rest.

    `seconds` and `num_cached` tell how long it took and how many came from an earlier start.
    """

    forward: dict[Bucket, Forward]
    sample: dict[SampleBucket, Sample]
    embed: Embed
    set_extras: SetExtras
    seconds: float
    num_cached: int

    @property
    def num_programs(self) -> int:
        """How many there are."""
        return len(self.forward) + len(self.sample) + 2

    @property
    def step_bytes(self) -> int:
        """Bytes on each device that a step takes besides weights, cache and state.

        As the compiler says: the largest forward and the largest sample program together, since one
        may start before the other has given its memory back.
        """
        return sum(
            max(_own_bytes(program) for program in programs.values())
            for programs in (self.forward, self.sample)
        )


def _own_bytes(program: Any) -> int:
    memory = program.memory_analysis()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return int(memory.temp_size_in_bytes + outputs)


@dataclass(frozen=True)
class Part:
    """A module taken apart once: what it is, its arrays, and where they are cut."""

    graph: Any
    treedef: Any
    leaves: list[Array]
    specs: list[PartitionSpec]

    def rebuild(self, leaves: list[Array]) -> Any:
        """The module around other arrays, inside a program."""
        return nnx.merge(self.graph, jax.tree.unflatten(self.treedef, leaves))


def take_apart(module: nnx.Module) -> Part:
    """The module as a list of arrays: a call with modules costs tens of milliseconds."""
    graph, state = nnx.split(module)
    leaves, treedef = jax.tree.flatten(state)
    variables = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, nnx.Variable))
    specs = [partition(variable.get_metadata("axes")) for variable in variables]
    return Part(graph, treedef, leaves, specs)


def make_programs(
    decoder: Part,
    head: Part,
    *,
    mesh: Mesh,
    buckets: Buckets,
    shape: StepShape,
    cache: KVCache,
    state: SlotState,
    operations: Operations,
    num_threads: int,
    log: CompileLog,
    store: ProgramStore | None = None,
) -> Programs:
    """All programs of a step, from the store or compiled."""
    start = time.monotonic()
    cached_before = log.num_cached
    jits = _Jits(decoder, head, mesh, shape, operations)
    hidden = jax.ShapeDtypeStruct(
        (buckets.max_rows, decoder_width(decoder)),
        decoder_dtype(decoder),
        sharding=NamedSharding(mesh, PartitionSpec()),
    )
    recipes: dict[Any, Recipe] = {
        bucket: Recipe(
            f"forward_{bucket.name}",
            partial(jits.forward, bucket),
            (decoder.leaves, cache, state, _vector(forward_packing(bucket, shape).size)),
            (cache, state, hidden),
        )
        # the largest takes longest
        for bucket in reversed(buckets.all)
    }
    for sampled in buckets.samples:
        arguments = (head.leaves, state, hidden, *_sample_arguments(sampled, shape))
        recipes[sampled] = Recipe(
            sampled.name, partial(jits.sample, sampled), arguments, (state, hidden)
        )
    recipes["embed"] = Recipe("embed", jits.embed, (head.leaves, hidden), hidden)
    extras = (state, _vector(extras_packing(shape).size))
    recipes["set_extras"] = Recipe("set_extras", jits.set_extras, extras, state)
    made, num_stored = make_all(recipes, num_threads=num_threads, store=store)
    return Programs(
        forward={bucket: made[bucket] for bucket in buckets.all},
        sample={bucket: made[bucket] for bucket in buckets.samples},
        embed=made["embed"],
        set_extras=made["set_extras"],
        seconds=time.monotonic() - start,
        num_cached=num_stored + log.num_cached - cached_before,
    )


class _Jits:
    """The programs before they have a shape."""

    def __init__(
        self, decoder: Part, head: Part, mesh: Mesh, shape: StepShape, operations: Operations
    ):
        self._decoder = decoder
        self._head = head
        self._mesh = mesh
        self._shape = shape
        self._operations = operations

    def forward(self, bucket: Bucket) -> Any:
        packing = forward_packing(bucket, self._shape)

        def run(
            leaves: list[Array], cache: KVCache, state: SlotState, vector: Array
        ) -> tuple[KVCache, SlotState, Array]:
            return forward(
                self._decoder.rebuild(leaves),
                cache,
                state,
                packing.unpack(vector),
                operations=self._operations,
                all_reduce=all_reduce_of(self._mesh),
            )

        cache = partition(CACHE_AXES)
        return self._jit(
            run,
            f"forward_{bucket.name}",
            (self._decoder.specs, cache, PartitionSpec(), PartitionSpec()),
            (cache, PartitionSpec(), PartitionSpec()),
            donate=(1, 2),
        )

    def sample(self, bucket: SampleBucket) -> Any:
        packing = sample_packing(bucket.num_rows)
        vocab_size = self._shape.vocab_size

        def gather(logits: Array) -> Array:
            # the vocabulary may be padded, so that it divides
            return lax.all_gather(logits, TP, axis=1, tiled=True)[:, :vocab_size]

        def run(
            leaves: list[Array], state: SlotState, hidden: Array, vector: Array, *mask: Array
        ) -> tuple[SlotState, Array]:
            rows = packing.unpack(vector)["rows"]
            head = self._head.rebuild(leaves)
            return sample(head, state, hidden, rows, *mask, gather=gather, mode=bucket.mode)

        masks = [PartitionSpec()] * (bucket.mode is SampleMode.FULL)

        return self._jit(
            run,
            bucket.name,
            (self._head.specs, PartitionSpec(), PartitionSpec(), PartitionSpec(), *masks),
            (PartitionSpec(), PartitionSpec()),
            donate=(1,),
        )

    def embed(self) -> Any:
        def run(leaves: list[Array], hidden: Array) -> Array:
            return embed(self._head.rebuild(leaves), hidden)

        into = (self._head.specs, PartitionSpec())
        return self._jit(run, "embed", into, PartitionSpec(), donate=())

    def set_extras(self) -> Any:
        packing = extras_packing(self._shape)

        def run(state: SlotState, vector: Array) -> SlotState:
            return set_extras(state, packing.unpack(vector))

        everywhere = PartitionSpec()
        return self._jit(run, "set_extras", (everywhere, everywhere), everywhere, donate=(0,))

    def _jit(
        self, run: Callable[..., Any], name: str, into: Any, out: Any, *, donate: tuple[int, ...]
    ) -> Any:
        """One shard_map around the whole program: the same code on any number of devices."""
        mapped = jax.shard_map(run, mesh=self._mesh, in_specs=into, out_specs=out, check_vma=False)
        mapped.__name__ = name
        options = compiler_options(os.environ.get("XLA_FLAGS", ""))
        return jax.jit(mapped, donate_argnums=donate, compiler_options=options)


def compiler_options(xla_flags: str) -> dict[str, str]:
    """Of every program. An option replaces what XLA_FLAGS say of it, so that is repeated."""
    given = re.findall(rf"--{DISABLED}=(\S+)", xla_flags)
    return {DISABLED: ",".join([NOT_WANTED, *given])}


def all_reduce_of(mesh: Mesh) -> AllReduce:
    """The sum over the devices of a mesh; nothing on one."""
    return whole if mesh.shape[TP] == 1 else _sum_over_devices


def _sum_over_devices(terms: Array) -> Array:
    return lax.psum(terms.astype(jnp.float32).sum(axis=0, keepdims=True), TP)


def decoder_width(decoder: Part) -> int:
    """D, of the module that was taken apart."""
    return int(_embedding(decoder).shape[1])


def decoder_dtype(decoder: Part) -> jnp.dtype:
    """The dtype of activations."""
    return jnp.dtype(_embedding(decoder).dtype)


def _embedding(decoder: Part) -> Any:
    state = jax.tree.unflatten(decoder.treedef, decoder.leaves)
    return state["embedding"][...]


def _sample_arguments(bucket: SampleBucket, shape: StepShape) -> list[jax.ShapeDtypeStruct]:
    rows = _vector(sample_packing(bucket.num_rows).size)
    if bucket.mode is not SampleMode.FULL:
        return [rows]
    return [rows, jax.ShapeDtypeStruct((bucket.num_rows, shape.mask_words), jnp.int32)]


def _vector(size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size,), jnp.int32)
