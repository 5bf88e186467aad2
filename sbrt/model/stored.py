"""Represents one weight of a model as it is stored in its files, in any file format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .quantized import Layout, Quantized
from .safetensors_file import TensorFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

PIECE = 2**20  # number of weights that are unpacked together


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One weight, with the name and shape that it has in a model folder.

    where: file and name of the weight, for messages. dtype: F32, F16, BF16, or the name of a
    quantised format.
    size: number of bytes in the files. layout: None unless the format is quantised.
    """

    where: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    layout: Layout | None = None

    def numbers(self) -> tuple[str, Bytes]:
        """Return (dtype, bytes of all elements in order).

        The dtype is F32, F16 or BF16; a quantised weight is converted to F32.
        """
        import numpy as np  # imported here, so that `import sbrt` stays fast

        out = np.empty(self.shape, np.float32)
        for first, piece in self.pieces():
            out[first : first + len(piece.levels)] = piece.dense()
        return "F32", out.reshape(-1).view(np.uint8)

    def pieces(self) -> Iterator[tuple[int, Quantized]]:
        """Yield (index of the first row, rows) for successive parts of a quantised weight. A part
        has about PIECE weights."""
        step = max(1, PIECE // self.shape[1])
        for first in range(0, self.shape[0], step):
            yield first, self.rows(first, min(first + step, self.shape[0]))

    def rows(self, begin: int, end: int) -> Quantized:
        """Return rows [begin, end) of a quantised weight."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class StoredNumbers(Stored):
    """A tensor of a safetensors file; its elements are plain numbers."""

    file: TensorFile
    name: str

    def numbers(self) -> tuple[str, Bytes]:
        """Return (dtype, mapped bytes)."""
        return self.dtype, self.file.bytes_of(self.name)
