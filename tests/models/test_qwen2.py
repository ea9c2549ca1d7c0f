"""One forward, three ways to run it: whole, in chunks and token by token over pages, on a mesh."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.make_gguf import write_gguf
from models.config import model_config
from models.gguf_file import open_gguf
from models.kv_cache import BLOCK_Q, KVCache, ModelInput, make_paged_attention
from models.load import load_model
from models.mesh import make_mesh
from models.operations import Operations
from models.projection import Projection
from models.qwen2 import Decoder
from models.sites import Recorder
from runtime.buckets import Buckets
from runtime.engine_request import Request
from runtime.model_runner import ModelRunner
from runtime.page_pool import PagePool
from runtime.request import SamplingParams
from runtime.scheduler import Scheduler
from runtime.step_input import StepShape, make_step_input
from runtime.step_plan import Limits
from tests.virtual_devices import QUICK, run_on_devices

ROOT = Path(__file__).resolve().parents[2]
PROMPT = np.random.default_rng(0).integers(0, 1_000, 150).tolist()


def dense_attention(projection, cache):
    """Causal attention over the step's own tokens."""
    q, k, v = projection.heads()
    scores = jnp.einsum("TKGH,CKH->KGTC", q, k)
    length = q.shape[0]
    visible = jnp.tril(jnp.ones((length, length), bool))
    weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=-1)
    return jnp.einsum("KGTC,CKH->TKGH", weights, v), cache


def dense_logits(model, token_ids):
    tokens = jnp.asarray(token_ids)
    hidden, _ = model.decoder(tokens, jnp.arange(len(token_ids)), dense_attention, None)
    return model.head(hidden)


def serve(runner, buckets, shape, requests, *, num_blocks, num_pages=25):
    """Runs requests to their end, a step at a time; the outputs of each."""
    limits = Limits(buckets.num_slots, num_blocks, BLOCK_Q, BLOCK_Q, shape.pages_per_request)
    scheduler = Scheduler(limits, PagePool(num_pages), prefix_caching=False)
    outputs = {request.request_id: [] for request in requests}
    for request in requests:
        scheduler.add(request)
    while scheduler.has_work:
        plan = scheduler.schedule()
        step = make_step_input(plan, buckets, shape)
        started = runner.sample(step, runner.forward(step))
        for output in scheduler.update(plan, *runner.read(plan, started)):
            outputs[output.request_id].append(output)
    return outputs


def make_runner(path, *, num_devices=1, one_shape=False):
    file = open_gguf(path)
    config = model_config(file)
    mesh = make_mesh(num_devices)
    model = load_model(file, config, mesh, dtype="float32")
    buckets, shape = Buckets(2, 128, 2, one_shape), StepShape(2, 4, config.vocab_size)
    runner = ModelRunner(
        model,
        mesh,
        buckets=buckets,
        shape=shape,
        num_pages=25,
        kv_dtype=jnp.dtype("float32"),
        operations=Operations(),
        num_threads=2,
    )
    return model, runner, buckets, shape


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_runner(write_gguf(tmp_path_factory.mktemp("qwen2") / "tiny.gguf"))


def greedy(request_id, prompt, max_tokens):
    params = SamplingParams(temperature=0.0, logprobs=20, max_tokens=max_tokens)
    return Request(request_id, prompt, params, max_tokens)


def largest_difference(logprobs, outputs, num_prompt):
    """Between the reported log-probabilities of an answer and those of the dense forward."""
    worst = 0.0
    for i, output in enumerate(outputs):
        row = logprobs[num_prompt - 1 + i]
        worst = max(worst, abs(row[output.token_id] - output.logprob))
        worst = max(worst, *(abs(row[token] - value) for token, value in output.top_logprobs))
    return worst


def test_the_last_layer_can_leave_out_what_nobody_reads(tiny):
    decoder, token_ids = tiny[0].decoder, jnp.asarray(PROMPT)
    rows = jnp.asarray([149, 3, 3, 77])
    run = partial(decoder, token_ids, jnp.arange(150), dense_attention, None)
    whole, _ = run()
    few, _ = run(rows=rows)
    assert few.shape == (4, whole.shape[1])
    np.testing.assert_allclose(few, whole[rows], atol=1e-5)
    looking = run(rows=rows, tap=Recorder((), {}))[0]
    np.testing.assert_allclose(looking, whole[rows], atol=1e-5)
    none = Decoder(decoder.config, decoder.embedding[...], [])
    embedded, _ = none(token_ids, jnp.arange(150), dense_attention, None, rows=rows)
    np.testing.assert_array_equal(embedded, decoder.embedding[...][token_ids[rows]])


