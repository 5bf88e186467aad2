"""How a product of few integer rows with a quantised matrix is cut into tiles."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from .packed import GROUP, TURN, PackedFormat, padded_groups
from .plan import DTYPES
from .state import MAX_ROWS

PROGRAMS = 192  # wanted number of programs per launch; linear_plan.py says why
GATE_COLUMNS = GROUP  # a gate's tile is one group of the row that it writes


@dataclass(frozen=True)
class IntegerPlan:
    """Sizes of one product: out [rows, n] = x [rows, k] @ weight [n, k]^T.

    rows      1 to 64; padding included
    format    format of the weight
    dtype     dtype of the bias, the residual, and a result that is not integers
    gate      weight is [2 n, k], gate rows and then up rows: out = silu(gate) * up
    rounds    the gated rows are written as integers
    residual  the product is added to a residual stream
    bias      a bias is added, with one value per row of the weight

    There are no splits of k: the CPU adds groups in ascending order, and so does every program.
    """

    rows: int
    n: int
    k: int
    format: PackedFormat
    dtype: torch.dtype = torch.bfloat16
    gate: bool = False
    rounds: bool = False
    residual: bool = False
    bias: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.rows <= MAX_ROWS:
            raise ValueError(f"rows: expected a value from 1 to {MAX_ROWS} but got {self.rows}")
        if min(self.n, self.k) < 1:
            raise ValueError(f"n, k: expected at least 1 but got {self.n}, {self.k}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {DTYPES} but got {self.dtype}")
        if self.residual and self.gate:
            raise ValueError("plan: expected a residual or a gate but got both")
        if self.rounds and not self.gate:
            raise ValueError("plan: expected integers from a gate alone but got no gate")

    @property
    def block_m(self) -> int:
        """Rows of a tile: all of them. A tensor core needs at least 16."""
        return max(16, triton.next_power_of_2(self.rows))

    @property
    def block_n(self) -> int:
        """Columns of a tile: as many as possible with enough programs to fill the device."""
        if self.gate:
            return GATE_COLUMNS
        return next((w for w in (64, 32) if triton.cdiv(self.n, w) >= PROGRAMS), 16)

    @property
    def tiles(self) -> int:
        """Number of tiles of n."""
        return triton.cdiv(self.n, self.block_n)

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
        """Groups of 32 columns in one iteration of the loop over k.

        Narrow tiles have more groups per iteration, so that enough bytes are in flight.
        """
        groups = padded_groups(self.k)
        most = TURN * 32 // (self.block_n * (2 if self.gate else 1))
        return next(t for t in (most, TURN) if t >= TURN and groups % t == 0)

    @property
    def shares_groups(self) -> bool:
        """True if each warp computes some groups of an iteration, which are then added in order.

        Otherwise a narrow tile would give work to only one warp, which would execute all
        instructions one after the other.
        """
        return self.block_n == 16 and self.block_m == 16 and self.format.group > 16

    @property
    def num_warps(self) -> int:
        """Warps of a program.

        A warp computes some groups of a loop iteration, or 16 columns. With fewer columns, warps
        would repeat each other's work. A gate with more than 16 rows gets twice the warps, because
        its two products would spill registers.
        """
        if self.shares_groups:
            return min(4, self.turn // self.format.per_byte)
        return self.block_n // 16 * (2 if self.gate and self.block_m > 16 else 1)

    @property
    def stages(self) -> int:
        """Stages of the pipeline over k."""
        return 4
