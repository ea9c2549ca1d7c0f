"""A model is shared by as many devices as divide it, or refused with the numbers that do."""

from dataclasses import replace

import jax
import pytest
from jax.sharding import PartitionSpec

from models.config import ModelConfig
from models.mesh import CACHE_AXES, divides, make_mesh, partition, sharding, tensor_parallel_size

MODEL = ModelConfig(
    architecture="qwen2", name="", num_layers=1, width=64, num_heads=8, num_kv_heads=4, head_dim=8,
    ffn_width=96, vocab_size=10, context_length=64, rms_eps=1e-6, rope_theta=1e4,
    rope_scaling=None, tied_embeddings=True,
)  # fmt: skip


@pytest.mark.parametrize(("num_devices", "size"), [(1, 1), (2, 2), (3, 2), (4, 4), (7, 4), (8, 8)])
def test_by_default_as_many_devices_as_divide_the_model(num_devices, size):
    assert tensor_parallel_size(MODEL, None, num_devices) == size


def test_what_was_asked_for_is_taken():
    assert [tensor_parallel_size(MODEL, n, 8) for n in (1, 2, 4, 8)] == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("asked", "num_devices", "possible"),
    [(3, 8, "1, 2, 4, 8"), (6, 8, "1, 2, 4, 8"), (4, 2, "1, 2")],
)
def test_what_cannot_be_is_refused_with_what_can(asked, num_devices, possible):
    with pytest.raises(ValueError) as caught:
        tensor_parallel_size(MODEL, asked, num_devices)
    assert str(caught.value) == (
        f"tensor_parallel_size must be one of {possible}, got {asked}: there are {num_devices} "
        "devices, and the model has 4 kv heads and a feed-forward width of 96"
    )


def test_heads_and_feed_forward_must_both_divide():
    assert divides(MODEL, 4)
    assert not divides(replace(MODEL, ffn_width=98), 4)
    assert divides(replace(MODEL, num_kv_heads=2), 4), "two devices hold each"
    assert not divides(replace(MODEL, num_kv_heads=3), 4)


def test_logical_axes_say_where_an_array_is_cut():
    assert partition(CACHE_AXES) == PartitionSpec(None, None, "tp", None, None)
    assert partition((None, "ffn")) == PartitionSpec(None, "tp")
    assert partition(("vocab", None)) == PartitionSpec("tp", None)
    with pytest.raises(KeyError):
        partition(("unheard-of",))


def test_the_mesh_is_the_first_devices():
    mesh = make_mesh(1)
    assert mesh.shape == {"tp": 1}
    assert mesh.devices.tolist() == jax.devices()[:1]
    assert sharding(mesh, ("ffn",)).mesh == mesh
