"""Runs step inputs on the device and reads what they chose."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from models.config import ModelConfig
from models.kv_cache import BLOCK_Q, KVCache, cache_shape
from models.mesh import CACHE_AXES, sharding
from models.operations import Operations
from models.qwen2 import Qwen2
from runtime.buckets import Buckets
from runtime.compile_log import CompileLog
from runtime.programs import compile_programs, take_apart
from runtime.request import MAX_LOGPROBS
from runtime.slots import SlotState, empty_slots
from runtime.step_input import StepInput, StepShape
from runtime.step_plan import SampledToken, StepPlan


@dataclass(frozen=True)
class PendingStep:
    """A step that was started; `result` is on its way from the device. None: nothing is sampled."""

    result: Array | None


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
        log: CompileLog,
    ):
        self.decoder, self.head = take_apart(model.decoder), take_apart(model.head)
        self._cache = empty_cache(model.config, mesh, num_pages=num_pages, dtype=kv_dtype)
        self._state = _empty_state(mesh, shape)
        self.num_pages = num_pages
        self.kv_dtype = kv_dtype
        self.programs = compile_programs(
            self.decoder,
            self.head,
            mesh=mesh,
            buckets=buckets,
            shape=shape,
            cache=self._cache,
            state=self._state,
            operations=operations,
            num_threads=num_threads,
            log=log,
        )

    def start(self, step: StepInput) -> PendingStep:
        """Starts a step behind those that run; returns before it ends."""
        for vector in step.extras:
            self._state = self.programs.set_extras(self._state, vector)
        self._cache, self._state, hidden = self.programs.forward[step.bucket](
            self.decoder.leaves, self._cache, self._state, step.forward
        )
        if step.sampler is None:
            return PendingStep(None)
        self._state, result = self.programs.sample[step.sampler](
            self.head.leaves, self._state, hidden, step.sample
        )
        result.copy_to_host_async()
        return PendingStep(result)

    def read(self, plan: StepPlan, step: PendingStep) -> list[SampledToken]:
        """Waits for a step; one token for each of `plan.samples`."""
        if step.result is None:
            return []
        rows = np.asarray(step.result)
        return [
            read_row(row, item.request.params.logprobs)
            for row, item in zip(rows, plan.samples, strict=False)
        ]

    def wait(self) -> None:
        """Until all that was started has ended."""
        jax.block_until_ready((self._cache, self._state))


def read_row(row: np.ndarray, num_logprobs: int | None) -> SampledToken:
    """A row of the sample program's result (runtime/step.py)."""
    token_id, finite = int(row[0]), bool(row[1])
    if num_logprobs is None:
        return SampledToken(token_id, finite)
    ids = row[3 : 3 + num_logprobs].tolist()
    floats = row[2:].view(np.float32)
    best = floats[1 + MAX_LOGPROBS : 1 + MAX_LOGPROBS + num_logprobs].tolist()
    top = tuple((token, logprob) for token, logprob in zip(ids, best, strict=True) if token >= 0)
    return SampledToken(token_id, finite, float(floats[0]), top)


def empty_cache(config: ModelConfig, mesh: Mesh, *, num_pages: int, dtype: jnp.dtype) -> KVCache:
    """A cache of zeros, cut over the devices by kv head."""
    shape = cache_shape(config, num_pages=num_pages, page_size=BLOCK_Q)
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
