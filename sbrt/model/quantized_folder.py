"""Reads Hugging Face folders with quantised matrices: gptq, awq (gemm) and compressed-tensors.

Each format stores a matrix [out, in] as several tensors. A weight is w = s (q - z), with the
unsigned level q, the zero point z and the scale s. An int32 holds several fields, the first in its
lowest bits; f is the number of fields.

 gptq   qweight [in / f, out], f levels of consecutive inputs in an int32; qzeros [groups, out / f],
        z - 1; scales [groups, out]; g_idx [in], the group of each input, ascending
 awq    qweight [in, out / 8], qzeros [groups, out / 8], scales [groups, out]; field i of an int32
        is output ORDER[i] of eight
 compressed-tensors
        pack-quantized: weight_packed [out, in / f], weight_scale [out, groups], weight_shape,
        weight_zero_point [out / f, groups]; int-quantized: weight [out, in] int8, weight_scale,
        weight_zero_point int8. Without zero points z is the middle level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidInputError
from .quantization import Scheme
from .quantized import Layout, Quantized
from .stored import Stored, StoredNumbers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Parts = Mapping[str, StoredNumbers]
    # (levels [rows, in], scales [rows, groups], zero points [rows, groups] or None)
    Unpacked = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int32] | None]

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
GROUPS = (128, 64, 32)  # possible numbers of columns of a group; larger groups are split
SCALES = {"F16": "float16", "BF16": "float32"}
FIELD_BITS = 32
SUFFIXES = {
    "gptq": ("qweight", "qzeros", "scales", "g_idx"),
    "awq": ("qweight", "qzeros", "scales"),
    "pack-quantized": ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point"),
    "int-quantized": ("weight", "weight_scale", "weight_zero_point"),
}


@dataclass(frozen=True, kw_only=True)
class PackedMatrix(Stored):
    """A matrix stored as several tensors.

    parts: the tensors, by the suffix of their names. group: number of columns that share a scale.
    """

    scheme: Scheme
    group: int
    parts: Mapping[str, StoredNumbers]

    def rows(self, begin: int, end: int) -> Quantized:
        """See Stored.rows."""
        import numpy as np  # imported here, so that `import sbrt` stays fast

        assert self.layout is not None
        levels, scales, zeros = _UNPACK[self.scheme.layout](self, begin, end)
        middle = np.int32(1 << self.scheme.bits - 1)
        minimums = None
        if zeros is not None:
            offset = np.int32(0) if self.scheme.bits == 4 else middle
            minimums = scales * (offset - zeros).astype(np.float32)
        if self.scheme.bits == 8:
            levels = (levels ^ np.uint8(128)).view(np.int8)
        cut = self.group // self.layout.group
        return Quantized(
            layout=self.layout,
            levels=levels,
            scales=np.repeat(scales, cut, 1),
            minimums=None if minimums is None else np.repeat(minimums, cut, 1),
        )

    def part(self, suffix: str) -> NDArray[Any]:
        """Return the elements of the part whose name has this suffix."""
        return _array(self.parts[suffix])


def packed_weights(path: Path, scheme: Scheme, weights: Mapping[str, Stored]) -> dict[str, Stored]:
    """Return the weights of a folder. The tensors of a quantised matrix become one weight.

    path: the folder's config.json, for messages. Raises InvalidInputError, naming the tensor.
    """
    suffixes = SUFFIXES[scheme.layout]
    found: dict[str, Stored] = {}
    done: set[str] = set()
    for name in weights:
        prefix = name.removesuffix(f".{suffixes[0]}")
        if prefix == name or not _is_packed(prefix, suffixes, weights):
            continue
        parts = dict(_parts(prefix, suffixes, weights))
        done |= {f"{prefix}.{suffix}" for suffix in parts}
        found[f"{prefix}.weight"] = _matrix(scheme, prefix, parts)
    if not found:
        raise InvalidInputError(
            f"{path}, quantization_config: expected tensors named *.{suffixes[0]}, found none"
        )
    rest = {name: weight for name, weight in weights.items() if name not in done}
    if clash := rest.keys() & found.keys():
        raise InvalidInputError(f"{found[min(clash)].where}: expected {min(clash)} once, got two")
    return rest | found


def _is_packed(prefix: str, suffixes: tuple[str, ...], weights: Mapping[str, Stored]) -> bool:
    """True if the tensor belongs to a quantised matrix. A plain matrix may also have a tensor named
    `weight`."""
    return suffixes[0] != "weight" or f"{prefix}.{suffixes[1]}" in weights


def _parts(
    prefix: str, suffixes: tuple[str, ...], weights: Mapping[str, Stored]
) -> Iterator[tuple[str, StoredNumbers]]:
    for suffix in suffixes:
        part = weights.get(f"{prefix}.{suffix}")
        if isinstance(part, StoredNumbers):
            yield suffix, part


def _matrix(scheme: Scheme, prefix: str, parts: Parts) -> PackedMatrix:
    """Check that the parts of a quantised matrix fit each other, and return the matrix."""
    first = next(iter(parts.values()))
    shape = _shape(scheme, first)
    group = scheme.group or shape[1]
    step = next((g for g in GROUPS if group % g == 0), 0)
    if not step or shape[1] % group:
        raise InvalidInputError(
            f"{first.where}: expected {shape[1]} columns in groups of a multiple of 32, "
            f"got groups of {group}"
        )
    for suffix, (dtypes, expected) in _expected(scheme, shape, shape[1] // group).items():
        _check_part(f"{prefix}.{suffix}", parts.get(suffix), first, dtypes, expected)
    has_zeros = any("zero" in suffix for suffix in parts)
    scales = next(part for suffix, part in parts.items() if "scale" in suffix)
    layout = Layout(
        element=f"int{scheme.bits}",
        group=step,
        scales=SCALES.get(scales.dtype, "float32"),
        minimums="float32" if has_zeros else "none",
        zero=8 if scheme.bits == 4 and not has_zeros else 0,
    )
    return PackedMatrix(
        where=first.where,
        dtype=scheme.name,
        shape=shape,
        size=sum(part.size for part in parts.values()),
        layout=layout,
        scheme=scheme,
        group=group,
        parts=parts,
    )


def _shape(scheme: Scheme, first: StoredNumbers) -> tuple[int, int]:
    """Return the matrix's shape [out, in], from the tensor of levels."""
    if len(first.shape) != 2 or not all(first.shape):
        raise InvalidInputError(f"{first.where}: expected a matrix, got {list(first.shape)}")
    fields = FIELD_BITS // scheme.bits
    rows, columns = first.shape
    return {
        "gptq": (columns, rows * fields),
        "awq": (columns * fields, rows),
        "pack-quantized": (rows, columns * fields),
        "int-quantized": (rows, columns),
    }[scheme.layout]


