"""The common part of the plans of float and integer products: sizes, terms, and heads."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import torch
import triton

from .plan import DTYPES
from .state import MAX_ROWS

# Multiprocessors of an H100 or H200. It is a constant because tiles and splits determine bits.
MULTIPROCESSORS = 132
# Least number of programs of a product, if its sizes allow it. At 4.8 TB/s some 5 MB must be in
# flight, and a program has 12 to 32 KiB in flight. So 1.5 programs per multiprocessor suffice.
PROGRAMS = 192


@dataclass(frozen=True)
class Heads:
    """The heads of a product that computes q, k and v. Its columns are the heads of queries, then
    those of keys, then those of values."""

    queries: int
    keys: int
    head_dim: int

    @property
    def columns(self) -> int:
        """Columns of all heads."""
        return (self.queries + 2 * self.keys) * self.head_dim


@dataclass(frozen=True)
class ProductPlan:
    """Sizes of one product: out [rows, n] = x [rows, k] @ weight [n, k]^T.

    rows      1 to 64; padding included
    dtype     of activations, bias and residual
    gate      weight is [2 n, k], gate rows and then up rows: out = silu(gate) * up
    gelu      the gate's activation is gelu in its tanh form, not silu
    residual  the product is added to a residual stream
    bias      a bias is added to the product
    heads     the heads, if the product also rotates queries and keys, and writes keys and values to
              the ring (heads.py)
    """

    rows: int
    n: int
    k: int
    _: KW_ONLY
    dtype: torch.dtype = torch.bfloat16
    gate: bool = False
    gelu: bool = False
    residual: bool = False
    bias: bool = False
    heads: Heads | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.rows <= MAX_ROWS:
            raise ValueError(f"rows: expected a value from 1 to {MAX_ROWS} but got {self.rows}")
        if min(self.n, self.k) < 1:
            raise ValueError(f"n, k: expected at least 1 but got {self.n}, {self.k}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {DTYPES} but got {self.dtype}")
        if self.residual and self.gate:
            raise ValueError("plan: expected a residual or a gate but got both")
        if self.gelu and not self.gate:
            raise ValueError("gelu: expected it with a gate but got none")
        if self.heads is None:
            return
        if self.residual or self.gate:
            raise ValueError("heads: expected neither residual nor gate but got one")
        if self.n != self.heads.columns:
            raise ValueError(f"n: expected {self.heads.columns} of {self.heads} but got {self.n}")

    @cached_property
    def block_m(self) -> int:
        """Number of rows of a tile: all rows, so that weights are read once, and at least the 16
        rows of a tensor core."""
        return max(16, triton.next_power_of_2(self.rows))

    @property
    def block_n(self) -> int:
        """Number of columns of a tile of the result."""
        raise NotImplementedError

    @cached_property
    def tiles(self) -> int:
        """Number of tiles that hold the n columns."""
        return triton.cdiv(self.n, self.block_n)

    @property
    def half(self) -> int:
        """Number of pairs of a head that rope rotates; 0 without heads."""
        return 0 if self.heads is None else self.heads.head_dim // 2
