"""Attention of one forward's rows over a KV ring.

A row attends to the trunk, to its ancestors in the chain, and to its branch's tail up to itself.
The public op is `branch_attention`. Its twin in plain torch is in attention_torch.py. Both read the
tables that `see` (visible.py) wrote. One kernel serves a path, k branches and any tree.

In flight. The positions from the head on are in flight: they are not committed. Their slots come
from the depth-to-slot table of the row's leader (visible.py).

Order of sums. Positions are divided into splits of equal length, and splits into tiles of equal
length. A key is always summed in the column of its absolute position, wherever its bytes are
stored. One loop serves the trunk and the positions in flight. So, for one compiled kernel, the bits
of a row's result depend only on the keys that the row attends to. A verified row has the same bits
as in plain decoding. This holds for trees too, because keys in flight are gathered along the path
of each leader.

Sequences. The rows of one sequence in a forward are called a member. No tile of rows has rows of
two members. So the bits of a row depend neither on other sequences nor on the seat of its own
sequence.

Work. A unit is one KV head with one tile of rows, for all query heads of the KV head. An item is
the work of one unit on one split or, for a long context, on a block of FAN = 8 splits. The result
of an item is a partial softmax. About two programs per multiprocessor loop over the items.

Merging. Partial softmaxes are merged level by level, always in ascending order. Level 0 has one
partial softmax for each split. FAN partial softmaxes of a level are merged into one of the next
level. Those of the last level are merged into the result. The last program to finish a group of
partial softmaxes merges the group. A program with a block merges its splits in registers in the
same order, so the size of an item changes no bit.

Rounding. If the next product reads integers, the last merge rounds its result to int8, as the CPU
does (round_rows.py). Then there is always a merge, even of a single partial softmax.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .attention_torch import check
from .early import is_early, start_next, wait_for_previous
from .packed import IntegerRows
from .plan import FAN, AttentionPlan, Workspace
from .round_rows import round_groups
from .state import MAX_ROWS
from .words import MAX_REGISTERS, arrived_last, interpreting


@triton.jit
def _fold(m_a, l_a, acc_a, m_b, l_b, acc_b):
    """Returns the merge of two partial softmaxes. Each has its maximum m, its sum of weights l, and
    its weighted sum of values acc. A partial softmax without keys changes no bit of the other."""
    m = tl.maximum(m_a, m_b)
    safe = tl.where(m == float("-inf"), 0.0, m)
    a = tl.exp2(m_a - safe)
    b = tl.exp2(m_b - safe)
    return m, l_a * a + l_b * b, acc_a * a[:, None] + acc_b * b[:, None]


@triton.jit
def _put(Partial, Dist, at, o_m, o_d, m, l, acc, BLOCK_M: tl.constexpr, HEAD_DIM: tl.constexpr):  # noqa: E741
    """Stores columns o_d of a partial softmax at index `at`. Another call merges it later."""
    tl.store(Dist + at * (2 * BLOCK_M) + o_m, m)
    tl.store(Dist + at * (2 * BLOCK_M) + BLOCK_M + o_m, l)
    p_partial = Partial + at * (BLOCK_M * HEAD_DIM) + o_m[:, None] * HEAD_DIM + o_d[None, :]
    tl.store(p_partial, acc)


@triton.jit
def _merged(
    Partial, Dist, first, last, units, unit, o_m, o_d, BLOCK_M: tl.constexpr,
    HEAD_DIM: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Returns the merge of the partial softmaxes first .. last - 1, for columns o_d. Other programs
    wrote the partial softmaxes, so loads bypass L1."""
    m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    l = tl.zeros((BLOCK_M,), tl.float32)  # noqa: E741
    acc = tl.zeros((BLOCK_M, o_d.shape[0]), tl.float32)
    # UNROLL partial softmaxes are loaded together.
    for place in tl.range(first, last, loop_unroll_factor=UNROLL):
        at = (place + tl.zeros((), tl.int64)) * units + unit
        p_partial = Partial + at * (BLOCK_M * HEAD_DIM) + o_m[:, None] * HEAD_DIM + o_d[None, :]
        m_b = tl.load(Dist + at * (2 * BLOCK_M) + o_m, cache_modifier=".cg")
        l_b = tl.load(Dist + at * (2 * BLOCK_M) + BLOCK_M + o_m, cache_modifier=".cg")
        acc_b = tl.load(p_partial, cache_modifier=".cg")
        m, l, acc = _fold(m, l, acc, m_b, l_b, acc_b)  # noqa: E741
    return m, l, acc


