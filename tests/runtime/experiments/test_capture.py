"""Values captured and changed in the batched, compiled step, against the plain forward."""

import re
from collections import Counter
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from models.mesh import make_mesh
from models.operations import Operations
from models.reduction import Reduction
from models.sites import Recorder
from runtime.compile_log import CompileLog
from runtime.errors import RequestError
from runtime.experiments.interventions import Add, Patch, Replace, Scale
from runtime.forward import forward, leaves_out
from runtime.request import SamplingParams
from runtime.step_functions import all_reduce_of
from runtime.step_input import forward_packing

# few shapes of steps, for each compiles: two chunks of a prompt, then rows
PROMPTS = [[5, 9, 900, 3, 17], list(range(20, 170)), [7, 8]]
PARAMS = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
ONE = SamplingParams(temperature=0, max_tokens=1)
EVERYTHING = ["embed", "layers.*.*", "layers.*.*.*", "final_norm", "logits"]
MIDDLE = "layers.0.resid_post"


def answers(outputs):
    return [output.outputs[0].token_ids for output in outputs]


def context(output):
    return output.prompt_token_ids + output.outputs[0].token_ids[:-1]


@pytest.fixture
def compile_log():
    with closing(CompileLog()) as log:
        yield log


@pytest.fixture(scope="module")
def everything(llm):
    return llm.generate(PROMPTS, PARAMS, capture=EVERYTHING)


def test_captured_values_are_those_of_a_plain_forward(llm, plain_forward, everything):
    for output in everything:
        _, record = plain_forward(llm, context(output), capture=EVERYTHING)
        assert list(output.captured) == list(llm.sites)
        assert record.keys() == output.captured.keys()
        for name, values in record.items():
            own = output.captured[name]
            error = np.linalg.norm(own - np.reshape(values, own.shape)) / np.linalg.norm(values)
            assert error < 2e-6, name  # float32 sums in another order


def test_captured_shapes_are_those_of_the_sites(llm, everything):
    for output in everything:
        length = len(context(output))
        for name, shape in llm.sites.items():
            if name.endswith("attn.pattern"):
                shape = (shape[0], length)
            assert output.captured[name].shape == (length, *shape)


def test_capturing_changes_no_answer(llm, everything):
    assert answers(everything) == answers(llm.generate(PROMPTS, PARAMS))


def test_one_of_a_kind_needs_no_list(llm):
    change = Scale("embed", 0.5)
    (plain,) = llm.generate(PROMPTS[0], ONE, capture="logits", interventions=change)
    (listed,) = llm.generate(PROMPTS[0], ONE, capture=["logits"], interventions=[change])
    assert list(plain.captured) == ["logits"]
    np.testing.assert_array_equal(plain.captured["logits"], listed.captured["logits"])


def test_the_residual_stream_adds_up(everything):
    captured = everything[1].captured
    for i in (0, 1):
        layer = f"layers.{i}."
        total = sum(captured[layer + x] for x in ("resid_pre", "attn.out", "mlp.out"))
        np.testing.assert_allclose(captured[layer + "resid_post"], total, atol=1e-5)


def test_each_answer_of_a_prompt_has_its_own_values(llm):
    params = SamplingParams(n=2, seed=1, max_tokens=5, ignore_eos=True)
    (output,) = llm.generate([PROMPTS[0]], params, capture=["embed"])
    first, second = (answer.captured["embed"] for answer in output.outputs)
    assert first.shape == second.shape
    np.testing.assert_array_equal(first[:5], second[:5])
    assert (first != second).any()


def test_preemption_loses_nothing(llm, plain_forward):
    """More than the pool holds: who gives pages up computes, and is seen, again."""
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    prompts = [[i + 1] * 100 for i in range(6)]
    scheduler = llm.engine.scheduler
    hidden = [scheduler.pool.allocate() for _ in range(scheduler.pool.num_free - 9)]
    before = scheduler.num_preemptions
    outputs = llm.generate(prompts, params, capture=[MIDDLE])
    scheduler.pool.release(hidden)
    assert scheduler.num_preemptions > before
    for output in outputs:
        _, record = plain_forward(llm, context(output), capture=[MIDDLE])
        np.testing.assert_allclose(output.captured[MIDDLE], record[MIDDLE], atol=1e-4)


