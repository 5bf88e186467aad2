"""The constants of attention for one lane, and the memory of its kernels.

A plan has the constants of a captured graph: sizes, tiles, the split length. Kernels read
everything else from device memory. For a given plan, the bits of a row do not depend on other rows.
Sizes are computed once, because every launch reads them. attention.py defines splits, items, units,
members and partial softmaxes.
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
# Largest number of slots in flight that a row attends to: chain slots, then tail slots.
FLIGHT = 2 * SLOTS
SPLIT = 64  # positions of a split, the same for every model, because splits decide bits
FAN = 8  # partial softmaxes that a program merges into one of the next level
MULTIPROCESSORS = 132  # number in an H100 or H200; `short` is chosen for this number
PROGRAMS_PER_MULTIPROCESSOR = 2
# The fields of a member in Workspace.members, in order.
MEMBER = ("head", "low", "first_split", "splits", "taken", "storage", "row", "end", "tile")


@dataclass(frozen=True)
class AttentionPlan:
    """Sizes of one lane's attention.

    rows         rows of the forward, 1 to 64, with padding
    heads, kv_heads, head_dim
    capacity     positions of the ring, at least 64
    window       positions that a row attends to, its own included; None: all
    tail_slots   slots of the tail of each branch; the tails follow the ring
    seats        largest number of sequences that have rows in a forward
    seat_slots   slots from the storage of one sequence to that of the next
    scale        factor of the scores; None: 1 / sqrt(head_dim)
    split        positions of a split; None: SPLIT
    short        the keys of a sequence with at most `short` splits have items of one split; longer
                 ones have items of FAN splits. Kernels divide `short` by the number of sequences in
                 the forward. It changes no bit. None: chosen so that items of FAN splits keep every
                 multiprocessor busy
    programs     programs of a launch; None: two per multiprocessor
    architecture of the device (architecture_of); it decides how many queries the registers hold
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
        """Number of query heads that share a KV head."""
        return self.heads // self.kv_heads

    @property
    def reach(self) -> int:
        """Largest number of positions that a row attends to."""
        return self.capacity if self.window is None else self.window

    @cached_property
    def block_m(self) -> int:
        """Number of queries of a tile: its rows times the query heads that share a KV head.

        The keys are read once for all these queries. A tile has as many queries as the registers
        hold together with the partial softmax of earlier splits. Wide heads allow only half as
        many. Products without tensor cores allow 16.
        """
        widest = 128 if self.architecture // 10 == 9 else 64
        most = 64 if self.head_dim <= widest else 32
        most = most if self.dtype.itemsize == 2 else 16
        most = max(most, triton.next_power_of_2(self.group))
        return min(most, max(16, triton.next_power_of_2(self.rows * self.group)))

    @property
    def row_block(self) -> int:
        """Number of rows for which `see` is compiled: a power of two, at least 16 and at least
        `rows`."""
        return max(16, triton.next_power_of_2(self.rows))

    @property
    def tile_rows(self) -> int:
        """Rows of a tile."""
        return self.block_m // self.group

    @cached_property
    def tiles(self) -> int:
        """Number of tiles for all rows, if they belong to one sequence."""
        return triton.cdiv(self.rows, self.tile_rows)

    @property
    def most_tiles(self) -> int:
        """Largest number of tiles if the rows belong to several sequences. A tile never has rows of
        two sequences."""
        shared = min(self.seats, self.rows)
        return (self.rows + shared * (self.tile_rows - 1)) // self.tile_rows

    @property
    def block_n(self) -> int:
        """Number of keys of a tile. It is small enough for the registers."""
        wide = self.head_dim * self.dtype.itemsize
        return 32 if wide <= 512 else 16

    @property
    def split_length(self) -> int:
        """Positions of a split."""
        return SPLIT if self.split is None else self.split

    @cached_property
    def max_splits(self) -> int:
        """Largest number of splits that the keys of a row can touch, in the trunk and in flight."""
        return triton.cdiv(self.reach + FLIGHT, self.split_length) + 1

    @cached_property
    def max_short(self) -> int:
        """The value of `short` that kernels use. It is also the largest number of partial softmaxes
        in level 0."""
        chosen = FAN * triton.cdiv(MULTIPROCESSORS, self.kv_heads * self.tiles)
        return min(self.max_splits, chosen if self.short is None else self.short)

    @cached_property
    def levels(self) -> list[int]:
        """Return the largest numbers of partial softmaxes of a unit in levels 1, 2, and so on.

        Each partial softmax is merged from up to FAN of the level below. The last level has at most
        FAN; these are merged into the result.
        """
        found = [self.next_level(self.max_splits)]
        while found[-1] > FAN:
            found.append(self.next_level(found[-1]))
        return found

    @staticmethod
    def next_level(pieces: int) -> int:
        """Largest number of groups of FAN that `pieces` consecutive partial softmaxes can touch."""
        return triton.cdiv(pieces - 1, FAN) + 1

    @property
    def units(self) -> int:
        """Largest number of units. A unit is a KV head and a tile of rows."""
        return self.kv_heads * self.most_tiles

    @property
    def score_scale(self) -> float:
        """Factor of the scores. It includes log2 e, because the softmax uses powers of 2."""
        scale = 1 / math.sqrt(self.head_dim) if self.scale is None else self.scale
        return scale * math.log2(math.e)

    @property
    def num_warps(self) -> int:
        """Number of warps of a program: the fewest whose registers suffice without spills. If the
        number of query heads per KV head is not a power of two, the indices of a row take
        additional registers."""
        if self.dtype.itemsize > 2:
            return 8
        if self.block_m * self.head_dim <= 16 * 64:
            return 1  # a single warp never waits for other warps at a barrier
        if self.block_m * self.head_dim <= 32 * 64:
            return 4
        is_even = self.group & (self.group - 1) == 0
        few = self.head_dim <= 128 if is_even else self.head_dim <= 64
        return 4 if self.architecture // 10 == 9 and few else 8

    def grid(self, device: torch.device) -> int:
        """Number of programs of a launch on `device`."""
        if self.programs is not None:
            return self.programs
        if device.type != "cuda":
            return 2
        count = torch.cuda.get_device_properties(device).multi_processor_count
        return PROGRAMS_PER_MULTIPROCESSOR * int(count)


