"""The constants of attention for one lane, and the memory that its kernels work in.

A plan holds what a captured graph may not change: sizes, tiles, the split length. Everything else
is read from device memory. The same plan gives a row the same bits whatever the other rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton

from .control import MAX_ROWS, SLOTS

HEAD_DIMS = (16, 32, 64, 128, 256)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
FLIGHT = 2 * SLOTS  # slots in flight that a row can see: of the chain, then of its tail
FAN = 8  # splits that are merged by one program before the rest
PROGRAMS_PER_MULTIPROCESSOR = 2


@dataclass(frozen=True)
class AttentionPlan:
    """Sizes of one lane's attention.

    rows         of the forward, 1 to 64; padding included
    heads, kv_heads, head_dim
    capacity     positions of the ring, at least 64; behind them the tails, `tail_slots` a branch
    window       positions a row sees, itself included; None: all
    scale        of the scores; None: 1 / sqrt(head_dim)
    split        positions of a split, cut at multiples of it: a constant of the model; None: chosen
    programs     of the grid; None: two a multiprocessor
    """

    rows: int
    heads: int
    kv_heads: int
    head_dim: int
    capacity: int
    dtype: torch.dtype = torch.bfloat16
    window: int | None = None
    tail_slots: int = 0
    scale: float | None = None
    split: int | None = None
    programs: int | None = None

    def __post_init__(self) -> None:
        _check_within("rows", self.rows, 1, MAX_ROWS)
        _check_within("capacity", self.capacity, SLOTS, 2**30)
        _check_within("tail_slots", self.tail_slots, 0, SLOTS)
        if self.head_dim not in HEAD_DIMS:
            raise ValueError(f"head_dim: expected one of {HEAD_DIMS} but got {self.head_dim}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {DTYPES} but got {self.dtype}")
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise ValueError(f"heads: expected a multiple of {self.kv_heads} but got {self.heads}")
        _check_within("heads of a KV head", self.group, 1, MAX_ROWS)
        _check_within("window", self.reach, 1, self.capacity)
        if self.split is not None and (self.split < self.block_n or self.split % self.block_n):
            raise ValueError(f"split: expected a multiple of {self.block_n} but got {self.split}")

    @property
    def group(self) -> int:
        """Query heads of a KV head."""
        return self.heads // self.kv_heads

    @property
    def reach(self) -> int:
        """Positions that a row can see."""
        return self.capacity if self.window is None else self.window

    @property
    def block_m(self) -> int:
        """Queries of a tile, heads and rows together: a KV head's keys are read once for them. As
        many as the registers hold: half of them where a head is wide, or its products are not of
        tensor cores."""
        half = self.dtype.itemsize == 2 and self.head_dim <= 128
        most = max(64 if half else 32, triton.next_power_of_2(self.group))
        return min(most, max(16, triton.next_power_of_2(self.rows * self.group)))

    @property
    def tile_rows(self) -> int:
        """Rows of a tile."""
        return self.block_m // self.group

    @property
    def tiles(self) -> int:
        """Tiles that hold all rows."""
        return triton.cdiv(self.rows, self.tile_rows)

    @property
    def block_n(self) -> int:
        """Keys of a tile: few enough for the registers."""
        wide = self.head_dim * self.dtype.itemsize
        return 32 if wide <= 512 else 16

    @property
    def split_length(self) -> int:
        """Positions of a split: few enough splits to merge, enough to fill the grid."""
        if self.split is not None:
            return self.split
        return max(256, triton.next_power_of_2(triton.cdiv(self.capacity, 128)))

    @property
    def max_splits(self) -> int:
        """Splits that a span of the longest reach, and what is in flight, can touch."""
        return triton.cdiv(self.reach + FLIGHT, self.split_length) + 1

    @property
    def max_blocks(self) -> int:
        """Groups of FAN splits that these can touch."""
        return triton.cdiv(self.max_splits, FAN) + 1

    @property
    def units(self) -> int:
        """What is merged by itself: a KV head and a tile of rows."""
        return self.kv_heads * self.tiles

    @property
    def score_scale(self) -> float:
        """What scores are multiplied by, for powers of two instead of e."""
        scale = 1 / math.sqrt(self.head_dim) if self.scale is None else self.scale
        return scale * math.log2(math.e)

    def num_warps(self, architecture: int) -> int:
        """Of a program, for sm_80, 90, 100, ...: as few as hold it without spills."""
        if self.block_m * self.head_dim <= 32 * 64:
            return 4
        is_half = self.dtype.itemsize == 2
        return 4 if architecture // 10 == 9 and is_half and self.head_dim <= 128 else 8

    def grid(self, device: torch.device) -> int:
        """Programs of a launch."""
        if self.programs is not None:
            return self.programs
        if device.type != "cuda":
            return 2
        count = torch.cuda.get_device_properties(device).multi_processor_count
        return PROGRAMS_PER_MULTIPROCESSOR * int(count)


@dataclass(frozen=True)
class Workspace:
    """Device memory of one lane's attention, allocated once. `see` fills the first three.

    slots     int32 [64, 128]  storage slot of the j-th position in flight that a row sees
    extent    int64 [4 + 128]  head, first position seen, first split, splits; then of every row the
                               first position it sees, and that of the rows it leads
    meta      int32 [4, 64]    of every row: positions in flight it sees (-1: padding), its leader;
                               then the leaders, tile by tile, and how many a tile has
    partial   float32 [splits and blocks, units, block_m, head_dim]  sums that wait to be merged
    law       float32 [splits and blocks, units, 2, block_m]         their maxima and weights
    counters  int32 [units, 1 + blocks]  arrivals; 0 between launches
    """

    slots: torch.Tensor
    extent: torch.Tensor
    meta: torch.Tensor
    partial: torch.Tensor
    law: torch.Tensor
    counters: torch.Tensor


def workspace(plan: AttentionPlan, device: str | torch.device) -> Workspace:
    """Memory for `plan` on `device`; launches that may overlap need one each."""
    merged = plan.max_splits + plan.max_blocks
    partial = (merged, plan.units, plan.block_m, plan.head_dim)
    return Workspace(
        slots=torch.zeros((MAX_ROWS, FLIGHT), dtype=torch.int32, device=device),
        extent=torch.zeros(4 + 2 * MAX_ROWS, dtype=torch.int64, device=device),
        meta=torch.zeros((4, MAX_ROWS), dtype=torch.int32, device=device),
        partial=torch.empty(partial, dtype=torch.float32, device=device),
        law=torch.empty((merged, plan.units, 2, plan.block_m), device=device),
        counters=torch.zeros((plan.units, 1 + plan.max_blocks), dtype=torch.int32, device=device),
    )


def architecture_of(device: torch.device) -> int:
    """80, 90, 100, ... of a CUDA device; 90 for the interpreter."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _check_within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}: expected a value from {low} to {high} but got {value}")
