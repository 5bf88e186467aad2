"""Packs matrices to 4 bits in compressed-tensors' format `pack-quantized`, with groups of 32
columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...model.config import ModelConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

GROUP, LEVELS = 32, 15


def pack(name: str, weight: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Return the tensors of one matrix [out, in], by their names in a checkpoint.

    name: the matrix's name without `.weight`. A weight is scale * (level - zero). Each group has a
    float16 scale and a zero point from 0 to 15, so that the weight 0 is exact.
    """
    rows, columns = weight.shape
    groups = weight.reshape(rows, -1, GROUP)
    low = np.minimum(groups.min(2, keepdims=True), 0)
    high = np.maximum(groups.max(2, keepdims=True), 0)
    scale = ((high - low) / np.float32(LEVELS)).astype(np.float16).astype(np.float32)
    scale = np.maximum(scale, np.float32(2.0**-24))
    zero = np.clip(np.round(-low / scale), 0, LEVELS)
    levels = np.clip(np.round(groups / scale) + zero, 0, LEVELS).astype(np.uint32)
    return {
        f"{name}.weight_packed": _fields(levels.reshape(rows, columns)),
        f"{name}.weight_scale": scale[:, :, 0].astype(np.float16),
        f"{name}.weight_shape": np.array([rows, columns], np.int64),
        f"{name}.weight_zero_point": _zero_points(zero[:, :, 0].astype(np.uint32)),
    }


def fits(config: ModelConfig) -> bool:
    """True if the rows of all matrices of a decoder can be divided into groups of 32 columns."""
    columns = (config.hidden, config.inner, config.heads * config.head_dim)
    return all(count % GROUP == 0 for count in columns)


def scheme() -> dict[str, Any]:
    """Return the field quantization_config for config.json."""
    weights = {
        "num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": GROUP,
        "dynamic": False,
    }  # fmt: skip
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": [],
    }


def _zero_points(zero: NDArray[np.uint32]) -> NDArray[np.int32]:
    """Pack the zero points [rows, groups] into int32 [rows / 8, groups], eight rows in a word."""
    missing = -len(zero) % 8
    padded = np.concatenate([zero, np.zeros((missing, zero.shape[1]), np.uint32)])
    return np.ascontiguousarray(_fields(np.ascontiguousarray(padded.T)).T)


def _fields(levels: NDArray[np.uint32]) -> NDArray[np.int32]:
    """Pack 4-bit numbers [..., 8 n] into int32 [..., n]. The first of eight numbers is in the
    lowest bits."""
    shifts = np.arange(0, 32, 4, dtype=np.uint32)
    parts = levels.reshape(*levels.shape[:-1], -1, 8) << shifts
    packed = np.bitwise_or.reduce(parts, -1)
    return packed.view(np.int32)
