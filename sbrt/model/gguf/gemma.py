"""Reads a GGUF file of Gemma 3 as the fields of a config.json.

Converters write neither the scale of attention scores nor the rope of local layers. They often do
not write which layers are local. sbrt derives these values as llama.cpp does.
"""

from __future__ import annotations

from typing import Any

from ... import check
from ..gemma import GLOBAL, LOCAL, PERIOD
from .fields import Fields

ARCHITECTURE = "gemma3"
# Number of layers of the 27B model, which scales scores by hidden / heads, not by head_dim.
LARGEST = 62
LOCAL_BASE = 10000.0
# Modules whose names differ from those of other families. In GGUF files the weights of norms
# already include the 1 that Gemma adds.
MODULES = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def config_fields(fields: Fields, raw: dict[str, Any]) -> dict[str, Any]:
    """Return the config.json fields that Gemma adds to the fields in `raw`, which all families
    share. Raises InvalidInputError."""
    layers = raw["num_hidden_layers"]
    window = check.integer(
        fields.where("attention.sliding_window"), fields.get("attention.sliding_window") or 0, 0
    )
    heads = raw["hidden_size"] // raw["num_attention_heads"]
    scaling = raw["rope_scaling"] or {}
    return {
        "sliding_window": window or None,
        "layer_types": _layer_types(fields, layers) if window else [GLOBAL] * layers,
        "query_pre_attn_scalar": heads if layers == LARGEST else raw["head_dim"],
        "rope_scaling": None,
        "rope_parameters": {
            GLOBAL: scaling | {"rope_theta": raw["rope_theta"]},
            LOCAL: {"rope_theta": fields.number("rope.freq_base_swa", LOCAL_BASE)},
        },
    }


def _layer_types(fields: Fields, layers: int) -> list[str]:
    """Return the type of each layer, local or global.

    The file has either a flag for each layer, or the number of layers after which the pattern of
    types repeats.
    """
    key = "attention.sliding_window_pattern"
    given = fields.get(key)
    if hasattr(given, "tolist") and given.dtype.kind in "biu":
        # `config_of` checks that there is one type per layer.
        return [LOCAL if flag else GLOBAL for flag in given.tolist()]
    period = check.integer(fields.where(key), PERIOD if given is None else given, 0, 2**31)
    return [GLOBAL if period and (i + 1) % period == 0 else LOCAL for i in range(layers)]
