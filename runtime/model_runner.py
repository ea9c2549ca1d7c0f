"""Runs step inputs on the device and reads what they chose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from models.config import PAGE_SIZE, ModelConfig
from models.kv_cache import KVCache, cache_shape
from models.mesh import CACHE_AXES, sharding
from models.operations import Operations
from models.qwen2 import Qwen2
from runtime.buckets import Bucket, Buckets, SampleBucket, SampleMode
from runtime.exchange import Exchange
from runtime.experiments.instrumented import Hidden, InstrumentedPrograms, Seen
from runtime.experiments.probe import ProbedStep
from runtime.experiments.pure_model import PureModel
from runtime.page_copies import copy_pages
from runtime.part import take_apart
from runtime.program_store import ProgramStore
from runtime.programs import make_programs
from runtime.request import MAX_LOGPROBS
from runtime.slots import SlotState, empty_slots
from runtime.step_input import StepInput, StepShape
from runtime.step_plan import SampledToken, StepPlan

NOT_IN_TWO: Mapping[Bucket, int] = {}


@dataclass(frozen=True)
class PendingStep:
    """A step that was started, and what is on its way from the device; None where nothing is.

    Attributes:
        result: what the sample program gave.
        states: normed hidden states, of all rows of the step.
        probed, captured: whose values experiments have read, and the values.
    """

    result: Array | None
    states: Array | None
    probed: ProbedStep | None = None
    captured: dict[str, Array] = field(default_factory=dict)


class StepResult(NamedTuple):
    """What a step gave: the arguments of `Scheduler.update`."""

    tokens: list[SampledToken]
    states: Sequence[np.ndarray]


class ModelRunner:
    """Owns the weights, the cache and the slots on the device, and the programs that change them.

    After a device error nothing here can be used again: what was donated to the step is gone.
    """

    def __init__(
        self,
        model: Qwen2,
        mesh: Mesh,
        *,
        buckets: Buckets,
        shape: StepShape,
        num_pages: int,
        kv_dtype: jnp.dtype,
        operations: Operations,
        num_threads: int,
        num_processes: int = 0,
        store: ProgramStore | None = None,
        at_once: bool = True,
        first_layers: Mapping[Bucket, int] = NOT_IN_TWO,
    ):
        self.decoder, self.head = take_apart(model.decoder), take_apart(model.head)
        self.instrumented = InstrumentedPrograms(
            self.decoder,
            self.head,
            config=model.config,
            mesh=mesh,
            shape=shape,
            page_size=PAGE_SIZE,
            operations=operations,
        )
        self.pure_model = PureModel(model.config, self.decoder, self.head)
        self._cache = empty_cache(model.config, mesh, num_pages=num_pages, dtype=kv_dtype)
        self._state = _empty_state(mesh, shape)
        if operations.one_shot:
            exchange = Exchange(mesh, width=model.config.width)
            self._inboxes = exchange.memory  # must stay where it is
            self._state = replace(self._state, peers=exchange.peers)
        self._open_masks = _open_masks(mesh, buckets, shape)
        self.num_pages = num_pages
        self.kv_dtype = kv_dtype
        self.programs = make_programs(
            self.decoder,
            self.head,
            mesh=mesh,
            buckets=buckets,
            shape=shape,
            cache=self._cache,
            state=self._state,
            operations=operations,
            num_threads=num_threads,
            num_processes=num_processes,
            store=store,
            at_once=at_once,
            first_layers=first_layers,
        )
        self._last_forward: Array | None = None  # what it gave

    def forward(self, step: StepInput) -> Hidden:
        """Starts a step behind those that run; the hidden states that it will give, [R, D]."""
        if step.page_copies:
            self._cache = copy_pages(self._cache, step.page_copies)
        for vector in step.extras:
            self._state = self.programs.set_extras(self._state, vector)
        if step.probed is not None:
            self._cache, self._state, seen = self.instrumented.forward(
                step.bucket, step.probed, self._cache, self._state, step.forward
            )
            self._last_forward = seen.hidden
            return seen.processed(step.probed, self._state.last_token)
        in_two = self.programs.in_two.get(step.bucket)
        if in_two is not None and self._is_idle():
            self._cache, self._state, hidden = in_two(self._cache, self._state, step.forward)
        else:
            self._cache, self._state, hidden = self.programs.forward[step.bucket](
                self.decoder.leaves, self._cache, self._state, step.forward
            )
        self._last_forward = hidden
        return hidden

    def sample(
        self, step: StepInput, hidden: Hidden, masks: np.ndarray | None = None
    ) -> PendingStep:
        """Starts the rest of a step; returns before it ends.

        Args:
            hidden: what `forward` returned for the step.
            masks: int32 [rows of the sampler, ceil(V / 32)], tokens that may be chosen; None: all.
        """
        result = states = None
        seen = hidden if isinstance(hidden, Seen) else None
        rows = hidden.hidden if isinstance(hidden, Seen) else hidden
        if step.sampler is not None:
            mask: list[Array | np.ndarray] = []
            if step.sampler.mode is SampleMode.FULL:
                mask = [self._open_masks[step.sampler] if masks is None else masks]
            if seen is not None:
                self._state, result = self.instrumented.sample(
                    step.sampler, self._state, seen.scores, *mask
                )
            else:
                self._state, result = self.programs.sample[step.sampler](
                    self.head.leaves, self._state, rows, *mask
                )
            result.copy_to_host_async()
        if step.pools:
            states = self.programs.embed(self.head.leaves, rows)
            states.copy_to_host_async()
        captured = {} if seen is None else seen.captured
        return PendingStep(result, states, step.probed, captured)

    def read(self, plan: StepPlan, step: PendingStep) -> StepResult:
        """Waits for a step."""
        if step.probed is not None:
            step.probed.keep({name: np.asarray(x) for name, x in step.captured.items()})
        num_scored = sum(len(item.reported) for item in plan.scored)
        tokens: list[SampledToken] = []
        if step.result is not None:
            counts = [item.request.params.logprobs for item in plan.samples]
            for item in plan.scored:
                counts += [item.request.params.prompt_logprobs] * len(item.reported)
            tokens = read_rows(np.asarray(step.result), counts)
        if step.states is None:
            return StepResult(tokens, ())
        return StepResult(tokens, list(np.asarray(step.states)[len(plan.samples) + num_scored :]))

    def _is_idle(self) -> bool:
        """Whether the last forward has ended; its sample program may still run."""
        last = self._last_forward
        return last is None or last.is_ready()  # type: ignore[attr-defined]  # arrays have it

    def wait(self) -> None:
        """Until all that was started has ended."""
        jax.block_until_ready((self._cache, self._state))


def read_rows(rows: np.ndarray, num_logprobs: Sequence[int | None]) -> list[SampledToken]:
    """The first rows of the sample program's result (runtime/step.py).

    Args:
        num_logprobs: for each of them, how many alternatives are wanted.
    """
    tokens, finite = rows[:, 0].tolist(), (rows[:, 1] != 0).tolist()
    return [
        SampledToken(token, good) if count is None else _with_logprobs(row, count)
        for token, good, row, count in zip(tokens, finite, rows, num_logprobs, strict=False)
    ]


def _with_logprobs(row: np.ndarray, count: int) -> SampledToken:
    ids = row[3 : 3 + count].tolist()
    floats = row[2:].view(np.float32)
    best = floats[1 + MAX_LOGPROBS : 1 + MAX_LOGPROBS + count].tolist()
    top = tuple((token, logprob) for token, logprob in zip(ids, best, strict=True) if token >= 0)
    return SampledToken(int(row[0]), bool(row[1]), float(floats[0]), top)


def empty_cache(config: ModelConfig, mesh: Mesh, *, num_pages: int, dtype: jnp.dtype) -> KVCache:
    """A cache of zeros, cut over the devices by kv head."""
    shape = cache_shape(config, num_pages=num_pages, page_size=PAGE_SIZE)
    make = jax.jit(partial(jnp.zeros, shape, dtype), out_shardings=sharding(mesh, CACHE_AXES))
    return KVCache(k=make(), v=make())


def _empty_state(mesh: Mesh, shape: StepShape) -> SlotState:
    everywhere = NamedSharding(mesh, PartitionSpec())
    make = jax.jit(
        partial(
            empty_slots,
            shape.num_slots,
            pages_per_request=shape.pages_per_request,
            vocab_size=shape.vocab_size,
        ),
        out_shardings=everywhere,
    )
    state: SlotState = make()
    return state


def _open_masks(mesh: Mesh, buckets: Buckets, shape: StepShape) -> dict[SampleBucket, Array]:
    """For each sampler that takes masks the one that allows all, on the device."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    return {
        bucket: jax.device_put(
            np.full((bucket.num_rows, shape.mask_words), -1, np.int32), everywhere
        )
        for bucket in buckets.samples
        if bucket.mode is SampleMode.FULL
    }
