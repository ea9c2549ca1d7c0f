"""The functions that a step's programs are compiled from, each for a shape."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from models.kv_cache import KVCache
from models.mesh import CACHE_AXES, TP, partition
from models.operations import Operations
from models.reduction import AllReduce, Reduction, whole
from runtime.buckets import Bucket, SampleBucket, SampleMode
from runtime.exchange import MAX_ROWS, Peers, one_shot, share_by
from runtime.forward import begin, forward, go_on
from runtime.part import Part, decoder_width, split_decoder
from runtime.slots import SlotState, slot_specs
from runtime.step import embed, sample, set_extras
from runtime.step_input import StepShape, extras_packing, forward_packing
from runtime.vocabulary_parts import VocabularyParts

# With a pool that fills the device XLA believes it short of memory, and computes products again
# instead of keeping their results: 51 of them in a step of one row, 0.4 ms. The plan leaves room.
NOT_WANTED = "rematerialization"
DISABLED = "xla_disable_hlo_passes"


@dataclass(frozen=True)
class StepFunction:
    """A program that is not lowered yet: what it does, and which arguments it may write over."""

    name: str
    run: Callable[..., Any]
    donated: tuple[int, ...]
    out_shardings: Any

    def jit(self) -> Any:
        """To lower for arguments."""
        return jax.jit(
            self.run,
            donate_argnums=self.donated,
            # said, and not found out: who is called with another kind than before looks again
            out_shardings=self.out_shardings,
            compiler_options=compiler_options(os.environ.get("XLA_FLAGS", "")),
        )


class StepFunctions:
    """The programs before they have a shape. It holds no arrays and can go to another process."""

    def __init__(
        self, decoder: Part, head: Part, mesh: Mesh, shape: StepShape, operations: Operations
    ):
        self._width = decoder_width(decoder)
        self._decoder = replace(decoder, leaves=[])
        self._head = replace(head, leaves=[])
        self._mesh = mesh.abstract_mesh
        self._shape = shape
        self._operations = operations
        self._state_specs = slot_specs(with_peers=operations.one_shot)

    def forward(self, bucket: Bucket) -> StepFunction:
        packing = forward_packing(bucket, self._shape)

        def run(
            leaves: list[Array], cache: KVCache, state: SlotState, vector: Array
        ) -> tuple[KVCache, SlotState, Array]:
            if state.peers is not None:
                state = replace(state, peers=state.peers.next())
            return forward(
                self._decoder.rebuild(leaves),
                cache,
                state,
                packing.unpack(vector),
                operations=self._operations,
                reduction=self._reduction(bucket, state.peers),
            )

        cache = partition(CACHE_AXES)
        return over_devices(
            run,
            f"forward_{bucket.name}",
            self._mesh,
            (self._decoder.specs, cache, self._state_specs, PartitionSpec()),
            (cache, self._state_specs, PartitionSpec()),
            donated=(1, 2),
        )

    def begin(self, bucket: Bucket, num_layers: int) -> StepFunction:
        """Of `forward` the first layers, for their weights alone; the input is handed on."""
        packing = forward_packing(bucket, self._shape)
        part, _ = split_decoder(self._decoder, num_layers)

        def run(
            leaves: list[Array], cache: KVCache, state: SlotState, vector: Array
        ) -> tuple[KVCache, SlotState, Array, Array, Array]:
            cache, state, x, normed = begin(
                part.rebuild(leaves),
                cache,
                state,
                packing.unpack(vector),
                num_layers=num_layers,
                operations=self._operations,
                reduction=self._reduction(bucket, None),
            )
            return cache, state, x, normed, vector

        cache = partition(CACHE_AXES)
        return over_devices(
            run,
            f"begin_{bucket.name}",
            self._mesh,
            (part.specs, cache, self._state_specs, PartitionSpec()),
            (cache, self._state_specs, *[PartitionSpec()] * 3),
            donated=(1, 2),
        )

    def go_on(self, bucket: Bucket, num_layers: int) -> StepFunction:
        """The other layers."""
        packing = forward_packing(bucket, self._shape)
        _, part = split_decoder(self._decoder, num_layers)

        def run(
            leaves: list[Array],
            cache: KVCache,
            state: SlotState,
            x: Array,
            normed: Array,
            vector: Array,
        ) -> tuple[KVCache, Array]:
            return go_on(
                part.rebuild(leaves),
                cache,
                state,
                packing.unpack(vector),
                (x, normed),
                num_layers=num_layers,
                operations=self._operations,
                reduction=self._reduction(bucket, None),
            )

        cache = partition(CACHE_AXES)
        return over_devices(
            run,
            f"go_on_{bucket.name}",
            self._mesh,
            (part.specs, cache, self._state_specs, *[PartitionSpec()] * 3),
            (cache, PartitionSpec()),
            donated=(1,),
        )

    def sample(self, bucket: SampleBucket) -> StepFunction:
        def run(
            leaves: list[Array], state: SlotState, hidden: Array, *mask: Array
        ) -> tuple[SlotState, Array]:
            return sample(
                self._head.rebuild(leaves),
                state,
                hidden,
                *mask,
                num_rows=bucket.num_rows,
                parts=self._vocabulary_parts(state.peers),
                mode=bucket.mode,
            )

        masks = [PartitionSpec()] * (bucket.mode is SampleMode.FULL)

        return over_devices(
            run,
            bucket.name,
            self._mesh,
            (self._head.specs, self._state_specs, PartitionSpec(), *masks),
            (self._state_specs, PartitionSpec()),
            donated=(1,),
        )

    def embed(self) -> StepFunction:
        def run(leaves: list[Array], hidden: Array) -> Array:
            return embed(self._head.rebuild(leaves), hidden)

        into = (self._head.specs, PartitionSpec())
        return over_devices(run, "embed", self._mesh, into, PartitionSpec(), donated=())

    def set_extras(self) -> StepFunction:
        packing = extras_packing(self._shape)

        def run(state: SlotState, vector: Array) -> SlotState:
            return set_extras(state, packing.unpack(vector))

        into = (self._state_specs, PartitionSpec())
        specs = self._state_specs
        return over_devices(run, "set_extras", self._mesh, into, specs, donated=(0,))

    def _reduction(self, bucket: Bucket, peers: Peers | None) -> Reduction:
        all_reduce = all_reduce_of(self._mesh)
        if peers is not None and bucket.num_tokens <= MAX_ROWS:
            return one_shot(all_reduce, peers)
        return Reduction(all_reduce)

    def _vocabulary_parts(self, peers: Peers | None) -> VocabularyParts | None:
        if self._mesh.size == 1:
            return None
        if peers is None:
            return VocabularyParts(self._shape.vocab_size)
        share = share_by(peers, width=self._width)
        return VocabularyParts(self._shape.vocab_size, share, peers.own[0])


def over_devices(
    run: Callable[..., Any],
    name: str,
    mesh: AbstractMesh,
    into: Any,
    out: Any,
    *,
    donated: tuple[int, ...],
) -> StepFunction:
    """One shard_map around a whole program: the same code on any number of devices.

    Args:
        into, out: where arguments and results are cut.
    """
    mapped = jax.shard_map(run, mesh=mesh, in_specs=into, out_specs=out, check_vma=False)
    mapped.__name__ = name
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), out)
    return StepFunction(name, mapped, donated, shardings)


def compiler_options(xla_flags: str) -> dict[str, str]:
    """Of every program. An option replaces what XLA_FLAGS say of it, so that is repeated."""
    given = re.findall(rf"--{DISABLED}=(\S+)", xla_flags)
    return {DISABLED: ",".join([NOT_WANTED, *given])}


def all_reduce_of(mesh: Mesh | AbstractMesh) -> AllReduce:
    """The sum over the devices of a mesh; nothing on one."""
    return whole if mesh.shape[TP] == 1 else _sum_over_devices


def _sum_over_devices(terms: Array) -> Array:
    return lax.psum(terms.astype(jnp.float32).sum(axis=0, keepdims=True), TP)
