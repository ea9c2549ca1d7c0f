"""What the device remembers of each running request between steps."""

from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array

from runtime.buckets import max_rows
from runtime.exchange import PEER_SPECS, Peers
from runtime.request import MAX_LOGIT_BIAS, MAX_STOP_TOKEN_IDS

# ids that end an answer: the request's own and those of the model
MAX_BANNED = MAX_STOP_TOKEN_IDS + 32

SAMPLE_COLUMNS = 4  # slot, position, ban (the tokens that end an answer), given


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SlotState:
    """One row a slot, but for the last two; donated to each program and replaced by its result.

    `page_table`, `seeds` and the sampling parameters are set in the step that admits a request, the
    `extras` only for requests that ask for them.

    Attributes:
        page_table: [S, P]; page 0 where none is assigned
        last_token: [S], the token sampled last
        seeds: [S, 3] the high and low half of the seed, and the number of the choice
        top_k: [S], 0 for no limit
        sampling: [S, 3] float32: temperature, top_p, min_p
        has_extras: [S], whether the fields below hold for the slot's request
        penalties: [S, 3] float32: repetition, presence, frequency
        counts: [S, V] int32: twice how often the token is in the answer, plus 1 if in the prompt
        bias_ids, bias_values: [S, 300], logit_bias; id V for none
        banned_ids: [S, 64], tokens that end the answer, for min_tokens; id V for none
        samples: [R, 4], what the step's sample program is to do: `runtime.step_input`
        peers: how the devices reach each other; None where they do so by XLA alone
    """

    page_table: Array
    last_token: Array
    seeds: Array
    top_k: Array
    sampling: Array
    has_extras: Array
    penalties: Array
    counts: Array
    bias_ids: Array
    bias_values: Array
    banned_ids: Array
    samples: Array
    peers: Peers | None = None


def slot_specs(*, with_peers: bool) -> SlotState:
    """Where a state is cut over the devices: nowhere, but for a device's own number."""
    specs: dict[str, Any] = {field.name: PartitionSpec() for field in fields(SlotState)}
    return SlotState(**specs | {"peers": PEER_SPECS if with_peers else None})


def empty_slots(num_slots: int, *, pages_per_request: int, vocab_size: int) -> SlotState:
    """The state of no requests."""
    s = num_slots
    return SlotState(
        page_table=jnp.zeros((s, pages_per_request), jnp.int32),
        last_token=jnp.zeros(s, jnp.int32),
        seeds=jnp.zeros((s, 3), jnp.uint32),
        top_k=jnp.zeros(s, jnp.int32),
        sampling=jnp.zeros((s, 3), jnp.float32),
        has_extras=jnp.zeros(s, bool),
        penalties=jnp.ones((s, 3), jnp.float32),
        counts=jnp.zeros((s, vocab_size), jnp.int32),
        bias_ids=jnp.full((s, MAX_LOGIT_BIAS), vocab_size, jnp.int32),
        bias_values=jnp.zeros((s, MAX_LOGIT_BIAS), jnp.float32),
        banned_ids=jnp.full((s, MAX_BANNED), vocab_size, jnp.int32),
        samples=jnp.full((max_rows(s), SAMPLE_COLUMNS), s, jnp.int32),
    )
