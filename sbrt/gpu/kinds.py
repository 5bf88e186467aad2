"""The kinds of layers of a model: Gemma 3 has local and global layers, other families one kind.

Layers of one kind have the same window and the same rope. csrc/model/decoder.h has the same kinds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .._core import inverse_frequencies
from ..model.config import ModelConfig
from ..model.rope import Rope as RopeConfig
from ..triton_kernels.rope import Rope


@dataclass(frozen=True)
class LayerKind:
    """The window and the rope of some layers.

    window: number of positions that a row sees, its own included; None: all.
    theta, rope: the base of rope's frequencies, and their scaling.
    """

    window: int | None
    theta: float
    rope: RopeConfig


def kinds_of(config: ModelConfig) -> list[LayerKind]:
    """Return the kinds of a model's layers. If there are two, the second is local."""
    everywhere = config.window if config.window and not config.local else None
    kinds = [LayerKind(everywhere, config.rope_theta, config.rope)]
    if config.local:
        kinds.append(LayerKind(config.window, config.local_theta, config.local_rope))
    return kinds[-1:] if config.is_bounded else kinds


def kind_of(config: ModelConfig, layer: int) -> int:
    """Return the index in kinds_of of a layer's kind."""
    return int(bool(config.local) and not config.is_bounded and config.local[layer])


def scale_of(config: ModelConfig) -> float | None:
    """Return the factor of attention scores; None: 1 / sqrt(head_dim)."""
    return 1 / math.sqrt(config.query_scalar) if config.query_scalar else None


def rope_of_kind(config: ModelConfig, kind: LayerKind, device: torch.device) -> Rope:
    """Return the rope of a kind, without norms of q and k."""
    found = inverse_frequencies(config.head_dim, kind.theta, kind.rope.core())
    inv_freq = torch.tensor(found, dtype=torch.float32, device=device)
    amplitude = kind.rope.attention_factor if kind.rope.kind == "yarn" else 1.0
    return Rope(inv_freq, float(torch.tensor(amplitude, dtype=torch.float32)))