@dataclass(frozen=True)
class Workspace:
    """Device memory of one lane's attention, allocated once. `see` fills the first five tensors.

    A member is the rows of one sequence in the forward. The padding after all rows is one more
    member. The tiles of a member begin with its first row. The leader of a row is the row whose
    slots it shares (visible.py). Positions in flight are those from the head on.

    slots     int32 [64, 128]  for each row, the slots of the positions in flight that it attends to
    firsts    int64 [2, 64]    for each row, the first position that it attends to. For each leader,
                               the first position that its rows attend to
    meta      int32 [4, 64]    [0]: for each row, the number of its slots in flight; -1: padding.
                               [1]: for each row, its leader. [2]: for each tile, from its first
                               row on, its leaders. [3]: at the tile's first row, their number
    members   int64 [9, 64]    for each member: head, first position that it attends to, first
                               split, number of splits, splits per item, first slot of its
                               storage, first row, row after the last, number of tiles of all
                               members before it
    items     int32 [64]       number of items of the members up to each one; then the total
    partial   float32 [pieces, units, block_m, head_dim]  weighted values that wait to be merged
    dist      float32 [pieces, units, 2, block_m]         maxima and sums of weights for `partial`
    counters  int32 [units, 1 + pieces above level 0]     programs that arrived; 0 between launches
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
    """Allocate the memory for `plan` on `device`. Launches that may overlap need separate
    memory."""
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
    """Return 80, 90, 100, ... for a CUDA device, and 90 for the interpreter."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _check_within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}: expected a value from {low} to {high} but got {value}")
