"""The sum over devices, the addition to the residual stream and the norm, as one kernel on Hopper.

Each device writes its part of a row into the memory of every device, a flag in each eight bytes,
and waits for the flags in its own: one trip over NVLink, no barrier and nothing to reset. For the
few rows of a decoding step XLA's sum takes 15 µs, most of it barriers (docs/performance.md).

Source: the LL protocol of NCCL (Hu et al., Demystifying NCCL, 2025, section IV).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, llvm, vector
from jaxtyping import Array, Float, Int

from pallas_kernels.add_norm import WARPGROUP

type Value = Any  # of MLIR

NEIGHBOURS = 4  # values of 16 bits that a thread sends at once, as two words
PACKET = 16  # bytes: two words, a flag behind each
NUM_SLOTS = 2  # used by turns: who writes to one again knows that everybody has read it
MAX_CALLS = 256  # of a step
MAX_TRIES = 2**25  # half a minute: then a device has failed, and the step must end
NAN_PAIR = 0x7FC07FC0  # two values of bfloat16


def takes(*, width: int, num_calls: int) -> bool:
    """Whether the kernel can sum rows so wide, so often a step."""
    return width % (WARPGROUP * NEIGHBOURS) == 0 and num_calls <= MAX_CALLS


def inbox_bytes(num_devices: int, max_rows: int, width: int) -> int:
    """Memory that each device needs for what others send."""
    return NUM_SLOTS * num_devices * max_rows * width // NEIGHBOURS * PACKET


@partial(jax.jit, static_argnames=("eps", "max_rows"))
def one_shot_norm(
    x: Float[Array, "T D"],
    terms: Float[Array, "terms T D"],
    scale: Float[Array, " D"],
    eps: float,
    *,
    inboxes: Int[Array, "N 2"],
    place: Int[Array, " 2"],
    number: Int[Array, " 1"],
    max_rows: int,
) -> tuple[Float[Array, "T D"], Float[Array, "T D"]]:
    """`x` with the terms of all devices added, and its norm, the same on every device.

    A device's terms are summed in float32 and sent in the type of `x`, so what is added is the same
    everywhere; devices are added in their order. All devices call it as often, in one order.

    Args:
        x: of 16 bits, the same on all devices (`takes`).
        inboxes: where each device's `inbox_bytes` begin, as the words of the address, low first.
            They were zero before the first call.
        place: this device's number among them, and the number of the step.
        number: of the call in the step, below MAX_CALLS. Neighbours differ in their last bit, or
            something else has made the devices wait for each other in between.
        max_rows: for which the inboxes were made.
    """
    num_rows, width = x.shape
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    added, normed = plgpu.kernel(
        partial(_kernel, eps=eps, max_rows=max_rows),
        out_type=[shape, shape],
        grid=(num_rows,),
        grid_names=("row",),
        kernel_name="one_shot_norm",
    )(x, terms, scale, inboxes, place, number)
    return added, normed


def _kernel(
    x_gmem: Any,  # [T, D]
    terms_gmem: Any,  # [terms, T, D]
    scale_gmem: Any,  # [D]
    inboxes_gmem: Any,  # [N, 2]
    place_gmem: Any,  # [2]
    number_gmem: Any,  # [1]
    added_gmem: Any,  # [T, D]
    normed_gmem: Any,  # [T, D]
    *,
    eps: float,
    max_rows: int,
) -> None:
    row = lax.axis_index("row")
    num_devices, width = inboxes_gmem.shape[0], x_gmem.shape[1]
    layout = plgpu.Layout.WG_STRIDED((width,), vec_size=NEIGHBOURS)

    def read(ref: Any) -> Array:
        return plgpu.load(ref, layout=layout).astype(jnp.float32)

    part = read(terms_gmem.at[0, row])
    for i in range(1, terms_gmem.shape[0]):
        part = part + read(terms_gmem.at[i, row])
    residual, factor = read(x_gmem.at[row]), read(scale_gmem)  # while the others' parts travel
    me, number = place_gmem[0], number_gmem[0]
    # packets of a row, of a sender, of a slot follow each other
    packets = width // NEIGHBOURS
    received = ((number % NUM_SLOTS) * num_devices * max_rows + row) * packets
    whole = _exchange(
        part.astype(x_gmem.dtype),
        inboxes_gmem,
        me,
        received,
        place_gmem[1] * MAX_CALLS + number + 1,  # no flag is 0, as the memory was
        layout=layout,
        sender_stride=max_rows * packets,
    )
    added = (residual + whole).astype(x_gmem.dtype)
    added_gmem[row] = added
    wide = added.astype(jnp.float32)
    wide = wide * lax.rsqrt(jnp.sum(wide * wide) / width + eps)
    normed_gmem[row] = (wide * factor).astype(normed_gmem.dtype)


def _exchange(
    part: Array,
    inboxes_gmem: Any,
    me: Array,
    received: Array,
    flag: Array,
    *,
    layout: Any,
    sender_stride: int,
) -> Array:
    """The sum over devices of a row's parts, float32.

    Args:
        received: the packet in each inbox where this row of the first sender begins.
        sender_stride: packets from one sender to the next.
    """
    scalar = plgpu.Layout.WG_SPLAT
    num_devices = inboxes_gmem.shape[0]

    @plgpu.inline_mgpu(  # type: ignore[untyped-decorator]
        arg_types=(layout, plgpu.RefType(), scalar, scalar, scalar),
        return_type=plgpu.ShapeDtypeStruct(part.shape, jnp.float32, layout=layout),
    )
    def exchange(_: Any, part: Any, inboxes: Any, me: Any, received: Any, flag: Any) -> Any:
        me, received, flag = (value.registers.item() for value in (me, received, flag))
        boxes = _addresses(inboxes, num_devices)
        own = boxes[0]
        for i in range(1, num_devices):
            own = arith.select(_equal(me, i), boxes[i], own)
        thread = arith.remui(mgpu.utils.thread_idx(), _int32(WARPGROUP))
        mine = arith.addi(received, thread)
        sent = arith.addi(mine, arith.muli(me, _int32(sender_stride)))
        words = [word for values in part.registers.flat for word in _words(values)]
        count = part.registers.size
        send = _send_ptx([i * WARPGROUP * PACKET for i in range(count)])
        for box in boxes:
            mgpu.utils.inline_ptx(send, _packet(box, sent), flag, *words)
        places = [
            (sender * sender_stride + i * WARPGROUP) * PACKET
            for sender in range(num_devices)
            for i in range(count)
        ]
        came = mgpu.utils.inline_ptx(
            _receive_ptx(places),
            _packet(own, mine),
            flag,
            result_types=[flag.type] * (2 * len(places)),
            has_side_effects=True,
        )
        kind = part.registers.flat[0].type
        packets = [_values(pair, kind) for pair in zip(came[::2], came[1::2], strict=True)]
        total = None
        for sender in range(num_devices):
            theirs = mgpu.FragmentedArray(
                _registers=np.array(packets[sender * count :][:count]),
                _layout=part.layout,
                _is_signed=None,
            ).astype(ir.F32Type.get())
            total = theirs if total is None else total + theirs
        return total

    return exchange(part, inboxes_gmem, me, received, flag)


def _addresses(inboxes: Value, count: int) -> list[Value]:
    half, whole = ir.IntegerType.get_signless(32), ir.IntegerType.get_signless(64)
    table = mgpu.utils.memref_ptr(inboxes)
    words = [  # one by one: the table may begin at any int32
        arith.extui(whole, llvm.load(half, mgpu.utils.getelementptr(table, [i], half)))
        for i in range(2 * count)
    ]
    shift = mgpu.utils.c(32, whole)
    return [
        arith.ori(low, arith.shli(high, shift))
        for low, high in zip(words[::2], words[1::2], strict=True)
    ]


def _int32(value: int) -> Value:
    return mgpu.utils.c(value, ir.IntegerType.get_signless(32))


def _equal(value: Value, number: int) -> Value:
    return arith.cmpi(arith.CmpIPredicate.eq, value, _int32(number))


def _packet(box: Value, number: Value) -> Value:
    """The address of a packet in a box."""
    at = arith.extui(box.type, number)
    return arith.addi(box, arith.muli(at, mgpu.utils.c(PACKET, box.type)))


def _send_ptx(places: list[int]) -> str:
    """Writes pairs of words, and the flag behind each, at places behind an address.

    $0 is the address, $1 the flag, and the words follow. Eight bytes arrive whole.
    """
    return "\n".join(
        f"st.volatile.global.v4.b32 [$0+{place}], {{${2 * i + 2}, $1, ${2 * i + 3}, $1}};"
        for i, place in enumerate(places)
    )


def _receive_ptx(places: list[int]) -> str:
    """Reads pairs of words until all have the flag; all reads are under way together.

    The words come first; then the address and the flag. What has not come after MAX_TRIES is NaN.
    """
    num_words = 2 * len(places)
    address, flag = f"${num_words}", f"${num_words + 1}"
    reads = [
        f"ld.volatile.global.v4.b32 {{w{2 * i}, f{2 * i}, w{2 * i + 1}, f{2 * i + 1}}}, "
        f"[{address}+{place}];"
        for i, place in enumerate(places)
    ]
    checks = [f"setp.ne.or.b32 waits, f{i}, {flag}, waits;" for i in range(1, num_words)]
    lines = [
        "{",
        f".reg .pred waits, more; .reg .b32 tries, w<{num_words}>, f<{num_words}>;",
        f"mov.b32 tries, {MAX_TRIES};",
        "again:",
        *reads,
        f"setp.ne.b32 waits, f0, {flag};",
        *checks,
        "sub.u32 tries, tries, 1;",
        "setp.ne.and.b32 more, tries, 0, waits;",
        "@more bra again;",
        *(f"selp.b32 ${i}, {NAN_PAIR}, w{i}, waits;" for i in range(num_words)),
        "}",
    ]
    return "\n".join(lines)


def _words(values: Value) -> list[Value]:
    word = ir.IntegerType.get_signless(32)
    words = vector.bitcast(ir.VectorType.get((2,), word), values)
    return [vector.extract(words, [], [i]) for i in range(2)]


def _values(words: Any, kind: ir.Type) -> Value:
    pair = vector.from_elements(ir.VectorType.get((2,), words[0].type), list(words))
    return vector.bitcast(kind, pair)
