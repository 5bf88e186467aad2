"""The keys that the rows of a forward see, computed once for all layers.

The public op is `see`, its plain-torch twin `see_torch`. A row's keys are ordered by absolute
position: the trunk, its ancestors in flight, its own tail. For the positions in flight, from the
head on, a depth-to-slot table is made of the row's masks. If a row's table is the beginning of
another's, it follows that row, its leader. A path has one leader, a tree one per leaf. Attention
reads the slots in flight once per leader and tile of rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .plan import FLIGHT, AttentionPlan, Workspace
from .state import MAX_ROWS, SLOTS, Batch, Row, check_words, mask_bits, struct
from .words import (
    ROW_BRANCH,
    ROW_CHAIN,
    ROW_TAIL,
    ROW_WORDS,
    TABLE_HEAD,
    TABLE_N,
    TABLE_ROWS,
    has_bit,
    load_int64,
    load_unsigned,
)


@triton.jit
def _smear(word):
    """All bits up to the highest one that is set."""
    word |= word >> 1
    word |= word >> 2
    word |= word >> 4
    word |= word >> 8
    return word | (word >> 16)


@triton.jit
def _is_beginning(low, high):
    """[64, 64]: True if the set bits of row a (axis 0) are the lowest ones of row b (axis 1)."""
    upto_high = _smear(high)
    upto_low = tl.where(high != 0, tl.full(low.shape, 0xFFFFFFFF, tl.uint32), _smear(low))
    same_low = (low[None, :] & upto_low[:, None]) == low[:, None]
    return same_low & ((high[None, :] & upto_high[:, None]) == high[:, None])


@triton.jit
def _see_kernel(
    Table,  # [words] Batch
    Slots,  # [64, 128] written
    Extent,  # [4 + 128] written
    Meta,  # [4, 64] written
    first_row,  # its table row is row 0 of the result
    capacity,  # positions of the ring
    reach,  # positions a row sees
    tail_slots,  # per branch
    rows,  # rows of the forward
    TILE_ROWS: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,  # 64
):
    """One program.  slot[r][j] = slot of the j-th set bit of (chain, tail). leader(a) = the longest
    row of a's tile whose slots begin with a's; the lowest of equals."""
    o_row = tl.arange(0, ROWS)
    o_bit = tl.arange(0, ROWS)
    always = o_row >= 0
    head = load_int64(Table + TABLE_HEAD, True)
    m_row = (first_row + o_row < tl.load(Table + TABLE_N)) & (o_row < rows)
    p_row = Table + TABLE_ROWS + (first_row + o_row).to(tl.int64) * ROW_WORDS
    position = load_int64(p_row, m_row)
    chain_low = load_unsigned(p_row + ROW_CHAIN, m_row)
    chain_high = load_unsigned(p_row + ROW_CHAIN + 1, m_row)
    tail_low = load_unsigned(p_row + ROW_TAIL, m_row)
    tail_high = load_unsigned(p_row + ROW_TAIL + 1, m_row)
    branch = tl.load(p_row + ROW_BRANCH, mask=m_row, other=-1)

    # The depth-to-slot table.
    in_chain = has_bit(chain_low[:, None], chain_high[:, None], o_bit[None, :])
    in_tail = has_bit(tail_low[:, None], tail_high[:, None], o_bit[None, :])
    nodes = tl.sum(in_chain, axis=1)
    count = nodes + tl.sum(in_tail, axis=1)
    ring = head % capacity + o_bit
    ring = tl.where(ring >= capacity, ring - capacity, ring).to(tl.int32)
    own = capacity + branch[:, None] * tail_slots + o_bit[None, :]
    p_slots = Slots + o_row[:, None] * (2 * ROWS)
    depth = tl.cumsum(in_chain, axis=1) - 1
    tl.store(p_slots + depth, ring[None, :] + tl.zeros_like(depth), mask=in_chain != 0)
    depth = nodes[:, None] + tl.cumsum(in_tail, axis=1) - 1
    tl.store(p_slots + depth, own, mask=in_tail != 0)

    # Each row's leader.
    chain_same = (chain_low[:, None] == chain_low[None, :]) & (
        chain_high[:, None] == chain_high[None, :]
    )
    tail_follows = (
        chain_same & (branch[:, None] == branch[None, :]) & _is_beginning(tail_low, tail_high)
    )
    no_tail = (tail_low | tail_high) == 0
    follows = tl.where(no_tail[:, None], _is_beginning(chain_low, chain_high), tail_follows)
    same_tile = (o_row // TILE_ROWS)[:, None] == (o_row // TILE_ROWS)[None, :]
    follows = follows & same_tile & m_row[:, None] & m_row[None, :]
    longest = tl.max(tl.where(follows, (count * ROWS + ROWS - 1 - o_row)[None, :], -1), axis=1)
    leader = tl.where(m_row, ROWS - 1 - (longest & (ROWS - 1)), -1)
    leads = (leader == o_row).to(tl.int32)
    before = same_tile & (o_row[None, :] < o_row[:, None])
    rank = tl.sum(tl.where(before, leads[None, :] + tl.zeros_like(depth), 0), axis=1)
    in_tile = tl.sum(tl.where(same_tile, leads[None, :] + tl.zeros_like(depth), 0), axis=1)
    tl.store(Meta + o_row, tl.where(m_row, count, -1))
    tl.store(Meta + ROWS + o_row, leader)
    tl.store(Meta + 2 * ROWS + o_row // TILE_ROWS * TILE_ROWS + rank, o_row, mask=leads != 0)
    tl.store(Meta + 3 * ROWS + o_row // TILE_ROWS, in_tile, mask=o_row % TILE_ROWS == 0)

    # The extent of all rows' keys.
    first = tl.maximum(position - reach + 1, 0)
    far = head + 2 * ROWS
    led = (leader[None, :] == o_row[:, None]) & m_row[None, :]
    led_first = tl.min(tl.where(led, first[None, :] + tl.zeros_like(depth), far), axis=1)
    low = tl.minimum(tl.min(tl.where(m_row, first, far), axis=0), head)
    low = tl.maximum(low, head - reach)  # whatever a row says: the workspace holds no more
    high = tl.maximum(head, tl.max(tl.where(m_row, head + count, 0), axis=0))
    first_split = low // SPLIT
    splits = tl.maximum((high + SPLIT - 1) // SPLIT - first_split, 1)
    tl.store(Extent, head)
    tl.store(Extent + 1, low)
    tl.store(Extent + 2, first_split)
    tl.store(Extent + 3, splits)
    tl.store(Extent + 4 + o_row, first, mask=always)
    tl.store(Extent + 4 + ROWS + o_row, led_first, mask=always)


def see(
    table: torch.Tensor, plan: AttentionPlan, work: Workspace, *, first_row: int = 0
) -> Workspace:
    """Write into `work` the keys that rows first_row .. first_row + plan.rows - 1 of a row table
    see.

    table  int32 words of a Batch (csrc/state); rows from its n on are padding
    work   its slots, extent and meta are written; returned

    Allocates nothing. A row's masks must not reach further than its window and the ring hold
    (invariant 2 of csrc/README.md). Raises ValueError on invalid tensors.
    """
    check_words("table", table, Batch)
    _see_kernel[(1,)](
        table,
        work.slots,
        work.extent,
        work.meta,
        first_row,
        plan.capacity,
        plan.reach,
        plan.tail_slots,
        plan.rows,
        TILE_ROWS=plan.tile_rows,
        SPLIT=plan.split_length,
        ROWS=MAX_ROWS,
        num_warps=16,
    )
    return work


def see_torch(
    table: torch.Tensor, plan: AttentionPlan, work: Workspace, *, first_row: int = 0
) -> Workspace:
    """The twin of `see` in plain torch: same arguments, effects and errors, any device."""
    check_words("table", table, Batch)
    given = struct(Batch, table)
    head = given.head[0]
    rows = list(given.row[first_row : min(given.n, first_row + plan.rows)])
    seen = [_slots_of(row, head, plan) for row in rows]
    for i, slots in enumerate(seen):
        work.slots[i, : len(slots)] = torch.tensor(slots, dtype=torch.int32)
    leaders = _leaders(seen, plan.tile_rows)
    firsts = [max(0, row.position - plan.reach + 1) for row in rows]
    work.meta.copy_(_meta(seen, leaders, plan.tile_rows, work.meta))
    low = max(min([head, *firsts]), head - plan.reach)
    high = max([head, *(head + len(slots) for slots in seen)])
    first_split = low // plan.split_length
    splits = max(1, -(-high // plan.split_length) - first_split)
    far = head + FLIGHT
    pairs = list(zip(firsts, leaders, strict=True))
    led = [min([f for f, b in pairs if b == i] or [far]) for i in range(MAX_ROWS)]
    padding = [max(0, 1 - plan.reach)] * (MAX_ROWS - len(firsts))
    extent = [head, low, first_split, splits, *firsts, *padding, *led]
    work.extent.copy_(torch.tensor(extent, dtype=torch.int64))
    return work


def _slots_of(row: Row, head: int, plan: AttentionPlan) -> list[int]:
    """Slots in flight that a row sees, by depth."""
    chain, tail = mask_bits(row.chain), mask_bits(row.tail)
    nodes = [(head + bit) % plan.capacity for bit in range(SLOTS) if chain >> bit & 1]
    own = plan.capacity + row.branch * plan.tail_slots
    return nodes + [own + bit for bit in range(SLOTS) if tail >> bit & 1]


def _leaders(seen: list[list[int]], tile_rows: int) -> list[int]:
    """For every row, the longest row of its tile whose slots begin with this row's; the lowest of
    equals."""
    leaders = []
    for a, slots in enumerate(seen):
        tile = range(a // tile_rows * tile_rows, len(seen))[:tile_rows]
        after = [b for b in tile if seen[b][: len(slots)] == slots]
        leaders.append(max(after, key=lambda b: (len(seen[b]), -b)))
    return leaders


def _meta(
    seen: list[list[int]], leaders: list[int], tile_rows: int, meta: torch.Tensor
) -> torch.Tensor:
    """The words of Workspace.meta; entries without a leader keep their old value."""
    out = meta.cpu().clone()
    out[0] = torch.tensor([len(slots) for slots in seen] + [-1] * (MAX_ROWS - len(seen)))
    out[1] = torch.tensor(leaders + [-1] * (MAX_ROWS - len(seen)))
    for tile, start in enumerate(range(0, MAX_ROWS, tile_rows)):
        mine = [a for a in range(start, min(start + tile_rows, len(seen))) if leaders[a] == a]
        out[2, start : start + len(mine)] = torch.tensor(mine, dtype=torch.int32)
        out[3, tile] = len(mine)
    return out
