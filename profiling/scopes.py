"""The words of the code in a profile: which scope an operation belongs to."""

import re

# `jax.named_scope`s of models/ and runtime/step.py, in the order of a step
LAYER_SCOPES = (
    "norm",
    "qkv",
    "rope",
    "kv_write",
    "attention",
    "attention_out",
    "mlp",
    "all_reduce",
)
SAMPLING = "sampling"
SCOPES = ("embedding", *LAYER_SCOPES, "lm_head", SAMPLING)
COPIES = "copies"  # memory copies, within a device and between it and the host
OTHER = "other"  # state and page tables, rope tables, what no scope names
ALL_SCOPES = (*SCOPES, COPIES, OTHER)

_COPY = re.compile(r"^(copy|memcpy|memset)", re.IGNORECASE)


def scope_of(path: str) -> str:
    """The innermost scope of an operation's path, as `jit(forward_decode_4)/jit(run)/mlp/mul`.

    XLA joins the paths of what it fused by semicolons: the first one counts.
    """
    for part in reversed(path.split(";")[0].split("/")):
        if part in SCOPES:
            return part
    return OTHER


def is_copy(name: str) -> bool:
    """Whether an event without a path moves memory and does nothing else."""
    return _COPY.match(name) is not None
