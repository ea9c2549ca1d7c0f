"""The programs of a step behind forward, as pure functions of arrays: sample, embed, set_extras."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array

from models.qwen2 import Head
from runtime.buckets import SampleMode
from runtime.packing import from_bits, to_bits
from runtime.request import MAX_LOGPROBS
from runtime.sampling import NUM_CANDIDATES, adjust, best_of, choose
from runtime.slots import SlotState
from runtime.token_key import token_key
from runtime.vocabulary_parts import VocabularyParts

# where the best scores are enough: how many of them
CANDIDATES_OF = {SampleMode.GREEDY: 1, SampleMode.CANDIDATES: NUM_CANDIDATES}
RESULT_COLUMNS = 3 + 2 * MAX_LOGPROBS  # token, finite, logprob, best ids, their logprobs


def sample(
    head: Callable[[Array], Array],
    state: SlotState,
    hidden: Array,
    mask: Array | None = None,
    *,
    num_rows: int,
    parts: VocabularyParts | None,
    mode: SampleMode,
) -> tuple[SlotState, Array]:
    """Chooses a token for each of the first rows of `hidden`, as `state.samples` says.

    Args:
        hidden: [H, D], from `forward`.
        num_rows: R <= H.
        mask: int32 [R, ceil(V / 32)], the tokens that may be chosen; with `SampleMode.FULL`.
        parts: of the vocabulary, if each device has its own.
        mode: enough for all rows.

    Returns:
        the state, and int32 [R, RESULT_COLUMNS], floats as bits.
    """
    slot, position, ban, given = state.samples[:num_rows].T
    logits, ids = head(hidden[:num_rows]), None
    if parts is not None:
        if mode in CANDIDATES_OF:
            logits, ids = parts.best(logits, CANDIDATES_OF[mode])
        else:
            logits = parts.whole(logits)
    with jax.named_scope("sampling"):
        own = jax.tree.map(lambda x: x.at[slot].get(mode="fill", fill_value=0), _small(state))
        adjusted = logits
        if mode is SampleMode.FULL:
            assert mask is not None
            adjusted = _with_extras(logits, state, slot, own["has_extras"], ban != 0)
            adjusted = jnp.where(unpack_mask(mask, logits.shape[1]), adjusted, -jnp.inf)
        temperature, top_p, min_p = own["sampling"].T
        token = choose(
            adjusted,
            mode=mode,
            temperature=temperature,
            top_k=own["top_k"],
            top_p=top_p,
            min_p=min_p,
            keys=jax.vmap(token_key)(own["seeds"], position),
        )
        if ids is not None:
            token = jnp.take_along_axis(ids, token[:, None], axis=1)[:, 0]
        report = _no_logprobs(logits)
        if mode is SampleMode.FULL:
            token = jnp.where(given >= 0, given, token)
            report = _logprobs(logits, token)
            counted = jnp.where(own["has_extras"], slot, state.counts.shape[0])
            state = replace(state, counts=state.counts.at[counted, token].add(2, mode="drop"))
        finite = jnp.isfinite(logits.max(axis=-1)).astype(jnp.int32)  # a NaN wins every maximum
        last_token = state.last_token.at[slot].set(token, mode="drop")
        result = jnp.concatenate([token[:, None], finite[:, None], report], axis=1)
        return replace(state, last_token=last_token), result


def unpack_mask(mask: Array, vocab_size: int) -> Array:
    """Bits, the lowest of each int32 first, as booleans: [R, ceil(V / 32)] -> [R, V]."""
    bits = (mask[:, :, None] >> jnp.arange(32)) & 1
    return bits.reshape(mask.shape[0], -1)[:, :vocab_size] != 0


def embed(head: Head, hidden: Array) -> Array:
    """The hidden states behind the final norm, float32 [R, D]."""
    return head.norm(hidden).astype(jnp.float32)


def _small(state: SlotState) -> dict[str, Array]:
    names = ("seeds", "top_k", "sampling", "has_extras")
    return {name: getattr(state, name) for name in names}


def _with_extras(
    logits: Array, state: SlotState, slot: Array, has_extras: Array, ban: Array
) -> Array:
    adjusted = adjust(
        logits,
        counts=state.counts.at[slot].get(mode="clip"),
        penalties=state.penalties.at[slot].get(mode="clip"),
        bias_ids=state.bias_ids.at[slot].get(mode="clip"),
        bias_values=state.bias_values.at[slot].get(mode="clip"),
        banned_ids=state.banned_ids.at[slot].get(mode="clip"),
        ban=ban,
    )
    return jnp.where(has_extras[:, None], adjusted, logits)


def _logprobs(logits: Array, token: Array) -> Array:
    """Log-probabilities of the unscaled scores: the token's, and the 20 best; as bits."""
    log_total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    chosen = jnp.take_along_axis(logits, token[:, None], axis=1) - log_total
    best, ids = best_of(logits, min(MAX_LOGPROBS, logits.shape[1]))
    missing = ((0, 0), (0, MAX_LOGPROBS - ids.shape[1]))
    return jnp.concatenate(
        [
            to_bits(chosen),
            jnp.pad(ids, missing, constant_values=-1),
            to_bits(jnp.pad(best - log_total, missing)),
        ],
        axis=1,
    )


def _no_logprobs(logits: Array) -> Array:
    return jnp.zeros((logits.shape[0], RESULT_COLUMNS - 2), jnp.int32)


def set_extras(state: SlotState, inputs: dict[str, Array]) -> SlotState:
    """The penalties, biases and counts of one slot's new request.

    Args:
        inputs: `runtime.step_input.extras_packing`.
    """
    slot = inputs["slot"][0]
    tokens = inputs["token_ids"]
    in_prompt = jnp.arange(tokens.shape[0]) < inputs["num_prompt"][0]
    vocab_size = state.counts.shape[1]
    prompt = (
        jnp.zeros(vocab_size, jnp.int32).at[tokens].max(in_prompt.astype(jnp.int32), mode="drop")
    )
    answer = (
        jnp.zeros(vocab_size, jnp.int32).at[tokens].add(jnp.where(in_prompt, 0, 2), mode="drop")
    )
    return replace(
        state,
        penalties=state.penalties.at[slot].set(from_bits(inputs["penalties"])),
        counts=state.counts.at[slot].set(prompt + answer),
        bias_ids=state.bias_ids.at[slot].set(inputs["bias_ids"]),
        bias_values=state.bias_values.at[slot].set(from_bits(inputs["bias_values"])),
        banned_ids=state.banned_ids.at[slot].set(inputs["banned_ids"]),
    )
