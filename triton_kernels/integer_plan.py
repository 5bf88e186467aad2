"""How the product of a few integer rows with a quantised matrix is divided into tiles."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import triton

from .packed import GROUP, TURN, PackedFormat, padded_groups
from .product_plan import MULTIPROCESSORS, PROGRAMS, ProductPlan

GATE_COLUMNS = GROUP  # a tile of a gate is one group of the rounded row that it writes
NARROW, WIDE = 16, 32  # columns of a tile, if the warps share its groups
# Least number of WIDE tiles for which WIDE tiles are better than twice as many NARROW tiles. Then
# nearly every multiprocessor has a tile. Each tile reads all rows from L2, so fewer tiles read
# less.
ENOUGH = 120


@dataclass(frozen=True)
class IntegerPlan(ProductPlan):
    """A product of integer rows with a quantised matrix.

    format    format of the weight
    rounds    True: the gated row is written as integers

    Sums over k are not split among programs. Each program adds the groups in ascending order, as
    the CPU does.
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
        """Number of columns of a tile. It is the largest number that still gives enough programs to
        fill the device."""
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
        """True if k is a multiple of the columns that padded loop iterations cover."""
        return self.k == padded_groups(self.k) * GROUP

    @property
    def turn(self) -> int:
        """Number of groups of 32 columns of x in one loop iteration.

        A narrow tile has more groups, so that as many bytes are in flight. If warps share the
        groups, there are two groups for each of four warps. A narrow tile that is alone on its
        multiprocessor has four groups for each of them, so that it takes fewer iterations. With
        more than 16 rows each warp has one group, whose sums take more registers.
        """
        groups = padded_groups(self.k)
        most = TURN * 32 // (self.block_n * (2 if self.gate else 1))
        if self.shares_groups and self.block_m > 16:
            most = 2 * TURN if self.is_alone else TURN
        elif self.shares_groups:
            most = 4 * TURN if self.is_alone and self.block_n == NARROW else 2 * TURN
        return next(t for t in (most, most // 2, TURN) if t >= TURN and groups % t == 0)

    @property
    def may_share(self) -> bool:
        """True if warps may share the groups of k: no gate, and more than 16 columns per scale.

        More than 16 rows of int4 would take so much shared memory that only one program fits.
        """
        few = self.block_m == 16 or self.format.element == "int8"
        return few and not self.gate and self.format.group > 16

    @property
    def shares_groups(self) -> bool:
        """True if each warp computes some groups of an iteration, which are then added in order.

        Without sharing, a narrow tile has work for only one or two warps. Then a program would take
        as long as all instructions of these warps in sequence.
        """
        return self.may_share and self.block_n <= WIDE

    @property
    def is_alone(self) -> bool:
        """True if each program has a multiprocessor of its own."""
        return self.tiles <= MULTIPROCESSORS

    @property
    def num_warps(self) -> int:
        """Number of warps of a program.

        If warps share groups, each warp computes some groups of a loop iteration. A program has
        more warps if it is alone on its multiprocessor. For narrow tiles of 16 rows they would take
        too many issue slots, and so would a warp with less than two groups. Otherwise each warp
        computes 16 columns; with fewer columns, warps would repeat each other's work. A gate of
        more than 16 rows has twice as many warps, so that registers hold the sums of both halves.
        So does a tile of 64 rows and 64 columns.
        """
        if self.shares_groups:
            many = self.is_alone and (self.block_n == WIDE or self.block_m > 16)
            is_small = self.block_n == NARROW and self.block_m == 16
            return min(8 if many else 4, self.turn // (2 if is_small else self.format.per_byte))
        is_large = self.block_m * self.block_n == 64 * 64
        return self.block_n // 16 * (2 if is_large or (self.gate and self.block_m > 16) else 1)

    @property
    def max_registers(self) -> int | None:
        """Limit of registers per thread; None: no limit.

        Without a limit the assembler spills a few registers of some tiles, so that more programs
        fit. With these limits nothing spills, and as many programs fit.
        """
        if self.gate:
            return 160 if self.block_m == 64 else None
        if (self.block_m, self.turn, self.num_warps) == (32, TURN, 4) and self.block_n >= WIDE:
            return 96
        return 128 if self.turn == 4 * TURN else None

    @property
    def stages(self) -> int:
        """Number of stages of the software pipeline over k."""
        return 4
