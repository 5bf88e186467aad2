"""The constants of attention for one lane, and the memory that its kernels use.

A plan holds the constants of a captured graph: sizes, tiles, the split length. Everything else is
read from device memory. The same plan gives a row the same bits whatever the other rows. Sizes are
computed once: every launch asks for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import triton

from .state import MAX_ROWS, MAX_SEATS, SLOTS

HEAD_DIMS = (16, 32, 64, 128, 256)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
FLIGHT = 2 * SLOTS  # slots in flight that a row can see: in the chain, then in its tail
SPLIT = 64  # positions; the same for every model, because splits determine bits
FAN = 8  # pieces that one program merges into one of the next level
MULTIPROCESSORS = 132  # an H100 or H200: `short` is chosen for this number
PROGRAMS_PER_MULTIPROCESSOR = 2
# The fields of a member in Workspace.members, in order.
MEMBER = ("head", "low", "first_split", "splits", "taken", "storage", "row", "end", "tile")


@dataclass(frozen=True)
class AttentionPlan:
    """Sizes of one lane's attention.

    rows         of the forward, 1 to 64; padding included
    heads, kv_heads, head_dim
    capacity     positions of the ring, at least 64; after them the tails, `tail_slots` per branch
    window       positions a row sees, itself included; None: all
    seats        most sequences that have rows in a forward; `seat_slots`: slots from the storage of
                 one to that of the next
    scale        of the scores; None: 1 / sqrt(head_dim)
    split        positions of a split, cut at multiples of it; None: SPLIT
    short        in a span of up to this many splits a program takes one, in a longer span FAN;
                 members of a forward share the number. It changes no bit. None: chosen so that
                 FAN at a time keep every multiprocessor busy
    programs     of the grid; None: two a multiprocessor
    architecture of the device (architecture_of): its registers hold more queries or fewer
    """

    rows: int
    heads: int
    kv_heads: int
    head_dim: int
    capacity: int
    dtype: torch.dtype = torch.bfloat16
    window: int | None = None
    tail_slots: int = 0
    seats: int = 1
    seat_slots: int = 0
    scale: float | None = None
    split: int | None = None
    short: int | None = None
    programs: int | None = None
    architecture: int = 90

    def __post_init__(self) -> None:
        _check_within("rows", self.rows, 1, MAX_ROWS)
        _check_within("capacity", self.capacity, SLOTS, 2**30)
        _check_within("tail_slots", self.tail_slots, 0, SLOTS)
        _check_within("seats", self.seats, 1, MAX_SEATS)
        if self.seats > 1:
            _check_within("seat_slots", self.seat_slots, self.capacity, 2**31 // self.seats)
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

    @cached_property
    def block_m(self) -> int:
        """Queries of a tile, heads and rows together; a KV head's keys are read once for them.

        As many as the registers hold together with the earlier splits. Half as many if a head is
        wide, or if its products do not run on tensor cores: those read queries from shared memory
        on sm_90.
        """
        widest = 128 if self.architecture // 10 == 9 else 64
        most = 64 if self.dtype.itemsize == 2 and self.head_dim <= widest else 32
        most = max(most, triton.next_power_of_2(self.group))
        return min(most, max(16, triton.next_power_of_2(self.rows * self.group)))

    @property
    def row_block(self) -> int:
        """Rows that `see` computes: a power of two, for which it is compiled."""
        return max(16, triton.next_power_of_2(self.rows))

    @property
    def tile_rows(self) -> int:
        """Rows of a tile."""
        return self.block_m // self.group

    @cached_property
    def tiles(self) -> int:
        """Tiles that hold all rows of one sequence."""
        return triton.cdiv(self.rows, self.tile_rows)

    @property
    def most_tiles(self) -> int:
        """Tiles that hold the rows of all sequences; no tile has rows of two."""
        shared = min(self.seats, self.rows)
        return (self.rows + shared * (self.tile_rows - 1)) // self.tile_rows

    @property
    def block_n(self) -> int:
        """Keys of a tile: few enough for the registers."""
        wide = self.head_dim * self.dtype.itemsize
        return 32 if wide <= 512 else 16

    @property
    def split_length(self) -> int:
        """Positions of a split."""
        return SPLIT if self.split is None else self.split

    @cached_property
    def max_splits(self) -> int:
        """Most splits that a span can touch: the longest reach and the slots in flight."""
        return triton.cdiv(self.reach + FLIGHT, self.split_length) + 1

    @cached_property
    def max_short(self) -> int:
        """Largest `short`: this many pieces of level 0 may wait."""
        chosen = FAN * triton.cdiv(MULTIPROCESSORS, self.kv_heads * self.tiles)
        return min(self.max_splits, chosen if self.short is None else self.short)

    @cached_property
    def levels(self) -> list[int]:
        """Pieces of levels 1, 2, ... that a span can touch: groups of FAN of the level before.

        The pieces of the last level, FAN at most, are merged into the result.
        """
        found = [self.next_level(self.max_splits)]
        while found[-1] > FAN:
            found.append(self.next_level(found[-1]))
        return found

    @staticmethod
    def next_level(pieces: int) -> int:
        """Groups of FAN that `pieces` consecutive pieces can touch."""
        return triton.cdiv(pieces - 1, FAN) + 1

    @property
    def units(self) -> int:
        """Most independently merged units: a KV head and a tile of rows each."""
        return self.kv_heads * self.most_tiles

    @property
    def score_scale(self) -> float:
        """Factor of the scores, for powers of two instead of e."""
        scale = 1 / math.sqrt(self.head_dim) if self.scale is None else self.scale
        return scale * math.log2(math.e)

    @property
    def num_warps(self) -> int:
        """Warps of a program: as few as hold it without spills. If heads do not divide a tile
        evenly, a row's numbers take additional registers."""
        is_half = self.dtype.itemsize == 2
        is_even = self.group & (self.group - 1) == 0
        if is_half and self.block_m * self.head_dim <= 16 * 64:
            return 1  # no other thread to wait for at a barrier
        if self.block_m * self.head_dim <= 32 * 64 and (is_half or is_even):
            return 4
        few = self.head_dim <= 128 if is_even else self.head_dim <= 64
        return 4 if self.architecture // 10 == 9 and is_half and few else 8

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
    """Device memory of one lane's attention, allocated once. `see` fills the first five.

    A member is a sequence that has rows in the forward; padding after them is one more. Its tiles
    begin with its first row.

    slots     int32 [64, 128]  storage slot of the j-th position in flight that a row sees
    firsts    int64 [2, 64]    for every row the first position it sees, and that of the rows it
                               leads
    meta      int32 [4, 64]    for every row: positions in flight it sees (-1: padding), its leader;
                               then the leaders, tile by tile, and how many a tile has: both from
                               the tile's first row on
    members   int64 [9, 64]    for every member: head, first position seen, first split, splits,
                               splits of a program, first slot of its storage, first row, the row
                               after its last, tiles of the members before it
    items     int32 [64]       items of work of all members up to each; the rest have the total
    partial   float32 [pieces, units, block_m, head_dim]  sums that wait to be merged, by level
    dist       float32 [pieces, units, 2, block_m]         their maxima and weights
    counters  int32 [units, 1 + pieces above level 0]     arrivals; 0 between launches
    """

    slots: torch.Tensor
    firsts: torch.Tensor
    meta: torch.Tensor
    members: torch.Tensor
    items: torch.Tensor
    partial: torch.Tensor
    dist: torch.Tensor
    counters: torch.Tensor


def workspace(plan: AttentionPlan, device: str | torch.device) -> Workspace:
    """Memory for `plan` on `device`. Launches that may overlap need separate memory."""
    above = sum(plan.levels)
    merged = plan.max_short + above
    partial = (merged, plan.units, plan.block_m, plan.head_dim)
    return Workspace(
        slots=torch.zeros((MAX_ROWS, FLIGHT), dtype=torch.int32, device=device),
        firsts=torch.zeros((2, MAX_ROWS), dtype=torch.int64, device=device),
        meta=torch.zeros((4, MAX_ROWS), dtype=torch.int32, device=device),
        members=torch.zeros((len(MEMBER), MAX_ROWS), dtype=torch.int64, device=device),
        items=torch.zeros(MAX_ROWS, dtype=torch.int32, device=device),
        partial=torch.empty(partial, dtype=torch.float32, device=device),
        dist=torch.empty((merged, plan.units, 2, plan.block_m), device=device),
        counters=torch.zeros((plan.units, 1 + above), dtype=torch.int32, device=device),
    )


def architecture_of(device: torch.device) -> int:
    """80, 90, 100, ... for a CUDA device; 90 for the interpreter."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _check_within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}: expected a value from {low} to {high} but got {value}")
