"""How instances of one kernel on several devices send registers to each other: NCCL's LL protocol.

Each thread writes its words into the memory of every device, a flag in each eight bytes, and waits
for the flags in its own: one trip over NVLink, no barrier and nothing to reset.

Source: Hu et al., Demystifying NCCL, 2025, section IV.
"""

from typing import Any

import numpy as np
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, llvm, vector
from jaxtyping import Array

from pallas_kernels.add_norm import WARPGROUP

type Value = Any  # of MLIR

WORDS = 2  # that a thread sends at once
PACKET = 16  # bytes: the words, a flag behind each
MAX_TRIES = 2**25  # half a minute: then a device has failed, and the step must end
NAN_PAIR = 0x7FC07FC0  # two values of bfloat16


def exchange(
    part: Array,
    inboxes_gmem: Any,
    me: Array,
    received: Array,
    flag: Array,
    *,
    layout: Any,
    sender_stride: int,
) -> tuple[Array, ...]:
    """What the same instance on each device has for `part`, in the devices' order.

    Args:
        part: in registers, `WORDS` words a thread and vector.
        inboxes_gmem: [N, 2], where each device's memory begins: words of the address, low first.
        me: this device's number among them.
        received: the packet in each inbox where the part of the first sender begins.
        flag: not what was there before.
        layout: of `part`.
        sender_stride: packets from one sender to the next.
    """
    scalar = plgpu.Layout.WG_SPLAT
    num_devices = inboxes_gmem.shape[0]

    @plgpu.inline_mgpu(  # type: ignore[untyped-decorator]
        arg_types=(layout, plgpu.RefType(), scalar, scalar, scalar),
        return_type=(plgpu.ShapeDtypeStruct(part.shape, part.dtype, layout=layout),) * num_devices,
    )
    def send_and_receive(
        _: Any, part: Any, inboxes: Any, me: Any, received: Any, flag: Any
    ) -> tuple[Any, ...]:
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
        return tuple(
            mgpu.FragmentedArray(
                _registers=np.array(packets[sender * count :][:count]),
                _layout=part.layout,
                _is_signed=part.is_signed,
            )
            for sender in range(num_devices)
        )

    everyones: tuple[Array, ...] = send_and_receive(part, inboxes_gmem, me, received, flag)
    return everyones


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
