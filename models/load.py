"""Loads a GGUF file into a model: raw blocks to the device, dequantised and laid out there."""

from jax.sharding import Mesh

from models.config import ModelConfig
from models.errors import ModelFileError
from models.gguf_file import GGUFFile
from models.head_copies import HeadCopies, head_copies, on_devices
from models.mesh import TP
from models.qwen2 import MLP, Decoder, Head, Layer, Qwen2, RMSNorm, SelfAttention
from models.tensor_reader import Progress, TensorReader
from models.weights import PLAIN, Products


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the architecture and its shape, outermost first."""
    d, f, h = config.width, config.ffn_width, config.head_dim
    n, k = config.num_heads, config.num_kv_heads
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (d,),
        "attn_q.weight": (n * h, d),
        "attn_k.weight": (k * h, d),
        "attn_v.weight": (k * h, d),
        "attn_q.bias": (n * h,),
        "attn_k.bias": (k * h,),
        "attn_v.bias": (k * h,),
        "attn_output.weight": (d, n * h),
        "ffn_norm.weight": (d,),
        "ffn_gate.weight": (f, d),
        "ffn_up.weight": (f, d),
        "ffn_down.weight": (d, f),
    }
    shapes = {"token_embd.weight": (config.vocab_size, d), "output_norm.weight": (d,)}
    if not config.tied_embeddings:
        shapes["output.weight"] = (config.vocab_size, d)
    for i in range(config.num_layers):
        shapes |= {f"blk.{i}.{name}": shape for name, shape in layer.items()}
    return shapes


def check_tensors(file: GGUFFile, config: ModelConfig) -> None:
    """Every tensor that the architecture needs is there with its shape, and no other.

    Raises:
        ModelFileError: names all that are missing, misshapen or left over.
    """
    expected = expected_shapes(config)
    found = {name: tensor.shape for name, tensor in file.tensors.items()}
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not part of {config.architecture}" for name in found.keys() - expected]
    problems += [
        f"{name} has shape {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if problems:
        shown = "; ".join(problems[:8]) + ("; …" if len(problems) > 8 else "")
        raise ModelFileError(
            f"{len(problems)} wrong tensors: {shown}", path=file.path, subject="tensors"
        )


def load_model(
    file: GGUFFile,
    config: ModelConfig,
    mesh: Mesh,
    *,
    dtype: str,
    progress: Progress = lambda _: None,
    products: Products = PLAIN,
) -> Qwen2:
    """The model on the devices of `mesh`, its weights as `dtype`.

    Args:
        config: of the file; that of the model counts heads as the devices hold them.
        dtype: "float32", "bfloat16" or "int8" (products of 8 bits, the rest float32).
        progress: called with the share of the file's bytes that is done.
        products: how products of floats are made.

    Raises:
        ModelFileError: a tensor is missing, misshapen, left over or of an unknown type.
    """
    check_tensors(file, config)
    # as they are read below
    order = sorted(expected_shapes(config), key=lambda name: not name.startswith("blk."))
    reader = TensorReader(file, mesh, dtype, progress, products, order)
    heads = head_copies(config, mesh.shape[TP])
    layers = [_load_layer(reader, config, heads, f"blk.{i}") for i in range(config.num_layers)]
    embedding = reader.matrix(
        ["token_embd.weight"], (config.vocab_size, config.width), (None, None)
    )
    head_name = "token_embd.weight" if config.tied_embeddings else "output.weight"
    vocab = -(-config.vocab_size // mesh.shape[TP]) * mesh.shape[TP]
    head = Head(
        RMSNorm(reader.vector("output_norm.weight"), config.rms_eps),
        reader.weight([head_name], (vocab, config.width), ("vocab", None), num_out=1),
    )
    reader.finish()
    config = on_devices(config, mesh.shape[TP])
    return Qwen2(config, Decoder(config, embedding, layers), head)


def _load_layer(reader: TensorReader, config: ModelConfig, heads: HeadCopies, prefix: str) -> Layer:
    k, h, d, f = config.num_kv_heads, config.head_dim, config.width, config.ffn_width
    qkv = [f"{prefix}.attn_{x}" for x in "qkv"]
    group = config.num_heads // k
    shared = heads.copies > 1
    return Layer(
        RMSNorm(reader.vector(f"{prefix}.attn_norm.weight"), config.rms_eps),
        SelfAttention(
            reader.weight(
                [f"{name}.weight" for name in qkv],
                (k, (group + 2) * h, d),
                ("kv_heads", None, None),
                num_out=2,
                join_axis=1,
                arrange=heads.rows if shared else None,
            ),
            reader.biases(
                [f"{name}.bias" for name in qkv],
                (k, (group + 2) * h),
                arrange=heads.rows if shared else None,
            ),
            reader.weight(
                [f"{prefix}.attn_output.weight"],
                (d, k, group * h),
                (None, "kv_heads", None),
                num_out=1,
                arrange=heads.columns if shared else None,
            ),
            h,
        ),
        RMSNorm(reader.vector(f"{prefix}.ffn_norm.weight"), config.rms_eps),
        MLP(
            reader.weight(
                [f"{prefix}.ffn_gate.weight", f"{prefix}.ffn_up.weight"],
                (2, f, d),
                (None, "ffn", None),
                num_out=2,
            ),
            reader.weight([f"{prefix}.ffn_down.weight"], (d, f), (None, "ffn"), num_out=1),
        ),
    )