@triton.jit
def _write(p_out, o_d, m_row, l, acc):  # noqa: E741
    """Writes columns o_d of the result, acc / l; 0 for rows without keys."""
    o = tl.where((l > 0)[:, None], acc / tl.where(l > 0, l, 1.0)[:, None], 0.0)
    tl.store(p_out[:, None] + o_d[None, :], o.to(p_out.dtype.element_ty), mask=m_row[:, None])


@triton.jit
def _write_rounded(p_out, o_d, m_row, l, acc, p_scale, p_sums, half_stride):  # noqa: E741
    """Writes one group of 32 columns of the result, rounded to int8; 0 for rows without keys."""
    o = tl.where((l > 0)[:, None], acc / tl.where(l > 0, l, 1.0)[:, None], 0.0)
    q, scale, first, second = round_groups(o)
    tl.store(p_out[:, None] + o_d[None, :], q, mask=m_row[:, None])
    tl.store(p_scale, scale, mask=m_row)
    tl.store(p_sums, first, mask=m_row)
    tl.store(p_sums + half_stride, second, mask=m_row)


@triton.jit
def _branch_attention_kernel(
    Q,  # [rows, heads, HEAD_DIM] rotated queries
    q_row_stride,
    q_head_stride,
    K,  # [kv_heads, slots, HEAD_DIM] storage of one layer
    k_head_stride,
    k_slot_stride,
    V,  # [kv_heads, slots, HEAD_DIM]
    v_head_stride,
    v_slot_stride,
    Out,  # [rows, heads, HEAD_DIM] written, with ROUNDS as int8; 0 for a row without keys
    out_row_stride,
    out_head_stride,
    OutScale,  # [groups, ROWS] written with ROUNDS: scales of the groups of 32 columns
    OutSums,  # [2, groups, ROWS] written with ROUNDS: sums of half groups
    out_half_stride,
    Slots,  # [64, 128] depth-to-slot table; `see` wrote it, like the next four tensors (Workspace)
    Firsts,  # [2, 64]
    Meta,  # [4, 64]
    Members,  # [9, 64]
    Items,  # [64]
    Partial,  # [pieces, units, BLOCK_M, HEAD_DIM] weighted values of partial softmaxes, by level
    Dist,  # [pieces, units, 2, BLOCK_M] maxima and sums of weights of partial softmaxes
    Counters,  # [units, 1 + above] counts of programs that arrived; 0 before and after a launch
    capacity,  # positions of the ring
    kv_heads,
    units,  # largest number of units of a forward
    short,  # largest number of splits for which an item is one split
    blocks,  # largest number of partial softmaxes in level 1
    above,  # largest number of partial softmaxes in all levels above 0
    last_level,  # number of the last level
    scale,  # factor of the scores; it includes log2 e
    GROUP: tl.constexpr,  # number of query heads that share a KV head
    HEAD_DIM: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,  # at least TILE_ROWS * GROUP
    BLOCK_N: tl.constexpr,
    SPLIT: tl.constexpr,  # a multiple of BLOCK_N
    FAN: tl.constexpr,
    PIECE: tl.constexpr,  # number of columns that are merged at a time
    UNROLL: tl.constexpr,  # number of partial softmaxes that are loaded together
    UPCAST: tl.constexpr,  # compute products in float32, because the interpreter has no bfloat16
    STAGES: tl.constexpr,
    ROUNDS: tl.constexpr,
    ROWS: tl.constexpr,  # 64
    EARLY: tl.constexpr,  # launched early (early.py)
):
    """Computes softmax(scale q K^T) V over the keys that each row attends to, with powers of 2 and
    in float32.

    bytes = kv_heads * keys * HEAD_DIM * size * 2 * tiles, + rows * heads * HEAD_DIM * size * 2
    flops = 4 * kv_heads * tiles * BLOCK_M * keys * HEAD_DIM
    """
    if EARLY:
        start_next()
        wait_for_previous()
    o_m = tl.arange(0, BLOCK_M)
    o_n = tl.arange(0, BLOCK_N)
    o_d = tl.arange(0, HEAD_DIM)
    until = tl.load(Items + tl.arange(0, 64))

    for item in range(tl.program_id(0), tl.max(until, axis=0), tl.num_programs(0)):
        is_over = until <= item
        p_member = Members + tl.sum(is_over.to(tl.int32), axis=0)
        of_member = item - tl.max(tl.where(is_over, until, 0), axis=0)
        head = tl.load(p_member)
        low = tl.load(p_member + 64)
        first_split = tl.load(p_member + 2 * 64)
        splits = tl.load(p_member + 3 * 64)
        taken = tl.load(p_member + 4 * 64)  # number of splits of an item: 1 or FAN
        storage = tl.load(p_member + 5 * 64).to(tl.int32)
        its_first = tl.load(p_member + 6 * 64).to(tl.int32)
        its_end = tl.load(p_member + 7 * 64).to(tl.int32)
        length = taken * SPLIT
        first = first_split // taken
        last = (first_split + splits - 1) // taken
        tiles = (its_end - its_first + TILE_ROWS - 1) // TILE_ROWS
        place = of_member % (kv_heads * tiles)
        kv_head = (place // tiles).to(tl.int64)
        piece_at = first + of_member // (kv_heads * tiles)
        unit = (tl.load(p_member + 8 * 64).to(tl.int32) + place % tiles) * kv_heads
        unit += kv_head.to(tl.int32)
        tile_row = its_first + place % tiles * TILE_ROWS
        row = tile_row + o_m // GROUP
        m_row = (o_m < TILE_ROWS * GROUP) & (row < its_end)
        q_head = kv_head * GROUP + o_m % GROUP
        count = tl.load(Meta + row, mask=m_row, other=-1)
        leader = tl.load(Meta + 64 + row, mask=m_row, other=-1)
        row_first = tl.load(Firsts + row, mask=m_row, other=0)
        p_q = Q + row.to(tl.int64) * q_row_stride + q_head * q_head_stride
        q = tl.load(p_q[:, None] + o_d[None, :], mask=(m_row & (count >= 0))[:, None], other=0.0)
        if UPCAST:
            q = q.to(tl.float32)

        # Tiles of keys that are all in the trunk come first. Then come the tiles with keys in
        # flight, once for each leader.
        start = piece_at * length
        row_from = tl.minimum(tl.maximum(row_first - start, 0), length).to(tl.int32)
        high = tl.minimum(start + length, head + tl.max(count, axis=0))
        begin = tl.maximum(low - start, 0) // BLOCK_N
        end = (tl.maximum(high - start, 0) + BLOCK_N - 1) // BLOCK_N
        flight = tl.minimum(tl.maximum(tl.maximum(head - start, 0) // BLOCK_N, begin), end)
        leaders = tl.load(Meta + 3 * 64 + tile_row)
        trunk_tiles = (flight - begin).to(tl.int32)
        steps = trunk_tiles + (end - flight).to(tl.int32) * leaders

        m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        l = tl.zeros((BLOCK_M,), tl.float32)  # noqa: E741
        acc = tl.zeros((BLOCK_M, HEAD_DIM), tl.float32)
        m_all, l_all, acc_all = m, l, acc  # partial softmax of the splits before the current one
        for step in tl.range(0, steps, num_stages=STAGES):
            past = step - trunk_tiles
            in_flight = past >= 0
            each = tl.maximum(leaders, 1)
            at = tl.where(in_flight, flight + past // each, begin + step)
            turn = tl.maximum(past, 0) % each
            is_first = (at % (SPLIT // BLOCK_N) == 0) & (turn == 0)
            if is_first & (step > 0):
                m_all, l_all, acc_all = _fold(m_all, l_all, acc_all, m, l, acc)
                m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
                l = tl.zeros((BLOCK_M,), tl.float32)  # noqa: E741
                acc = tl.zeros((BLOCK_M, HEAD_DIM), tl.float32)
            position = start + at * BLOCK_N
            p_leader = Meta + 2 * 64 + tile_row + turn
            led_by = tl.load(p_leader, mask=in_flight, other=0)
            led_count = tl.load(Meta + led_by, mask=in_flight, other=0)
            led_first = tl.load(Firsts + 64 + led_by, mask=in_flight, other=0)

            # Find the slot of each column. In the trunk it follows from the position. In flight it
            # is in the leader's depth-to-slot table.
            depth = tl.minimum(tl.maximum(position - head, -BLOCK_N), 1 << 20).to(tl.int32) + o_n
            is_node = depth >= 0
            m_node = is_node & (depth < led_count)
            node_slot = tl.load(Slots + led_by * 128 + depth, mask=m_node, other=0)
            ring = (position % capacity).to(tl.int32) + o_n
            ring = tl.where(ring >= capacity, ring - capacity, ring)
            slot = tl.where(is_node, node_slot, storage + ring).to(tl.int64)
            from_here = tl.maximum(low, led_first)
            seen_from = tl.minimum(tl.maximum(from_here - position, 0), BLOCK_N).to(tl.int32)
            m_column = (o_n >= seen_from) & (m_node | (depth < 0))

            p_k = K + kv_head * k_head_stride + slot[None, :] * k_slot_stride + o_d[:, None]
            k = tl.load(p_k, mask=m_column[None, :], other=0.0)
            if UPCAST:
                k = k.to(tl.float32)
            s = tl.dot(q, k, input_precision="ieee") * scale

            column = (at * BLOCK_N).to(tl.int32) + o_n
            sees = (column[None, :] >= row_from[:, None]) & (depth[None, :] < count[:, None])
            sees = sees & ((leader == led_by) | (past < 0))[:, None]
            s = tl.where(sees & (count >= 0)[:, None], s, float("-inf"))
            m_new = tl.maximum(m, tl.max(s, axis=1))
            safe = tl.where(m_new == float("-inf"), 0.0, m_new)
            shrink = tl.exp2(m - safe)
            p = tl.exp2(s - safe[:, None])
            l = l * shrink + tl.sum(p, axis=1)  # noqa: E741
            m = m_new

            p_v = V + kv_head * v_head_stride + slot[:, None] * v_slot_stride + o_d[None, :]
            v = tl.load(p_v, mask=m_column[:, None], other=0.0)
            if UPCAST:
                v = v.to(tl.float32)
            acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")

        m, l, acc = _fold(m_all, l_all, acc_all, m, l, acc)  # noqa: E741
        p_out = Out + row.to(tl.int64) * out_row_stride + q_head * out_head_stride
        if (first == last) & (ROUNDS == 0):
            _write(p_out, o_d, m_row, l, acc)
        else:
            lower = tl.where(taken == 1, 0, short).to(tl.int32)  # offset of this level in Partial
            at_here = (lower + piece_at - first) * units + unit
            _put(Partial, Dist, at_here, o_m, o_d, m, l, acc, BLOCK_M, HEAD_DIM)
            _climb(
                Partial, Dist, Counters + unit * (1 + above), p_out, m_row, units, unit,
                piece_at, first, last, taken, short, blocks, last_level,
                OutScale, OutSums, out_half_stride, q_head * (HEAD_DIM // 32) * ROWS + row,
                BLOCK_M, HEAD_DIM, FAN, PIECE, UNROLL, ROUNDS, ROWS,
            )  # fmt: skip


@triton.jit
def _climb(
    Partial, Dist, p_counters, p_out, m_row, units, unit, index, first, last, taken, short, blocks,
    last_level, OutScale, OutSums, half_stride, o_scale, BLOCK_M: tl.constexpr,
    HEAD_DIM: tl.constexpr, FAN: tl.constexpr, PIECE: tl.constexpr, UNROLL: tl.constexpr,
    ROUNDS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Merges groups of partial softmaxes, level by level, as long as this program is the last to
    arrive at the group. o_scale: offset of the scale of each query's first group of 32 columns.

    A group is merged into one partial softmax of the next level. PIECE columns are merged at a
    time. The partial softmaxes of the last level are merged into the result. So is a group that has
    all partial softmaxes of the unit: further levels would change no bit.
    """
    o_m = tl.arange(0, BLOCK_M)
    is_split = taken == 1
    level = tl.where(is_split, 0, 1)
    lower = tl.where(is_split, 0, short)  # offset of this level in Partial
    upper = tl.where(is_split, short, short + blocks)  # offset of the next level in Partial
    # Largest number of partial softmaxes in the next level.
    pieces = tl.where(is_split, blocks, (blocks + FAN - 2) // FAN + 1)
    going = (first < last) | (ROUNDS != 0)
    while going:
        is_last = level == last_level
        group = index // FAN
        begin = tl.where(is_last, first, tl.maximum(group * FAN, first))
        end = tl.where(is_last, last + 1, tl.minimum(group * FAN + FAN, last + 1))
        place = upper + (group - first // FAN).to(tl.int32)
        p_counter = p_counters + tl.where(is_last, 0, 1 + place - short)
        going = arrived_last(p_counter, (end - begin).to(tl.int32))
        if going:
            is_whole = is_last | (first // FAN == last // FAN)
            from_place = lower + (begin - first).to(tl.int32)
            to_place = from_place + (end - begin).to(tl.int32)
            for piece in range(0, HEAD_DIM, PIECE):
                o_piece = piece + tl.arange(0, PIECE)
                m, l, some = _merged(  # noqa: E741
                    Partial, Dist, from_place, to_place, units, unit, o_m, o_piece,
                    BLOCK_M, HEAD_DIM, UNROLL,
                )  # fmt: skip
                if is_whole & (ROUNDS != 0):
                    at_scale = o_scale + piece // 32 * ROWS
                    _write_rounded(
                        p_out, o_piece, m_row, l, some,
                        OutScale + at_scale, OutSums + at_scale, half_stride,
                    )  # fmt: skip
                elif is_whole:
                    _write(p_out, o_piece, m_row, l, some)
                else:
                    at = (place + tl.zeros((), tl.int64)) * units + unit
                    _put(Partial, Dist, at, o_m, o_piece, m, l, some, BLOCK_M, HEAD_DIM)
            going = is_whole == 0
            index, first, last = group, first // FAN, last // FAN
            lower = upper
            upper += pieces
            pieces = (pieces + FAN - 2) // FAN + 1
            level += 1


def branch_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    plan: AttentionPlan,
    work: Workspace,
    out: torch.Tensor | IntegerRows,
    early: bool = False,
) -> torch.Tensor | IntegerRows:
    """Compute out = softmax(scale q k^T) v, for each row over the keys that the row attends to.

    q      [rows, heads, head_dim]      rotated; the last stride must be 1
    k, v   [kv_heads, slots, head_dim]  storage of one layer: the slots of the ring, then those of
                                        the tails; the last stride must be 1. Values that no row
                                        attends to may be NaN
    out    [rows, heads, head_dim]      written; 0 for padding and for a row without keys. Or rows
                                        of heads * head_dim columns, which are rounded to int8
    work   the tables that `see` wrote for these rows, and scratch memory. Launches that may
           overlap need separate work
    early  start before the previous kernel has ended (early.py). It changes no bit

    Returns `out`. Allocates nothing and reads nothing on the host, so it can be captured. Raises
    ValueError on any other shape, dtype or stride.
    """
    check(q, k, v, plan, out)
    early = is_early(early, q.device)
    rounds = isinstance(out, IntegerRows)
    if isinstance(out, IntegerRows):
        written = (out.q, out.q.stride(0), plan.head_dim, out.scales, out.sums, out.sums.stride(0))
    else:
        written = (out, out.stride(0), out.stride(1), work.dist, work.counters, 0)
    _branch_attention_kernel[(plan.grid(q.device),)](
        *(q, q.stride(0), q.stride(1)),
        *(k, k.stride(0), k.stride(1)),
        *(v, v.stride(0), v.stride(1)),
        *written,
        *(work.slots, work.firsts, work.meta, work.members, work.items),
        *(work.partial, work.dist, work.counters),
        *(plan.capacity, plan.kv_heads, plan.units),
        *(plan.max_short, plan.levels[0], sum(plan.levels), len(plan.levels), plan.score_scale),
        **constants(plan, interpreting(), early, rounds),
        num_warps=plan.num_warps,
        enable_fp_fusion=False,
        maxnreg=MAX_REGISTERS,
        launch_pdl=early,
    )
    return out


def constants(
    plan: AttentionPlan, upcast: bool, early: bool = False, rounds: bool = False
) -> dict[str, object]:
    """The kernel's compile-time arguments for a plan."""
    return {
        "GROUP": plan.group,
        "HEAD_DIM": plan.head_dim,
        "TILE_ROWS": plan.tile_rows,
        "BLOCK_M": plan.block_m,
        "BLOCK_N": plan.block_n,
        "SPLIT": plan.split_length,
        "FAN": FAN,
        "PIECE": min(32, plan.head_dim),
        "UNROLL": 4 if plan.head_dim <= 128 else 1,
        "UPCAST": upcast and plan.dtype == torch.bfloat16,
        "STAGES": 2,
        "ROUNDS": rounds,
        "ROWS": MAX_ROWS,
        "EARLY": early,
    }
