"""The model in training: parameters by role, stacked over layers, put into the serving forward."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from models.config import ModelConfig
from models.kv_cache import Attention
from models.load import expected_shapes
from models.projection import Projection
from models.qwen2 import MLP, Decoder, Head, Layer, Qwen2, RMSNorm, SelfAttention
from models.weights import Axes, Dense, Products
from pallas_kernels.gated_product import gated_product

# Role ("attn_q.weight") → [L, …] for a layer's tensors, tensor name → […] for the rest; names and
# shapes of each slice are the model file's.
type Params = dict[str, Array]

# Rows of 15.5 M parameters, which is 16.4 MB as Q8_0. Depth before width: six layers of a narrow
# feed-forward instead of four of a wide one. 4,096 tokens are 2.1 M parameters; 2,048 more would
# cost half a layer and save 6 % of the tokens.
SIZES = {
    #       L  D    N  K  F      V      context
    "demo": (6, 512, 8, 2, 1_024, 4_096, 2_048),
    "toy": (2, 256, 4, 2, 256, 512, 256),
}
ROPE_THETA = 10_000.0
RMS_EPS = 1e-6
INIT_STD = 0.02
# what writes into the residual stream begins small, by the number of such writes
RESIDUAL_ROLES = frozenset({"attn_output.weight", "ffn_down.weight"})


def config_of(size: str, name: str = "") -> ModelConfig:
    """The configuration of a size in the table."""
    layers, width, heads, kv_heads, ffn, vocab, context = SIZES[size]
    return ModelConfig(
        architecture="qwen2",
        name=name or size,
        num_layers=layers,
        width=width,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=width // heads,
        ffn_width=ffn,
        vocab_size=vocab,
        context_length=context,
        rms_eps=RMS_EPS,
        rope_theta=ROPE_THETA,
        rope_scaling=None,
        tied_embeddings=True,
    )


def stacked_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter."""
    shapes = expected_shapes(config)
    layers = config.num_layers
    return {
        name.removeprefix("blk.0."): (layers, *shape) if name.startswith("blk.") else shape
        for name, shape in shapes.items()
        if not name.startswith("blk.") or name.startswith("blk.0.")
    }


def init_params(config: ModelConfig, seed: int) -> Params:
    """Float32 parameters to begin with."""
    params = {}
    for number, (role, shape) in enumerate(stacked_shapes(config).items()):
        key = jax.random.fold_in(jax.random.key(seed), number)
        if role.endswith("norm.weight"):
            params[role] = jnp.ones(shape, jnp.float32)
        elif role.endswith(".bias"):
            params[role] = jnp.zeros(shape, jnp.float32)
        else:
            std = INIT_STD if role == "token_embd.weight" else shape[-1] ** -0.5
            if role in RESIDUAL_ROLES:
                std *= (2 * config.num_layers) ** -0.5
            params[role] = std * jax.random.normal(key, shape, jnp.float32)
    return params


def tensors_of(params: Params) -> dict[str, Array]:
    """The parameters under the names of the model file, one tensor a layer."""
    tensors = {}
    for role, values in params.items():
        if role.startswith(("token_embd", "output")):
            tensors[role] = values
        else:
            tensors |= {f"blk.{i}.{role}": values[i] for i in range(values.shape[0])}
    return tensors


