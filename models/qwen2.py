"""Qwen2 and Qwen2.5: the forward pass, once, for serving, training and experiments."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from models.config import ModelConfig
from models.kv_cache import Attention
from models.projection import Projection
from models.reduction import ALONE, AddNorm, Reduction
from models.rope import rope_tables
from models.sites import Tap, untouched
from models.weights import Weight
from pallas_kernels.add_norm import add, rms_norm
from pallas_kernels.add_norm import add_norm as plain_add_norm

# between layers: the residual stream, and what the next layer's first norm makes of it, if it is
# known: the addition before and the norm are one operation
type Stream = tuple[Float[Array, "T D"], Float[Array, "T D"] | None]


def chosen(x: Float[Array, "T ..."], rows: Int[Array, " R"] | None) -> Float[Array, "R ..."]:
    """These tokens' values; None: all."""
    return x if rows is None else x.at[rows].get(mode="clip")


class RMSNorm(nnx.Module):
    """Root-mean-square norm, in float32."""

    def __init__(self, scale: Array, eps: float):
        self.scale = nnx.Param(scale, axes=(None,))
        self.eps = eps

    def __call__(self, x: Float[Array, "T D"]) -> Float[Array, "T D"]:
        with jax.named_scope("norm"):
            return rms_norm(x, self.scale[...], self.eps)

    def after(
        self, x: Float[Array, "T D"], terms: Float[Array, "terms T D"] | None, add_norm: AddNorm
    ) -> tuple[Float[Array, "T D"], Float[Array, "T D"]]:
        """`x` with what is still to be added to it, and the norm of that."""
        if terms is None:
            return x, self(x)
        with jax.named_scope("norm"):
            return add_norm(x, terms, self.scale[...], self.eps)


class SelfAttention(nnx.Module):
    """Grouped-query attention; query, key and value in one matrix, by kv head.

    Rows of `qkv` for one kv head: its G query heads, its key head, its value head.
    """

    def __init__(self, qkv: Weight, bias: Array, out: Weight, head_dim: int):
        self.qkv = qkv  # [K, (G + 2) * H, D]
        self.bias = nnx.Param(bias, axes=("kv_heads", None))  # [K, (G + 2) * H]
        self.out = out  # [D, K, G * H]
        self.head_dim = head_dim

    def __call__[Cache](
        self,
        layer: Array | int,
        x: Float[Array, "T D"],
        rope: tuple[Array, Array],
        attention: Attention[Cache],
        cache: Cache,
        tap: Tap,
        rows: Int[Array, " R"] | None,
    ) -> tuple[Float[Array, "terms R D"], Cache]:
        """What the layer's heads add to the residual stream, in terms, and the cache.

        Args:
            rows: tokens for which that is wanted; None: all.
        """
        with jax.named_scope("qkv"):
            bias = self.bias[...].reshape(self.bias[...].shape[0], -1, self.head_dim)
            terms = self.qkv.terms(x, narrow=True).reshape(-1, x.shape[0], *bias.shape)
        projection = Projection(layer, terms, bias, rope, x.dtype, tap)
        mixed, cache = attention(projection, cache)
        mixed = chosen(tap("attn.z", layer, mixed), rows)
        with jax.named_scope("attention_out"):
            return self.out.terms(mixed.reshape(mixed.shape[0], -1), narrow=True), cache


class MLP(nnx.Module):
    """Gated feed-forward; gate and up in one matrix.

    Source: Shazeer, GLU Variants Improve Transformer, 2020 (SwiGLU).
    """

    def __init__(self, gate_up: Weight, down: Weight):
        self.gate_up = gate_up  # [2, F, D]
        self.down = down  # [D, F]

    def __call__(
        self, layer: Array | int, x: Float[Array, "T D"], tap: Tap
    ) -> Float[Array, "terms T D"]:
        """What it adds to the residual stream, in terms."""
        with jax.named_scope("mlp"):
            if tap is untouched:
                return self.down.terms(self.gate_up.gated(x), narrow=True)
            both = self.gate_up.product(x, narrow=True).astype(jnp.float32)
            gate, up = jnp.split(both, 2, axis=-1)
            gate, up = tap("mlp.gate", layer, gate), tap("mlp.up", layer, up)
            act = tap("mlp.act", layer, (jax.nn.silu(gate) * up).astype(x.dtype))
            return self.down.terms(act, narrow=True)


class Layer(nnx.Module):
    """Attention and feed-forward, each behind a norm and added to the residual stream.

    A sum and the norm after it are one operation, so a layer takes the terms that the one before it
    adds, and gives those that are to be added next.
    """

    def __init__(self, attn_norm: RMSNorm, attn: SelfAttention, mlp_norm: RMSNorm, mlp: MLP):
        self.attn_norm = attn_norm
        self.attn = attn
        self.mlp_norm = mlp_norm
        self.mlp = mlp

    def __call__[Cache](
        self,
        layer: Array | int,
        x: Float[Array, "T D"],
        terms: Float[Array, "terms T D"] | None,
        rope: tuple[Array, Array],
        attention: Attention[Cache],
        cache: Cache,
        reduction: Reduction,
        add_norm: AddNorm,
        tap: Tap,
        rows: Int[Array, " R"] | None = None,
        normed: Float[Array, "T D"] | None = None,
    ) -> tuple[Float[Array, "R D"], Float[Array, "terms R D"], Cache]:
        """The stream and what is to be added; of `rows` alone, where nobody reads the others'.

        Args:
            normed: `x`, with all that is to be added in it, behind the first norm; None: not yet.
        """
        number = jnp.asarray(2 * layer)
        if normed is None:
            x, normed = self.attn_norm.after(x, terms, reduction.norm(number, add_norm))
        mixed, cache = self.attn(layer, normed, rope, attention, cache, tap, rows)
        mixed = _seen("attn.out", layer, reduction.before_norm(mixed), tap)
        # a kernel more would take longer to compile than it gains in one layer
        own = add_norm if rows is None else plain_add_norm
        x, normed = self.mlp_norm.after(chosen(x, rows), mixed, reduction.norm(number + 1, own))
        mixed = reduction.before_norm(self.mlp(layer, normed, tap))
        return x, _seen("mlp.out", layer, mixed, tap), cache