def test_each_request_of_a_batch_has_its_own_changes(llm, plain_forward, everything):
    vector = np.linspace(-2, 2, llm.sites[MIDDLE][0])
    changes = [
        [Add(MIDDLE, vector, scale=0.5)],
        [Scale("layers.1.mlp.out", 0), Add("layers.*.resid_mid", 0.25, positions=slice(3, None))],
        [],
    ]
    outputs = llm.generate(PROMPTS, PARAMS, capture=["logits"], interventions=changes)

    def later(x):
        return jnp.where(jnp.arange(len(x))[:, None] >= 3, x + 0.25, x)

    hooks = [
        {MIDDLE: lambda x: x + 0.5 * vector},
        {"layers.1.mlp.out": jnp.zeros_like, "layers.*.resid_mid": later},
        {},
    ]
    for output, own, plain in zip(outputs, hooks, everything, strict=True):
        logits, _ = plain_forward(llm, context(output), hooks=own)
        np.testing.assert_allclose(output.captured["logits"], logits, atol=1e-4)
        moved = np.abs(output.captured["logits"] - plain.captured["logits"])[: len(PROMPTS[2])]
        assert (moved.max() > 1e-3) == bool(own)
    assert answers(outputs)[2] == answers(everything)[2]


def test_changes_apply_in_their_order(llm):
    changes = [Add("embed", 3.0), Scale("embed", 2.0), Add("embed", 1.0), Replace("embed", 9.0, 2)]
    outputs = llm.generate([PROMPTS[0]] * 2, PARAMS, capture=["embed"], interventions=[changes, []])
    changed, plain = (output.captured["embed"][:5] for output in outputs)
    expected = (plain + 3) * 2 + 1
    expected[2] = 9
    np.testing.assert_allclose(changed, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("positions", "touched"),
    [(None, range(8)), (-1, [4]), ([0, -2], [0, 3]), (slice(-2, None), [3, 4, 5, 6, 7])],
)
def test_positions_count_from_the_start_or_the_end_of_the_prompt(llm, positions, touched):
    changes = [Replace("embed", 0, positions)]
    (output,) = llm.generate([PROMPTS[0]], PARAMS, capture=["embed"], interventions=changes)
    zero = ~output.captured["embed"].any(axis=-1)
    assert np.flatnonzero(zero).tolist() == list(touched)


def test_a_patched_run_becomes_the_run_it_is_patched_from(llm):
    other = [5, 9, 901, 3, 18]
    site = "layers.1.resid_post"
    source, plain = llm.generate([other, PROMPTS[0]], PARAMS, capture=[site, "logits"])
    (whole,) = llm.generate(
        [PROMPTS[0]], PARAMS, capture=[site, "logits"], interventions=[Patch(site, source)]
    )
    assert answers([whole]) == answers([source]) != answers([plain])
    part = Patch(site, source.captured, positions=[2, 0], from_positions=[0, 3])
    (moved,) = llm.generate([PROMPTS[0]], PARAMS, capture=[site, "logits"], interventions=[part])
    np.testing.assert_allclose(moved.captured[site][[2, 0]], source.captured[site][[0, 3]])
    np.testing.assert_allclose(moved.captured[site][1], plain.captured[site][1], atol=1e-5)


def test_a_patched_pattern_fits_the_programs_width(llm):
    site = "layers.0.attn.pattern"
    (plain,) = llm.generate([PROMPTS[0]], PARAMS, capture=[site, "logits"])
    (again,) = llm.generate(
        [PROMPTS[0]], PARAMS, capture=["logits"], interventions=[Patch(site, plain)]
    )
    np.testing.assert_allclose(again.captured["logits"], plain.captured["logits"], atol=1e-4)


def test_changed_scores_choose_the_token(llm):
    wanted = np.zeros(llm.sites["logits"])
    wanted[77] = 1e4
    (output,) = llm.generate([PROMPTS[0]], PARAMS, interventions=[Add("logits", wanted)])
    assert output.outputs[0].token_ids == [77] * 4
    assert output.captured is None


def test_another_vector_compiles_nothing(llm, compile_log):
    def run(scale):
        changes = [[Add(MIDDLE, scale, positions=int(scale))], []]
        return llm.generate(PROMPTS[::2], PARAMS, capture=[MIDDLE], interventions=changes)

    run(1.0)
    compiled = compile_log.num_compiled
    run(2.0)
    assert compile_log.num_compiled == compiled
    llm.generate(PROMPTS[0], ONE, capture=["layers.1.resid_mid"])
    assert compile_log.num_compiled > compiled, "or nothing was counted"