@pytest.mark.parametrize("num_prompt", [1, 2, 63, 64, 65, 128, 150])
@pytest.mark.parametrize("num_blocks", [1, 2], ids=["in chunks", "whole"])
def test_decode_equals_prefill(tiny, num_prompt, num_blocks):
    """Prompt in chunks or whole, then token by token, as one dense forward over all of it."""
    model, runner, buckets, shape = tiny
    request = greedy(0, PROMPT[:num_prompt], 6)
    outputs = serve(runner, buckets, shape, [request], num_blocks=num_blocks)[0]
    tokens = [output.token_id for output in outputs]
    logits = np.asarray(dense_logits(model, np.pad(request.token_ids, (0, 160 - num_prompt - 6))))
    logprobs = np.asarray(jax.nn.log_softmax(logits, axis=-1))
    assert tokens == logits[num_prompt - 1 : num_prompt + 5].argmax(axis=-1).tolist()
    # float32 sums in another order
    assert largest_difference(logprobs, outputs, num_prompt) < 1e-4


def test_requests_in_one_step_are_strangers(tiny):
    model, runner, buckets, shape = tiny
    prompts = [PROMPT[:70], PROMPT[100:103], PROMPT[20:140]]
    requests = [greedy(i, prompt, 9) for i, prompt in enumerate(prompts)]
    outputs = serve(runner, buckets, shape, requests, num_blocks=2)
    for request in requests:
        padded = np.pad(request.token_ids, (0, 160 - len(request.token_ids)))
        logprobs = np.asarray(jax.nn.log_softmax(dense_logits(model, padded), axis=-1))
        own = outputs[request.request_id]
        assert largest_difference(logprobs, own, len(request.prompt_ids)) < 1e-4


def test_a_later_token_changes_nothing_before_it(tiny):
    model = tiny[0]
    logits = dense_logits(model, PROMPT[:20])
    changed = dense_logits(model, [*PROMPT[:12], 5, *PROMPT[13:20]])
    assert np.array_equal(logits[:12], changed[:12])
    assert not np.allclose(logits[12:], changed[12:])


def test_the_place_of_a_token_matters(tiny):
    model = tiny[0]
    logits = dense_logits(model, PROMPT[:20])
    swapped = dense_logits(model, [PROMPT[1], PROMPT[0], *PROMPT[2:20]])
    assert not np.allclose(logits[-1], swapped[-1], atol=1e-3)


def test_the_forward_is_differentiable(tiny):
    model = tiny[0]
    graph, state = nnx.split(model)
    tokens = PROMPT[:16]

    @jax.jit
    def loss(state):
        logprobs = jax.nn.log_softmax(dense_logits(nnx.merge(graph, state), tokens), axis=-1)
        return -jnp.mean(logprobs[jnp.arange(15), jnp.array(tokens[1:])])

    gradient = jax.grad(loss)(state)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
        assert np.any(leaf != 0), jax.tree_util.keystr(path)