@jax.custom_vjp
def _product(x: Array, values: Array) -> Array:
    return lax.dot_general(
        x,
        values.astype(x.dtype),
        (((1,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
    )


def _product_forward(x: Array, values: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product(x, values), (x, values)


def _product_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, values = saved
    gradient = gradient.astype(x.dtype)
    to_x = lax.dot_general(gradient, values.astype(x.dtype), (((1,), (0,)), ((), ())))
    to_values = lax.dot_general(
        gradient, x, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )
    return to_x, to_values


_product.defvjp(_product_forward, _product_backward)


def multiply_trained(
    x: Float[Array, "T in"], matrix: Float[Array, "out in"], *, narrow: bool = False
) -> Float[Array, "1 T out"]:
    """The product with a float32 matrix, backwards too in the type of the activations.

    JAX's own derivative multiplies with the float32 gradient of the result: that leaves the bf16
    matrix units.
    """
    return _product(x, matrix)[None]


TRAINED = Products(multiply_trained, partial(gated_product, multiply=multiply_trained))


def build_model(config: ModelConfig, params: Params, embedding: Array) -> Qwen2:
    """The serving model around the parameters; the type of `embedding` is that of activations."""
    k, h, d, f = config.num_kv_heads, config.head_dim, config.width, config.ffn_width
    group = config.num_heads // k

    def weight(values: Array, axes: Axes) -> Dense:
        return Dense(values, axes, products=TRAINED)

    def joined(i: int, ending: str) -> list[Array]:
        # by kv head: its query heads, its key head, its value head
        return [params[f"attn_{x}.{ending}"][i].reshape(k, -1, *tail[ending]) for x in "qkv"]

    tail: dict[str, tuple[int, ...]] = {"weight": (d,), "bias": ()}
    layers = []
    for i in range(config.num_layers):
        attention = SelfAttention(
            weight(jnp.concatenate(joined(i, "weight"), axis=1), ("kv_heads", None, None)),
            jnp.concatenate(joined(i, "bias"), axis=1),
            weight(
                params["attn_output.weight"][i].reshape(d, k, group * h), (None, "kv_heads", None)
            ),
            h,
        )
        gate_up = jnp.stack([params["ffn_gate.weight"][i], params["ffn_up.weight"][i]])
        mlp = MLP(
            weight(gate_up, (None, "ffn", None)),
            weight(params["ffn_down.weight"][i].reshape(d, f), (None, "ffn")),
        )
        layers.append(
            Layer(
                RMSNorm(params["attn_norm.weight"][i], config.rms_eps),
                attention,
                RMSNorm(params["ffn_norm.weight"][i], config.rms_eps),
                mlp,
            )
        )
    head = Head(
        RMSNorm(params["output_norm.weight"], config.rms_eps),
        weight(params["token_embd.weight"], ("vocab", None)),
    )
    return Qwen2(config, Decoder(config, embedding, layers), head)


def dense_attention(length: int, implementation: str | None) -> Attention[None]:
    """Causal attention within each row of `length` tokens; the token axis is the rows end to end.

    Args:
        implementation: as `jax.nn.dot_product_attention` names them, "cudnn" or "xla".
    """

    def attention(projection: Projection, cache: None) -> tuple[Array, None]:
        q, k, v = projection.heads()
        kv_heads, group, dim = q.shape[1:]
        # the forward has scaled the queries already
        out = jax.nn.dot_product_attention(
            q.reshape(-1, length, kv_heads * group, dim),
            k.reshape(-1, length, kv_heads, dim),
            v.reshape(-1, length, kv_heads, dim),
            scale=1.0,
            is_causal=True,
            implementation=implementation,  # type: ignore[arg-type]
        )
        return out.reshape(q.shape), cache

    return attention


def logits_of(
    config: ModelConfig,
    params: Params,
    rows: Int[Array, "R T"],
    *,
    dtype: jnp.dtype,
    implementation: str | None,
) -> Float[Array, "R*T V"]:
    """Scores of every next token, through the forward that serves."""
    num_rows, length = rows.shape
    # Looked up here and taken by place in the forward: there, the gradients of a token's many uses
    # would be added up in bf16, in which a sum stops growing at 256 equal terms.
    embedded = params["token_embd.weight"][rows.reshape(-1)].astype(dtype)
    model = build_model(config, params, embedded)
    positions = jnp.tile(jnp.arange(length), num_rows)
    attention = dense_attention(length, implementation)
    hidden, _ = model.decoder(jnp.arange(rows.size), positions, attention, None)
    return model.head(hidden)


def loss_of(logits: Float[Array, "T V"], targets: Int[Array, " T"]) -> Float[Array, " T"]:
    """Cross entropy of each target, nats."""
    chosen = jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen
