"""How instances of a kernel on several devices send registers to each other: by NCCL's LL128.

Each thread writes its words into the memory of every other device. A warp's store of 16 bytes a
thread arrives in lines of 128 bytes, each of them whole; in every line is a flag, and who waits
looks at the flags in its own memory: one trip over NVLink, no barrier and nothing to reset.

Source: Hu et al., Demystifying NCCL, 2025, section IV.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, llvm, vector
from jaxtyping import Array

from pallas_kernels.add_norm import WARPGROUP

type Value = Any  # of MLIR
Order = arith.CmpIPredicate

WORDS = 2  # of a vector that a thread sends
PACKET = 16  # bytes of a store: two vectors, or one and a flag
LINE = 8  # threads, whose stores arrive together
MAX_VECTORS = 2 * LINE - 1  # of a thread, for which each line still has a flag
# Half a minute: then a device has failed, and the result is NaN. Each call of a step waits as long;
# a server's watchdog is sooner.
MAX_TRIES = 2**25
NAN_PAIR = 0x7FC07FC0  # two values of bfloat16


@dataclass(frozen=True)
class Group:
    """Vectors of each thread that share its flag.

    They lie in the first halves of its stores, then in the second ones, but for one that has the
    flag: that of the store whose number is the thread's in its line, so that each line has one.
    """

    first: int
    count: int
    first_store: int

    @property
    def num_stores(self) -> int:
        """Of each thread."""
        return self.count // 2 + 1


def groups(num_vectors: int) -> list[Group]:
    """How a thread's vectors are sent."""
    found: list[Group] = []
    store = 0
    for first in range(0, num_vectors, MAX_VECTORS):
        found.append(Group(first, min(MAX_VECTORS, num_vectors - first), store))
        store += found[-1].num_stores
    return found


def num_packets(num_vectors: int) -> int:
    """Stores of a warpgroup whose threads send so many vectors each."""
    return WARPGROUP * sum(group.num_stores for group in groups(num_vectors))


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
        part: in registers, in vectors of `WORDS` words.
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
        vectors = [_words(values) for values in part.registers.flat]
        kind = part.registers.flat[0].type
        theirs: list[list[Any]] = [[] for _ in boxes]
        parts = groups(len(vectors))
        for group in parts:
            place = arith.remui(arith.remui(thread, _int32(LINE)), _int32(group.num_stores))
            stores = _arranged(vectors[group.first :][: group.count], place, flag)
            for i, box in enumerate(boxes):
                text = _send_ptx(group.first_store, group.num_stores, receiver=i)
                mgpu.utils.inline_ptx(text, _packet(box, sent), me, *stores)
        for group in parts:
            place = arith.remui(arith.remui(thread, _int32(LINE)), _int32(group.num_stores))
            came = mgpu.utils.inline_ptx(
                _receive_ptx(group, num_devices, sender_stride),
                _packet(own, mine),
                flag,
                place,
                me,
                result_types=[flag.type] * (num_devices * 2 * WORDS * group.num_stores),
                has_side_effects=True,
            )
            each = len(came) // num_devices
            for i, known in enumerate(theirs):
                known += _vectors(came[i * each :][:each], place, group.count)
        results = []
        for i, known in enumerate(theirs):
            is_own = _equal(me, i)
            registers = [
                _values(
                    [arith.select(is_own, *pair) for pair in zip(ours, words, strict=True)], kind
                )
                for ours, words in zip(vectors, known, strict=True)
            ]
            results.append(
                mgpu.FragmentedArray(
                    _registers=np.array(registers),
                    _layout=part.layout,
                    _is_signed=part.is_signed,
                )
            )
        return tuple(results)

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
    return arith.cmpi(Order.eq, value, _int32(number))


def _packet(box: Value, number: Value) -> Value:
    """The address of a packet in a box."""
    at = arith.extui(box.type, number)
    return arith.addi(box, arith.muli(at, mgpu.utils.c(PACKET, box.type)))


