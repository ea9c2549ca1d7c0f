"""A file's tensors become a model: all of them, each with its shape, whatever their type."""

from dataclasses import dataclass

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.make_gguf import write_gguf
from models import tensor_reader
from models.config import ModelConfig, model_config
from models.dequantize import ON_DEVICE, ON_HOST
from models.errors import ModelFileError
from models.gguf_file import GGUFFile, TensorInfo, open_gguf
from models.load import check_tensors, expected_shapes, load_model
from models.mesh import make_mesh
from models.tensor_reader import TensorReader
from models.weights import Dense, Int8

Type = gguf.GGMLQuantizationType

CONFIG = ModelConfig(
    architecture="qwen2", name="toy", num_layers=2, width=32, num_heads=4, num_kv_heads=2,
    head_dim=8, ffn_width=256, vocab_size=13, context_length=64, rms_eps=1e-6, rope_theta=1e4,
    rope_scaling=None, tied_embeddings=False,
)  # fmt: skip


def values_of(name: str, shape: tuple[int, ...]) -> np.ndarray:
    seed = sum(name.encode())
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def tensor(name: str, shape: tuple[int, ...], kind: Type = Type.F32) -> TensorInfo:
    data = gguf.quants.quantize(values_of(name, shape), kind)
    rows = int(np.prod(shape[:-1]))
    return TensorInfo(name, shape, kind, data.view(np.uint8).reshape(rows, -1))


def toy_file(tmp_path, config=CONFIG, **kinds: Type) -> GGUFFile:
    """All tensors of the toy; `kinds` by the name's last part before ".weight"."""
    tensors = {
        name: tensor(name, shape, kinds.get(name.removesuffix(".weight").split(".")[-1], Type.F32))
        for name, shape in expected_shapes(config).items()
    }
    num_bytes = sum(item.num_bytes for item in tensors.values())
    return GGUFFile(tmp_path / "toy.gguf", {}, tensors, num_bytes)


def load(file: GGUFFile, dtype: str = "float32", config=CONFIG):
    return load_model(file, config, make_mesh(1), dtype=dtype)


def test_a_whole_file_passes(tmp_path):
    check_tensors(toy_file(tmp_path), CONFIG)


@pytest.mark.parametrize("name", expected_shapes(CONFIG))
def test_each_missing_tensor_is_named(tmp_path, name):
    file = toy_file(tmp_path)
    del file.tensors[name]
    with pytest.raises(ModelFileError) as caught:
        load(file)
    assert str(caught.value) == f"{file.path}: tensors: 1 wrong tensors: {name} is missing"


@pytest.mark.parametrize(
    "name", [name for name, shape in expected_shapes(CONFIG).items() if len(set(shape)) == 2]
)
def test_each_transposed_tensor_is_named(tmp_path, name):
    file = toy_file(tmp_path)
    shape = expected_shapes(CONFIG)[name]
    file.tensors[name] = tensor(name, shape[::-1])
    with pytest.raises(ModelFileError) as caught:
        load(file)
    assert f"{name} has shape {shape[::-1]}, expected {shape}" in str(caught.value)


@pytest.mark.parametrize("name", ["blk.2.attn_q.weight", "rope_freqs.weight", "blk.0.attn_q.scale"])
def test_a_tensor_too_many_is_named(tmp_path, name):
    file = toy_file(tmp_path)
    file.tensors[name] = tensor(name, (4,))
    with pytest.raises(ModelFileError, match=f"1 wrong tensors: {name} is not part of qwen2"):
        load(file)


def test_a_renamed_tensor_is_named_twice(tmp_path):
    file = toy_file(tmp_path)
    file.tensors["blk.0.attn_k.wait"] = file.tensors.pop("blk.0.attn_k.weight")
    with pytest.raises(ModelFileError) as caught:
        load(file)
    assert "2 wrong tensors" in str(caught.value)
    assert "blk.0.attn_k.weight is missing" in str(caught.value)
    assert "blk.0.attn_k.wait is not part of qwen2" in str(caught.value)


