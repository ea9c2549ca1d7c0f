"""What a model is: the numbers of its architecture, read from its file and checked against it."""

from dataclasses import dataclass
from typing import Literal

from models.errors import ModelFileError
from models.gguf_file import GGUFFile

PAGE_SIZE = 64  # tokens of a page of the KV cache

ARCHITECTURES = frozenset({"qwen2"})

MAX_LAYERS = 256
MAX_WIDTH = 1 << 16
MAX_FFN_WIDTH = 1 << 20
MAX_HEADS = 1 << 10
MAX_HEAD_DIM = 256
MAX_VOCAB = 500_000
MAX_CONTEXT = 1 << 24
MAX_ROPE_FACTOR = 1_024.0

# llama.cpp's, for a file without the key
DEFAULT_ROPE_THETA = 10_000.0
DEFAULT_BETA_FAST = 32.0
DEFAULT_BETA_SLOW = 1.0

# Everything below `rope.scaling.` that we honour; `finetuned` only tells how the model was made.
ROPE_SCALING_KEYS = frozenset(
    {
        "type",
        "factor",
        "original_context_length",
        "attn_factor",
        "yarn_attn_factor",
        "yarn_ext_factor",
        "yarn_beta_fast",
        "yarn_beta_slow",
        "finetuned",
    }
)


@dataclass(frozen=True)
class RopeScaling:
    """How rotary positions are stretched beyond the context the model was first trained on.

    Linear divides every frequency by `factor`. YaRN does so for the slow ones and leaves the fast
    ones: `beta_fast` and `beta_slow` are the full turns within `original_context_length` between
    which it blends, `ext_factor` is how much of the blend is taken, and cos and sin are multiplied
    by `attn_factor * (1 + 0.1 * ln(factor))`. Only `factor` means anything for linear.
    """

    type: Literal["linear", "yarn"]
    factor: float
    original_context_length: int
    attn_factor: float
    ext_factor: float
    beta_fast: float
    beta_slow: float


@dataclass(frozen=True)
class ModelConfig:
    """The facts of one model file; letters as in `models/__init__.py`, lengths in tokens.

    `head_copies`: devices that hold each kv head, where there are more of them than heads; heads
    are then counted with their copies (`models.head_copies`).
    """

    architecture: str
    name: str
    num_layers: int  # L
    width: int  # D
    num_heads: int  # N
    num_kv_heads: int  # K
    head_dim: int  # H
    ffn_width: int  # F
    vocab_size: int  # V
    context_length: int
    rms_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    tied_embeddings: bool
    head_copies: int = 1


