"""Writes a draft's folder: config.json, 4-bit weights, the ids of its head.

Matrices whose rows are not whole groups of 32 make it a folder of bfloat16.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...files import write_file
from ...model.checkpoint import EMBED
from ...model.config import ModelConfig
from ...model.draft import D2T
from ...model.rope import Rope
from ...model.safetensors_file import bfloat16, encode
from .packing import fits, pack, scheme

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The fields of each kind of rope in config.json, by ours.
ROPE_FIELDS = {
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor", "low_freq": "low_freq_factor", "high_freq": "high_freq_factor",
        "original_max": "original_max_position_embeddings",
    },
    "yarn": {
        "factor": "factor", "beta_fast": "beta_fast", "beta_slow": "beta_slow",
        "original_max": "original_max_position_embeddings",
        "attention_factor": "attention_factor", "truncate": "truncate",
    },
}  # fmt: skip


def write_draft(
    folder: Path,
    config: ModelConfig,
    weights: Mapping[str, NDArray[np.float32]],
    ids: NDArray[np.int64],
    *,
    shares_embedding: bool,
) -> int:
    """Write a folder that `open_draft` reads; returns its bytes.

    weights: by Hugging Face name. ids: of the head's rows, ascending. shares_embedding: the
    embedding is the target's and is left out. Files appear whole, config.json last.
    """
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, NDArray[Any]] = {}
    for name, values in weights.items():
        if name == EMBED and shares_embedding:
            continue
        if values.ndim == 2 and fits(config):
            tensors |= pack(name.removesuffix(".weight"), values)
        else:
            tensors[name] = bfloat16(values) if values.ndim == 2 else values.astype(np.float32)
    tensors[D2T] = ids - np.arange(len(ids), dtype=np.int64)
    data = encode(tensors, {"format": "pt"})
    text = (json.dumps(config_json(config), indent=2) + "\n").encode()
    write_file(folder / "model.safetensors", data)
    write_file(folder / "config.json", text)
    return len(data) + len(text)


def config_json(config: ModelConfig) -> dict[str, Any]:
    """config.json of a draft: the inverse of `config_of` for families of Llama's form."""
    found = {
        "architectures": [config.architecture],
        "vocab_size": config.vocab,
        "draft_vocab_size": config.draft_vocab,
        "hidden_size": config.hidden,
        "intermediate_size": config.inner,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": _own_positions(config),
        "rms_norm_eps": config.rms_eps,
        "rope_theta": config.rope_theta,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tied,
    }
    if fits(config):
        found["quantization_config"] = scheme()
    if config.rope.kind != "default":
        found["rope_scaling"] = _rope_json(config.rope)
    if config.window:
        found["sliding_window"] = config.window
    elif config.architecture == "MistralForCausalLM":
        found["sliding_window"] = None
    for name, switched in (("attention_bias", config.o_bias), ("mlp_bias", config.mlp_bias)):
        if switched:
            found[name] = True
    return found


def _own_positions(config: ModelConfig) -> int:
    """What config.json said before its rope stretched it."""
    is_stretched = config.rope.kind == "linear"
    return (
        round(config.max_positions / config.rope.factor) if is_stretched else config.max_positions
    )


def _rope_json(rope: Rope) -> dict[str, Any]:
    fields = ROPE_FIELDS[rope.kind]
    return {"rope_type": rope.kind} | {
        theirs: getattr(rope, ours) for ours, theirs in fields.items()
    }
