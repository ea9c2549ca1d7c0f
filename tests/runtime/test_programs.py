"""The compiled step works in place, and what it was compiled for is all that serving needs."""

import re

import jax
import numpy as np
import pytest

from models.mesh import make_mesh
from models.operations import Operations
from pallas_kernels.kernel_names import DIALECT, NUMBERED
from runtime.buckets import Bucket
from runtime.programs import make_programs
from runtime.step_functions import StepFunctions, compiler_options
from runtime.step_input import forward_packing


def test_there_is_a_program_for_every_shape(served):
    programs = served.runner.programs
    assert list(programs.forward) == served.buckets.all
    assert list(programs.sample) == served.buckets.samples
    assert programs.num_programs == len(served.buckets.all) + len(served.buckets.samples) + 2
    assert programs.seconds > 0


def test_they_are_lowered_where_kernels_have_no_numbers(served, monkeypatch):
    class Made(Exception):
        pass

    def look(recipes, **_):
        assert DIALECT.get_or_set_dump_options is not NUMBERED
        raise Made

    monkeypatch.setattr("runtime.programs.make_all", look)
    runner = served.runner
    with pytest.raises(Made):
        make_programs(
            runner.decoder,
            runner.head,
            mesh=make_mesh(1),
            buckets=served.buckets,
            shape=served.shape,
            cache=runner._cache,
            state=runner._state,
            operations=Operations(),
            num_threads=1,
            first_layers={},
        )
    assert DIALECT.get_or_set_dump_options is NUMBERED


def test_every_forward_program_writes_the_pool_in_place(served):
    cache = served.runner._cache
    pool = "f32[" + ",".join(map(str, cache.k.shape)) + "]"
    for bucket, program in served.runner.programs.forward.items():
        memory, text = program.memory_analysis(), program.as_text()
        assert memory.alias_size_in_bytes >= cache.k.nbytes + cache.v.nbytes, bucket
        assert memory.temp_size_in_bytes < cache.k.nbytes, bucket
        assert pool in text
        copies = [line for line in text.splitlines() if "copy(" in line and pool in line]
        assert not copies, (bucket, copies)


@pytest.mark.parametrize("num_blocks", [2, 4])
def test_the_last_feed_forward_is_of_the_rows_that_are_wanted(served, num_blocks):
    runner, bucket = served.runner, Bucket(64 * num_blocks, num_blocks)
    functions = StepFunctions(runner.decoder, runner.head, make_mesh(1), served.shape, Operations())
    vector = np.zeros(forward_packing(bucket, served.shape).size, np.int32)
    arguments = (runner.decoder.leaves, runner._cache, runner._state, vector)
    text = functions.forward(bucket).jit().lower(*arguments).as_text()
    products = re.findall(rf"dot_general.*-> tensor<(\d+)x{2 * served.config.ffn_width}xf32>", text)
    few = [] if num_blocks == 2 else [served.buckets.max_rows]
    assert set(map(int, products)) == {bucket.num_tokens, *few}


def test_every_sample_program_keeps_the_slots_in_place(served):
    state = jax.tree.leaves(served.runner._state)
    for rows, program in served.runner.programs.sample.items():
        memory = program.memory_analysis()
        assert memory.alias_size_in_bytes >= sum(x.nbytes for x in state), rows


def test_serving_compiles_nothing(served, make_request):
    rng = np.random.default_rng(0)
    common = rng.integers(0, 1000, 128).tolist()
    requests = []
    for i in range(14):
        own = rng.integers(0, 1000, int(rng.integers(1, 160))).tolist()
        changes = [
            {},
            {"temperature": 0.0, "logprobs": 3},
            {"presence_penalty": 1.0, "logit_bias": {5: 2.0}, "min_tokens": 2},
            {"top_k": 5, "top_p": 0.9, "min_p": 0.01},
        ][i % 4]
        prompt = common + own if i % 3 == 0 else own
        stops = frozenset({1, 2, 3})
        requests.append(make_request(i, prompt, 1 + i * 3, seed=i, stop_ids=stops, **changes))
    jax.block_until_ready(served.runner._state)
    compiled = served.log.num_compiled
    with jax.no_tracing():
        outputs = served.run(requests, num_pages=14)
    assert served.log.num_compiled == compiled
    assert compiled > 0
    assert all(outputs[i][-1].finish_reason in ("stop", "length") for i in range(14))


