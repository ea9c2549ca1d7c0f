"""A file in another type is the same model, rounded."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from benchmarks.make_gguf import QUANTISED, write_gguf
from benchmarks.requantize import requantize
from models.gguf_file import open_gguf


def tensors(path):
    reader = gguf.GGUFReader(path)
    return {
        t.name: (t.tensor_type, gguf.quants.dequantize(t.data, t.tensor_type))
        for t in reader.tensors
    }


# largest error of a value, as a share of the largest value of its matrix
ERRORS = {
    Type.F32: 0,
    Type.F16: 1e-3,
    Type.BF16: 4e-3,
    Type.Q8_0: 1e-2,
    Type.Q5_0: 0.1,
    Type.Q5_1: 0.1,
    Type.Q4_0: 0.2,
    Type.Q4_1: 0.2,
}


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_matrices_are_rounded_and_the_rest_is_kept(tmp_path, kind):
    source = write_gguf(tmp_path / "source.gguf", "tiny-tied", "F32")
    target = requantize(source, tmp_path / "target.gguf", kind)
    before, after = tensors(source), tensors(target)
    assert list(before) == list(after)
    for name, (_, values) in before.items():
        stored, rounded = after[name]
        assert stored == (kind if values.ndim > 1 else Type.F32)
        limit = ERRORS[kind] if values.ndim > 1 else 0
        assert np.abs(rounded - values).max() <= limit * np.abs(values).max()


def test_metadata_is_kept_but_for_the_file_type(tmp_path):
    source = write_gguf(tmp_path / "source.gguf", "tiny", "Q8_0")
    target = requantize(source, tmp_path / "target.gguf", Type.Q4_0)
    before, after = open_gguf(source).metadata, open_gguf(target).metadata
    assert before.keys() == after.keys()
    changed = {key for key, value in before.items() if not np.array_equal(value, after[key])}
    assert changed == {"general.file_type"}
    assert after["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q4_0


def test_its_own_type_changes_nothing(tmp_path):
    source = write_gguf(tmp_path / "source.gguf", "tiny", "Q8_0")
    target = requantize(source, tmp_path / "target.gguf", Type.Q8_0)
    assert target.read_bytes() == source.read_bytes()


def test_a_type_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ValueError, match="type must be one of F32, .* got Q4_K"):
        requantize(tmp_path / "a.gguf", tmp_path / "b.gguf", Type.Q4_K)


def test_rows_that_do_not_fit_are_named(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "qwen2")
    writer.add_tensor("odd.weight", np.zeros((2, 40), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="odd.weight has rows of 40"):
        requantize(tmp_path / "odd.gguf", tmp_path / "b.gguf", Type.Q8_0)
