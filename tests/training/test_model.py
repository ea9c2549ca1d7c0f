"""The forward in training is the forward that serves, and a few steps of it learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from models.config import model_config
from models.gguf_file import open_gguf
from models.load import load_model
from models.mesh import make_mesh
from pallas_kernels.multiply import multiply
from training.data import Encoder, make_rows
from training.export import write_model
from training.model import (
    config_of,
    dense_attention,
    init_params,
    logits_of,
    loss_of,
    multiply_trained,
    stacked_shapes,
    tensors_of,
)
from training.optimizer import Schedule, make_optimizer
from training.train import flops_per_token, make_trainer

CONFIG = config_of("toy")


def random_params():
    """With biases and norms that are not those of the start."""
    params = init_params(CONFIG, 1)
    return {
        role: values + 0.05 * jax.random.normal(jax.random.key(i), values.shape)
        for i, (role, values) in enumerate(params.items())
    }


def logits(params, rows):
    return logits_of(CONFIG, params, rows, dtype=jnp.dtype("float32"), implementation="xla")


def test_a_file_gives_the_logits_of_training(tmp_path, tokenizer):
    params = random_params()
    rows = np.random.default_rng(0).integers(0, 512, (2, CONFIG.context_length))
    file = open_gguf(write_model(tmp_path / "m.gguf", CONFIG, params, tokenizer, Type.F32))
    config = model_config(file)
    assert (config.num_layers, config.num_kv_heads, config.head_dim) == (2, 2, 64)
    model = load_model(file, config, make_mesh(1), dtype="float32")
    attention = dense_attention(rows.shape[1], "xla")
    positions = jnp.tile(jnp.arange(rows.shape[1]), 2)
    hidden, _ = model.decoder(jnp.asarray(rows).reshape(-1), positions, attention, None)
    # float32 sums in another order
    np.testing.assert_allclose(model.head(hidden), logits(params, jnp.asarray(rows)), atol=2e-4)


def test_every_parameter_is_a_tensor_of_the_file():
    tensors = tensors_of(init_params(CONFIG, 0))
    assert len(tensors) == 12 * CONFIG.num_layers + 2
    assert tensors["blk.1.ffn_down.weight"].shape == (256, 256)


def test_a_row_does_not_see_another():
    rows = jnp.asarray(np.random.default_rng(0).integers(0, 512, (2, 128)))
    params = random_params()
    alone = logits(params, rows[1:])
    np.testing.assert_allclose(logits(params, rows)[128:], alone, atol=1e-4)


def test_the_product_has_the_gradient_of_the_plain_one():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(8, 32)), jnp.float32)
    matrix = jnp.asarray(rng.normal(size=(6, 32)), jnp.float32)

    def total(product, x, matrix):
        return (product(x, matrix) * jnp.arange(6)).sum()

    for argument in (1, 2):
        ours = jax.grad(total, argument)(multiply_trained, x, matrix)
        plain = jax.grad(total, argument)(multiply, x, matrix)
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-5)


def test_gradients_of_bf16_are_near_those_of_f32():
    rows = jnp.asarray(np.random.default_rng(0).integers(0, 512, (2, 129)))

    def loss(params, dtype):
        found = logits_of(
            CONFIG, params, rows[:, :-1], dtype=jnp.dtype(dtype), implementation="xla"
        )
        return loss_of(found, rows[:, 1:].reshape(-1)).mean()

    params = random_params()
    gradient = jax.jit(jax.grad(loss), static_argnames="dtype")
    exact, rounded = (gradient(params, dtype) for dtype in ("float32", "bfloat16"))
    for role, values in exact.items():
        assert rounded[role].dtype == jnp.float32
        error = jnp.linalg.norm(values - rounded[role]) / jnp.linalg.norm(values)
        assert error < 0.05, role  # bf16 has 8 bits


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_some_steps_lower_the_loss(documents, tokenizer, kind):
    rows = make_rows(documents, Encoder(tokenizer), length=129, seed=(0,))[:40].astype(np.int32)
    params = init_params(CONFIG, 0)
    optimizer = make_optimizer(kind, params)
    state = optimizer.init(params)
    trainer = make_trainer(CONFIG, optimizer, dtype="float32", attention="xla")
    losses = []
    for start in range(0, 40, 4):
        params, state, loss, norm = trainer.step(params, state, rows[start : start + 4], 0.3)
        losses.append(float(loss))
    assert losses[0] == pytest.approx(np.log(512), rel=0.05)
    assert losses[-1] < losses[0] - 1
    assert np.isfinite(norm)


def test_another_optimizer_is_refused():
    with pytest.raises(ValueError, match="optimizer must be adamw or muon, got 'sgd'"):
        make_optimizer("sgd", init_params(CONFIG, 0))


def test_every_parameter_is_updated():
    params = random_params()
    gradient = jax.tree.map(jnp.ones_like, params)
    optimizer = make_optimizer("muon", params)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    assert updates.keys() == params.keys()
    assert all(float(jnp.abs(update).max()) > 0 for update in updates.values())


def test_the_rate_warms_up_stays_and_comes_to_zero():
    schedule = Schedule(seconds=100.0)
    rates, step = [], 0
    while not schedule.is_over(step, 0.1 * step):
        rates.append(schedule.rate(step, 0.1 * step))
        step += 1
    assert rates[0] < 0.01 and rates[300] == 1.0 and rates[699] == 1.0
    assert 0 < rates[-1] < 0.01
    assert 980 <= step <= 1_000


def test_a_run_that_slows_down_still_ends():
    schedule = Schedule(seconds=100.0)
    for step in range(0, 800):
        schedule.rate(step, 0.1 * step)
    assert schedule.is_over(801, 104.0)


def test_the_demonstration_model_fits():
    config = config_of("demo")
    shapes = stacked_shapes(config)
    parameters = sum(int(np.prod(shape)) for shape in shapes.values())
    assert parameters * 34 / 32 < 16 * 2**20 - 200_000  # Q8_0, and room for the vocabulary
    for role, shape in shapes.items():
        assert len(shape) < 2 or role.endswith((".bias", "norm.weight")) or shape[-1] % 256 == 0
    assert config.head_dim == 64 and config.num_kv_heads == 2
    # a multiply and an add forward, twice that backward
    assert flops_per_token(config) > 6 * parameters
