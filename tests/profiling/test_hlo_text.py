"""HLO text is read into instructions that know their scope."""

import re

import pytest

from profiling.hlo_diff import diff_modules
from profiling.hlo_text import parse_hlo
from profiling.scopes import is_copy, scope_of

TEXT = """HloModule jit_forward_decode_2, is_scheduled=true

%fused (p.1: f32[2,4], p.2: f32[4]) -> f32[2,4] {
  %p.1 = f32[2,4]{1,0} parameter(0)
  %p.2 = f32[4]{0} parameter(1)
  %b.1 = f32[2,4]{1,0} broadcast(%p.2), dimensions={1}, metadata={op_name="jit(f)/norm/mul"}
  ROOT %m.1 = f32[2,4]{1,0} multiply(%p.1, %b.1), metadata={op_name="jit(f)/norm/mul"}
}

%body (s: (s32[], f32[2,4])) -> (s32[], f32[2,4]) {
  %s = (s32[], /*index=1*/f32[2,4]{1,0}) parameter(0)
  %g = f32[2,4]{1,0} get-tuple-element(%s), index=1
  %e.7 = f32[2,4]{1,0} exponential(%g), metadata={op_name="jit(f)/attention/while/body/exp"}
  ROOT %t = (s32[], f32[2,4]{1,0}) tuple(%s, %e.7)
}

%cond (s.2: (s32[], f32[2,4])) -> pred[] {
  %s.2 = (s32[], f32[2,4]{1,0}) parameter(0)
  ROOT %c = pred[] constant(false)
}

ENTRY %main (x: f32[2,4], w: f32[4]) -> f32[2,4] {
  %x = f32[2,4]{1,0} parameter(0), metadata={op_name="x"}
  %w = f32[4]{0} parameter(1), metadata={op_name="w"}
  %fusion.3 = f32[2,4]{1,0} fusion(%x, %w), kind=kLoop, calls=%fused
  %while.1 = (s32[], f32[2,4]{1,0}) while(%fusion.3), condition=%cond, body=%body
  %copy.5 = f32[2,4]{1,0} copy(%fusion.3)
  ROOT %d.2 = f32[2,4]{1,0} dot(%copy.5, %w), metadata={op_name="jit(f)/jit(run)/mlp/dot;add"}
}
"""


@pytest.fixture
def module():
    return parse_hlo(TEXT)


def test_what_runs_is_the_entry_and_the_bodies_of_its_loops(module):
    assert [i.name for i in module.scheduled] == ["fusion.3", "e.7", "copy.5", "d.2"]


def test_the_innermost_scope_of_a_path_counts(module):
    scopes = {i.name: module.scope(i) for i in module.scheduled}
    assert scopes == {"fusion.3": "norm", "e.7": "attention", "copy.5": "other", "d.2": "mlp"}


def test_shapes_of_tuples_are_whole(module):
    assert module.by_name["s"].shape == "(s32[], /*index=1*/f32[2,4]{1,0})"
    assert module.by_name["s"].opcode == "parameter"


def test_kernels_are_found_by_the_names_they_have_on_a_gpu(module):
    assert module.kernel_names["fusion_3"] is module.by_name["fusion.3"]


def test_text_that_is_no_module_is_refused():
    with pytest.raises(ValueError, match="not the text of an HLO module"):
        parse_hlo("ENTRY nonsense")


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("jit(forward_decode_4)/jit(run)/attention/kv_write/select_n", "kv_write"),
        ("jit(sample_2)/lm_head/norm/mul", "norm"),
        ("jit(f)/mlp/dot_general;jit(f)/norm/mul", "mlp"),
        ("jit(forward)/gather", "other"),
        ("", "other"),
    ],
)
def test_scopes_are_the_words_of_the_code(path, scope):
    assert scope_of(path) == scope


def test_copies_are_known_by_their_names():
    assert is_copy("MemcpyD2H") and is_copy("copy.12") and not is_copy("fusion_copy")


def test_a_program_does_not_differ_from_itself_under_other_names(module):
    renamed = parse_hlo(TEXT.replace("fusion.3", "fusion.9").replace("%m.1", "%m.8"))
    assert diff_modules(module, renamed) == "no difference"


