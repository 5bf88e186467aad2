"""Writes a config.json: the inverse of `config_of`."""

from __future__ import annotations

from typing import Any

from .config import ModelConfig
from .rope import Rope

# Names of the rope fields in config.json, by kind of rope and by their names in Rope.
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


def config_json(config: ModelConfig) -> dict[str, Any]:
    """Return the config.json that `config_of` reads as `config`. Gemma is not supported."""
    found = {
        "architectures": [config.architecture],
        "vocab_size": config.vocab,
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
    if config.draft_vocab:
        found["draft_vocab_size"] = config.draft_vocab
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
    """Return the max_position_embeddings to write: the number of positions before linear rope
    scaling."""
    is_stretched = config.rope.kind == "linear"
    return (
        round(config.max_positions / config.rope.factor) if is_stretched else config.max_positions
    )


def _rope_json(rope: Rope) -> dict[str, Any]:
    fields = ROPE_FIELDS[rope.kind]
    return {"rope_type": rope.kind} | {
        theirs: getattr(rope, ours) for ours, theirs in fields.items()
    }
