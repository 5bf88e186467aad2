"""A strict reader of GGUF headers: every count and offset is checked against the file before use.

The layout is little endian. It is: magic, u32 version, u64 number of tensors, u64 number of
metadata entries; the entries (key, u32 type, value); the descriptions of the tensors; padding; the
data. A description is a name, u32 number of dimensions, u64 sizes with the innermost first, u32
type and u64 offset. A text is a u64 length and UTF-8 bytes.

The `gguf` package reads the same layout, but it trusts counts and offsets. So a hostile header can
make it allocate any amount of memory.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from typing import Any

from ... import check
from ...check import show
from ...errors import InvalidInputError
from ..safetensors_file import TensorEntry, TensorFile
from .blocks import BLOCKS, Block

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER = 64 * 2**20  # maximum bytes before the data; a vocabulary of 262,144 takes some 16 MiB
MAX_RANK = 4
# Bytes: the default alignment, and the largest accepted alignment.
ALIGNMENT, MAX_ALIGNMENT = 32, 2**16
STRING, ARRAY = 8, 9
# Type codes of the module `struct`, by the numbers of GGUF's types. numpy has the same codes.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
           12: "d"}  # fmt: skip


def open_gguf(path: Path) -> TensorFile:
    """Read and check the header of `path`. Raises InvalidInputError, naming the file and the part
    of the header.

    Tensors have their GGUF names and the shape [n] or [rows, columns]. Their dtype is a name in
    `BLOCKS`. An array of the metadata is a list of str, or a numpy array. Metadata values are not
    checked: they may be hostile.
    """
    if not check.is_file(path):
        raise InvalidInputError(f"{path}: expected a GGUF file, found none")
    with check.open_binary(path) as file:
        if file.read(4) != MAGIC:
            raise InvalidInputError(f"{path}: expected a GGUF file, which begins with {MAGIC!r}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(path, _Cursor(path, data))


class _Cursor:
    """Reads a mapped file from its beginning, and never past its end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.size = path, len(data)
        self.at = 0
        self._data = data
        self._end = min(self.size, MAX_HEADER)

    def take(self, what: str, size: int) -> bytes:
        """Return the next `size` bytes. what: the part of the file that has these bytes, for
        messages."""
        if size > self._end - self.at:
            raise InvalidInputError(
                f"{self.path}, {what}: expected at most {self._end - self.at} bytes, got {size}"
            )
        self.at += size
        return self._data[self.at - size : self.at]

    def number(self, what: str, code: str) -> Any:
        """Return the next number. code: its type code in the module `struct`."""
        size = struct.calcsize(f"<{code}")
        return struct.unpack(f"<{code}", self.take(what, size))[0]

    def text(self, what: str) -> str:
        """Return the next text. It is stored as a length N, then N bytes of UTF-8."""
        return self.texts(what, 1)[0]

    def texts(self, what: str, count: int) -> list[str]:
        """Return the next `count` texts. A vocabulary has hundreds of thousands of texts, so no
        function is called for each text."""
        data, at, end, found = self._data, self.at, self._end, []
        length_at = struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):
                (size,) = length_at(data, at)
                at += 8
                if size > end - at:
                    raise InvalidInputError(
                        f"{self.path}, {what}: expected at most {end - at} bytes, got {size}"
                    )
                found.append(str(data[at : at + size], "utf-8"))
                at += size
        except struct.error:  # fewer than 8 bytes are left
            raise InvalidInputError(
                f"{self.path}, {what}: expected at most {len(data) - at} bytes, got 8"
            ) from None
        except UnicodeDecodeError as error:
            raise InvalidInputError(
                f"{self.path}, {what}: expected UTF-8, got byte {error.object[error.start]:#x}"
            ) from None
        self.at = at
        return found


