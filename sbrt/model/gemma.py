"""Reads what Gemma 3 adds to a config.json and to the names of weights.

Local layers have a window and a rope of their own; global layers see all positions. In the folder
of a model for images and text, the weights of the text model have other names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import check
from ..config import MAX_POSITIONS
from ..errors import InvalidInputError
from .rope import Rope, read_rope_of_kind

LOCAL, GLOBAL = "sliding_attention", "full_attention"
PERIOD = 6  # every sixth layer is global
# The values that transformers uses for missing fields; real files lack some of them.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "max_position_embeddings": 131_072, "sliding_window": 4096, "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
    "sliding_window_pattern": PERIOD,
}  # fmt: skip
UNREAD = ("final_logit_softcapping", "attn_logit_softcapping", "use_bidirectional_attention")
TEXT = (  # prefixes of names in a model for images and text, and in a text model
    ("language_model.model.", "model."),
    ("model.language_model.", "model."),
    ("language_model.lm_head.", "lm_head."),
)
IMAGES = ("vision_tower.", "multi_modal_projector.")


@dataclass(frozen=True)
class Kinds:
    """The fields of ModelConfig that Gemma 3 determines, under the same names. `local` is () if no
    layer is local."""

    local: tuple[bool, ...]
    window: int
    rope_theta: float
    rope: Rope
    local_theta: float
    local_rope: Rope
    query_scalar: float


def text_config(path: Path, raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of the text model in a config for images and text. Raises InvalidInputError
    if there are none."""
    given = raw.get("text_config")
    if not isinstance(given, dict):
        raise InvalidInputError(f"{path}, text_config: expected an object, got {check.show(given)}")
    return given


def text_name(name: str) -> str | None:
    """Return the name that a weight has in a text model; None for a weight of the image encoder."""
    for theirs, ours in TEXT:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return None if name.removeprefix("model.").startswith(IMAGES) else name


def read_kinds(path: Path, raw: Mapping[str, Any], layers: int, max_positions: int) -> Kinds:
    """Read the fields `raw` of config.json, completed by DEFAULTS. Raises InvalidInputError, naming
    the field."""
    for key in UNREAD:
        given = raw.get(key)
        if given is not None and given is not False:
            raise InvalidInputError(f"{path}, {key}: expected none, got {check.show(given)}")
    local = _local(path, raw, layers)
    window = 0
    if any(local):
        window = check.integer(
            f"{path}, sliding_window", raw.get("sliding_window"), 1, MAX_POSITIONS
        )
    scalar = f"{path}, query_pre_attn_scalar"
    for key in ("rope_theta", "rope_local_base_freq"):
        check.number(f"{path}, {key}", raw.get(key), 1, 1e12)
    theta, rope = read_rope_of_kind(path, raw, GLOBAL, max_positions)
    # Only global layers use the field rope_scaling.
    alone = {"rope_parameters": raw.get("rope_parameters")}
    alone |= {"rope_theta": raw["rope_local_base_freq"]}
    local_theta, local_rope = read_rope_of_kind(path, alone, LOCAL, max_positions)
    return Kinds(
        local=local if any(local) else (),
        window=window,
        rope_theta=theta,
        rope=rope,
        local_theta=local_theta,
        local_rope=local_rope,
        query_scalar=check.number(scalar, raw.get("query_pre_attn_scalar"), 1e-6, 1e9),
    )


def _local(path: Path, raw: Mapping[str, Any], layers: int) -> tuple[bool, ...]:
    """Return one bool per layer, True if the layer is local. They come from layer_types if it is
    given, otherwise from sliding_window_pattern."""
    types = raw.get("layer_types")
    if types is None:
        where = f"{path}, sliding_window_pattern"
        period = check.integer(where, raw.get("sliding_window_pattern"), 1, 2**10)
        return tuple((i + 1) % period != 0 for i in range(layers))
    if not isinstance(types, list) or len(types) != layers:
        raise InvalidInputError(
            f"{path}, layer_types: expected a list of {layers} names, got {check.show(types)}"
        )
    for i, name in enumerate(types):
        check.one_of(f"{path}, layer_types[{i}]", name, (LOCAL, GLOBAL))
    return tuple(name == LOCAL for name in types)
