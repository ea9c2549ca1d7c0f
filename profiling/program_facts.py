"""What XLA says about a compiled program: its operations, its memory, whether it is in place."""

from dataclasses import dataclass
from typing import Any

from profiling.hlo_text import Module, parse_hlo

FOREIGN = 'custom_call_target="mosaic_gpu'


@dataclass(frozen=True)
class ProgramFacts:
    """One program; bytes and operations of one device, as XLA counts them.

    Attributes:
        flops: a loop's body counts once, whatever its trips. None where XLA does not know: it
            counts nothing for kernels that it has not made.
        num_bytes: read and written by its operations, from memory or from a cache; None as above.
        alias: bytes of arguments whose memory the results take.
        kernels: operations that run; in a loop, once.
        pool_copies: copies of an array of the pool's shape: there must be none.
    """

    name: str
    flops: float | None
    num_bytes: float | None
    arguments: int
    temporary: int
    alias: int
    kernels: int
    pool_copies: int
    module: Module


def program_facts(program: Any, *, pool_shape: tuple[int, ...]) -> ProgramFacts:
    """The facts of a `jax.stages.Compiled`.

    Args:
        pool_shape: of the keys, or of the values, on one device.
    """
    memory = program.memory_analysis()
    module = parse_hlo(program.as_text())
    shape = f"[{','.join(map(str, pool_shape))}]"
    foreign = any(FOREIGN in i.rest for i in module.scheduled)
    cost = {} if foreign else program.cost_analysis() or {}
    copies = [i for i in module.scheduled if i.opcode.startswith("copy") and shape in i.shape]
    return ProgramFacts(
        name=module.name.removeprefix("jit_"),
        flops=cost.get("flops"),
        num_bytes=cost.get("bytes accessed"),
        arguments=memory.argument_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        alias=memory.alias_size_in_bytes,
        kernels=len(module.scheduled),
        pool_copies=len(copies),
        module=module,
    )