def _parse(path: Path, cursor: _Cursor) -> TensorFile:
    cursor.take("magic", 4)
    version = cursor.number("version", "I")
    if version not in VERSIONS:
        raise InvalidInputError(f"{path}, version: expected {VERSIONS}, got {version}")
    tensor_count = cursor.number("tensor count", "Q")
    metadata: dict[str, Any] = {}
    for _ in range(cursor.number("metadata count", "Q")):
        key = cursor.text("metadata key")
        if key in metadata:
            raise InvalidInputError(f"{path}, metadata: the key {show(key)} appears twice")
        metadata[key] = _value(cursor, f"metadata {show(key)}")
    alignment = _alignment(path, metadata)
    tensors: dict[str, TensorEntry] = {}
    for _ in range(tensor_count):
        name = cursor.text("tensor name")
        if name in tensors:
            raise InvalidInputError(f"{path}: the tensor {show(name)} appears twice")
        tensors[name] = _tensor(cursor, f"tensor {show(name)}", cursor.size)
    data_begin = _padded(cursor.at, alignment)
    _check_coverage(path, tensors, alignment, cursor.size - data_begin)
    return TensorFile(path, data_begin, tensors, metadata)


def _value(cursor: _Cursor, what: str) -> Any:
    kind = cursor.number(what, "I")
    if kind == STRING:
        return cursor.text(what)
    if kind == ARRAY:
        return _array(cursor, what)
    return cursor.number(what, _code(cursor, what, kind))


def _array(cursor: _Cursor, what: str) -> Any:
    kind, count = cursor.number(what, "I"), cursor.number(what, "Q")
    if kind == STRING:
        return cursor.texts(what, count)
    if kind == ARRAY:
        raise InvalidInputError(f"{cursor.path}, {what}: expected no array of arrays, got one")
    code = _code(cursor, what, kind)
    import numpy as np  # imported here so that `import sbrt` stays fast

    raw = cursor.take(what, count * struct.calcsize(f"<{code}"))
    return np.frombuffer(raw, np.dtype(code).newbyteorder("<"))


def _code(cursor: _Cursor, what: str, kind: int) -> str:
    if kind not in NUMBERS:
        raise InvalidInputError(f"{cursor.path}, {what}: expected a type up to 12, got {kind}")
    return NUMBERS[kind]


def _alignment(path: Path, metadata: dict[str, Any]) -> int:
    where = f"{path}, general.alignment"
    given = check.integer(where, metadata.get("general.alignment", ALIGNMENT), 1, MAX_ALIGNMENT)
    if given & (given - 1):
        raise InvalidInputError(f"{where}: expected a power of two, got {given}")
    return given


def _tensor(cursor: _Cursor, what: str, most: int) -> TensorEntry:
    """Read the next tensor description. most: largest size and offset of the tensor's data, in
    bytes."""
    where = f"{cursor.path}, {what}"
    rank = cursor.number(what, "I")
    if not 1 <= rank <= MAX_RANK:
        raise InvalidInputError(f"{where}: expected 1 to {MAX_RANK} dimensions, got {rank}")
    sizes = [cursor.number(what, "Q") for _ in range(rank)]
    block = _block(where, cursor.number(what, "I"))
    begin = cursor.number(what, "Q")
    elements = math.prod(sizes)
    if not all(sizes) or sizes[0] % block.elements:
        raise InvalidInputError(
            f"{where}: expected sizes above 0, the first a multiple of {block.elements} for "
            f"{block.name}, got {sizes}"
        )
    size = elements // block.elements * block.size
    if size > most or begin > most:
        raise InvalidInputError(
            f"{where}: expected bytes within the {most} of the file, got {size} at {begin}"
        )
    return TensorEntry(cursor.path, block.name, tuple(reversed(sizes)), begin, begin + size)


def _block(where: str, kind: int) -> Block:
    if kind not in BLOCKS:
        known = ", ".join(block.name for block in BLOCKS.values())
        raise InvalidInputError(f"{where}: expected a type among {known}, got type {kind}")
    return BLOCKS[kind]


def _padded(at: int, alignment: int) -> int:
    return -(-at // alignment) * alignment


def _check_coverage(path: Path, tensors: dict[str, TensorEntry], alignment: int, size: int) -> None:
    """Check that tensors follow one another, each at the next aligned byte, and end with the
    file."""
    at = end = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            raise InvalidInputError(
                f"{path}, tensor {show(name)}: expected data from byte {at}, got {entry.begin}"
            )
        end = entry.end
        at = _padded(end, alignment)
    if not end <= size <= at:
        raise InvalidInputError(f"{path}: expected {end} bytes of data, got {max(size, 0)}")