def test_of_many_wrong_tensors_eight_are_shown(tmp_path):
    file = toy_file(tmp_path)
    file.tensors.clear()
    with pytest.raises(ModelFileError, match="27 wrong tensors: .*; …$") as caught:
        load(file)
    assert str(caught.value).count("is missing") == 8


def weights_of(model) -> dict[str, object]:
    layer = model.decoder.layers[1]
    return {
        "qkv": layer.attn.qkv,
        "out": layer.attn.out,
        "gate_up": layer.mlp.gate_up,
        "down": layer.mlp.down,
        "head": model.head.weight,
    }


def meant() -> dict[str, np.ndarray]:
    """The matrices of layer 1 as they must act: rows of output, by hand from the file's tensors."""
    get = lambda name, *shape: values_of(f"blk.1.{name}.weight", shape)  # noqa: E731
    q, k, v = get("attn_q", 32, 32), get("attn_k", 16, 32), get("attn_v", 16, 32)
    by_kv_head = [
        np.concatenate([q[16 * i : 16 * i + 16], k[8 * i : 8 * i + 8], v[8 * i : 8 * i + 8]])
        for i in range(2)
    ]
    return {
        "qkv": np.concatenate(by_kv_head),
        "out": get("attn_output", 32, 32),
        "gate_up": np.concatenate([get("ffn_gate", 256, 32), get("ffn_up", 256, 32)]),
        "down": get("ffn_down", 32, 256),
        "head": values_of("output.weight", (13, 32)),
    }


# by rounding of the values: none, 8 bits of mantissa, a 254th of a row's peak
@pytest.mark.parametrize(
    ("dtype", "kind", "tolerance"),
    [("float32", Dense, 1e-6), ("bfloat16", Dense, 2**-8), ("int8", Int8, 5e-3)],
)
def test_matrices_are_joined_as_the_products_need(tmp_path, dtype, kind, tolerance):
    model = load(toy_file(tmp_path), dtype)
    for name, weight in weights_of(model).items():
        want = meant()[name]
        assert isinstance(weight, kind), name
        got = weight.product(jnp.eye(want.shape[1], dtype=jnp.float32)).T
        np.testing.assert_allclose(got, want, atol=tolerance * np.abs(want).max(), err_msg=name)
    activations = jnp.bfloat16 if dtype == "bfloat16" else jnp.float32
    assert model.decoder.embedding[...].dtype == activations
    bias = np.concatenate(
        [
            np.concatenate(
                [values_of(f"blk.1.attn_{x}.bias", (n,)).reshape(2, -1)[i] for x, n in
                 (("q", 32), ("k", 16), ("v", 16))]
            )
            for i in range(2)
        ]
    )  # fmt: skip
    assert np.array_equal(model.decoder.layers[1].attn.bias[...].reshape(-1), bias)
    norms = (model.decoder.layers[1].attn_norm, "blk.1.attn_norm"), (model.head.norm, "output_norm")
    for norm, name in norms:
        assert np.array_equal(norm.scale[...], values_of(f"{name}.weight", (32,)))
        assert norm.scale[...].dtype == jnp.float32


def test_tied_embeddings_are_the_head(tmp_path):
    from dataclasses import replace

    tied = replace(CONFIG, tied_embeddings=True)
    model = load(toy_file(tmp_path, tied), config=tied)
    assert np.array_equal(model.head.weight.values[...], model.decoder.embedding[...])


@pytest.mark.parametrize("kind", [Type.F16, Type.BF16, Type.Q4_0, Type.Q8_0, Type.TQ2_0])
def test_every_type_is_read_as_gguf_reads_it(tmp_path, kind):
    file = toy_file(tmp_path, ffn_down=kind)
    assert (kind in ON_HOST) == (kind is Type.TQ2_0) != (kind in ON_DEVICE)
    model = load(file)
    raw = file.tensors["blk.1.ffn_down.weight"]
    want = gguf.quants.dequantize(raw.data, kind)
    down = model.decoder.layers[1].mlp.down
    np.testing.assert_allclose(down.values[...], want.reshape(32, 256), rtol=1e-6)


