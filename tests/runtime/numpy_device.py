"""A device of numpy that answers with what it reads, and asserts that it reads what was written."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

PAGE = 64
VOCAB = 50
BAD = VOCAB - 1  # a context with this token in it gives scores that are not finite


def powers(count: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.cumprod(np.full(count, 6_364_136_223_846_793_005, np.uint64))


POWERS = powers(1 << 14)


def digests(tokens: np.ndarray, start: int, before: np.uint64) -> np.ndarray:
    """What a layer would keep of each token: it depends on the token and on all before it."""
    terms = (tokens.astype(np.uint64) + np.uint64(1)) * POWERS[start : start + len(tokens)]
    return before + np.cumsum(terms, dtype=np.uint64)


def answer(
    context: np.ndarray, seeds: Iterable[int], extras: tuple[Any, ...] | None, banned: set[int]
) -> int:
    """The token after `context`: any change of any argument gives another."""
    text = f"{np.asarray(context, np.int32).tolist()} {[int(s) for s in seeds]} {extras}"
    token = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) % BAD
    while token in banned:
        token = (token + 1) % BAD
    return token


def expected_answer(request: Any) -> list[int]:
    """What a request must get, whatever else runs: the same function, without pages or slots."""
    params, output = request.params, []
    seeds = (request.seed >> 32 & 0xFFFFFFFF, request.seed & 0xFFFFFFFF, request.choice)
    while len(output) < request.max_tokens:
        context = request.prompt_ids + output
        if BAD in context:
            break
        extras = None
        if request.needs_extras:
            penalties = np.array(
                [params.repetition_penalty, params.presence_penalty, params.frequency_penalty],
                np.float32,
            )
            counts = Counter(request.prompt_ids), Counter(output)
            extras = extras_of(counts[0], counts[1], penalties, params.logit_bias)
        banned = set(request.stop_ids) if len(output) < params.min_tokens else set()
        output.append(answer(context, seeds, extras, banned))
        if output[-1] in request.stop_ids:
            break
    return output


def state_of(digest: np.uint64) -> np.ndarray:
    """The hidden state of a token, [1]: of all that is before it."""
    return np.array([int(digest) % 997], np.float32)


def expected_states(request: Any) -> list[float]:
    """The states of a prompt's tokens."""
    with np.errstate(over="ignore"):
        kept = digests(np.array(request.prompt_ids), 0, np.uint64(0))
    return [float(state_of(digest)[0]) for digest in kept]


def extras_of(
    prompt: Counter[int], output: Counter[int], penalties: np.ndarray, bias: dict[int, float]
) -> tuple[Any, ...]:
    rounded = sorted((int(i), float(np.float32(v))) for i, v in bias.items())
    return sorted(prompt), sorted(output.items()), penalties.tolist(), rounded


@dataclass
class Extras:
    """What `set_extras` keeps of a slot's request."""

    prompt: Counter[int]
    output: Counter[int]
    penalties: np.ndarray
    bias: dict[int, float]
    banned: set[int]


