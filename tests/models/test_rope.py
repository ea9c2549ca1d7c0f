"""Rotations keep lengths and depend on distances; long contexts are stretched as published."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from models.config import ModelConfig, RopeScaling
from models.rope import rope_frequencies, rope_tables, rotate


def config(head_dim=128, theta=1e6, scaling=None) -> ModelConfig:
    return ModelConfig(
        architecture="qwen2", name="", num_layers=1, width=head_dim, num_heads=1, num_kv_heads=1,
        head_dim=head_dim, ffn_width=1, vocab_size=1, context_length=32_768, rms_eps=1e-6,
        rope_theta=theta, rope_scaling=scaling, tied_embeddings=True,
    )  # fmt: skip


def scaling(kind, factor=4.0, original=32_768, attn=1.0, ext=1.0, fast=32.0, slow=1.0):
    return RopeScaling(kind, factor, original, attn, ext, fast, slow)


def test_each_pair_turns_slower_by_a_power_of_theta():
    frequencies, magnitude = rope_frequencies(config(head_dim=8, theta=1e4))
    np.testing.assert_allclose(frequencies, [1, 1e-1, 1e-2, 1e-3], rtol=1e-6)
    assert magnitude == 1.0


def test_linear_scaling_divides_every_frequency():
    plain, _ = rope_frequencies(config())
    scaled, magnitude = rope_frequencies(config(scaling=scaling("linear", 4.0)))
    np.testing.assert_allclose(scaled, plain / 4, rtol=1e-6)
    assert magnitude == 1.0


def yarn_by_its_authors(dim, base, scale, original, fast, slow, ext, attn):
    """The formulas of the paper's appendix and code: frequencies, and the factor on cos and sin."""

    def correction_dim(num_rotations):
        return dim * math.log(original / (num_rotations * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(correction_dim(fast)), 0)
    high = min(math.ceil(correction_dim(slow)), dim - 1)
    if low == high:
        high += 0.001
    frequencies = []
    for i in range(dim // 2):
        theta = 1.0 / base ** (2 * i / dim)
        interpolated = min(max((i - low) / (high - low), 0.0), 1.0)
        mask = (1 - interpolated) * ext
        frequencies.append(theta / scale * (1 - mask) + theta * mask)
    return np.array(frequencies), attn * (0.1 * math.log(scale) + 1.0)


@pytest.mark.parametrize(
    ("dim", "base", "factor", "original", "fast", "slow", "ext", "attn"),
    [
        (128, 1e6, 4.0, 32_768, 32.0, 1.0, 1.0, 1.0),
        (64, 1e6, 2.0, 32_768, 32.0, 1.0, 1.0, 1.0),
        (128, 1e4, 16.0, 4_096, 32.0, 1.0, 1.0, 1.0),
        (128, 1e6, 4.0, 32_768, 16.0, 2.0, 0.5, 0.7),
        (64, 1e4, 8.0, 256, 32.0, 1.0, 1.0, 1.0),
        # the slowest pair still turns within the original context: the ramp ends beyond the pairs
        (128, 1e4, 4.0, 131_072, 32.0, 1.0, 1.0, 1.0),
    ],
)
def test_yarn_is_as_published(dim, base, factor, original, fast, slow, ext, attn):
    asked = scaling("yarn", factor, original, attn, ext, fast, slow)
    frequencies, magnitude = rope_frequencies(config(dim, base, asked))
    want, want_magnitude = yarn_by_its_authors(dim, base, factor, original, fast, slow, ext, attn)
    np.testing.assert_allclose(frequencies, want, rtol=1e-6)
    assert magnitude == pytest.approx(want_magnitude)


def test_yarn_keeps_fast_pairs_and_stretches_slow_ones():
    plain, _ = rope_frequencies(config())
    scaled, _ = rope_frequencies(config(scaling=scaling("yarn", 4.0)))
    assert scaled[0] == plain[0]
    assert scaled[-1] == pytest.approx(plain[-1] / 4)
    assert np.all(np.diff(plain / scaled) >= -1e-6)


def test_the_tables_carry_the_magnitude():
    asked = config(scaling=scaling("yarn", 4.0))
    cos, sin = rope_tables(asked, jnp.array([0, 7]))
    _, magnitude = rope_frequencies(asked)
    np.testing.assert_allclose(cos**2 + sin**2, magnitude**2, rtol=1e-5)
    np.testing.assert_allclose(cos[0], magnitude, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 2, 8), (3, 2, 5, 8), (3, 8)])
def test_a_rotation_turns_halves_as_complex_numbers(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    small = config(head_dim=8, theta=100.0)
    positions = jnp.array([0, 3, 11])
    turned = rotate(jnp.asarray(x), *rope_tables(small, positions))
    pairs = x[..., :4] + 1j * x[..., 4:]
    angles = np.outer(positions, 100.0 ** -(np.arange(4) / 4))
    pairs = pairs * np.exp(1j * angles).reshape(3, *(1,) * (x.ndim - 2), 4)
    want = np.concatenate([pairs.real, pairs.imag], axis=-1)
    np.testing.assert_allclose(turned, want, atol=1e-5)
    assert turned.dtype == jnp.float32


def test_scores_depend_on_the_distance_alone():
    rng = np.random.default_rng(1)
    q, k = (jnp.asarray(rng.normal(size=(1, 64)), jnp.float32) for _ in range(2))
    small = config(head_dim=64, theta=1e4)

    def score(at_q, at_k):
        turned = [
            rotate(x, *rope_tables(small, jnp.array([at]))) for x, at in ((q, at_q), (k, at_k))
        ]
        return float((turned[0] * turned[1]).sum())

    for distance in (0, 1, 17, 400):
        here = score(distance, 0)
        assert score(100 + distance, 100) == pytest.approx(here, abs=1e-3)
        assert score(3_000 + distance, 3_000) == pytest.approx(here, abs=1e-2)
    assert score(5, 0) != pytest.approx(score(0, 5), abs=1e-3)
