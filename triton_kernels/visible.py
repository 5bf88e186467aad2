"""Computes which keys the rows of a forward attend to, once for all layers.

The public op is `see`. Its twin in plain torch is `see_torch`. A row attends to the trunk, its
ancestors in the chain, and its branch's tail up to itself, in this order. The positions from the
head on are in flight: they are not committed.

Slots. For the positions in flight, each row has a table from depth to slot. The table is made from
the masks of the row.

Leaders. If a row's table is the beginning of another row's table, the other row is its leader. A
path has one leader; a tree has one for each leaf. For each tile of rows, attention reads the slots
in flight once per leader.

Members. The rows of one sequence are called a member (Workspace). Each member has its own range of
keys. For each member, the result also has the number of its items of work (attention.py).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .plan import FAN, FLIGHT, MEMBER, AttentionPlan, Workspace
from .state import MAX_ROWS, SLOTS, Batch, Row, check_words, mask_bits, struct
from .words import (
    ROW_BRANCH,
    ROW_CHAIN,
    ROW_TAIL,
    ROW_WORDS,
    TABLE_N,
    TABLE_ROWS,
    has_bit,
    head_of,
    load_int64,
    load_unsigned,
    seat_of,
)


@triton.jit
def _smear(word):
    """Returns `word` with all bits set up to the highest one that is set."""
    word |= word >> 1
    word |= word >> 2
    word |= word >> 4
    word |= word >> 8
    return word | (word >> 16)


@triton.jit
def _is_beginning(low, high):
    """Returns [64, 64]: True if the set bits of row a (axis 0) are the lowest set bits of row b
    (axis 1)."""
    upto_high = _smear(high)
    upto_low = tl.where(high != 0, tl.full(low.shape, 0xFFFFFFFF, tl.uint32), _smear(low))
    same_low = (low[None, :] & upto_low[:, None]) == low[:, None]
    return same_low & ((high[None, :] & upto_high[:, None]) == high[:, None])


@triton.jit
def _most(is_mine, x):
    """Returns, for every member, the largest x of its rows, [64]. is_mine: [members, rows], True if
    the row belongs to the member."""
    least = tl.full((), -1 << 62, tl.int64)
    return tl.max(tl.where(is_mine, x.to(tl.int64)[None, :], least), axis=1)


@triton.jit
def _see_kernel(
    Table,  # [words] Batch
    Slots,  # [64, 128]; written, like the next four tensors (Workspace)
    Firsts,  # [2, 64]
    Meta,  # [4, 64]
    Members,  # [9, 64]
    Items,  # [64]
    first_row,  # row of the table that row 0 of the result belongs to
    capacity,  # positions of the ring
    reach,  # largest number of positions that a row attends to
    tail_slots,  # slots per branch
    seat_slots,  # slots from one seat's storage to the next seat's storage
    rows,  # rows of the forward
    kv_heads,
    short,  # AttentionPlan.max_short; divided by the number of members
    TILE_ROWS: tl.constexpr,
    SPLIT: tl.constexpr,
    FAN: tl.constexpr,
    ROWS: tl.constexpr,  # 64: rows of the written tables, and bits of a mask
    M: tl.constexpr,  # number of rows that this kernel is compiled for; at least `rows`
):
    """One program.  slot[r][j] = slot of the j-th set bit of the masks (chain, tail) of row r. The
    leader of row a is the longest row of its tile whose slots begin with those of a; of equal rows
    the lowest."""
    o_row = tl.arange(0, M)
    o_bit = tl.arange(0, ROWS)
    always = o_row >= 0
    m_row = (first_row + o_row < tl.load(Table + TABLE_N)) & (o_row < rows)
    p_row = Table + TABLE_ROWS + (first_row + o_row).to(tl.int64) * ROW_WORDS
    seat = seat_of(p_row, m_row)
    head = head_of(Table, seat, m_row)
    storage = seat.to(tl.int64) * seat_slots
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
    ring = (head % capacity).to(tl.int32)[:, None] + o_bit[None, :]
    ring = tl.where(ring >= capacity, ring - capacity, ring)
    own = capacity + branch[:, None] * tail_slots + o_bit[None, :]
    p_slots = Slots + o_row[:, None] * (2 * ROWS)
    first_slot = storage.to(tl.int32)[:, None]
    depth = tl.cumsum(in_chain, axis=1) - 1
    tl.store(p_slots + depth, first_slot + ring, mask=in_chain != 0)
    depth = nodes[:, None] + tl.cumsum(in_tail, axis=1) - 1
    tl.store(p_slots + depth, first_slot + own, mask=in_tail != 0)

    # Find the members, and for every row the first row of its member and of its tile.
    m_before = m_row & (o_row > 0)
    before = tl.where(m_before, seat_of(p_row - ROW_WORDS, m_before), -1)
    is_after = (first_row + o_row == tl.load(Table + TABLE_N)) & (o_row < rows)  # first padding row
    starts = ((m_row & (seat != before)) | is_after | (o_row == 0)).to(tl.int32)
    member = tl.where(o_row < rows, tl.cumsum(starts, axis=0) - 1, M)
    begins = (starts[None, :] != 0) & (o_row[None, :] <= o_row[:, None])
    its_first = tl.max(tl.where(begins, o_row[None, :], 0), axis=1)
    tile = its_first + (o_row - its_first) // TILE_ROWS * TILE_ROWS

    # Each row's leader.
    chain_same = (chain_low[:, None] == chain_low[None, :]) & (
        chain_high[:, None] == chain_high[None, :]
    )
    tail_follows = (
        chain_same & (branch[:, None] == branch[None, :]) & _is_beginning(tail_low, tail_high)
    )
    no_tail = (tail_low | tail_high) == 0
    follows = tl.where(no_tail[:, None], _is_beginning(chain_low, chain_high), tail_follows)
    same_tile = tile[:, None] == tile[None, :]
    follows = follows & same_tile & m_row[:, None] & m_row[None, :]
    longest = tl.max(tl.where(follows, (count * M + M - 1 - o_row)[None, :], -1), axis=1)
    leader = tl.where(m_row, M - 1 - (longest & (M - 1)), -1)
    leads = (leader == o_row).to(tl.int32)
    earlier = same_tile & (o_row[None, :] < o_row[:, None])
    none = tl.zeros((M, M), tl.int32)
    rank = tl.sum(tl.where(earlier, leads[None, :] + none, 0), axis=1)
    in_tile = tl.sum(tl.where(same_tile, leads[None, :] + none, 0), axis=1)
    tl.store(Meta + o_row, tl.where(m_row, count, -1))
    tl.store(Meta + ROWS + o_row, leader)
    tl.store(Meta + 2 * ROWS + tile + rank, o_row, mask=leads != 0)
    tl.store(Meta + 3 * ROWS + o_row, in_tile, mask=(o_row == tile) & (o_row < rows))

    # Compute the range of keys that the rows of each member attend to.
    first = tl.maximum(position - reach + 1, 0)
    far = head + 2 * ROWS
    led = (leader[None, :] == o_row[:, None]) & m_row[None, :]
    led_first = tl.min(tl.where(led, first[None, :] + none, far[:, None]), axis=1)
    tl.store(Firsts + o_row, first, mask=always)
    tl.store(Firsts + ROWS + o_row, led_first, mask=always)
    high = tl.where(m_row, head + count, head)
    low = tl.minimum(tl.where(m_row, first, head), head)
    # This also bounds invalid rows, because the workspace has no more room.
    low = tl.maximum(low, head - reach)
    is_mine = member[None, :] == o_row[:, None]
    its_head = _most(is_mine, head)
    its_low = -_most(is_mine, -low)
    its_storage = _most(is_mine, storage)
    its_row = M - _most(is_mine, M - o_row)
    its_rows = tl.sum(is_mine.to(tl.int32), axis=1)
    first_split = its_low // SPLIT
    splits = tl.maximum((_most(is_mine, high) + SPLIT - 1) // SPLIT - first_split, 1)
    seats = tl.max(tl.where(m_row, member + 1, 1), axis=0)
    taken = tl.where(splits <= tl.maximum(short // seats, 1), 1, FAN).to(tl.int64)
    is_there = its_rows > 0
    tiles = (its_rows + TILE_ROWS - 1) // TILE_ROWS
    pieces = (first_split + splits - 1) // taken - first_split // taken + 1
    items = tl.where(is_there, kv_heads * tiles * pieces.to(tl.int32), 0)
    tl.store(Members + o_row, its_head, mask=is_there)
    tl.store(Members + ROWS + o_row, its_low, mask=is_there)
    tl.store(Members + 2 * ROWS + o_row, first_split, mask=is_there)
    tl.store(Members + 3 * ROWS + o_row, splits, mask=is_there)
    tl.store(Members + 4 * ROWS + o_row, taken, mask=is_there)
    tl.store(Members + 5 * ROWS + o_row, its_storage, mask=is_there)
    tl.store(Members + 6 * ROWS + o_row, its_row.to(tl.int64), mask=is_there)
    tl.store(Members + 7 * ROWS + o_row, (its_row + its_rows).to(tl.int64), mask=is_there)
    tl.store(
        Members + 8 * ROWS + o_row, (tl.cumsum(tiles, axis=0) - tiles).to(tl.int64), mask=is_there
    )
    tl.store(Items + o_row, tl.cumsum(items, axis=0))
    if M < ROWS:  # clear the rows of the tables that this forward does not have
        o_rest = tl.arange(0, ROWS)
        m_rest = o_rest >= M
        tl.store(Meta + o_rest, -1, mask=m_rest)
        tl.store(Meta + ROWS + o_rest, -1, mask=m_rest)
        tl.store(Firsts + o_rest, 0, mask=m_rest)
        tl.store(Firsts + ROWS + o_rest, 2 * ROWS, mask=m_rest)
        tl.store(Items + o_rest, tl.sum(items, axis=0), mask=m_rest)


def see(
    table: torch.Tensor, plan: AttentionPlan, work: Workspace, *, first_row: int = 0
) -> Workspace:
    """Write into `work` the keys to which rows first_row .. first_row + plan.rows - 1 of a table
    attend.

    table  int32 words of a Batch (csrc/state); rows from index `n` on are padding. The rows of a
           sequence must be adjacent
    work   its first five tensors are written

    Returns `work`. Allocates nothing. A row's masks must not reach further than its window and the
    ring allow (invariant 2 of csrc/README.md). Raises ValueError on invalid tensors.
    """
    check_words("table", table, Batch)
    _see_kernel[(1,)](
        *(table, work.slots, work.firsts, work.meta, work.members, work.items),
        *(first_row, plan.capacity, plan.reach, plan.tail_slots, plan.seat_slots),
        *(plan.rows, plan.kv_heads, plan.max_short),
        TILE_ROWS=plan.tile_rows,
        SPLIT=plan.split_length,
        FAN=FAN,
        ROWS=MAX_ROWS,
        M=plan.row_block,
        num_warps=num_warps(plan.row_block),
    )
    return work


def num_warps(rows: int) -> int:
    """Return the number of warps for a program that computes `rows` rows."""
    return min(16, rows // 4)


def see_torch(
    table: torch.Tensor, plan: AttentionPlan, work: Workspace, *, first_row: int = 0
) -> Workspace:
    """Plain-torch twin of `see`: same arguments, effects and errors, any device."""
    check_words("table", table, Batch)
    given = struct(Batch, table)
    rows = list(given.row[first_row : min(given.n, first_row + plan.rows)])
    heads = [given.head[row.seat] for row in rows]
    members = _members(rows, plan.rows)
    tiles = [
        start + (i - start) // plan.tile_rows * plan.tile_rows
        for start, end in members
        for i in range(start, end)
    ]
    seen = [_slots_of(row, head, plan) for row, head in zip(rows, heads, strict=True)]
    for i, slots in enumerate(seen):
        work.slots[i, : len(slots)] = torch.tensor(slots, dtype=torch.int32)
    leaders = _leaders(seen, tiles)
    work.meta.copy_(_meta(seen, leaders, tiles, work.meta))
    firsts = [max(0, row.position - plan.reach + 1) for row in rows]
    pairs = list(zip(firsts, leaders, strict=True))
    fars = [head + FLIGHT for head in heads] + [FLIGHT] * (MAX_ROWS - len(heads))
    led = [min([f for f, b in pairs if b == i] or [far]) for i, far in enumerate(fars)]
    padding = [max(0, 1 - plan.reach)] * (MAX_ROWS - len(firsts))
    work.firsts.copy_(torch.tensor([[*firsts, *padding], led], dtype=torch.int64))
    short = max(1, plan.max_short // max(1, len({row.seat for row in rows})))
    found, first_tile = [], 0
    for start, end in members:
        mine = [(rows[i], firsts[i], len(seen[i])) for i in range(start, min(end, len(rows)))]
        member = _extent(mine, heads[start] if mine else 0, short, plan)
        member |= {"row": start, "end": end, "tile": first_tile}
        first_tile += triton.cdiv(end - start, plan.tile_rows)
        found.append([member[name] for name in MEMBER])
    _put_members(found, plan, work)
    return work


def _members(rows: list[Row], count: int) -> list[tuple[int, int]]:
    """Return for every member its first row and the row after its last."""
    seats = [row.seat for row in rows] + [-1] * (count - len(rows))
    starts = [i for i in range(count) if i == 0 or seats[i] != seats[i - 1]]
    return list(zip(starts, [*starts[1:], count], strict=True))


def _extent(
    mine: list[tuple[Row, int, int]], head: int, short: int, plan: AttentionPlan
) -> dict[str, int]:
    """Return the fields of MEMBER that describe the keys of a member.

    mine: for each row of the member (row, first position it attends to, number of slots in flight).
    """
    low = max(min([head, *(first for _, first, _ in mine)]), head - plan.reach)
    high = max([head, *(head + seen for _, _, seen in mine)])
    first_split = low // plan.split_length
    splits = max(1, -(-high // plan.split_length) - first_split)
    return {
        "head": head,
        "low": low,
        "first_split": first_split,
        "splits": splits,
        "taken": 1 if splits <= short else FAN,
        "storage": mine[0][0].seat * plan.seat_slots if mine else 0,
    }


def _put_members(found: list[list[int]], plan: AttentionPlan, work: Workspace) -> None:
    """Write the members and the items into `work`. Columns of work.members after the last member
    keep their values."""
    total, items = 0, []
    for _, _, first, splits, taken, _, row, end, _ in found:
        pieces = (first + splits - 1) // taken - first // taken + 1
        total += plan.kv_heads * triton.cdiv(end - row, plan.tile_rows) * pieces
        items.append(total)
    work.members[:, : len(found)] = torch.tensor(found, dtype=torch.int64).t()
    items += [total] * (MAX_ROWS - len(items))
    work.items.copy_(torch.tensor(items, dtype=torch.int32))


def _slots_of(row: Row, head: int, plan: AttentionPlan) -> list[int]:
    """Return the slots in flight that a row attends to, by ascending depth."""
    chain, tail, storage = mask_bits(row.chain), mask_bits(row.tail), row.seat * plan.seat_slots
    nodes = [(head + bit) % plan.capacity for bit in range(SLOTS) if chain >> bit & 1]
    own = plan.capacity + row.branch * plan.tail_slots
    nodes += [own + bit for bit in range(SLOTS) if tail >> bit & 1]
    return [storage + slot for slot in nodes]


def _leaders(seen: list[list[int]], tiles: list[int]) -> list[int]:
    """Return the leader of every row: a row of the same tile whose slots begin with the slots of
    the row.

    If several rows qualify, the leader is one with the most slots, and of these the lowest.
    """
    leaders = []
    for a, slots in enumerate(seen):
        tile = [b for b in range(len(seen)) if tiles[b] == tiles[a]]
        after = [b for b in tile if seen[b][: len(slots)] == slots]
        leaders.append(max(after, key=lambda b: (len(seen[b]), -b)))
    return leaders


def _meta(
    seen: list[list[int]], leaders: list[int], tiles: list[int], meta: torch.Tensor
) -> torch.Tensor:
    """Return the new values of Workspace.meta. Entries of rows without a leader keep their old
    values."""
    out = meta.cpu().clone()
    out[0] = torch.tensor([len(slots) for slots in seen] + [-1] * (MAX_ROWS - len(seen)))
    out[1] = torch.tensor(leaders + [-1] * (MAX_ROWS - len(seen)))
    for start in sorted(set(tiles)):
        mine = [a for a in range(len(seen)) if tiles[a] == start and leaders[a] == a]
        out[2, start : start + len(mine)] = torch.tensor(mine, dtype=torch.int32)
        out[3, start] = len(mine)
    return out