class NumpyDevice:
    """A step's programs around a model that answers with a hash of what it reads.

    It reads its whole context through the page table, and asserts that what it finds at index i
    was written for position i, after the same tokens.
    """

    def __init__(self, shape: Any, num_pages: int):
        self.shape = shape
        self.num_pages = num_pages
        self.page_table = np.zeros((shape.num_slots, shape.pages_per_request), np.int64)
        self.last_token = np.full(shape.num_slots, -7)
        self.seeds = np.zeros((shape.num_slots, 3), np.uint32)
        self.has_extras = np.zeros(shape.num_slots, bool)
        self.extras: dict[int, Extras] = {}
        self.tokens = np.full((num_pages, PAGE), -1)
        self.places = np.full((num_pages, PAGE), -1)
        self.digests = np.zeros((num_pages, PAGE), np.uint64)

    def start(self, step: Any) -> tuple[list[Any], list[np.ndarray]]:
        """Runs a step; what the rows of the sampler give, and a state for each hidden row."""
        from runtime.step_input import extras_packing, forward_packing

        for vector in step.extras:
            self._set_extras(extras_packing(self.shape).views(vector))
        inputs = forward_packing(step.bucket, self.shape).views(step.forward)
        self._admit(inputs["admitted"])
        self._update_pages(inputs["pages"])
        given, slots = inputs["token_ids"], inputs["slots"]
        tokens = np.where(given >= 0, given, self.last_token[slots])
        self._check_layout(inputs)
        computed = inputs["positions"] >= 0
        assert computed.size - computed.sum() == step.num_padding
        self._write(tokens, inputs, computed)
        rows = ()
        if step.sampler is not None:
            rows = inputs["samples"][: step.sampler.num_rows]
        hidden_rows = inputs["hidden_rows"] if step.pools else ()
        states = [self._state(token_at, inputs) for token_at in hidden_rows]
        return [self._sample(i, row, inputs) for i, row in enumerate(rows)], states

    def _set_extras(self, inputs: dict[str, np.ndarray]) -> None:
        num_prompt, vocab = inputs["num_prompt"][0], self.shape.vocab_size
        ids = inputs["token_ids"][inputs["token_ids"] < vocab].tolist()
        has_bias = inputs["bias_ids"] < vocab
        values = inputs["bias_values"].view(np.float32)
        self.extras[int(inputs["slot"][0])] = Extras(
            Counter(ids[:num_prompt]),
            Counter(ids[num_prompt:]),
            inputs["penalties"].view(np.float32).copy(),
            dict(zip(inputs["bias_ids"][has_bias].tolist(), values[has_bias], strict=True)),
            set(inputs["banned_ids"][inputs["banned_ids"] < vocab].tolist()),
        )

    def _admit(self, admitted: np.ndarray) -> None:
        for row in admitted[admitted[:, 0] < self.shape.num_slots]:
            self.seeds[row[0]] = row[1:4].view(np.uint32)
            self.has_extras[row[0]] = row[8]

    def _update_pages(self, updates: np.ndarray) -> None:
        for slot, index, page in updates[updates[:, 0] < self.shape.num_slots]:
            assert 0 <= slot and 0 <= index < self.shape.pages_per_request
            assert 0 < page < self.num_pages, "page 0 is only ever read"
            self.page_table[slot, index] = page

    def _check_layout(self, inputs: dict[str, np.ndarray]) -> None:
        """Each token is computed once: as a row, or in a block of its own request."""
        positions, slots, blocks = inputs["positions"], inputs["slots"], inputs["blocks"]
        in_block = np.repeat(blocks, PAGE) if blocks.size else np.full(positions.size, -1)
        for t in np.flatnonzero(positions >= 0):
            if in_block[t] < 0:
                assert t < self.shape.num_slots
            else:
                assert in_block[t] == slots[t]

    def _write(self, tokens: np.ndarray, inputs: dict[str, np.ndarray], computed: np.ndarray):
        positions, slots = inputs["positions"], inputs["slots"]
        at = 0
        indices = np.flatnonzero(computed)
        while at < len(indices):  # runs of consecutive tokens of one request
            t = indices[at]
            run = 1
            while (
                at + run < len(indices)
                and indices[at + run] == t + run
                and slots[t + run] == slots[t]
                and positions[t + run] == positions[t] + run
            ):
                run += 1
            self._write_run(int(slots[t]), positions[t : t + run], tokens[t : t + run])
            at += run

    def _write_run(self, slot: int, positions: np.ndarray, tokens: np.ndarray) -> None:
        start = int(positions[0])
        before = np.uint64(0)
        if start:
            page, offset = self.page_table[slot, (start - 1) // PAGE], (start - 1) % PAGE
            assert self.places[page, offset] == start - 1
            before = self.digests[page, offset]
        pages, offsets = self.page_table[slot, positions // PAGE], positions % PAGE
        assert np.all(pages > 0), "page 0 is only ever read"
        self.tokens[pages, offsets] = tokens
        self.places[pages, offsets] = positions
        with np.errstate(over="ignore"):
            self.digests[pages, offsets] = digests(tokens, start, before)

    def _state(self, token_at: int, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """A hidden state: what it was computed from."""
        slot, position = inputs["slots"][token_at], inputs["positions"][token_at]
        page = self.page_table[slot, position // PAGE]
        return state_of(self.digests[page, position % PAGE])

    def _sample(self, i: int, row: np.ndarray, inputs: dict[str, np.ndarray]) -> Any:
        from runtime.step_plan import SampledToken

        slot, position, bans, given = (int(x) for x in row)
        if given >= 0:
            assert slot == self.shape.num_slots
            (score,) = self._state(inputs["hidden_rows"][i], inputs)
            return SampledToken(given, True, -float(score), ((given + 1, -1.0),))
        if slot == self.shape.num_slots:
            return SampledToken(0, True)
        token_at = inputs["hidden_rows"][i]
        assert inputs["slots"][token_at] == slot
        assert inputs["positions"][token_at] == position - 1
        places = np.arange(position)
        pages, offsets = self.page_table[slot, places // PAGE], places % PAGE
        assert np.array_equal(self.places[pages, offsets], places), "a stale or foreign page"
        context = self.tokens[pages, offsets]
        with np.errstate(over="ignore"):
            kept = digests(context, 0, np.uint64(0))
        assert np.array_equal(self.digests[pages, offsets], kept), "computed after other tokens"
        finite = BAD not in context
        extras, banned = None, set()
        if self.has_extras[slot]:
            own = self.extras[slot]
            extras = extras_of(own.prompt, own.output, own.penalties, own.bias)
            banned = own.banned if bans else set()
        token = answer(context, self.seeds[slot], extras, banned) if finite else 0
        self.last_token[slot] = token
        if self.has_extras[slot]:
            self.extras[slot].output[token] += 1
        return SampledToken(token, finite)