def test_a_new_shape_would_have_been_noticed(served):
    with pytest.raises(RuntimeError, match="(?i)trac"), jax.no_tracing():
        jax.jit(lambda x: x + 1)(np.zeros(3, np.float32))


def test_answers_do_not_depend_on_the_batch(served, make_request):
    """Bit by bit, for the same shapes of programs would be; here the tokens that were drawn."""

    def requests():
        rng = np.random.default_rng(1)
        return [
            make_request(i, rng.integers(0, 1000, 5 + 31 * i).tolist(), 6, seed=i, temperature=0.5)
            for i in range(5)
        ]

    together = served.run(requests())
    alone = [served.run([request])[request.request_id] for request in requests()]
    squeezed = served.run(requests(), num_pages=6, num_blocks=2, prefix_caching=False)
    for i in range(5):
        tokens = [output.token_id for output in together[i]]
        assert [output.token_id for output in alone[i]] == tokens
        assert [output.token_id for output in squeezed[i]] == tokens


def test_the_same_seed_draws_the_same_and_another_choice_does_not(served, make_request):
    prompt = list(range(10))
    changes = [{"seed": 3}, {"seed": 3}, {"seed": 3, "choice": 1}, {"seed": 4}]
    requests = [make_request(i, prompt, 12, **change) for i, change in enumerate(changes)]
    outputs = served.run(requests)
    tokens = [[output.token_id for output in outputs[i]] for i in range(4)]
    assert tokens[0] == tokens[1]
    assert tokens[0] != tokens[2] and tokens[0] != tokens[3] and tokens[2] != tokens[3]


def test_penalties_bias_and_min_tokens_reach_the_scores(served, make_request):
    prompt = list(range(10))
    free = served.run([make_request(0, prompt, 4, temperature=0.0)])[0]
    first = free[0].token_id
    never = make_request(0, prompt, 4, temperature=0.0, logit_bias={first: -100.0})
    assert first not in [output.token_id for output in served.run([never])[0]]
    only = make_request(0, prompt, 4, temperature=0.0, logit_bias={77: 100.0})
    assert [output.token_id for output in served.run([only])[0]] == [77] * 4
    once = make_request(
        0, prompt, 8, temperature=0.0, logit_bias={77: 30.0, 78: 29.0}, frequency_penalty=2.0
    )
    assert {output.token_id for output in served.run([once])[0]} == {77, 78}
    stops = frozenset({first})
    stopped = served.run([make_request(0, prompt, 4, temperature=0.0, stop_ids=stops)])[0]
    assert [output.finish_reason for output in stopped] == ["stop"]
    later = make_request(0, prompt, 4, temperature=0.0, stop_ids=stops, min_tokens=3)
    assert first not in [output.token_id for output in served.run([later])[0][:3]]


def test_logprobs_are_as_many_as_asked_for(served, make_request):
    for count in (None, 0, 1, 20):
        request = make_request(0, [1, 2, 3], 2, temperature=0.0, logprobs=count)
        for output in served.run([request])[0]:
            assert (output.logprob is None) == (count is None)
            assert len(output.top_logprobs) == (count or 0)
            values = [logprob for _, logprob in output.top_logprobs]
            assert values == sorted(values, reverse=True)
            if count:
                assert output.top_logprobs[0] == (output.token_id, output.logprob)


def test_a_step_that_samples_nothing_has_no_result(served, make_request):
    from runtime.step_input import make_step_input

    scheduler = served.scheduler(num_blocks=1)
    request = make_request(0, list(range(70)), 1)
    scheduler.add(request)
    plan = scheduler.schedule()
    step = make_step_input(plan, served.buckets, served.shape)
    started = served.runner.sample(step, served.runner.forward(step))
    assert (started.result, started.states) == (None, None)
    assert served.runner.read(plan, started) == ([], ())
    served.runner.wait()


def test_passes_that_xla_flags_disable_stay_disabled():
    assert compiler_options("") == {"xla_disable_hlo_passes": "rematerialization"}
    flags = "--xla_a=1 --xla_disable_hlo_passes=fusion,dce --xla_b=2"
    found = compiler_options(flags)["xla_disable_hlo_passes"]
    assert found.split(",") == ["rematerialization", "fusion", "dce"]
