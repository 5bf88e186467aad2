"""Strict reader and writer of safetensors files. The reader trusts no header until every byte of
the file is accounted for. The writer gives equal bytes for equal tensors, which the safetensors
library does not promise.

Layout: u64 little endian length of the header, the header (JSON), the data. Nothing is ever
unpickled.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import check
from ..check import show
from ..errors import InvalidInputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_HEADER = 16 * 2**20  # bytes
MAX_RANK = 8
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64"), 64),
}
# Names in numpy of the dtypes that `encode` and `array` support. bfloat16 numbers are handled as
# integers that hold their bits.
NUMPY = {
    "F16": "<f2", "BF16": "<u2", "F32": "<f4", "I64": "<i8", "U8": "<u1", "I32": "<i4", "I8": "<i1",
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file. Its bytes are [begin, end) of the file's data."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file whose header has been checked; `metadata` is still untrusted."""

    path: Path
    data_begin: int
    tensors: dict[str, TensorEntry]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def array(self, name: str, dtype: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
        """Return a copy of one tensor. None in `shape` accepts any size. Raises
        InvalidInputError."""
        where = f"{self.path}, tensor {name}"
        entry = self.tensors.get(name)
        if entry is None:
            raise InvalidInputError(f"{where}: expected one, found none")
        fits = len(entry.shape) == len(shape) and all(
            wanted is None or size == wanted
            for size, wanted in zip(entry.shape, shape, strict=True)
        )
        if not fits or entry.dtype != dtype:
            sizes = [wanted or "any" for wanted in shape]
            raise InvalidInputError(
                f"{where}: expected {dtype} of shape {sizes}, got {entry.dtype} of "
                f"{list(entry.shape)}"
            )
        return self.bytes_of(name).view(NUMPY[dtype]).reshape(entry.shape).copy()

    def bytes_of(self, name: str) -> NDArray[np.uint8]:
        """Map the bytes of one tensor read-only. The map is closed when the array is dropped."""
        import numpy as np  # imported here, so that `import sbrt` stays fast

        entry = self.tensors[name]
        begin, size = self.data_begin + entry.begin, entry.end - entry.begin
        if not size:  # an empty range cannot be mapped
            return np.empty(0, np.uint8)
        return np.memmap(self.path, np.uint8, mode="r", offset=begin, shape=(size,))

    def read(self) -> Iterator[tuple[str, TensorEntry, NDArray[np.uint8]]]:
        """Yield (name, entry, bytes) of every tensor, in file order. The bytes are mapped
        read-only."""
        for name, entry in sorted(self.tensors.items(), key=lambda item: item[1].begin):
            yield name, entry, self.bytes_of(name)


def open_file(path: Path) -> TensorFile:
    """Read and check the header of `path`. Raises InvalidInputError, naming file and tensor."""
    with check.open_binary(path) as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        if len(prefix) < 8:
            raise InvalidInputError(f"{path}: expected a header of 8 bytes, got {len(prefix)}")
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER or 8 + length > size:
            most = min(MAX_HEADER, size - 8)
            raise InvalidInputError(
                f"{path}: expected a header of at most {most} bytes, got {length}"
            )
        header = _parse(path, file.read(length))
    tensors = {
        name: _entry(path, name, entry) for name, entry in header.items() if name != "__metadata__"
    }
    _check_coverage(path, tensors, size - 8 - length)
    metadata = header.get("__metadata__")
    return TensorFile(path, 8 + length, tensors, metadata if isinstance(metadata, dict) else {})


def encode(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a file with these tensors, in their order. Accepts the dtypes in
    NUMPY."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    parts: list[bytes] = []
    at = 0
    for name, value in tensors.items():
        parts.append(value.astype(NUMPY[_dtype_of(value)], order="C", copy=False).tobytes())
        shape, end = list(value.shape), at + len(parts[-1])
        header[name] = {"dtype": _dtype_of(value), "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # padding, so that the data begins at a multiple of 8 bytes
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the bits of finite numbers that are rounded to bfloat16, ties to even."""
    import numpy as np

    bits = values.astype("<f4").view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


def widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return float32 numbers from their bfloat16 bits."""

    found: NDArray[np.float32] = (bits.astype("<u4") << 16).view("<f4")
    return found


def _dtype_of(value: NDArray[Any]) -> str:
    return next(name for name, word in NUMPY.items() if value.dtype == word)


def parse_json(path: Path, raw: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises InvalidInputError, naming the file, also on duplicate keys or
    NaN."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))
            raise InvalidInputError(f"{path}: the key {show(twice)} appears twice")
        return found

    def no_constant(word: str) -> Any:
        raise InvalidInputError(f"{path}: expected finite numbers, got {word}")

    try:
        found = json.loads(
            raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant
        )
    except InvalidInputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path}: expected JSON, got {error}") from None
    if not isinstance(found, dict):
        raise InvalidInputError(f"{path}: expected a JSON object, got {show(found)}")
    return found


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        raise InvalidInputError(f"{path}: expected a header that begins with '{{', got {raw[:1]!r}")
    return parse_json(path, raw)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _entry(path: Path, name: str, entry: Any) -> TensorEntry:
    where = f"{path}, tensor {show(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise InvalidInputError(
            f"{where}: expected dtype, shape and data_offsets, got {show(entry)}"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise InvalidInputError(f"{where}: unknown dtype {show(dtype)}")
    if not (isinstance(shape, list) and len(shape) <= MAX_RANK and all(map(_is_size, shape))):
        raise InvalidInputError(f"{where}: expected a shape of sizes, got {show(shape)}")
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(map(_is_size, offsets))):
        raise InvalidInputError(f"{where}: expected two offsets, got {show(offsets)}")
    begin, end = offsets
    expected = math.prod(shape) * BITS[dtype] // 8
    if end - begin != expected:
        raise InvalidInputError(f"{where}: expected {expected} bytes, got {end - begin}")
    return TensorEntry(path, dtype, tuple(shape), begin, end)


def _check_coverage(path: Path, tensors: dict[str, TensorEntry], size: int) -> None:
    """Check that tensors follow one another from 0 to `size` without overlap or gap."""
    at = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            raise InvalidInputError(
                f"{path}, tensor {show(name)}: expected data from byte {at}, got {entry.begin}"
            )
        at = entry.end
    if at != size:
        raise InvalidInputError(f"{path}: expected {at} bytes of data, got {size}")
