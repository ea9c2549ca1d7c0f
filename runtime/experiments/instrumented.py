"""The step's programs with taps, compiled when an experiment first needs them."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from models.config import ModelConfig
from models.kv_cache import KVCache, make_paged_attention
from models.mesh import CACHE_AXES, TP, partition
from models.operations import Operations
from models.pattern_attention import make_pattern_attention
from models.reduction import Reduction
from models.sites import HEAD_SITES, PATTERN, Recorder, full_name, site_axes, site_shapes
from runtime.buckets import Bucket, SampleBucket, SampleMode
from runtime.experiments.probe import Instrument, ProbedStep
from runtime.forward import forward
from runtime.part import Part
from runtime.slots import SlotState, slot_specs
from runtime.step import sample
from runtime.step_functions import all_reduce_of, over_devices
from runtime.step_input import StepShape, forward_packing
from runtime.vocabulary_parts import VocabularyParts

EVERYWHERE = PartitionSpec()


@dataclass(frozen=True)
class Seen:
    """What an instrumented forward gives, on its way from the device.

    Attributes:
        hidden: [R, D], as of the served forward.
        scores: [R, V], of these.
        captured: site -> its values, [T, …].
    """

    hidden: Array
    scores: Array
    captured: dict[str, Array]

    def processed(self, probed: ProbedStep, last_tokens: Array) -> "Seen":
        """The same after the requests' own functions on their scores."""
        scores = self.scores
        for processing, row in probed.samples:
            scores = processing.apply(scores, last_tokens, row)
        return replace(self, scores=scores)


# what a forward hands to the sampling of its step
type Hidden = Array | Seen


class InstrumentedPrograms:
    """Forward and sample once more, with values read and changed on the way.

    The forward goes on to the scores of the sampled rows, so that these can be changed as well; the
    sample program takes them from there. Each is compiled for a bucket and a set of sites the first
    time they occur; vectors and masks are arguments.
    """

    def __init__(
        self,
        decoder: Part,
        head: Part,
        *,
        config: ModelConfig,
        mesh: Mesh,
        shape: StepShape,
        page_size: int,
        operations: Operations,
    ):
        self.shapes = site_shapes(config, context=shape.pages_per_request * page_size)
        self._decoder = decoder
        self._head = head
        self._config = config
        self._vocabulary = VocabularyParts(config.vocab_size)
        self._mesh = mesh
        self._shape = shape
        self._operations = operations
        self._state_specs = slot_specs(with_peers=operations.one_shot)
        self._axes = site_axes(config)
        self._forward: dict[tuple[Bucket, Instrument], Any] = {}
        self._sample: dict[SampleBucket, Any] = {}

    def forward(
        self, bucket: Bucket, probed: ProbedStep, cache: KVCache, state: SlotState, vector: Any
    ) -> tuple[KVCache, SlotState, Seen]:
        """As the forward program, with more than hidden states."""
        edits = {
            name: tuple(self._place(x, self._axes[name]) for x in pair)
            for name, pair in probed.edits.items()
        }
        arguments = (self._decoder.leaves, self._head.leaves, cache, state, vector, edits)
        key = bucket, probed.instrument
        if key not in self._forward:
            with jax.no_tracing(False):
                self._forward[key] = self._forward_jit(*key).lower(*arguments).compile()
        cache, state, hidden, scores, captured = self._forward[key](*arguments)
        return cache, state, Seen(hidden, scores, captured)

    def sample(
        self, bucket: SampleBucket, state: SlotState, scores: Array, *mask: Any
    ) -> tuple[SlotState, Array]:
        """As the sample program, of scores that are there already."""
        arguments = (state, scores, *mask)
        if bucket not in self._sample:
            with jax.no_tracing(False):
                self._sample[bucket] = self._sample_jit(bucket).lower(*arguments).compile()
        return self._sample[bucket](*arguments)

    def _place(self, values: np.ndarray, axes: Any) -> Array:
        return jax.device_put(values, NamedSharding(self._mesh, partition(axes)))

    def _forward_jit(self, bucket: Bucket, instrument: Instrument) -> Any:
        packing = forward_packing(bucket, self._shape)
        last = full_name("resid_post", self._config.num_layers - 1)
        sites = instrument.captured | instrument.changed

        def run(
            decoder_leaves: list[Array],
            head_leaves: list[Array],
            cache: KVCache,
            state: SlotState,
            vector: Array,
            edits: dict[str, tuple[Array, Array]],
        ) -> tuple[KVCache, SlotState, Array, Array, dict[str, Array]]:
            changes = {name: partial(_changed, *pair) for name, pair in edits.items()}
            tap = Recorder(instrument.captured | {last}, changes)
            make_attention: Any = make_paged_attention
            if any(name.endswith(PATTERN) for name in sites):
                make_attention = lambda step, *_: make_pattern_attention(step, tap)  # noqa: E731
            inputs = packing.unpack(vector)
            cache, state, hidden = forward(
                self._decoder.rebuild(decoder_leaves),
                cache,
                state,
                inputs,
                operations=self._operations,
                reduction=Reduction(all_reduce_of(self._mesh)),
                tap=tap,
                make_attention=make_attention,
            )
            head = self._head.rebuild(head_leaves)
            if sites & HEAD_SITES:
                all_scores = tap(
                    "logits", None, self._vocabulary.whole(head(tap.captured[last], tap))
                )
                scores = all_scores.at[inputs["hidden_rows"]].get(mode="clip")
            else:
                scores = self._vocabulary.whole(head(hidden))
            captured = {
                name: value.reshape(value.shape[0], *self._local_shape(name))
                for name, value in tap.captured.items()
                if name in instrument.captured
            }
            return cache, state, hidden, scores, captured

        cache = partition(CACHE_AXES)
        edits = {name: (partition(self._axes[name]),) * 2 for name in instrument.changed}
        captured = {name: partition(self._axes[name]) for name in instrument.captured}
        return over_devices(
            run,
            f"probed_{bucket.name}",
            self._mesh.abstract_mesh,
            (self._decoder.specs, self._head.specs, cache, self._state_specs, EVERYWHERE, edits),
            (cache, self._state_specs, EVERYWHERE, EVERYWHERE, captured),
            donated=(2, 3),
        ).jit()

    def _sample_jit(self, bucket: SampleBucket) -> Any:
        def run(state: SlotState, scores: Array, *mask: Array) -> tuple[SlotState, Array]:
            return sample(
                _given,
                state,
                scores,
                *mask,
                num_rows=bucket.num_rows,
                parts=None,
                mode=bucket.mode,
            )

        masks = [EVERYWHERE] * (bucket.mode is SampleMode.FULL)
        return over_devices(
            run,
            f"probed_sample_{bucket.num_rows}",
            self._mesh.abstract_mesh,
            (self._state_specs, EVERYWHERE, *masks),
            (self._state_specs, EVERYWHERE),
            donated=(0,),
        ).jit()

    def _local_shape(self, name: str) -> tuple[int, ...]:
        # heads are one axis for people; a sharded site holds a part of them, or of the columns
        shape, axes = self.shapes[name], partition(self._axes[name])
        return tuple(
            size // (self._mesh.shape[TP] if cut else 1)
            for size, cut in zip(shape, axes[1:], strict=True)
        )


def _changed(factor: Array, shift: Array, value: Array) -> Array:
    factor, shift = factor.reshape(value.shape), shift.reshape(value.shape)
    return (value.astype(jnp.float32) * factor + shift).astype(value.dtype)


def _given(scores: Array) -> Array:
    return scores
