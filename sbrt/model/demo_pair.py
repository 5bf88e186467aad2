"""The demo pair that ships with the package, and a draft of random weights with similar sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .._core import Decoder
from ..errors import InvalidInputError
from .checkpoint import random_decoder
from .config import ModelConfig

FOLDER = Path(__file__).parents[1] / "demo"
TARGET, DRAFT, POOR = "target", "draft", "poor"

# Sizes of the demo draft. A random draft has the same sizes, but the target's vocabulary and number
# of positions.
HIDDEN, INNER, LAYERS, HEADS, KV_HEADS = 128, 288, 2, 4, 2


def demo_folder(name: str) -> Path:
    """Return the folder of `target`, `draft` or `poor`. Raises InvalidInputError if the folder is
    missing."""
    folder = FOLDER / name
    if not (folder / "config.json").is_file():
        raise InvalidInputError(f"demo: expected the demo pair's {name} in {folder}, found none")
    return folder


def random_draft(target: ModelConfig) -> Decoder:
    """Make a draft of random weights, for tests and benches. Its tokens are almost never
    accepted."""
    shape = replace(
        target,
        hidden=HIDDEN,
        inner=INNER,
        layers=LAYERS,
        heads=HEADS,
        kv_heads=KV_HEADS,
        head_dim=HIDDEN // HEADS,
        local=target.local[-LAYERS:] if target.layers >= LAYERS else (),
        query_scalar=0.0,
        tied=True,
    )
    return random_decoder(shape, seed=0)
