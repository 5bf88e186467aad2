"""Holds weights as integer levels of a few bits. Each group of weights in a row has a scale, and
may have a minimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Layout:
    """The quantisation format of a tensor; the fields are those of `_core.Format`.

    element: int8 (levels -128 to 127), int4 (0 to 15), or a float type, which needs no other field.
    group: number of columns that share a scale. scales, minimums: dtypes that hold the scales and
    minimums exactly.
    zero: the level of int4 that means 0.
    """

    element: str
    group: int = 0
    scales: str = "float32"
    minimums: str = "none"
    zero: int = 0


@dataclass(frozen=True)
class Quantized:
    """A quantised matrix: w[i, k] = (levels[i, k] - zero) scales[i, g] + minimums[i, g], where g =
    k // group.

    Each step is rounded to float32. levels: [rows, columns], int8, or uint8 for int4. scales:
    [rows, groups], float32. minimums: like scales, or None.
    """

    layout: Layout
    levels: NDArray[Any]
    scales: NDArray[np.float32]
    minimums: NDArray[np.float32] | None

    def dense(self) -> NDArray[np.float32]:
        """Return the dequantised weights, [rows, columns]."""
        import numpy as np  # imported here, so that `import sbrt` stays fast

        out = self.levels.reshape(*self.scales.shape, self.layout.group).astype(np.float32)
        out -= np.float32(self.layout.zero)
        out *= self.scales[:, :, None]
        if self.minimums is not None:
            out += self.minimums[:, :, None]
        return out.reshape(self.levels.shape)