def test_an_experiment_leaves_nothing_in_the_prefix_cache(llm):
    prompt = [11] * 150
    plain = answers(llm.generate([prompt], PARAMS))
    changes = [Scale("embed", 0)]
    (changed,) = llm.generate([prompt], PARAMS, capture=["embed"], interventions=changes)
    assert changed.num_cached_tokens == 0
    assert answers(llm.generate([prompt], PARAMS)) == plain


def instructions(program):
    """Result type and operation of everything an optimised program does; names differ."""
    return Counter(re.findall(r" = (\S+ [\w\-]+)\(", program.as_text()))


def test_taps_cost_nothing_while_nobody_looks(served):
    """Served programs are those of a forward that is traced through active taps without a wish."""
    runner = served.runner
    for bucket in (served.buckets.all[0], served.buckets.all[-1]):
        # of more tokens the last layer computes those alone that are sampled or reported on
        assert not leaves_out(bucket.num_tokens, served.buckets.max_rows)
        program, packing = runner.programs.forward[bucket], forward_packing(bucket, served.shape)

        def run(leaves, cache, state, vector, packing=packing):
            decoder = runner.pure_model.decoder.rebuild(leaves)
            tap = Recorder((), {})
            return forward(
                decoder,
                cache,
                state,
                packing.unpack(vector),
                operations=Operations(),
                reduction=Reduction(all_reduce_of(make_mesh(1))),
                tap=tap,
            )

        run.__name__ = f"forward_{bucket.name}"
        mapped = jax.shard_map(run, mesh=make_mesh(1), in_specs=P(), out_specs=P(), check_vma=False)
        tapped = (
            jax.jit(mapped, donate_argnums=(1, 2))
            .lower(
                runner.decoder.leaves,
                runner._cache,
                runner._state,
                np.zeros(packing.size, np.int32),
            )
            .compile()
        )
        assert instructions(tapped) == instructions(program), bucket
        assert len(instructions(program)) > 50


@pytest.mark.parametrize(
    ("capture", "changes", "message"),
    [
        (["layers.*.nothing"], [], "no site is called 'layers.\\*.nothing'"),
        ([3], [], "a site is a text, got 3"),
        (3, [], "sites are a text or a list of texts, got 3"),
        ([], 3, "interventions is a list, got 3"),
        ([], [3], "interventions of a prompt are a list, got 3"),
        ([], [Add("resid", 1)], "no site is called 'resid'"),
        ([], [Add("embed", [1, 2, 3])], "does not broadcast"),
        ([], [["embed"]], "an intervention is an Add, .* got 'embed'"),
        ([], [Add(3, 1)], "a site is a text, got 3"),
        ([], [Add("embed", "abc")], "real numbers, got 'abc'"),
        ([], [Add("embed", [[1, 2], [3]])], "real numbers"),
        ([], [Add("embed", 1j)], "real numbers"),
        ([], [Add("embed", 1, scale=None)], "real numbers, got None"),
        ([], [Scale("embed", float("nan"))], "cannot be changed with NaN"),
        ([], [Replace("embed", 1, -6)], "before the start of 5 tokens"),
        ([], [Replace("embed", 1, 1.5)], "whole numbers, a slice or None, got 1.5"),
        ([], [Replace("embed", 1, [[1], [2, 3]])], "whole numbers"),
        ([], [Replace("embed", 1, "last")], "whole numbers"),
        ([], [Replace("embed", 1, slice(0.5, None))], "whole numbers"),
        ([], [Replace("embed", 1, slice(4, 0, -1))], "got step -1"),
        ([], [Patch("embed", np.zeros((5, 256)))], "Patch takes a result .* got ndarray"),
        ([], [Patch("embed", {"embed": 3.0})], "must have embed as tokens x"),
        ([], [Patch("embed", {"logits": np.zeros(3)})], "has not captured embed: it has logits"),
        ([], [Patch("embed", {"embed": np.zeros((2, 256))}, [0, 1], [0])], "1 positions of the"),
        ([], [Patch("embed", {"embed": np.zeros((2, 256))}, [5])], "position 5 is not in the run"),
        ([], [[], []], "2 lists of interventions for 1 prompts"),
    ],
)
def test_what_cannot_be_done_is_refused(llm, capture, changes, message):
    with pytest.raises(RequestError, match=message):
        llm.generate([PROMPTS[0]], PARAMS, capture=capture, interventions=changes)
    assert not llm.engine.has_work
