"""The forward program of a step, as a pure function of arrays.

`begin` and `go_on` are the same in two: the device begins while the host prepares the second.
"""

from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from models.kv_cache import (
    Attention,
    Decode,
    Enter,
    KVCache,
    ModelInput,
    PagedAttention,
    make_paged_attention,
)
from models.operations import Operations
from models.qwen2 import Decoder, Stream, chosen
from models.reduction import Reduction
from models.sites import Tap, untouched
from runtime.packing import from_bits
from runtime.slots import SlotState

type MakeAttention = Callable[
    [ModelInput, PagedAttention, Enter, Decode | None], Attention[KVCache]
]

# Tokens for each row that is wanted, from which on the last layer computes these alone: another
# layer to compile for a part of one that is saved.
FEWER_ROWS = 2.5


def forward(
    decoder: Decoder,
    cache: KVCache,
    state: SlotState,
    inputs: dict[str, Array],
    *,
    operations: Operations,
    reduction: Reduction,
    tap: Tap = untouched,
    make_attention: MakeAttention = make_paged_attention,
) -> tuple[KVCache, SlotState, Array]:
    """Runs a step's tokens through the layers.

    Args:
        inputs: `runtime.step_input.forward_packing`.
        tap, make_attention: what experiments put in their place (runtime/experiments).

    Returns:
        the cache and the state with the step in them, and the hidden states [R, D] of the tokens
        after which one is to be sampled or that are reported on.
    """
    state = _entered(state, inputs)
    (hidden, _), cache = _run(
        decoder,
        cache,
        state,
        inputs,
        operations=operations,
        reduction=reduction,
        tap=tap,
        make_attention=make_attention,
    )
    return cache, state, _wanted(hidden, inputs)


def begin(
    decoder: Decoder,
    cache: KVCache,
    state: SlotState,
    inputs: dict[str, Array],
    *,
    num_layers: int,
    operations: Operations,
    reduction: Reduction,
) -> tuple[KVCache, SlotState, Array, Array]:
    """The first layers of `forward`: the residual stream and its norm behind them, [T, D]."""
    state = _entered(state, inputs)
    (x, normed), cache = _run(
        decoder,
        cache,
        state,
        inputs,
        operations=operations,
        reduction=reduction,
        layers=range(num_layers),
    )
    assert normed is not None  # a layer follows
    return cache, state, x, normed


def go_on(
    decoder: Decoder,
    cache: KVCache,
    state: SlotState,
    inputs: dict[str, Array],
    stream: Stream,
    *,
    num_layers: int,
    operations: Operations,
    reduction: Reduction,
) -> tuple[KVCache, Array]:
    """What `forward` does after its first layers, with what `begin` gave."""
    (hidden, _), cache = _run(
        decoder,
        cache,
        state,
        inputs,
        operations=operations,
        reduction=reduction,
        stream=stream,
        layers=range(num_layers, len(decoder.layers)),
    )
    return cache, _wanted(hidden, inputs)


def _run(
    decoder: Decoder,
    cache: KVCache,
    state: SlotState,
    inputs: dict[str, Array],
    *,
    operations: Operations,
    reduction: Reduction,
    stream: Stream | None = None,
    layers: range | None = None,
    tap: Tap = untouched,
    make_attention: MakeAttention = make_paged_attention,
) -> tuple[Stream, KVCache]:
    """What goes on behind `layers`.

    Args:
        stream: what goes into them; None: the embedded tokens.
        layers: None: all.
    """
    step = _model_input(state, inputs)
    positions = jnp.maximum(step.positions, 0)
    attention = make_attention(step, operations.attend, operations.enter, operations.decode)
    return decoder.run(
        (decoder.embed(step.token_ids, tap), None) if stream is None else stream,
        positions,
        attention,
        cache,
        reduction,
        operations.add_norm,
        tap,
        inputs["hidden_rows"] if _leaves_out(inputs) else None,
        layers,
    )


def _entered(state: SlotState, inputs: dict[str, Array]) -> SlotState:
    """The state with a step's requests, pages and samples."""
    state = _admit(state, inputs["admitted"])
    slot, index, page = inputs["pages"].T
    page_table = state.page_table.at[slot, index].set(page, mode="drop")
    return replace(state, page_table=page_table, samples=inputs["samples"])


def _model_input(state: SlotState, inputs: dict[str, Array]) -> ModelInput:
    given, slots = inputs["token_ids"], inputs["slots"]
    last_token = state.last_token.at[slots].get(mode="clip")
    return ModelInput(
        token_ids=jnp.where(given >= 0, given, last_token),
        positions=inputs["positions"],
        slots=slots,
        blocks=inputs["blocks"],
        page_table=state.page_table,
    )


def _wanted(hidden: Array, inputs: dict[str, Array]) -> Array:
    """The hidden states that a step gives, of those behind the last layer."""
    return hidden if _leaves_out(inputs) else chosen(hidden, inputs["hidden_rows"])


def _leaves_out(inputs: dict[str, Array]) -> bool:
    return leaves_out(len(inputs["token_ids"]), len(inputs["hidden_rows"]))


def leaves_out(num_tokens: int, num_rows: int) -> bool:
    """Whether the end of the last layer is computed for the rows alone that can be wanted."""
    return num_rows * FEWER_ROWS <= num_tokens


def _admit(state: SlotState, admitted: Array) -> SlotState:
    """Sampling parameters of new requests; those of slot S are dropped."""
    slot = admitted[:, 0]
    return replace(
        state,
        seeds=state.seeds.at[slot].set(
            lax.bitcast_convert_type(admitted[:, 1:4], jnp.uint32), mode="drop"
        ),
        top_k=state.top_k.at[slot].set(admitted[:, 4], mode="drop"),
        sampling=state.sampling.at[slot].set(from_bits(admitted[:, 5:8]), mode="drop"),
        has_extras=state.has_extras.at[slot].set(admitted[:, 8] != 0, mode="drop"),
    )
