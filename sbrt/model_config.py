"""Reads a model folder's JSON files. Every size is hostile, and checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import check
from ._core import DecoderConfig
from .config import MAX_POSITIONS
from .errors import InvalidInputError, not_built
from .safetensors_file import parse_json

MAX_JSON = 16 * 2**20  # bytes of a JSON file
ARCHITECTURES = ("LlamaForCausalLM",)
ARCHITECTURES_LATER = ("MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
ROPE_LATER = ("linear", "llama3", "yarn")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a decoder. head_dim is even; heads is a multiple of kv_heads."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_positions: int
    rms_eps: float
    rope_theta: float
    tied: bool

    def core(self) -> DecoderConfig:
        return DecoderConfig(**asdict(self))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises InvalidInputError: missing, too long or not JSON."""
    if not path.is_file():
        raise InvalidInputError(f"{path}: expected a file, found none")
    size = path.stat().st_size
    if size > MAX_JSON:
        raise InvalidInputError(f"{path}: expected at most {MAX_JSON} bytes, got {size}")
    return parse_json(path, path.read_bytes())


def read_config(folder: Path) -> ModelConfig:
    """config.json of a model folder. Raises InvalidInputError, naming the field."""
    path = folder / "config.json"
    raw = read_json(path)
    _check_family(path, raw)

    def size(key: str, high: int, *instead: int) -> int:
        value = raw.get(key)
        if value is None and instead:
            return instead[0]
        return check.integer(f"{path}, {key}", value, 1, high)

    hidden = size("hidden_size", 2**18)
    heads = size("num_attention_heads", 2**12)
    if raw.get("head_dim") is None and hidden % heads:
        raise InvalidInputError(
            f"{path}, hidden_size: expected a multiple of {heads} heads, got {hidden}"
        )
    config = ModelConfig(
        hidden=hidden,
        inner=size("intermediate_size", 2**20),
        layers=size("num_hidden_layers", 2**10),
        heads=heads,
        kv_heads=size("num_key_value_heads", 2**12, heads),
        head_dim=size("head_dim", 2**12, hidden // heads),
        vocab=size("vocab_size", 2**24),
        max_positions=size("max_position_embeddings", MAX_POSITIONS),
        rms_eps=check.number(f"{path}, rms_norm_eps", raw.get("rms_norm_eps", 1e-6), 0, 1),
        rope_theta=_rope_theta(path, raw),
        tied=check.flag(f"{path}, tie_word_embeddings", raw.get("tie_word_embeddings", False)),
    )
    if config.heads % config.kv_heads:
        raise InvalidInputError(
            f"{path}, num_key_value_heads: expected a divisor of {heads} heads, "
            f"got {config.kv_heads}"
        )
    if config.head_dim % 2:
        raise InvalidInputError(f"{path}, head_dim: expected an even size, got {config.head_dim}")
    return config


def read_eos(folder: Path, vocab: int) -> set[int]:
    """End-of-sequence ids named by generation_config.json and config.json: their union."""
    found: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        given = read_json(path).get("eos_token_id")
        ids = given if isinstance(given, list) else [] if given is None else [given]
        found |= {check.integer(f"{path}, eos_token_id", i, 0, vocab - 1) for i in ids}
    return found


def _check_family(path: Path, raw: Mapping[str, Any]) -> None:
    names = raw.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else names
    if isinstance(name, str) and name in ARCHITECTURES_LATER:
        raise not_built(f"{path}, architecture {name}")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise InvalidInputError(
            f"{path}, architectures: expected {' or '.join(ARCHITECTURES)}, got {check.show(names)}"
        )
    if raw.get("quantization_config") is not None:
        raise not_built(f"{path}, quantization_config")
    act = raw.get("hidden_act", "silu")
    if act != "silu":
        raise InvalidInputError(f"{path}, hidden_act: expected 'silu', got {check.show(act)}")
    for key in ("attention_bias", "mlp_bias"):
        if check.flag(f"{path}, {key}", raw.get(key, False)):
            raise not_built(f"{path}, {key}")
    if raw.get("sliding_window") is not None:
        raise not_built(f"{path}, sliding_window {check.show(raw['sliding_window'])}")
    if raw.get("partial_rotary_factor", 1.0) != 1.0:
        raise not_built(f"{path}, partial_rotary_factor")


def _rope_theta(path: Path, raw: Mapping[str, Any]) -> float:
    """The base of the default rope, from `rope_parameters` (new) or `rope_theta` (old)."""
    for key in ("rope_parameters", "rope_scaling"):
        rope = raw.get(key)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise InvalidInputError(f"{path}, {key}: expected an object, got {check.show(rope)}")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if isinstance(kind, str) and kind in ROPE_LATER:
            raise not_built(f"{path}, rope type {kind}")
        if kind != "default":
            raise InvalidInputError(f"{path}, rope type: expected default, got {check.show(kind)}")
        unknown = sorted(set(rope) - {"rope_type", "type", "rope_theta", "partial_rotary_factor"})
        if unknown or rope.get("partial_rotary_factor", 1.0) != 1.0:
            thing = unknown[0] if unknown else "partial_rotary_factor"
            raise not_built(f"{path}, {key}.{thing}")
    new = raw.get("rope_parameters") or {}
    theta = new.get("rope_theta", raw.get("rope_theta", 10000.0))
    return check.number(f"{path}, rope_theta", 10000.0 if theta is None else theta, 1e-3, 1e12)