def _expected(
    scheme: Scheme, shape: tuple[int, int], groups: int
) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Return (accepted dtypes, shape) of every part of a quantised matrix. Symmetric schemes have
    no zero points."""
    out, columns = shape
    fields = FIELD_BITS // scheme.bits
    exact = tuple(SCALES)
    per_out: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
        "qzeros": (("I32",), (groups, -(-out // fields))),
        "scales": (exact, (groups, out)),
    }
    if scheme.layout == "awq":
        return per_out
    if scheme.layout == "gptq":
        return per_out | {"g_idx": (("I32",), (columns,))}
    if scheme.symmetric:
        exact = (*exact, "F32")
    found: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
        "weight_scale": (exact, (out, groups))
    }
    packed = scheme.layout == "pack-quantized"
    if packed:
        found["weight_shape"] = (("I64", "I32"), (2,))
    else:
        found["weight"] = (("I8",), shape)
    if not scheme.symmetric:
        rows = -(-out // fields) if packed else out
        found["weight_zero_point"] = (("I32",) if packed else ("I8",), (rows, groups))
    return found


def _check_part(
    name: str, part: StoredNumbers | None, first: StoredNumbers, dtypes: tuple[str, ...],
    shape: tuple[int, ...],
) -> None:  # fmt: skip
    if part is None:
        raise InvalidInputError(f"{first.where}: expected the tensor {name} with it, found none")
    if part.shape != shape or part.dtype not in dtypes:
        raise InvalidInputError(
            f"{part.where}: expected {' or '.join(dtypes)} of shape {list(shape)}, "
            f"got {part.dtype} of {list(part.shape)}"
        )


# --- numbers ---


def _array(part: StoredNumbers) -> NDArray[Any]:
    """Return the elements of a tensor; bfloat16 is converted to float32."""
    import numpy as np

    from .safetensors_file import NUMPY, widened

    dtype, data = part.numbers()
    values = data.view(NUMPY[dtype]).reshape(part.shape)
    return widened(values.view(np.uint16)).reshape(part.shape) if dtype == "BF16" else values


def _fields(packed: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Unpack each int32 of an array [...] to its fields: [..., 32 / bits]."""
    import numpy as np

    shifts = np.arange(0, FIELD_BITS, bits, dtype=np.uint32)
    fields = packed.view(np.uint32)[..., None] >> shifts
    found: NDArray[np.uint8] = (fields & np.uint32((1 << bits) - 1)).astype(np.uint8)
    return found