def test_tensors_of_different_types_are_joined(tmp_path):
    file = toy_file(tmp_path, attn_q=Type.Q8_0, attn_k=Type.F16)
    model = load(file)
    got = model.decoder.layers[1].attn.qkv.product(jnp.eye(32)).T
    np.testing.assert_allclose(got, meant()["qkv"], atol=5e-3)


def test_an_unknown_type_is_refused(tmp_path):
    file = toy_file(tmp_path)
    odd = file.tensors["blk.0.ffn_up.weight"]
    file.tensors[odd.name] = TensorInfo(odd.name, odd.shape, Type.I32, odd.data)
    with pytest.raises(ModelFileError, match="I32"):
        load(file)


def test_progress_rises_to_the_end(tmp_path):
    shares: list[float] = []
    load_model(toy_file(tmp_path), CONFIG, make_mesh(1), dtype="float32", progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("ahead", [0, 5000, 1 << 30])
def test_every_tensor_is_sent_once_and_few_before_their_turn(tmp_path, monkeypatch, ahead):
    monkeypatch.setattr(tensor_reader, "AHEAD_BYTES", ahead)
    file, sent, waiting = toy_file(tmp_path), [], []
    send, raw = TensorReader._send, TensorReader._raw
    monkeypatch.setattr(
        TensorReader, "_send", lambda self, name: sent.append(name) or send(self, name)
    )

    def watch(self, names):
        result = raw(self, names)
        waiting.append([self._file.tensors[name].num_bytes for name in self._ahead])
        return result

    monkeypatch.setattr(TensorReader, "_raw", watch)
    load(file)
    assert sorted(sent) == sorted(file.tensors)
    assert all(sum(sizes[:-1]) < max(ahead, 1) for sizes in waiting)  # the last one exceeds it
    assert any(waiting) == (ahead > 0) and waiting[-1] == []


@dataclass
class Sent:
    """A piece on its way, and whether somebody waited for it."""

    nbytes: int
    has_come: bool = False

    def block_until_ready(self):
        self.has_come = True


def test_a_tensor_in_pieces_is_the_same_and_few_are_on_their_way(tmp_path, monkeypatch):
    file = toy_file(tmp_path)
    wanted = jax.tree.leaves(nnx.split(load(file))[1])
    monkeypatch.setattr(tensor_reader, "is_copied", lambda mesh: True)
    monkeypatch.setattr(tensor_reader, "PIECE_BYTES", 1000)
    monkeypatch.setattr(tensor_reader, "AHEAD_BYTES", 3000)
    put, sent, most = TensorReader._put, [], []

    def watch(self, piece):
        array = put(self, piece)
        assert self._on_their_way.pop() is array
        sent.append(Sent(array.nbytes))
        self._on_their_way.append(sent[-1])
        most.append(sum(other.nbytes for other in sent if not other.has_come))
        return array

    monkeypatch.setattr(TensorReader, "_put", watch)
    got = jax.tree.leaves(nnx.split(load(file))[1])
    sizes = [piece.nbytes for piece in sent]
    assert sum(sizes) == file.num_bytes and len(sizes) > 2 * len(file.tensors)
    assert max(sizes) < max(most) <= 3000
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_weight_knows_its_axes(tmp_path):
    for dtype in ("float32", "int8"):
        _, state = nnx.split(load(toy_file(tmp_path), dtype))
        for leaf in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, nnx.Variable)):
            assert len(leaf.get_metadata("axes")) == leaf[...].ndim


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_numbers_that_are_not_finite_are_refused_with_the_tensors_name(tmp_path, dtype):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, size="tiny", tensor_type="Q8_0")
    (offset,) = {
        tensor.data_offset
        for tensor in gguf.GGUFReader(path).tensors
        if tensor.name == "blk.1.ffn_up.weight"
    }
    with path.open("r+b") as file:
        file.seek(int(offset) + 34)  # the scale of the second block
        file.write(np.float16(np.nan).tobytes())
    opened = open_gguf(path)
    with pytest.raises(ModelFileError, match="blk.1.ffn_up.weight.*not finite"):
        load_model(opened, model_config(opened), make_mesh(1), dtype=dtype)
