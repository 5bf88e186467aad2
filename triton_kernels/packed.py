"""Layouts in device memory of quantised matrices, and of activations as integers.

Values, groups and rounding are those of the CPU's kernels (csrc/ops/format.h, integers.h). Only
the layout differs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .state import MAX_ROWS

GROUP = 32  # columns of a row of activations that share a scale
TURN = 4  # groups of a row per loop iteration of a product; the number of groups is padded to this
GROUPS = {"int8": (16, 32, 64, 128), "int4": (32, 64, 128)}


@dataclass(frozen=True)
class PackedFormat:
    """weight = scale * (level - zero) (+ minimum), each step rounded to float32.

    element   int8 (levels -128 to 127) or int4 (0 to 15)
    group     columns of a row of the matrix that share a scale: 32, 64 or 128, in int8 also 16
    shifts    True if the format has minimums
    zero      0; 8 for int4 without minimums

    Scales and minimums are float32, even if a file has them in float16. Narrower values would be
    too narrow for the pipelined copies of a kernel.
    """

    element: str
    group: int
    shifts: bool = False
    zero: int = 0

    def __post_init__(self) -> None:
        if self.element not in GROUPS:
            raise ValueError(f"element: expected one of {tuple(GROUPS)} but got {self.element}")
        if self.group not in GROUPS[self.element]:
            known = GROUPS[self.element]
            raise ValueError(f"group: expected one of {known} but got {self.group}")
        if self.zero and (self.zero != 8 or self.element != "int4" or self.shifts):
            raise ValueError(
                f"zero: expected 0, or 8 in int4 without minimums, but got {self.zero}"
            )

    @property
    def per_byte(self) -> int:
        """Number of levels in a byte."""
        return 2 if self.element == "int4" else 1

    def sizes(self, n: int, k: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Return (shape, dtype) of the tensors of a matrix [n, k], by their names in
        PackedMatrix."""
        planes = padded_groups(k) // self.per_byte
        groups = -(-k // self.group)
        kind = torch.uint8 if self.element == "int4" else torch.int8
        found = {"levels": ((planes, n, GROUP), kind), "scales": ((groups, n), torch.float32)}
        return found | ({"minimums": found["scales"]} if self.shifts else {})


@dataclass(frozen=True)
class PackedMatrix:
    """A quantised matrix [n, k]. In its layout a tile of a product reads contiguous memory.

    levels    int8 [groups, n, 32]: for each group of 32 columns, the levels of all n rows. int4:
              uint8 [groups / 2, n, 32]. The low half of a byte is a level of an even group, the
              high half a level of the next group. Groups beyond k are padding
    scales    float32 [ceil(k / format.group), n]; minimums: the same, or None
    """

    format: PackedFormat
    k: int
    levels: torch.Tensor
    scales: torch.Tensor
    minimums: torch.Tensor | None = None

    @property
    def n(self) -> int:
        """Number of outputs, which are the rows of the matrix."""
        return self.levels.shape[1]

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.levels.device

    def pack(
        self,
        first: int,
        levels: torch.Tensor,
        scales: torch.Tensor,
        minimums: torch.Tensor | None = None,
    ) -> None:
        """Write rows of the matrix (outputs), from row `first` on.

        levels: bytes [rows, k], one level each. scales, minimums: float32
        [rows, ceil(k / format.group)].
        """
        rows = slice(first, first + levels.shape[0])
        wide = torch.zeros((levels.shape[0], padded_groups(self.k) * GROUP), dtype=torch.uint8)
        wide[:, : self.k] = levels.view(torch.uint8)
        planes = wide.view(levels.shape[0], -1, GROUP).permute(1, 0, 2)
        if self.format.element == "int4":
            planes = planes[0::2] | planes[1::2] << 4
        self.levels[:, rows] = planes.contiguous().view(self.levels.dtype).to(self.device)
        self.scales[:, rows] = scales.t().to(self.device)
        if self.minimums is not None and minimums is not None:
            self.minimums[:, rows] = minimums.t().to(self.device)

    def unpacked(self) -> torch.Tensor:
        """Return levels minus the format's zero, as float32 [groups, n, 32], with padding."""
        levels = self.levels
        if self.format.element == "int4":
            levels = torch.stack([levels & 15, levels >> 4], 1).flatten(0, 1)
        return levels.float() - self.format.zero


@dataclass(frozen=True)
class IntegerRows:
    """Rows of activations: each group of 32 columns is scale * q, where scale = max|x| / 127.

    q         int8 [64, 32 * groups]; the number of groups is padded to a multiple of TURN
    scales    float32 [groups, 64]; NaN for a group with NaN or infinity
    sums      int32 [2, groups, 64]: the sum of q over each half of a group
    """

    q: torch.Tensor
    scales: torch.Tensor
    sums: torch.Tensor

    def dense(self, rows: int, k: int) -> torch.Tensor:
        """Return scale * q as float32 [rows, k]."""
        q = self.q[:rows].float().view(rows, -1, GROUP)
        return (q * self.scales[: q.shape[1], :rows].t()[:, :, None]).flatten(1)[:, :k]


def padded_groups(k: int) -> int:
    """Return the number of groups of 32 columns, padded to whole iterations of a product's loop."""
    return -(-k // (GROUP * TURN)) * TURN


def integer_sizes(k: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return (shape, dtype) of the tensors of IntegerRows for rows of up to k columns."""
    groups = padded_groups(k)
    return {
        "q": ((MAX_ROWS, groups * GROUP), torch.int8),
        "scales": ((groups, MAX_ROWS), torch.float32),
        "sums": ((2, groups, MAX_ROWS), torch.int32),
    }


def integer_rows(k: int, device: str | torch.device) -> IntegerRows:
    """Allocate IntegerRows for rows of up to k columns on `device`."""
    sizes = integer_sizes(k).items()
    return IntegerRows(**{name: torch.zeros(s, dtype=d, device=device) for name, (s, d) in sizes})


def packed_matrix(format: PackedFormat, n: int, k: int, device: str | torch.device) -> PackedMatrix:
    """Allocate a matrix [n, k] in this format on `device`; everything is 0."""
    made = {
        name: torch.zeros(s, dtype=d, device=device) for name, (s, d) in format.sizes(n, k).items()
    }
    return PackedMatrix(format, k, **made)
