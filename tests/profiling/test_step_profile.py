"""Events are summed by scope, and waiting is told from working."""

import pytest

from profiling.events import Event, read_events
from profiling.hlo_text import parse_hlo
from profiling.kernel_resources import NOT_ON_CPU, resource_table
from profiling.scopes import COPIES, OTHER
from profiling.step_profile import busy_time, modules_of, summarise

HLO = """HloModule jit_f

%body (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  ROOT %exp.1 = f32[2]{0} exponential(%p), metadata={op_name="jit(f)/attention/exp"}
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %x = f32[2]{0} parameter(0)
  %while.1 = f32[2]{0} while(%x), condition=%body, body=%body
  %copy.1 = f32[2]{0} copy(%x)
  ROOT %add_fusion.2 = f32[2]{0} add(%x, %x), metadata={op_name="jit(f)/mlp/add"}
}
"""
MODULES = {"jit_f": parse_hlo(HLO)}


def event(name, start, end, *, op=None, module="jit_f", run="1", details=""):
    op = name if op is None else op
    return Event(name, op, module, run, "Stream #1", start * 1e9, end * 1e9, details)


def test_events_are_summed_by_the_scope_of_their_operation():
    profile = summarise(
        [event("exp.1", 0, 2), event("exp.1", 2, 4), event("add_fusion.2", 4, 5)], MODULES
    )
    assert profile.scopes["attention"].seconds == pytest.approx(4)
    assert profile.scopes["attention"].count == 2
    assert profile.scopes["mlp"].seconds == pytest.approx(1)
    assert profile.kernels["attention", "exp"].count == 2
    assert profile.kernels_per_layer(num_layers=3, num_steps=1) == 1


def test_a_loop_is_its_body():
    profile = summarise([event("while.1", 0, 4), event("exp.1", 1, 2)], MODULES)
    assert profile.scopes.keys() == {"attention"}


def test_a_kernel_without_an_operation_is_found_by_its_name():
    profile = summarise([event("add_fusion_2", 0, 1, op="", module="")], MODULES)
    assert profile.scopes.keys() == {"mlp"}


def test_pallas_kernels_in_a_graph_are_told_apart_by_their_order():
    call = 'custom-call(%x), custom_call_target="mosaic_gpu_v2", metadata={op_name="jit(f)'
    lines = [
        f'  %c.{i} = f32[2]{{0}} {call}/{scope}/jit(product)/product/mpmd_map"}}\n'
        for i, scope in enumerate(("qkv", "mlp", "mlp"))
    ]
    module = parse_hlo(HLO.replace("  %copy.1", "".join(lines) + "  %copy.1"))
    kernel = "product_mosaic_gpu_kernel"
    events = [event(kernel, i, i + 0.5, op="command_buffer_1") for i in range(6)]
    profile = summarise(events[::-1], {"jit_f": module})
    assert {name: share.count for name, share in profile.scopes.items()} == {"qkv": 2, "mlp": 4}
    # one that is missing: nobody knows which
    assert summarise(events[1:], {"jit_f": module}).scopes.keys() == {OTHER}
    named = [event(kernel, 0, 1, op="c.1")]
    assert summarise(named, {"jit_f": module}).scopes.keys() == {"mlp"}


def test_kernels_of_libraries_in_a_graph_are_told_apart_by_their_order():
    lines = [
        f'  %g.{i} = f32[2]{{0}} custom-call(%x), custom_call_target="__cublas$gemm", '
        f'metadata={{op_name="jit(f)/{scope}/dot_general"}}\n'
        for i, scope in enumerate(("qkv", "mlp"))
    ]
    module = parse_hlo(HLO.replace("  %copy.1", "".join(lines) + "  %copy.1"))
    names = ["nvjet_tst_64x8", "add_fusion_2", "memcpy32_post", "nvjet_tst_128x8"]
    events = [event(name, i, i + 0.5, op="command_buffer") for i, name in enumerate(names)]
    profile = summarise(events, {"jit_f": module})
    assert profile.scopes["mlp"].count == 2
    assert profile.scopes.keys() == {"qkv", "mlp", COPIES}
    assert summarise(events[:1], {"jit_f": module}).scopes.keys() == {OTHER}


def test_what_no_program_has_is_a_copy_or_other():
    events = [event("MemcpyD2H", 0, 1, op="", module=""), event("gemm", 1, 2, op="", module="")]
    assert summarise(events, MODULES).scopes.keys() == {COPIES, OTHER}
    assert summarise([event("copy.1", 0, 1)], MODULES).scopes.keys() == {COPIES}


def test_gaps_are_told_apart_by_the_execution():
    busy = busy_time(
        [
            event("a", 0, 2),
            event("b", 1, 3),  # beside the first: counted once
            event("c", 4, 5),  # a gap of 1 within
            event("d", 7, 8, run="2"),  # a gap of 2 between
        ]
    )
    assert (busy.window, busy.busy) == pytest.approx((8, 5))
    assert (busy.within, busy.between) == pytest.approx((1, 2))


def test_a_trace_without_kernels_is_refused():
    with pytest.raises(ValueError, match="no kernel"):
        summarise([], MODULES)


def test_a_folder_without_a_trace_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no trace"):
        read_events(tmp_path)


def test_a_trace_without_a_device_is_refused(tmp_path):
    (tmp_path / "empty.xplane.pb").write_bytes(b"")
    with pytest.raises(ValueError, match="no events of a device"):
        read_events(tmp_path)


def test_programs_are_counted_by_their_events():
    assert modules_of([event("a", 0, 1), event("b", 1, 2, module="")]) == {"jit_f": 1}


def test_kernels_tell_their_resources_where_they_have_any():
    details = "regs:32 static_shared:0 dynamic_shared:1024 grid:8,1,1 block:128,1,1 occ_pct:50"
    shown = resource_table([event("kernel", 0, 1, details=details)], 5)
    assert shown.splitlines()[-1].split() == ["kernel", "32", "0", "1024", "8,1,1", "128,1,1", "50"]
    assert resource_table([event("kernel", 0, 1)], 5) == NOT_ON_CPU
