"""Every program of the step: read from the store or compiled, before the first request."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from models.kv_cache import KVCache
from models.operations import Operations
from pallas_kernels.kernel_names import without_numbers
from runtime.buckets import Bucket, Buckets, SampleBucket, SampleMode
from runtime.compilation_cache import not_through_xla
from runtime.forward_in_two import ForwardInTwo, forwards_in_two, recipes_in_two
from runtime.part import Part, decoder_dtype, decoder_width
from runtime.program_store import ProgramStore
from runtime.recipe import Recipe
from runtime.recipes import make_all, read_later
from runtime.slots import SlotState
from runtime.step_functions import StepFunctions
from runtime.step_input import StepShape, extras_packing, forward_packing

type Forward = Callable[[list[Array], KVCache, SlotState, Any], tuple[KVCache, SlotState, Array]]
# with SampleMode.FULL, a mask follows
type Sample = Callable[..., tuple[SlotState, Array]]
type Embed = Callable[[list[Array], Array], Array]
type SetExtras = Callable[[SlotState, Any], SlotState]


@dataclass(frozen=True)
class Programs:
    """The compiled step: forward and sample by their shapes, and one each for the rest.

    Attributes:
        forward: more of them may come while the engine runs; the largest of each kind are there.
        in_two: some of them once more, as two, for a device that has nothing else to do.
        num_programs: how many there are, or will be.
        num_cached: how many of them are from an earlier start.
        seconds: that it took.
        lower_seconds: of these, until all that had to be compiled was lowered.
        step_bytes: on each device, what a step takes besides weights, cache and state.
    """

    forward: dict[Bucket, Forward]
    in_two: dict[Bucket, ForwardInTwo]
    sample: dict[SampleBucket, Sample]
    embed: Embed
    set_extras: SetExtras
    num_programs: int
    num_cached: int
    seconds: float
    lower_seconds: float
    step_bytes: int


def _step_bytes(
    forward: dict[Bucket, Forward],
    in_two: dict[Bucket, ForwardInTwo],
    sample: dict[SampleBucket, Sample],
) -> int:
    """As the compiler says: the largest forward, be it in two, and the largest sample program
    together, since a program may start before the one behind has given its memory back.
    """
    forwards = [_own_bytes(program) for program in forward.values()]
    forwards += [_own_bytes(two.begin) + _own_bytes(two.go_on) for two in in_two.values()]
    return max(forwards) + max(map(_own_bytes, sample.values()))


def _own_bytes(program: Any) -> int:
    memory = program.memory_analysis()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return int(memory.temp_size_in_bytes + outputs)


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
    num_processes: int = 0,
    store: ProgramStore | None = None,
    at_once: bool = True,
    first_layers: Mapping[Bucket, int],
) -> Programs:
    """All programs of a step, from the store or compiled.

    Args:
        num_threads: that compile.
        num_processes: that lower, besides this one.
        at_once: wait also for those of the store that the first steps can do without.
        first_layers: of the forwards that are wanted as two programs too, how many the first has.
    """
    start = time.monotonic()
    functions = StepFunctions(decoder, head, mesh, shape, operations)
    hidden = jax.ShapeDtypeStruct(
        (buckets.max_rows, decoder_width(decoder)),
        decoder_dtype(decoder),
        sharding=NamedSharding(mesh, PartitionSpec()),
    )

    def vector(bucket: Bucket) -> jax.ShapeDtypeStruct:
        return _vector(forward_packing(bucket, shape).size)

    recipes: dict[Any, Recipe] = {
        bucket: Recipe(
            f"forward_{bucket.name}",
            partial(functions.forward, bucket),
            (decoder.leaves, cache, state, vector(bucket)),
            (cache, state, hidden),
        )
        # the largest takes longest
        for bucket in reversed(buckets.all)
    }
    recipes |= recipes_in_two(
        decoder, first_layers, functions, cache, state, hidden=hidden, vector=vector
    )
    for sampled in buckets.samples:
        arguments = (head.leaves, state, hidden, *_masks(sampled, shape))
        recipes[sampled] = Recipe(
            sampled.name, partial(functions.sample, sampled), arguments, (state, hidden)
        )
    recipes["embed"] = Recipe("embed", functions.embed, (head.leaves, hidden), hidden)
    extras = (state, _vector(extras_packing(shape).size))
    recipes["set_extras"] = Recipe("set_extras", functions.set_extras, extras, state)
    smaller = set(buckets.all) - set(buckets.largest)
    with not_through_xla(), without_numbers():
        made = make_all(
            recipes,
            num_threads=num_threads,
            num_processes=num_processes,
            device=mesh.devices.flat[0],
            store=store,
            may_wait=() if at_once else smaller,
        )
    forward = {bucket: made.programs[bucket] for bucket in buckets.all if bucket in made.programs}
    in_two = forwards_in_two(decoder, first_layers, made.programs)
    sample = {bucket: made.programs[bucket] for bucket in buckets.samples}
    programs = Programs(
        forward=forward,
        in_two=in_two,
        sample=sample,
        embed=made.programs["embed"],
        set_extras=made.programs["set_extras"],
        num_programs=len(recipes),
        num_cached=made.num_stored + len(made.later),
        seconds=time.monotonic() - start,
        lower_seconds=made.lower_seconds,
        step_bytes=_step_bytes(forward, in_two, sample),
    )
    if store is not None:
        store.prune()
        read_later(made, store, programs.forward)
    return programs


def _masks(bucket: SampleBucket, shape: StepShape) -> list[jax.ShapeDtypeStruct]:
    if bucket.mode is not SampleMode.FULL:
        return []
    return [jax.ShapeDtypeStruct((bucket.num_rows, shape.mask_words), jnp.int32)]


def _vector(size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size,), jnp.int32)
