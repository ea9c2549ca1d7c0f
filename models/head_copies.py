"""More devices than kv heads: each kv head is held by several, which share its query heads.

Where its query heads cannot be shared evenly the last device gets heads of zeros, which read
whatever they read and write nothing.
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp
from jaxtyping import Array, Float

from models.config import ModelConfig


@dataclass(frozen=True)
class HeadCopies:
    """How the heads of a file become those of a model on many devices.

    Attributes:
        copies: devices that hold each kv head.
        group: query heads of a kv head in the file.
    """

    copies: int
    group: int
    head_dim: int

    @property
    def own_group(self) -> int:
        """Query heads of each copy."""
        return -(-self.group // self.copies)

    def rows(self, qkv: Float[Array, "K rows ..."]) -> Float[Array, "copied rows ..."]:
        """Query, key and value rows (or biases) by kv head, those of each copy."""
        split = self.group * self.head_dim
        queries = self._shared(jnp.moveaxis(qkv[:, :split], 1, -1))
        others = jnp.repeat(qkv[:, split:], self.copies, axis=0)
        return jnp.concatenate([jnp.moveaxis(queries, -1, 1), others], axis=1)

    def columns(self, out: Float[Array, "D K columns"]) -> Float[Array, "D copied columns"]:
        """Columns of the matrix behind attention by kv head, those of each copy."""
        return jnp.moveaxis(self._shared(jnp.moveaxis(out, 1, 0)), 0, 1)

    def _shared(self, heads: Array) -> Array:
        """[K, …, group * H] cut among the copies: [K * copies, …, own_group * H]."""
        own = self.own_group * self.head_dim
        missing = self.copies * own - heads.shape[-1]
        padded = jnp.pad(heads, [(0, 0)] * (heads.ndim - 1) + [(0, missing)])
        cut = padded.reshape(*padded.shape[:-1], self.copies, own)
        return jnp.moveaxis(cut, -2, 1).reshape(-1, *padded.shape[1:-1], own)


def head_copies(config: ModelConfig, num_devices: int) -> HeadCopies:
    """Of a file's model on so many devices, which it can be cut into (`models.mesh.divides`)."""
    copies = max(1, num_devices // config.num_kv_heads)
    return HeadCopies(copies, config.num_heads // config.num_kv_heads, config.head_dim)


def on_devices(config: ModelConfig, num_devices: int) -> ModelConfig:
    """The configuration of a file's model as so many devices hold it."""
    spread = head_copies(config, num_devices)
    if spread.copies == 1:
        return config
    num_kv_heads = config.num_kv_heads * spread.copies
    return replace(
        config,
        num_kv_heads=num_kv_heads,
        num_heads=num_kv_heads * spread.own_group,
        head_copies=spread.copies,
    )
