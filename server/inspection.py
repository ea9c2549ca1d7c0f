"""`ggjax inspect`: what a model file holds, and the memory it needs when served."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.config import ModelConfig, kv_bytes_per_token, model_config
from models.errors import ModelFileError
from models.gguf_file import GGUFFile, open_gguf
from models.gguf_values import shown

GIB = 2**30
# memories to plan for where none is named, in GiB: from a laptop to an H200
MEMORIES = (8, 16, 24, 48, 80, 141)
SHARE = 0.92  # the default of --gpu-memory-utilization
# form of weights and activations: bytes a number
FORMS = {"bfloat16": 2, "float32": 4}


def inspect_model(path: Path, memory: int | None, console: Console | None = None) -> None:
    """Prints metadata, tensors and the memory plan.

    Args:
        memory: bytes to plan for; None for a list of usual sizes.

    Raises:
        ModelFileError: the file cannot be read.
    """
    file = open_gguf(path)
    console = console or Console()
    console.print(_table("Metadata", ("key", "value"), _metadata(file)))
    console.print(_table("Tensors", ("type", "count", "size", "share"), _tensor_types(file)))
    num_params = sum(math.prod(tensor.shape) for tensor in file.tensors.values())
    console.print(
        f"{num_params / 1e9:.2f} billion parameters in {len(file.tensors)} tensors, "
        f"file {gib(file.num_bytes)}"
    )
    try:
        config = model_config(file)
    except ModelFileError as error:
        console.print(Text(f"cannot be served: {error}"))
        return
    memories = [GIB * size for size in MEMORIES] if memory is None else [memory]
    columns = ("tokens of KV cache in", *FORMS)
    rows = _memory_plan(config, num_params, memories)
    console.print(_table(f"Memory, {SHARE:.0%} of it in use", columns, rows))
    console.print(f"longest context: {config.context_length:,} tokens")


def gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.4g} GiB"


def _metadata(file: GGUFFile) -> Iterator[tuple[str, str]]:
    for key, value in sorted(file.metadata.items()):
        # a tuple can hold a whole vocabulary
        yield key, f"{len(value):,} items" if isinstance(value, tuple) else shown(value)


def _tensor_types(file: GGUFFile) -> Iterator[tuple[str, ...]]:
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for tensor in file.tensors.values():
        counts[tensor.type.name] += 1
        sizes[tensor.type.name] += tensor.num_bytes
    for name, size in sizes.most_common():
        yield name, f"{counts[name]:,}", gib(size), f"{size / max(1, sizes.total()):.1%}"


def _memory_plan(
    config: ModelConfig, num_params: int, memories: Sequence[int]
) -> Iterator[tuple[str, ...]]:
    sizes = FORMS.values()
    yield "weights", *(gib(num_params * size) for size in sizes)
    yield "one token", *(f"{kv_bytes_per_token(config, size):,} B" for size in sizes)
    for memory in memories:
        left = (max(0, int(SHARE * memory) - num_params * size) for size in sizes)
        fits = (n // kv_bytes_per_token(config, size) for n, size in zip(left, sizes, strict=True))
        yield gib(memory), *(f"{n:,}" if n else "-" for n in fits)


def _table(title: str, columns: Sequence[str], rows: Iterator[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 or len(columns) == 2 else "right")
    for row in rows:
        # a file's text is shown as it is, never as rich's markup
        table.add_row(*map(Text, row))
    return table
