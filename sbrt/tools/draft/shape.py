"""Chooses the sizes of a draft, and the target's weights from which the draft's training starts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...errors import InvalidInputError
from ...model.checkpoint import EMBED, Checkpoint, expected_shapes
from ...model.config import ModelConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Weights = dict[str, NDArray[np.float32]]

GROUP = 32  # number of columns of a quantised matrix that share a scale


def draft_config(target: ModelConfig, layers: int, width: int, vocab: int) -> ModelConfig:
    """Return a config of the target's family, with `layers` layers of width `width`. The draft has
    its own LM head, with `vocab` ids.

    Raises InvalidInputError on more layers than the target has, or a width that does not fit the
    target's heads.
    """
    if not 1 <= layers <= target.layers:
        raise InvalidInputError(
            f"--layers: expected 1 to {target.layers}, the layers of the target, got {layers}"
        )
    step = math.lcm(target.head_dim, GROUP)
    if width != target.hidden and (width % step or not step <= width < target.hidden):
        raise InvalidInputError(
            f"--width: expected {target.hidden} or a smaller multiple of {step}, got {width}"
        )
    if target.post_norms or target.local:
        raise InvalidInputError(
            f"target: expected a family of Llama's form, got {target.architecture}"
        )
    rope = replace(target.rope, divisors=())  # config.json has no field for the divisors
    plain = replace(target, layers=layers, tied=False, draft_vocab=vocab, rope=rope)
    if width == target.hidden:
        return plain
    heads = width // target.head_dim
    inner = max(1, round(target.inner * width / target.hidden / GROUP)) * GROUP
    kv_heads = math.gcd(heads, target.kv_heads)
    return replace(plain, hidden=width, inner=inner, heads=heads, kv_heads=kv_heads)


def read_weights(checkpoint: Checkpoint, names: Iterable[str]) -> Weights:
    """Read tensors of a checkpoint as float32, dequantised; returns them by name."""
    return {name: _floats(checkpoint, name) for name in names}


def first_layers(checkpoint: Checkpoint, config: ModelConfig) -> Weights:
    """Return embedding, final norm and first layers of the target, reduced to `config`'s sizes."""
    names = [n for n in expected_shapes(replace(config, tied=True)) if n in checkpoint.weights]
    found = read_weights(checkpoint, names)
    if config.hidden == checkpoint.config.hidden:
        return found
    shapes = expected_shapes(config)
    basis = _main_directions(found[EMBED], config.hidden)
    return {name: _narrowed(name, values, shapes[name], basis) for name, values in found.items()}


def _floats(checkpoint: Checkpoint, name: str) -> NDArray[np.float32]:
    from ...model.safetensors_file import NUMPY, widened

    weight = checkpoint.weights[name]
    dtype, data = weight.numbers()
    values = data.view(NUMPY[dtype])
    found = widened(values.view(np.uint16)) if dtype == "BF16" else values.astype(np.float32)
    return found.reshape(weight.shape)


def _main_directions(embed: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Return an orthonormal basis [hidden, width] of the directions in which the embedding has the
    largest variance."""
    _, vectors = np.linalg.eigh(embed.T @ embed)
    found: NDArray[np.float32] = vectors[:, ::-1][:, :width].astype(np.float32)
    return found


def _narrowed(
    name: str, values: NDArray[np.float32], shape: tuple[int, ...], basis: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return a weight reduced to `shape`.

    The dimension of the residual stream is projected onto the basis. Surplus heads are cut off, and
    so is the surplus of the MLP's inner dimension.
    """
    if len(shape) == 1:
        return np.ascontiguousarray(values[: shape[0]])
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        return np.ascontiguousarray(basis.T @ values[:, : shape[1]])
    return np.ascontiguousarray(values[: shape[0]] @ basis)
