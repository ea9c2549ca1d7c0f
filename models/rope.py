"""Rotary position embedding with the linear and YaRN scalings of GGUF."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from models.config import ModelConfig, RopeScaling


def rope_frequencies(config: ModelConfig) -> tuple[np.ndarray, float]:
    """Angle per position of each pair, [H / 2] float32, and the factor on sine and cosine."""
    half = config.head_dim // 2
    plain = config.rope_theta ** -(np.arange(half, dtype=np.float64) / half)
    scaling = config.rope_scaling
    if scaling is None:
        return plain.astype(np.float32), 1.0
    if scaling.type == "linear":
        return (plain / scaling.factor).astype(np.float32), 1.0
    return _yarn(plain, scaling, config)


def _yarn(plain: np.ndarray, scaling: RopeScaling, config: ModelConfig) -> tuple[np.ndarray, float]:
    """Fast pairs keep their angle, slow ones are interpolated, with a ramp between.

    Source: Peng et al., YaRN: Efficient Context Window Extension, 2023, sections 3.2 to 3.4.
    """
    half = config.head_dim // 2

    def pair_that_turns(times: float) -> float:
        # index of the pair that makes `times` turns over the original context
        length = scaling.original_context_length / (times * 2 * math.pi)
        return half * math.log(length) / math.log(config.rope_theta)

    low = max(0, math.floor(pair_that_turns(scaling.beta_fast)))
    high = min(config.head_dim - 1, math.ceil(pair_that_turns(scaling.beta_slow)))
    ramp = np.clip((np.arange(half) - low) / max(high - low, 0.001), 0, 1)
    kept = (1 - ramp) * scaling.ext_factor
    frequencies = plain * kept + plain / scaling.factor * (1 - kept)
    # sharper scores make up for the interpolation; without any there is nothing to make up for
    sharper = 1 + 0.1 * math.log(scaling.factor) if scaling.ext_factor else 1.0
    magnitude = scaling.attn_factor * sharper
    return frequencies.astype(np.float32), magnitude


def rope_tables(
    config: ModelConfig, positions: Int[Array, " T"]
) -> tuple[Float[Array, "T H/2"], Float[Array, "T H/2"]]:
    """Cosine and sine of every token's angles, float32."""
    frequencies, magnitude = rope_frequencies(config)
    angles = positions[:, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude


def rotate(
    x: Float[Array, "T ... H"], cos: Float[Array, "T H/2"], sin: Float[Array, "T H/2"]
) -> Float[Array, "T ... H"]:
    """`x` with each pair (i, i + H/2) turned by its token's angle, as float32."""
    shape = (x.shape[0], *(1,) * (x.ndim - 2), -1)
    cos, sin = cos.reshape(shape), sin.reshape(shape)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