def _arranged(vectors: list[list[Value]], place: Value, flag: Value) -> list[Value]:
    """The words of a thread's stores, with the flag in the second half of store `place`."""
    num_stores = len(vectors) // 2 + 1
    words: list[Value] = []
    for store in range(num_stores):
        second = [flag] * WORDS
        # behind the flag all have moved by one
        for number, where in ((store, Order.ugt), (store - 1, Order.ult)):
            if 0 <= number < len(vectors) - num_stores:
                chosen = arith.cmpi(where, place, _int32(store))
                pairs = zip(vectors[num_stores + number], second, strict=True)
                second = [arith.select(chosen, *pair) for pair in pairs]
        words += [*vectors[store], *second]
    return words


def _vectors(words: Sequence[Value], place: Value, count: int) -> list[list[Value]]:
    """The vectors that `_arranged` made stores of."""
    stores = [words[i : i + 2 * WORDS] for i in range(0, len(words), 2 * WORDS)]
    found = [list(store[:WORDS]) for store in stores]
    for i in range(count - len(stores)):
        moved = arith.cmpi(Order.ule, place, _int32(i))
        pairs = zip(stores[i + 1][WORDS:], stores[i][WORDS:], strict=True)
        found.append([arith.select(moved, *pair) for pair in pairs])
    return found


def _send_ptx(first_store: int, num_stores: int, *, receiver: int) -> str:
    """A thread's stores behind an address, unless it is the receiver's own.

    $0 is the address, $1 the number of this device, and the words follow.
    """
    lines = ["{", ".reg .pred other;", f"setp.ne.b32 other, $1, {receiver};"]
    for i in range(num_stores):
        at = (first_store + i) * WARPGROUP * PACKET
        words = ", ".join(f"${2 + 4 * i + k}" for k in range(4))
        lines.append(f"@other st.volatile.global.v4.b32 [$0+{at}], {{{words}}};")
    return "\n".join([*lines, "}"])


def _receive_ptx(group: Group, num_devices: int, sender_stride: int) -> str:
    """Reads the stores of all senders until a warp's flags have come; all reads are under way.

    The words come first; then the address, the flag, the store that has it, and the number of this
    device, which sends nothing to itself. What has not come after MAX_TRIES is NaN.
    """
    each = 4 * group.num_stores
    num_words = num_devices * each
    address, flag, place, me = (f"${num_words + i}" for i in range(4))
    holders = range(group.num_stores)
    lines = [
        "{",
        f".reg .pred waits, other, more, at<{group.num_stores}>;",
        f".reg .b32 tries, seen, w<{num_words}>;",
        f"mov.b32 tries, {MAX_TRIES};",
        *(f"setp.eq.b32 at{s}, {place}, {s};" for s in holders),
        "again:",
    ]
    for sender in range(num_devices):
        for s in holders:
            at = (sender * sender_stride + (group.first_store + s) * WARPGROUP) * PACKET
            words = ", ".join(f"w{sender * each + 4 * s + k}" for k in range(4))
            lines.append(f"ld.volatile.global.v4.b32 {{{words}}}, [{address}+{at}];")
    lines.append("setp.ne.b32 waits, 0, 0;")
    for sender in range(num_devices):
        lines.append(f"mov.b32 seen, w{sender * each + 2};")
        for s in holders[1:]:
            lines.append(f"selp.b32 seen, w{sender * each + 4 * s + 2}, seen, at{s};")
        lines += [
            f"setp.ne.b32 other, {me}, {sender};",
            f"setp.ne.and.b32 other, seen, {flag}, other;",
            "or.pred waits, waits, other;",
        ]
    lines += [
        "vote.sync.any.pred waits, waits, 0xffffffff;",
        "sub.u32 tries, tries, 1;",
        "setp.ne.and.b32 more, tries, 0, waits;",
        "@more bra again;",
        *(f"selp.b32 ${i}, {NAN_PAIR}, w{i}, waits;" for i in range(num_words)),
        "}",
    ]
    return "\n".join(lines)


def _words(values: Value) -> list[Value]:
    word = ir.IntegerType.get_signless(32)
    words = vector.bitcast(ir.VectorType.get((WORDS,), word), values)
    return [vector.extract(words, [], [i]) for i in range(WORDS)]


def _values(words: list[Value], kind: ir.Type) -> Value:
    pair = vector.from_elements(ir.VectorType.get((WORDS,), words[0].type), words)
    return vector.bitcast(kind, pair)