def _seen(site: str, layer: Array | int, terms: Array, tap: Tap) -> Array:
    """What is added to the residual stream: one sum for a tap, terms where nobody looks."""
    if tap is untouched:
        return terms
    whole = terms.astype(jnp.float32)
    return tap(site, layer, whole[0] if len(whole) == 1 else whole.sum(axis=0))[None]


def _seen_between(layer: int, tap: Tap) -> AddNorm:
    """The addition and norm between the halves of a layer that is looked into."""

    def add_and_show(x: Array, terms: Array, scale: Array, eps: float) -> tuple[Array, Array]:
        x = tap("resid_mid", layer, add(x, terms))
        return x, rms_norm(x, scale, eps)

    return add_and_show


class Decoder(nnx.Module):
    """Embedding and layers: tokens to hidden states."""

    def __init__(self, config: ModelConfig, embedding: Array, layers: list[Layer]):
        self.config = config
        self.embedding = nnx.Param(embedding, axes=(None, None))  # [V, D]
        self.layers = nnx.List(layers)

    def __call__[Cache](
        self,
        token_ids: Int[Array, " T"],
        positions: Int[Array, " T"],
        attention: Attention[Cache],
        cache: Cache,
        reduction: Reduction = ALONE,
        add_norm: AddNorm = plain_add_norm,
        tap: Tap = untouched,
        rows: Int[Array, " R"] | None = None,
    ) -> tuple[Float[Array, "R D"], Cache]:
        """Hidden states after the last layer, and the cache with the tokens in it.

        Args:
            rows: tokens whose hidden states are wanted, which the last layer's feed-forward and all
                behind attention is computed for; None: all.
        """
        stream = self.embed(token_ids, tap), None
        (x, _), cache = self.run(
            stream, positions, attention, cache, reduction, add_norm, tap, rows
        )
        return x, cache

    def embed(self, token_ids: Int[Array, " T"], tap: Tap = untouched) -> Float[Array, "T D"]:
        """What goes into the first layer."""
        with jax.named_scope("embedding"):
            return tap("embed", None, self.embedding[...][token_ids])

    def run[Cache](
        self,
        stream: Stream,
        positions: Int[Array, " T"],
        attention: Attention[Cache],
        cache: Cache,
        reduction: Reduction = ALONE,
        add_norm: AddNorm = plain_add_norm,
        tap: Tap = untouched,
        rows: Int[Array, " R"] | None = None,
        layers: range | None = None,
    ) -> tuple[Stream, Cache]:
        """What goes on behind `layers`, by default all of them, and the cache.

        Args:
            rows: as of a call of the decoder, if the model's last layer is among them.
        """
        layers = range(len(self.layers)) if layers is None else layers
        x, normed = stream
        terms: Array | None = None
        with jax.named_scope("rope"):
            rope = rope_tables(self.config, positions)

        @jax.jit
        def run(
            block: Layer,
            layer: Array,
            x: Array,
            terms: Array | None,
            cache: Cache,
            rows: Array | None,
            normed: Array | None,
        ) -> tuple[Array, Array, Cache]:
            return block(
                layer, x, terms, rope, attention, cache, reduction, add_norm, tap, rows, normed
            )

        for i in layers:
            block = self.layers[i]
            if tap is untouched:
                # under its own jit a layer is traced once, not once for each of them
                wanted = rows if i + 1 == len(self.layers) else None
                x, terms, cache = run(block, jnp.int32(i), x, terms, cache, wanted, normed)
                normed = None
            else:  # which keeps the values of each layer apart, and sees every sum
                x = tap("resid_pre", i, x)
                between = _seen_between(i, tap)
                x, new, cache = block(i, x, None, rope, attention, cache, reduction, between, tap)
                x = tap("resid_post", i, add(x, new))
        if terms is None:
            return (chosen(x, rows), None), cache
        number = jnp.int32(2 * layers.stop)
        if layers.stop < len(self.layers):
            norm = self.layers[layers.stop].attn_norm
            return norm.after(x, terms, reduction.norm(number, add_norm)), cache
        return (reduction.last(number, x, terms, self.config.rms_eps), None), cache


class Head(nnx.Module):
    """Final norm and output matrix: hidden states to scores."""

    def __init__(self, norm: RMSNorm, weight: Weight):
        self.norm = norm
        self.weight = weight  # [V, D]

    def __call__(self, hidden: Float[Array, "S D"], tap: Tap = untouched) -> Float[Array, "S V"]:
        """Scores of the next token, float32; on a sharded model, of this device's part of V."""
        with jax.named_scope("lm_head"):
            return self.weight.product(tap("final_norm", None, self.norm(hidden)))


class Qwen2(nnx.Module):
    """The whole model, in the two parts that a step runs at different times."""

    def __init__(self, config: ModelConfig, decoder: Decoder, head: Head):
        self.config = config
        self.decoder = decoder
        self.head = head