def kv_bytes_per_token(config: ModelConfig, item_bytes: int) -> int:
    """Bytes that one token's keys and values take in all layers, at so many bytes a number."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * item_bytes


def model_config(file: GGUFFile) -> ModelConfig:
    """The configuration of a model file.

    Raises:
        ModelFileError: naming the key, if the architecture is not supported, a number is missing
            or out of range, or two parts of the file contradict each other.
    """
    arch = file.require_str("general.architecture")
    if arch not in ARCHITECTURES:
        supported = ", ".join(sorted(ARCHITECTURES))
        raise file.error("general.architecture", f"{arch!r} is not supported, only {supported}")
    if file.get_bool(f"{arch}.attention.causal") is False:
        raise file.error(f"{arch}.attention.causal", "must be true, to generate text")
    width = file.require_int(f"{arch}.embedding_length", 1, MAX_WIDTH)
    num_heads, num_kv_heads, head_dim = _heads(file, arch, width)
    context_length = file.require_int(f"{arch}.context_length", 1, MAX_CONTEXT)
    rope_theta = file.get_float(f"{arch}.rope.freq_base", 1.0, 1e9)
    return ModelConfig(
        architecture=arch,
        name=file.get_str("general.name") or file.path.stem,
        num_layers=file.require_int(f"{arch}.block_count", 1, MAX_LAYERS),
        width=width,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        ffn_width=file.require_int(f"{arch}.feed_forward_length", 1, MAX_FFN_WIDTH),
        vocab_size=_vocab_size(file, arch, width),
        context_length=context_length,
        rms_eps=file.require_float(f"{arch}.attention.layer_norm_rms_epsilon", 1e-12, 0.1),
        rope_theta=DEFAULT_ROPE_THETA if rope_theta is None else rope_theta,
        rope_scaling=_rope_scaling(file, arch, context_length),
        tied_embeddings="output.weight" not in file.tensors,
    )


def _heads(file: GGUFFile, arch: str, width: int) -> tuple[int, int, int]:
    """The numbers of query and kv heads and the head dimension."""
    num_heads = file.require_int(f"{arch}.attention.head_count", 1, MAX_HEADS)
    num_kv_heads = file.get_int(f"{arch}.attention.head_count_kv", 1, MAX_HEADS) or num_heads
    if num_heads % num_kv_heads:
        problem = f"{num_heads} query heads do not divide among {num_kv_heads} kv heads"
        raise file.error(f"{arch}.attention.head_count_kv", problem)
    head_dim = file.get_int(f"{arch}.attention.key_length", 1, MAX_HEAD_DIM)
    if head_dim is None:
        if width % num_heads:
            problem = f"width {width} does not divide among {num_heads} heads"
            raise file.error(f"{arch}.attention.head_count", problem)
        head_dim = width // num_heads
    if head_dim % 2 or head_dim > MAX_HEAD_DIM:
        problem = f"gives a head dimension of {head_dim}, must be even and <= {MAX_HEAD_DIM}"
        raise file.error(f"{arch}.attention.head_count", problem)
    # heads with another value width, or that rotate only in part, would be computed wrongly
    for key in (f"{arch}.attention.value_length", f"{arch}.rope.dimension_count"):
        if file.get_int(key, 1, MAX_HEAD_DIM) not in (None, head_dim):
            raise file.error(key, f"must equal the head dimension {head_dim}")
    return num_heads, num_kv_heads, head_dim


def _vocab_size(file: GGUFFile, arch: str, width: int) -> int:
    """The number of tokens, on which the list, its types, the matrices and special ids agree."""
    vocab_size = len(file.require_array("tokenizer.ggml.tokens", str))
    if not 1 <= vocab_size <= MAX_VOCAB:
        problem = f"{vocab_size:,} tokens, supported are 1 to {MAX_VOCAB:,}"
        raise file.error("tokenizer.ggml.tokens", problem)
    counts = {
        f"{arch}.vocab_size": file.get_int(f"{arch}.vocab_size", 0, 1 << 32),
        "tokenizer.ggml.token_type": len(file.require_array("tokenizer.ggml.token_type", int)),
    }
    scores = file.get_array("tokenizer.ggml.scores", float)
    if scores is not None:
        counts["tokenizer.ggml.scores"] = len(scores)
    for key, count in counts.items():
        if count not in (None, vocab_size):
            raise file.error(key, f"{count:,} is not the number of tokens, {vocab_size:,}")
    matrices = [file.require_tensor("token_embd.weight")]
    if "output.weight" in file.tensors:
        matrices.append(file.tensors["output.weight"])
    for matrix in matrices:
        if matrix.shape != (vocab_size, width):
            problem = f"has shape {matrix.shape}, vocabulary and width ask for {vocab_size, width}"
            raise ModelFileError(problem, path=file.path, subject=f"tensor {matrix.name!r}")
    for key in file.metadata:
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id"):
            file.require_int(key, 0, vocab_size - 1)
    return vocab_size


def _rope_scaling(file: GGUFFile, arch: str, context_length: int) -> RopeScaling | None:
    """The stretching of positions; what we do not know is refused, for ignored it gives nonsense.

    Defaults and meaning are llama.cpp's: without a type a factor is linear, `scale_linear` is the
    old name of the factor, and the two attention factors multiply.
    """
    prefix = f"{arch}.rope.scaling."
    unknown = [
        key
        for key in file.metadata
        if key.startswith(prefix) and key.removeprefix(prefix) not in ROPE_SCALING_KEYS
    ]
    if unknown:
        raise file.error(unknown[0], "this rope scaling is not supported")

    def number(name: str, low: float, high: float, default: float) -> float:
        value = file.get_float(prefix + name, low, high)
        return default if value is None else value

    factor = file.get_float(f"{prefix}factor", 1.0, MAX_ROPE_FACTOR)
    if factor is None:
        factor = file.get_float(f"{arch}.rope.scale_linear", 1.0, MAX_ROPE_FACTOR)
    kind = file.get_str(f"{prefix}type")
    if kind == "none" or (kind is None and factor is None):
        return None
    if kind not in ("linear", "yarn", None):
        raise file.error(f"{prefix}type", f"{kind!r} is not supported, only none, linear and yarn")
    if factor is None:
        raise file.error(f"{prefix}factor", "is missing")
    original = file.get_int(f"{prefix}original_context_length", 1, MAX_CONTEXT)
    scaling = RopeScaling(
        type="yarn" if kind == "yarn" else "linear",
        factor=factor,
        original_context_length=original or context_length,
        attn_factor=number("attn_factor", 0.0, 100.0, 1.0)
        * number("yarn_attn_factor", 0.0, 100.0, 1.0),
        ext_factor=number("yarn_ext_factor", 0.0, 1.0, 1.0),
        beta_fast=number("yarn_beta_fast", 0.0, 1e4, DEFAULT_BETA_FAST),
        beta_slow=number("yarn_beta_slow", 0.0, 1e4, DEFAULT_BETA_SLOW),
    )
    if scaling.beta_fast <= scaling.beta_slow:
        raise file.error(f"{prefix}yarn_beta_fast", f"must exceed beta_slow, {scaling.beta_slow:g}")
    return scaling