def test_rows_and_blocks_of_one_step_write_and_read_their_own_pages():
    """The worked example of ModelInput: 3 rows and a chunk of 70, beside the dense reference."""
    rng = np.random.default_rng(4)
    num_slots, pages, heads, group, dim = 4, 12, 2, 2, 8
    table = np.array([[3, 7, 0], [5, 1, 0], [9, 0, 0], [2, 11, 4]], np.int32)
    lengths = [70, 65, 1, 30]  # tokens before the step, of each slot
    cache = KVCache(*(jnp.full((1, pages, heads, 64, dim), jnp.nan),) * 2)
    history = [rng.normal(size=(2, n, heads, dim)).astype(np.float32) for n in lengths]
    k_pages, v_pages = np.array(cache.k), np.array(cache.v)
    for slot, (k, v) in enumerate(history):
        for p in range(lengths[slot]):
            k_pages[0, table[slot, p // 64], :, p % 64] = k[p]
            v_pages[0, table[slot, p // 64], :, p % 64] = v[p]
    positions, slots = np.full(256, -1, np.int32), np.zeros(256, np.int32)
    positions[:3], slots[:3] = [70, 65, 1], [0, 1, 2]
    positions[64:134], slots[64:134] = np.arange(30, 100), 3
    q = rng.normal(size=(256, heads, group, dim)).astype(np.float32)
    k, v = (rng.normal(size=(256, heads, dim)).astype(np.float32) for _ in range(2))
    step = ModelInput(
        token_ids=jnp.zeros(256, jnp.int32),
        positions=jnp.asarray(positions),
        slots=jnp.asarray(slots),
        blocks=jnp.array([-1, 3, 3, -1]),
        page_table=jnp.asarray(table),
    )
    assert step.num_rows == num_slots
    attention = make_paged_attention(step, Operations().attend)
    # the scale of the queries is taken out, and nothing is rotated
    values = np.concatenate([q * dim**0.5, k[:, :, None], v[:, :, None]], axis=2)
    unturned = (jnp.ones((256, dim // 2)), jnp.zeros((256, dim // 2)))
    bias = jnp.zeros(values.shape[1:])
    projection = Projection(0, jnp.asarray(values[None]), bias, unturned, jnp.dtype("float32"))
    cache = KVCache(jnp.asarray(k_pages), jnp.asarray(v_pages))
    out, after = attention(projection, cache)
    for tokens, slot in (([0], 0), ([1], 1), ([2], 2), (range(64, 134), 3)):
        tokens = list(tokens)
        keys = np.concatenate([history[slot][0], k[tokens]])
        values = np.concatenate([history[slot][1], v[tokens]])
        for t in tokens:
            seen = positions[t] + 1
            scores = np.einsum("KGH,CKH->KGC", q[t], keys[:seen])
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            want = np.einsum("KGC,CKH->KGH", weights, values[:seen])
            np.testing.assert_allclose(out[t], want, atol=1e-5)
    assert np.all(np.asarray(out)[positions < 0] == 0)
    written = np.isfinite(np.asarray(after.k)).all(axis=(0, 2, 4)).sum(axis=1)
    assert written.sum() == 71 + 66 + 2 + 100
    assert written[0] == 0, "page 0 is only ever read"


SHARDED = """
import json, sys
sys.path[:0] = sys.argv[1:3]
import jax, test_qwen2 as t

path, sizes, answers = sys.argv[3], json.loads(sys.argv[4]), {}
for num_devices in sizes:
    assert len(jax.devices()) == sizes[-1]
    # of each kind one program: what else a runner compiles is not asked for here
    _, runner, buckets, shape = t.make_runner(path, num_devices=num_devices, one_shape=True)
    assert len(runner._cache.k.sharding.device_set) == num_devices
    requests = [t.greedy(0, t.PROMPT[:70], 6), t.greedy(1, t.PROMPT[:5], 6)]
    outputs = t.serve(runner, buckets, shape, requests, num_blocks=2)
    answers[num_devices] = [
        [o.token_id, o.logprob, *(x for pair in o.top_logprobs for x in pair)]
        for i in (0, 1) for o in outputs[i]
    ]
print(json.dumps(answers))
"""


# With 2 kv heads 4 and 8 devices hold copies of them: 3 query heads are shared as 2 and 1, or as 1
# each and one of zeros.
@pytest.mark.parametrize(("model", "sizes"), [("tiny-kv4", [1, 2, 4]), ("tiny-gqa", [1, 4, 8])])
def test_several_devices_agree_with_one(tmp_path, model, sizes):
    path = write_gguf(tmp_path / "tiny.gguf", model)
    arguments = [str(ROOT), str(Path(__file__).parent), str(path), json.dumps(sizes)]
    found = run_on_devices(sizes[-1], SHARDED, *arguments, flags=QUICK)
    answers = {int(n): np.array(rows) for n, rows in found.items()}
    for num_devices in sizes[1:]:
        assert np.array_equal(answers[num_devices][:, 0], answers[1][:, 0])
        # float32 sums in another order; ids of alternatives are whole numbers
        np.testing.assert_allclose(answers[num_devices], answers[1], atol=1e-4)
