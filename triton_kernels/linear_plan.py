"""How the product of a few rows with a weight matrix is divided into tiles, and the memory that it
needs.

A plan has the constants of a captured graph. Tiles of n and splits of k depend neither on the
number of rows nor on the device. So the order of sums is always the same. Sizes are computed once,
because every launch reads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import torch
import triton

from .norm import PART
from .product_plan import MULTIPROCESSORS, PROGRAMS, ProductPlan
from .state import MAX_ROWS

# Least number of tiles of k in a split. Shorter splits would mostly start and merge.
LEAST_TILES = 2


@dataclass(frozen=True)
class LinearPlan(ProductPlan):
    """A product of rows of floats: out = f(x) weight^T.

    norm      True: normalise x first (RMSNorm). A product with a residual stores the sums of
              squares that a later norm needs
    splits    number of splits of k; None: as many as fill the device
    """

    _: KW_ONLY
    norm: bool = False
    splits: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.residual and self.norm:  # a residual overwrites the squares that a norm reads
            raise ValueError("plan: expected a residual alone but got a norm with it")
        if self.splits is not None and self.splits < 1:
            raise ValueError(f"splits: expected at least 1 but got {self.splits}")

    @property
    def is_half(self) -> bool:
        """True for 16-bit dtypes, whose products run on tensor cores."""
        return self.dtype.itemsize == 2

    @property
    def block_n(self) -> int:
        """Columns of a tile of the result. A tile reads PART = 64 rows of weights; with a gate, 32
        from each half."""
        return PART // 2 if self.gate else PART

    @cached_property
    def block_k(self) -> int:
        """Number of columns of x in a tile of k, 128 at most: two cache lines of a row of weights.

        It is the largest size that divides k into two or more equal parts, so that loads need no
        mask.
        """
        most = 128 if self.is_half else 32
        sizes = (128, 64, 32)
        fitting = [s for s in sizes if s <= most and self.k % s == 0 and self.k >= 2 * s]
        return fitting[0] if fitting else min(most, max(16, triton.next_power_of_2(self.k)))

    @property
    def is_even(self) -> bool:
        """True if k is a multiple of block_k."""
        return self.k % self.block_k == 0

    @cached_property
    def k_tiles(self) -> int:
        """Number of tiles of k."""
        return triton.cdiv(self.k, self.block_k)

    @cached_property
    def split_tiles(self) -> int:
        """Number of tiles of k in a split; the last split may have fewer. There are no more splits
        than needed to fill the device."""
        wanted = self.splits or triton.cdiv(PROGRAMS, self.tiles)
        least = 1 if self.splits else LEAST_TILES
        return min(self.k_tiles, max(least, triton.cdiv(self.k_tiles, wanted)))

    @cached_property
    def cuts(self) -> int:
        """Number of splits of k."""
        return triton.cdiv(self.k_tiles, self.split_tiles)

    @cached_property
    def parts(self) -> int:
        """Number of sums of squares per row: of x if there is a norm, of the result if there is a
        residual."""
        if self.norm or self.residual:
            return triton.cdiv(self.k if self.norm else self.n, PART)
        return 0

    @cached_property
    def partial_size(self) -> int:
        """Number of float32 values in LinearWork.partial that the product needs."""
        halves = 2 if self.gate else 1
        each = halves * self.block_m * self.block_n
        return self.tiles * self.cuts * each if self.cuts > 1 else 0

    @property
    def num_warps(self) -> int:
        """Number of warps of a program: the fewest whose registers suffice without spills.

        Products without tensor cores need more warps. So do gates with more than 16 rows, because
        they sum two products.
        """
        return 8 if not self.is_half or (self.gate and self.block_m > 16) else 4

    @cached_property
    def stages(self) -> int:
        """Number of stages of the software pipeline over k.

        With 4 stages, two tiles of weights are loaded ahead, and three programs of 16 rows fit a
        multiprocessor of sm_90. With 3 stages, one tile is loaded ahead, and four programs fit.
        There are 3 stages if each multiprocessor has more than three programs, so that all run
        concurrently.
        """
        programs = triton.cdiv(self.tiles * self.cuts, MULTIPROCESSORS)
        most = 4 if self.is_half and self.block_m <= 32 and programs <= 3 else 3
        return min(most, max(2, self.split_tiles))


@dataclass(frozen=True)
class LinearWork:
    """Device memory of the products of one lane, allocated once. Products run one after another.

    partial   float32 [size]      sums of splits that wait to be merged
    counters  int32 [tiles]       programs that have arrived, per tile of n; 0 between launches
    squares   float32 [parts, 64] sums of squares of each row of the residual stream, over PART
                                  columns each. `embed` and products with a residual write them;
                                  products with a norm read them
    """

    partial: torch.Tensor
    counters: torch.Tensor
    squares: torch.Tensor


def linear_work(plans: Iterable[LinearPlan], device: str | torch.device) -> LinearWork:
    """Allocate the memory for `plans` on `device`. Launches that may overlap need separate
    memory."""
    known = list(plans)
    return LinearWork(
        partial=torch.empty(max((p.partial_size for p in known), default=0), device=device),
        counters=torch.zeros(
            max((p.tiles for p in known), default=0), dtype=torch.int32, device=device
        ),
        squares=torch.empty((max((p.parts for p in known), default=0), MAX_ROWS), device=device),
    )
