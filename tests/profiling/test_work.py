"""The least work of a step, against XLA's count and against a step that is run."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.config import kv_bytes_per_token
from profiling.bucket_report import TOLERANCE, BucketReport, report_buckets
from profiling.ceilings import Ceilings, measure_ceilings, product_dtype, square_product
from profiling.program_facts import program_facts
from profiling.scopes import ALL_SCOPES, SCOPES
from profiling.start_log import Making
from profiling.work import Step, Work, step_work, total_work, weight_bytes
from profiling.workload import Measured, Workload, check_room
from runtime.part import Part


def test_a_recorded_step_has_the_sizes_that_were_asked_for(load):
    load.start_decode()
    measured = load.decode(3)
    load.end_decode()
    assert [step.bucket for step in measured.steps] == ["decode_2"] * 3
    for i, step in enumerate(measured.steps):
        assert (step.num_tokens, step.num_rows, len(step.positions)) == (2, 2, 2)
        assert step.contexts.tolist() == (step.positions + 1).tolist()
        grown = step.contexts - measured.steps[0].contexts
        assert grown.tolist() == [i, i]


def test_a_batch_that_ends_before_it_is_measured_is_an_error(load, monkeypatch):
    monkeypatch.setattr(load, "_answer", 1)
    with pytest.raises(RuntimeError, match="some of 2 requests ended before all of them decoded"):
        load.start_decode()


def test_weights_are_all_counted_once(load):
    by_scope = weight_bytes([load.runner.decoder, load.runner.head])
    assert sum(by_scope.values()) == load.engine.info.weight_bytes
    assert by_scope.keys() == {"embedding", "norm", "qkv", "attention_out", "mlp", "lm_head"}


def test_a_weight_of_no_scope_is_refused():
    leaf = np.zeros(1)
    unknown = Part(None, jax.tree.structure({"mystery": leaf}), [leaf], [])
    with pytest.raises(ValueError, match="mystery"):
        weight_bytes([unknown])


def test_a_decode_step_reads_each_context_once(load):
    def attention(*contexts):
        step = Step("decode_2", 2, 2, np.array(contexts) - 1, np.array(contexts), 2)
        return step_work(load.config, step, load.sizes)["attention"].num_bytes

    per_token = kv_bytes_per_token(load.config, load.sizes.kv)
    assert attention(100, 30) - attention(10, 10) == 110 * per_token


def products(module):
    """Operations of the matrix products of a program, by the scope of what runs them."""
    flops = dict.fromkeys(ALL_SCOPES, 0)
    for runs in module.scheduled:
        inside = [i for name in runs.called for i in module.computations.get(name, ())]
        for instruction in (runs, *inside):
            if instruction.opcode == "dot":
                left = re.search(r"dot\(%?([\w.\-]+)", instruction.rest)[1]
                contracted = re.search(r"lhs_contracting_dims={([\d,]+)}", instruction.rest)[1]
                sizes = dims(module.by_name[left].shape)
                terms = math.prod(sizes[int(axis)] for axis in contracted.split(","))
                flops[module.scope(runs)] += 2 * math.prod(dims(instruction.shape)) * terms
    return flops


def dims(shape):
    return [int(size) for size in re.search(r"\[([\d,]*)\]", shape)[1].split(",")]


@pytest.mark.parametrize("scope", ["qkv", "attention_out", "mlp"])
def test_operations_are_those_of_the_compiled_products(load, scope):
    for bucket, program in load.runner.programs.forward.items():
        none = np.empty(0, np.int64)
        step = Step(bucket.name, bucket.num_tokens, 0, none, none, bucket.num_tokens)
        module = program_facts(program, pool_shape=(1,)).module
        assert step_work(load.config, step, load.sizes)[scope].flops == products(module)[scope]


def test_tokens_that_the_last_layer_leaves_out_are_not_counted(load):
    none = np.empty(0, np.int64)
    all_of_them, few = (
        step_work(load.config, Step("prefill_512", 512, 0, none, none, last), load.sizes)
        for last in (512, 66)
    )
    layers = load.config.num_layers
    for scope in ("mlp", "attention_out"):
        share = ((layers - 1) * 512 + 66) / (layers * 512)
        assert few[scope].flops == pytest.approx(share * all_of_them[scope].flops)
    assert few["qkv"] == all_of_them["qkv"]
    assert few["norm"].num_bytes < all_of_them["norm"].num_bytes


def test_xla_counts_products_and_little_else(load):
    program = load.runner.programs.forward[load.engine.buckets.all[0]]
    facts = program_facts(program, pool_shape=(1,))
    assert sum(products(facts.module).values()) <= facts.flops


def test_xla_knows_nothing_of_programs_with_kernels_of_ours(load):
    program = load.runner.programs.forward[load.engine.buckets.all[0]]

    class WithKernel:
        cost_analysis, memory_analysis = program.cost_analysis, program.memory_analysis

        def as_text(self):
            call = '  %k.1 = f32[2]{0} custom-call(), custom_call_target="mosaic_gpu_v2"\n'
            before, entry, after = program.as_text().partition("\nENTRY")
            head, _, body = after.partition("\n")
            return before + entry + head + "\n" + call + body

    facts = program_facts(WithKernel(), pool_shape=(1,))
    assert facts.flops is None and facts.num_bytes is None
    assert facts.kernels == program_facts(program, pool_shape=(1,)).kernels + 1


def test_the_numbers_of_the_ceiling_stay_numbers():
    multiply, product = square_product(256, "bfloat16")
    for _ in range(40):
        product = multiply(product)
    assert 0.1 < float(jnp.std(product.astype(jnp.float32))) < 10


def test_total_work_is_the_sum(load):
    one = {scope: Work(1.0, 2.0) for scope in SCOPES}
    assert total_work([one, one])["mlp"] == Work(2.0, 4.0)


def test_a_report_has_every_bucket_in_place_and_run(started, load):
    reports = report_buckets(load, started.log, steps=2)
    assert [r.name for r in reports] == [b.name for b in load.engine.buckets.all]
    for report in reports:
        assert report.in_place and report.facts.kernels > 10
        assert report.making.compile > 0
        assert report.measured is not None and report.least is not None
        assert {step.bucket for step in report.measured.steps} == {report.name}


def test_a_step_that_beats_its_roofline_contradicts_it(ceilings):
    def report(seconds):
        work = {scope: Work() for scope in SCOPES} | {"mlp": Work(1e9, 1e11)}
        step = Step("decode_2", 2, 2, np.arange(2), np.arange(2), 2)
        measured = Measured([step], [seconds])
        return BucketReport("decode_2", Making(), None, True, work, measured)

    assert report(1.0).roofline(ceilings) == pytest.approx(1.0)  # its bytes take longer
    assert not report(1 - TOLERANCE / 2).contradicts(ceilings)
    assert report(1 - TOLERANCE * 2).contradicts(ceilings)


def test_the_roofline_is_the_longer_of_bytes_and_operations():
    ceilings = Ceilings(bytes_per_second=10, flops_per_second=100, dtype="float32")
    assert ceilings.seconds(50, 100) == 5
    assert ceilings.seconds(10, 500) == 5


def test_ceilings_are_measured():
    found = measure_ceilings("float32", copy_bytes=2**16, side=32)
    assert found.bytes_per_second > 0 and found.flops_per_second > 0
    assert product_dtype("int8") == "float32" and product_dtype("bfloat16") == "bfloat16"


@pytest.mark.parametrize(("batch", "context"), [(0, 8), (2, 0)])
def test_an_empty_load_is_refused(batch, context):
    with pytest.raises(ValueError, match="at least 1"):
        Workload("demo", batch=batch, context=context, steps=1)


def test_a_batch_that_does_not_fit_the_cache_is_refused():
    check_room(2, 100, 200)
    with pytest.raises(ValueError, match="need 300 tokens of KV cache, and 200 fit"):
        check_room(3, 100, 200)
