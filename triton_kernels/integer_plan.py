"""How a product of few integer rows with a quantised matrix is cut into tiles."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import triton

from .packed import GROUP, TURN, PackedFormat, padded_groups
from .product_plan import MULTIPROCESSORS, PROGRAMS, ProductPlan

GATE_COLUMNS = GROUP  # a gate's tile is one group of the row that it writes
NARROW, WIDE = 16, 32  # columns of a tile whose groups the warps share
# From this number of tiles on, tiles of WIDE columns are better than twice as many of NARROW.
# Nearly every multiprocessor then has a tile, and each tile reads all of the rows from L2.
ENOUGH = 120


@dataclass(frozen=True)
class IntegerPlan(ProductPlan):
    """A product of integer rows with a quantised matrix.

    format    of the weight
    rounds    the gated row is written as integers

    There are no splits of k: the CPU adds groups in ascending order, and so does every program.
    """

    format: PackedFormat
    _: KW_ONLY
    rounds: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds and not self.gate:
            raise ValueError("plan: expected integers from a gate alone but got no gate")

    @property
    def block_n(self) -> int:
        """Columns of a tile: as many as possible with enough programs to fill the device."""
        if self.gate:
            return GATE_COLUMNS
        wide = next((w for w in (64, WIDE) if triton.cdiv(self.n, w) >= PROGRAMS), NARROW)
        if wide == NARROW and self.may_share and triton.cdiv(self.n, WIDE) >= ENOUGH:
            return WIDE
        return wide

    @property
    def groups(self) -> int:
        """Number of groups of 32 columns of x. The last group may have fewer."""
        return triton.cdiv(self.k, GROUP)

    @property
    def is_even(self) -> bool:
        """True if k is a multiple of the columns of one loop iteration."""
        return self.k == padded_groups(self.k) * GROUP

    @property
    def turn(self) -> int:
        """Groups of 32 k in one turn of the loop: of narrow tiles more, so that as many bytes are
        in flight, and two for each warp that shares them."""
        groups = padded_groups(self.k)
        most = TURN * 32 // (self.block_n * (2 if self.gate else 1))
        most = 2 * TURN if self.shares_groups else most
        return next(t for t in (most, TURN) if t >= TURN and groups % t == 0)

    @property
    def may_share(self) -> bool:
        """True for few rows whose groups are products of their own."""
        return not self.gate and self.block_m == 16 and self.format.group > 16

    @property
    def shares_groups(self) -> bool:
        """True if each warp computes some groups of an iteration, which are then added in order.

        A narrow tile has work for one warp otherwise, or for two. Then a program would take as long
        as their instructions one after the other.
        """
        return self.may_share and self.block_n <= WIDE

    @property
    def num_warps(self) -> int:
        """Warps of a program.

        Each takes 16 columns, because with fewer, some would repeat others' work; or some groups of
        a turn: one each where a multiprocessor has one program. Both halves of a gate with more
        rows would spill.
        """
        if self.shares_groups:
            is_alone = self.block_n == WIDE and self.tiles <= MULTIPROCESSORS
            return min(8 if is_alone else 4, self.turn // self.format.per_byte)
        return self.block_n // 16 * (2 if self.gate and self.block_m > 16 else 1)

    @property
    def stages(self) -> int:
        """Stages of the pipeline over k."""
        return 4
