"""Unpacks the blocks of GGUF tensors: bytes become levels, scales and minimums.

A block is a few bytes that hold `elements` consecutive weights of a row. The numbers in a block are
little endian. Scales are stored as float16 and converted to float32 here. Products are rounded to
float32 in the order of the format's definition. So `Quantized.dense` gives the same bits as
`gguf.quants.dequantize`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..quantized import Layout, Quantized

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]  # [blocks, size]
    Parts = tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32] | None]

SUPER = 256  # weights per block in formats whose scales are themselves quantised
NONLINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class Block:
    """One type of GGUF tensor.

    elements: number of weights in a block. layout: the format of what `unpack` returns. unpack:
    turns blocks [n, size] into (levels [n, elements], scales [n, elements / group], minimums of the
    same shape or None). Both layout and unpack are None if the weights are stored as plain numbers.
    """

    name: str
    elements: int
    size: int  # bytes of a block
    layout: Layout | None = None
    unpack: Callable[[Bytes], Parts] | None = None


def unpacked(block: Block, data: Bytes, columns: int) -> Quantized:
    """Return the weights [rows, columns] whose bytes are `data`."""
    assert block.layout is not None
    assert block.unpack is not None
    levels, scales, minimums = block.unpack(data.reshape(-1, block.size))
    groups = columns // block.layout.group
    return Quantized(
        layout=block.layout,
        levels=levels.reshape(-1, columns),
        scales=scales.reshape(-1, groups),
        minimums=None if minimums is None else minimums.reshape(-1, groups),
    )


def _halves(data: Bytes) -> NDArray[np.float32]:
    """Convert float16 numbers, [n, 2 k] bytes, to float32 [n, k]."""
    import numpy as np

    found: NDArray[np.float32] = np.ascontiguousarray(data).view("<f2").astype(np.float32)
    return found


def _bits(data: Bytes, count: int, width: int) -> Bytes:
    """Split each byte into `count` fields of `width` bits, lowest first: [n, ...] to [n, count,
    ...]."""
    import numpy as np

    shifts = np.arange(count, dtype=np.uint8) * np.uint8(width)
    fields = data[:, None] >> shifts.reshape(1, count, *[1] * (data.ndim - 1))
    found: Bytes = fields & np.uint8((1 << width) - 1)
    return found


def _nibbles(data: Bytes, run: int) -> Bytes:
    """Split bytes into nibbles: [n, size] to [n, 2 size].

    Each group of `run` bytes gives all its low nibbles, then all its high nibbles.
    """
    pieces = data.reshape(-1, run)
    return _bits(pieces, 2, 4).reshape(len(data), -1)


def _fifth_bits(data: Bytes) -> Bytes:
    """Unpack [n, 4] bytes to [n, 32] bits: bit i belongs to weight i."""
    import numpy as np

    return np.unpackbits(np.ascontiguousarray(data), axis=1, bitorder="little")


def _signed(levels: Bytes, zero: int) -> NDArray[np.int8]:
    """Subtract the zero point from unsigned levels."""
    import numpy as np

    found: NDArray[np.int8] = levels.view(np.int8) - np.int8(zero)
    return found


# --- blocks of 32 weights with one scale each ---


def _q8_0(data: Bytes) -> Parts:
    return data[:, 2:].view("i1"), _halves(data[:, :2]), None


def _q4_0(data: Bytes) -> Parts:
    return _nibbles(data[:, 2:], 16), _halves(data[:, :2]), None


def _q4_1(data: Bytes) -> Parts:
    return _nibbles(data[:, 4:], 16), _halves(data[:, :2]), _halves(data[:, 2:4])


def _q5_0(data: Bytes) -> Parts:
    levels = _nibbles(data[:, 6:], 16) | _fifth_bits(data[:, 2:6]) << 4
    return _signed(levels, 16), _halves(data[:, :2]), None


def _q5_1(data: Bytes) -> Parts:
    levels = _nibbles(data[:, 8:], 16) | _fifth_bits(data[:, 4:8]) << 4
    return levels.view("i1"), _halves(data[:, :2]), _halves(data[:, 2:4])


def _iq4_nl(data: Bytes) -> Parts:
    import numpy as np

    levels = np.array(NONLINEAR, np.int8)[_nibbles(data[:, 2:], 16)]
    return levels, _halves(data[:, :2]), None


# --- super-blocks: groups of 16 or 32 weights have small integer scales, which a float16 scales ---


def _q2_k(data: Bytes) -> Parts:
    scale, minimum = _halves(data[:, 80:82]), _halves(data[:, 82:84])
    small = data[:, :16]
    levels = _bits(data[:, 16:80].reshape(-1, 32), 4, 2).view("i1")
    return levels.reshape(-1, SUPER), scale * (small & 15), -(minimum * (small >> 4))


def _q3_k(data: Bytes) -> Parts:
    low, high = _nibbles(data[:, 96:104], 8), _bits(data[:, 104:108], 4, 2).reshape(-1, 16)
    small = _signed(low | high << 4, 32)
    levels = _bits(data[:, 32:96].reshape(-1, 32), 4, 2).reshape(-1, SUPER)
    third = _bits(data[:, :32], 8, 1).reshape(-1, SUPER)
    return _signed(levels | third << 2, 4), _halves(data[:, 108:110]) * small, None


def _six_bits(data: Bytes) -> tuple[Bytes, Bytes]:
    """Unpack [n, 12] bytes to eight scales and eight minimums of six bits each, both [n, 8]."""
    import numpy as np

    scale, minimum, both = data[:, :4], data[:, 4:8], data[:, 8:]
    scales = [scale & 63, (both & 15) | (scale >> 2) & 48]
    minimums = [minimum & 63, (both >> 4) | (minimum >> 2) & 48]
    return np.concatenate(scales, 1), np.concatenate(minimums, 1)


def _q45_k(data: Bytes, levels: NDArray[Any]) -> Parts:
    scales, minimums = _six_bits(data[:, 4:16])
    return levels, _halves(data[:, :2]) * scales, -(_halves(data[:, 2:4]) * minimums)


def _q4_k(data: Bytes) -> Parts:
    return _q45_k(data, _nibbles(data[:, 16:], 32))


def _q5_k(data: Bytes) -> Parts:
    fifth = _bits(data[:, 16:48], 8, 1).reshape(-1, SUPER)
    return _q45_k(data, (_nibbles(data[:, 48:], 32) | fifth << 4).view("i1"))


def _q6_k(data: Bytes) -> Parts:
    low = _nibbles(data[:, :128], 64)
    high = _bits(data[:, 128:192].reshape(-1, 32), 4, 2).reshape(-1, SUPER)
    small = data[:, 192:208].view("i1")
    return _signed(low | high << 4, 32), _halves(data[:, 208:210]) * small, None


_HALF = {"scales": "float16"}
_HALVES = {"scales": "float16", "minimums": "float16"}
_PRODUCTS = {"minimums": "float32"}  # a minimum is a product of a float16 and a small integer

BLOCKS = {
    0: Block("F32", 1, 4),
    1: Block("F16", 1, 2),
    30: Block("BF16", 1, 2),
    2: Block("Q4_0", 32, 18, Layout("int4", 32, zero=8, **_HALF), _q4_0),
    3: Block("Q4_1", 32, 20, Layout("int4", 32, **_HALVES), _q4_1),
    6: Block("Q5_0", 32, 22, Layout("int8", 32, **_HALF), _q5_0),
    7: Block("Q5_1", 32, 24, Layout("int8", 32, **_HALVES), _q5_1),
    8: Block("Q8_0", 32, 34, Layout("int8", 32, **_HALF), _q8_0),
    10: Block("Q2_K", SUPER, 84, Layout("int8", 16, **_PRODUCTS), _q2_k),
    11: Block("Q3_K", SUPER, 110, Layout("int8", 16), _q3_k),
    12: Block("Q4_K", SUPER, 144, Layout("int4", 32, **_PRODUCTS), _q4_k),
    13: Block("Q5_K", SUPER, 176, Layout("int8", 32, **_PRODUCTS), _q5_k),
    14: Block("Q6_K", SUPER, 210, Layout("int8", 16), _q6_k),
    20: Block("IQ4_NL", 32, 18, Layout("int8", 32, **_HALF), _iq4_nl),
}  # keys: the numbers that GGUF files use for these types
NAMED = {block.name: block for block in BLOCKS.values()}
