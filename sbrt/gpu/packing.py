"""Chooses formats for a checkpoint's quantised matrices, and writes the matrices to a device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import torch
from numpy.typing import NDArray

from .._core import Format, quantise
from ..model.checkpoint import EMBED, HEAD, QUANTISED, Checkpoint, Shapes
from ..model.quantized import Layout, Quantized
from ..model.stored import PIECE, Stored
from ..triton_kernels.packed import PackedFormat, PackedMatrix

STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
# The formats that the dtypes int8 and int4 stand for (csrc/ops/format.h).
INT8 = Layout("int8", 64)
INT4 = Layout("int4", 32, "float16", "float16")
INT8_HEAD = Layout("int8", 32, "float16")  # the format of the LM head of a model in int4

Layouts = dict[str, Layout]


def layouts_of(checkpoint: Checkpoint, dtype: str) -> Layouts:
    """Return the layouts of the matrices that are quantised on a device, by Hugging Face name.

    As on the CPU, the embedding is not quantised, because it is read row by row. An LM head that is
    tied to the embedding is quantised.
    """
    if dtype in QUANTISED:
        return named_layouts(checkpoint.shapes, dtype)
    known = checkpoint.formats(dtype)
    found = {name: layout for name, layout in known.items() if layout.element in QUANTISED}
    of_embed = found.pop(EMBED, None)
    if checkpoint.config.tied and of_embed is not None:
        found[HEAD] = of_embed
    return found


def named_layouts(shapes: Shapes, dtype: str) -> Layouts:
    """Return the layouts that `dtype`, int8 or int4, gives to every matrix except the embedding."""
    usual, head = (INT8, INT8) if dtype == "int8" else (INT4, INT8_HEAD)
    found = {name: usual for name, shape in shapes.items() if len(shape) == 2 and name != EMBED}
    return found | {HEAD: head}


def format_of(layout: Layout) -> PackedFormat:
    """Return a layout in the form that kernels read."""
    return PackedFormat(layout.element, layout.group, layout.minimums != "none", layout.zero)


def join(a: Layout | None, b: Layout | None) -> Layout | None:
    """Return the smallest layout that represents the weights of both layouts exactly
    (csrc/ops/format.cc). None stands for plain floats."""
    if a == b or a is None or b is None:
        return a if a == b else None
    widths = ("none", "float16", "float32").index
    same = a.element == b.element == "int4" and a.zero == b.zero
    return Layout(
        "int4" if same else "int8",
        min(a.group, b.group),
        max(a.scales, b.scales, key=widths),
        max(a.minimums, b.minimums, key=widths),
        a.zero if same else 0,
    )


def converted(rows: Quantized, to: Layout) -> Quantized:
    """Return the weights of `rows` in the layout `to`. `to` must be the result of `join` for the
    layout of `rows` and other layouts."""
    own = rows.layout
    if own == to:
        return rows
    levels = rows.levels
    if to.element == "int8":
        levels = (levels.astype(np.int16) - own.zero).astype(np.int8)
    repeated = own.group // to.group
    groups = -(-levels.shape[1] // to.group)
    scales = rows.scales.repeat(repeated, axis=1)[:, :groups]
    minimums = None
    if rows.minimums is not None:
        minimums = rows.minimums.repeat(repeated, axis=1)[:, :groups]
    elif to.minimums != "none":
        minimums = np.zeros_like(scales)
    return replace(rows, layout=to, levels=levels, scales=scales, minimums=minimums)


def write(matrix: PackedMatrix, first: int, weight: Stored, layout: Layout, to: Layout) -> None:
    """Write `weight` to the rows of `matrix` from row `first` on.

    If the file does not store `weight` in `layout`, the weight is first quantised to `layout`. to:
    the layout of `matrix`.
    """
    for at, piece in pieces_of(weight, layout):
        made = converted(piece, to)
        minimums = None if made.minimums is None else _tensor(made.minimums)
        matrix.pack(first + at, _tensor(made.levels), _tensor(made.scales), minimums)


def pieces_of(weight: Stored, layout: Layout) -> Iterator[tuple[int, Quantized]]:
    """Yield successive parts of `weight` in `layout`: (index of the first row, quantised rows)."""
    if weight.layout == layout:
        yield from weight.pieces()
        return
    numbers, step = values_of(weight), max(1, PIECE // weight.shape[1])
    format = Format(**asdict(layout))

    def made(first: int) -> tuple[int, Quantized]:
        part = numbers[first : first + step].float().numpy()
        return first, Quantized(layout, *quantise(format, part))

    with ThreadPoolExecutor() as pool:  # `quantise` releases the GIL, so threads run in parallel
        yield from pool.map(made, range(0, weight.shape[0], step))


def values_of(weight: Stored) -> torch.Tensor:
    """Return the elements of a weight, in the dtype of its file; float32 for a quantised weight."""
    stored, data = weight.numbers()
    return torch.from_numpy(data.copy()).view(STORED[stored]).view(weight.shape)


def _tensor(values: NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))


def buffers_of(layouts: Mapping[str, Layout], places: Mapping[str, str]) -> dict[str, Layout]:
    """Return the layouts of the buffers that hold quantised tensors.

    places: the name of each tensor's buffer. Several tensors may share a buffer; then the buffer's
    layout represents all of them exactly.
    """
    found: dict[str, Layout | None] = {}
    for name, buffer in places.items():
        own = layouts.get(name)
        found[buffer] = join(found[buffer], own) if buffer in found else own
    return {buffer: layout for buffer, layout in found.items() if layout is not None}
