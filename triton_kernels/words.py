"""Helpers that the kernels share: they read words of structs, and find out which program arrives
last."""

from __future__ import annotations

import triton
import triton.language as tl

from .state import Batch, Row, Sequence, offset, size

TABLE_HEAD = tl.constexpr(offset(Batch, "head"))
TABLE_N = tl.constexpr(offset(Batch, "n"))
TABLE_ROWS = tl.constexpr(offset(Batch, "row"))
ROW_WORDS = tl.constexpr(size(Row))
ROW_TOKEN = tl.constexpr(offset(Row, "token"))
ROW_SLOT = tl.constexpr(offset(Row, "slot"))
ROW_BRANCH = tl.constexpr(offset(Row, "branch"))
ROW_SEAT = tl.constexpr(offset(Row, "seat"))  # `seat` is the word's upper half, `node` the lower
ROW_CHAIN = tl.constexpr(offset(Row, "chain"))
ROW_TAIL = tl.constexpr(offset(Row, "tail"))
SEQUENCE_WORDS = tl.constexpr(size(Sequence))  # int32 words from one seat to the next

TWO_PROGRAMS = 128  # registers per thread that let two programs of eight warps fit a multiprocessor
# Limit of registers per thread. Without it the assembler spills to fit more threads.
MAX_REGISTERS = 255


@triton.jit
def load_unsigned(p_word, mask):
    """Loads a word as uint32; 0 where the mask is false."""
    return tl.load(p_word, mask=mask, other=0).to(tl.uint32, bitcast=True)


@triton.jit
def load_int64(p_word, mask):
    """Loads two words, the low one first, as int64; 0 where the mask is false."""
    low = load_unsigned(p_word, mask).to(tl.int64)
    return (tl.load(p_word + 1, mask=mask, other=0).to(tl.int64) << 32) | low


@triton.jit
def seat_of(p_row, mask):
    """Loads the seats of rows; 0 where the mask is false."""
    return tl.load(p_row + ROW_SEAT, mask=mask, other=0) >> 16


@triton.jit
def head_of(Table, seat, mask):
    """Loads the first position in flight of each seat; 0 where the mask is false."""
    return load_int64(Table + TABLE_HEAD + 2 * seat, mask)


@triton.jit
def sequence_of(Block, Table, row):
    """Returns a pointer to the words of the sequence to which a row of the table belongs."""
    seat = seat_of(Table + TABLE_ROWS + row.to(tl.int64) * ROW_WORDS, True)
    return Block + seat.to(tl.int64) * SEQUENCE_WORDS


@triton.jit
def has_bit(low, high, bit):
    """Returns a bit (0 to 63) of a mask, as int32 0 or 1. The mask is given as two words."""
    word = tl.where(bit < 32, low, high)
    return ((word >> (bit & 31).to(tl.uint32)) & 1).to(tl.int32)


@triton.jit
def arrived_last(p_counter, expected):
    """Counts the arrival of this program. All its earlier writes are visible to programs that
    arrive later.

    Returns True if it is the last of `expected` programs. Then it resets the counter for the next
    launch.
    """
    tl.debug_barrier()  # the stores of all threads come before the atomic
    is_last = tl.atomic_add(p_counter, 1, sem="acq_rel", scope="gpu") == expected - 1
    if is_last:
        tl.store(p_counter, 0)
    return is_last


def interpreting() -> bool:
    """True if kernels run in Triton's interpreter, whose bfloat16 arithmetic must not be used."""
    return bool(triton.knobs.runtime.interpret)