def _scales(values: NDArray[Any]) -> NDArray[np.float32]:
    import numpy as np

    return np.ascontiguousarray(values, np.float32)


def _gptq(matrix: PackedMatrix, begin: int, end: int) -> Unpacked:
    import numpy as np

    bits = matrix.scheme.bits
    columns = matrix.shape[1]
    if (matrix.part("g_idx") != np.arange(columns) // matrix.group).any():
        raise InvalidInputError(
            f"{matrix.parts['g_idx'].where}: expected groups of {matrix.group} consecutive "
            "columns, got another order (desc_act)"
        )
    packed = np.ascontiguousarray(matrix.part("qweight")[:, begin:end].T)
    zeros = _fields(matrix.part("qzeros"), bits).reshape(-1, matrix.shape[0])[:, begin:end]
    return (
        _fields(packed, bits).reshape(end - begin, columns),
        _scales(matrix.part("scales")[:, begin:end].T),
        zeros.T.astype(np.int32) + matrix.scheme.zero_offset,
    )


def _awq(matrix: PackedMatrix, begin: int, end: int) -> Unpacked:
    import numpy as np

    low, high = begin // 8, -(-end // 8)
    inside = slice(begin - 8 * low, end - 8 * low)

    def outputs(packed: NDArray[Any]) -> NDArray[np.uint8]:
        """Unpack an array [n, outputs / 8] of int32 to [outputs, n]."""
        fields = _fields(np.ascontiguousarray(packed[:, low:high]), 4)
        ordered = np.empty_like(fields)
        ordered[..., list(ORDER)] = fields
        return np.ascontiguousarray(ordered.reshape(len(packed), -1)[:, inside].T)

    return (
        outputs(matrix.part("qweight")),
        _scales(matrix.part("scales")[:, begin:end].T),
        outputs(matrix.part("qzeros")).astype(np.int32),
    )


def _pack_quantized(matrix: PackedMatrix, begin: int, end: int) -> Unpacked:
    import numpy as np

    bits = matrix.scheme.bits
    if tuple(matrix.part("weight_shape").tolist()) != matrix.shape:
        raise InvalidInputError(
            f"{matrix.parts['weight_shape'].where}: expected {list(matrix.shape)}, "
            f"got {matrix.part('weight_shape').tolist()}"
        )
    zeros = None
    if not matrix.scheme.symmetric:
        packed = np.ascontiguousarray(matrix.part("weight_zero_point").T)
        zeros = _fields(packed, bits).reshape(len(packed), -1).T[begin:end].astype(np.int32)
    levels = _fields(matrix.part("weight_packed")[begin:end], bits)
    scales = _scales(matrix.part("weight_scale")[begin:end])
    return levels.reshape(end - begin, matrix.shape[1]), scales, zeros


def _int_quantized(matrix: PackedMatrix, begin: int, end: int) -> Unpacked:
    import numpy as np

    zeros = None
    if not matrix.scheme.symmetric:
        zeros = matrix.part("weight_zero_point")[begin:end].astype(np.int32) + 128
    levels = matrix.part("weight")[begin:end].view(np.uint8) ^ np.uint8(128)
    return levels, _scales(matrix.part("weight_scale")[begin:end]), zeros


_UNPACK: dict[str, Callable[[PackedMatrix, int, int], Unpacked]] = {
    "gptq": _gptq,
    "awq": _awq,
    "pack-quantized": _pack_quantized,
    "int-quantized": _int_quantized,
}
