"""The operator's choices: one frozen value, checked when made."""

import os
from dataclasses import dataclass, field

from models.config import PAGE_SIZE

DTYPES = ("auto", "float32", "bfloat16", "int8")
KV_CACHE_DTYPES = ("auto", "float32", "bfloat16")


def default_cache_dir() -> str:
    """Where JAX is told to keep programs, or where XDG says that caches go."""
    if told := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return told
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(home, "ggjax", "compiled")


@dataclass(frozen=True)
class RuntimeConfig:
    """What to serve and how; the fields are the flags of `ggjax serve`. None: chosen at start.

    Attributes:
        model: path of the GGUF file (any shard of a split one).
        max_model_len: longest prompt and answer together, in tokens.
        max_num_seqs: requests that run at once (GPU 128, CPU 8).
        max_num_batched_tokens: tokens of one step (GPU 2,048, CPU 512).
        gpu_memory_utilization: share of the device's memory for weights, step and KV together.
        kv_cache_dtype: "auto" follows the activations.
        dtype: form of the weights; "int8" is for CPUs (8-bit products, scales per row).
        tensor_parallel_size: devices to shard over; None takes all that divide the model.
        block_size: tokens of a page.
        batch_invariant: a request is answered with the same bits whatever else runs.
        seed: what the seeds of requests that bring none follow from; None: from nothing.
        compilation_cache_dir: where compiled programs are kept between starts; None: nowhere.

    Raises:
        ValueError: a value is out of range, with the reason.
    """

    model: str
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float = 0.92
    kv_cache_dtype: str = "auto"
    dtype: str = "auto"
    tensor_parallel_size: int | None = None
    block_size: int = PAGE_SIZE
    seed: int | None = None
    enable_prefix_caching: bool = True
    batch_invariant: bool = False
    compilation_cache_dir: str | None = field(default_factory=default_cache_dir)

    def __post_init__(self) -> None:
        if self.block_size != PAGE_SIZE:
            raise ValueError(
                f"block_size must be {PAGE_SIZE}, got {self.block_size}: "
                f"the attention kernels read pages of {PAGE_SIZE} tokens"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.kv_cache_dtype not in KV_CACHE_DTYPES:
            raise ValueError(
                f"kv_cache_dtype must be one of {', '.join(KV_CACHE_DTYPES)}, "
                f"got {self.kv_cache_dtype!r}"
            )
        if not 0.05 <= self.gpu_memory_utilization <= 1.0:
            raise ValueError(
                f"gpu_memory_utilization must lie in [0.05, 1], got {self.gpu_memory_utilization}"
            )
        if self.max_model_len is not None and self.max_model_len < 2:
            raise ValueError(f"max_model_len must be at least 2, got {self.max_model_len}")
        if self.max_num_seqs is not None and not 1 <= self.max_num_seqs <= 1024:
            raise ValueError(f"max_num_seqs must lie in [1, 1024], got {self.max_num_seqs}")
        if self.max_num_batched_tokens is not None and self.max_num_batched_tokens < PAGE_SIZE:
            raise ValueError(
                f"max_num_batched_tokens must be at least {PAGE_SIZE} (one query block), "
                f"got {self.max_num_batched_tokens}"
            )
        if self.tensor_parallel_size is not None and self.tensor_parallel_size < 1:
            raise ValueError(
                f"tensor_parallel_size must be at least 1, got {self.tensor_parallel_size}"
            )
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be a non-negative 64-bit number, got {self.seed}")