def test_a_changed_fusion_is_removed_and_added(module):
    changed = parse_hlo(TEXT.replace("multiply(%p.1, %b.1)", "add(%p.1, %b.1)"))
    removed, added = diff_modules(module, changed).splitlines()
    assert removed.startswith("- 1 × kLoop") and removed.endswith("broadcast, multiply")
    assert added.startswith("+ 1 × kLoop") and added.endswith("broadcast, add")


def test_operations_are_counted_by_kind(module):
    changed = parse_hlo(TEXT.replace("copy(%fusion.3)", "negate(%fusion.3)"))
    lines = diff_modules(module, changed).splitlines()
    assert [line.split()[0] for line in lines] == ["copy", "negate"]
    assert "(-1)" in lines[0] and "(+1)" in lines[1]


GPU_TEXT = """HloModule jit_sample_greedy_2, is_scheduled=true

%gemm (p: bf16[2,4]) -> bf16[2,4] {
  ROOT %p = bf16[2,4]{1,0} parameter(0)
}

%left (l: f32[2]) -> f32[2] {
  %l = f32[2]{0} parameter(0)
  ROOT %n.1 = f32[2]{0} negate(%l)
}

ENTRY %main (x: bf16[2,4], y: f32[2]) -> bf16[2,4] {
  %x = bf16[2,4]{1,0} parameter(0)
  %y = f32[2]{0} parameter(1)
  %fusion.1 = bf16[2,4]{1,0} fusion(%x), kind=kCustom, calls=%gemm, backend_config={"fusion_backend_config":{"kind":"__triton","num_warps":"4"}}
  %mpmd_map.7 = f32[2,8]{1,0} custom-call(%x, %y), custom_call_target="mosaic_gpu_v2", operand_layout_constraints={bf16[2,4]{1,0}, f32[2]{0}}, metadata={op_name="jit(f)/mlp/jit(few)/few_rows/mpmd_map"}, backend_config={module = "ML"}
  %topk.1 = (f32[2,3]{1,0}, s32[2,3]{1,0}) custom-call(%mpmd_map.7), custom_call_target="__gpu$TopK"
  ROOT %choice = f32[2]{0} conditional(%y, %y), branch_computations={%left, %left}
}
"""  # noqa: E501


def test_the_tiles_that_tuning_chose_count():
    module, other = parse_hlo(GPU_TEXT), parse_hlo(GPU_TEXT.replace('"4"', '"8"'))
    removed, added, note = diff_modules(module, other).splitlines()
    assert removed.startswith("- 1 × kCustom") and '"num_warps":"4"' in removed
    assert added.startswith("+ 1 × kCustom") and "not by what they do" in note


def test_kernels_count_by_name_and_shapes():
    module = parse_hlo(GPU_TEXT)
    renumbered = GPU_TEXT.replace("mpmd_map.7", "mpmd_map.12").replace('"ML"', '"MK"')
    assert diff_modules(module, parse_hlo(renumbered)).startswith("no difference")
    split = parse_hlo(GPU_TEXT.replace("%mpmd_map.7 = f32[2,8]", "%mpmd_map.7 = f32[4,2,8]"))
    found = diff_modules(module, split)
    assert re.search(r"few_rows \(bf16\[2,4\], f32\[2\]\) → f32\[2,8\] .*\(-1\)", found)
    assert re.search(r"few_rows .* → f32\[4,2,8\] .*\(\+1\)", found)


def test_branches_run_and_what_has_no_path_in_a_choice_is_sampling():
    module = parse_hlo(GPU_TEXT)
    scopes = {i.name: module.scope(i) for i in module.scheduled}
    assert scopes["mpmd_map.7"] == "mlp"
    assert scopes["topk.1"] == scopes["n.1"] == "sampling"


def test_long_lists_of_fusions_are_cut(module):
    changed = parse_hlo(TEXT.replace("multiply(%p.1, %b.1)", "add(%p.1, %b.1)"))
    assert "and 1 other fusions" in diff_modules(module, changed, top=0)
