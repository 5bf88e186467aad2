"""Reads a model folder's JSON files. Every size in them is untrusted, and is checked before it is
used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .. import check
from .._core import DecoderConfig
from ..config import MAX_POSITIONS
from ..errors import InvalidInputError, not_built
from .gemma import DEFAULTS, read_kinds, text_config
from .quantization import read_scheme
from .rope import Rope, context_length, read_rope
from .safetensors_file import parse_json

MAX_JSON = 16 * 2**20  # maximum bytes of a JSON file
# A layer without a window, a layer with a window.
LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class Family:
    """The differences of an architecture from Llama, as transformers reads them from config.json.

    switches: boolean fields that this family reads; those of other families must not be True.
    window: the default of the field sliding_window; None: the field is not read.
    head_dim: the default of head_dim (None: hidden / heads).
    activation: the field that names the activation of the MLP's gate, and the one accepted value.
    defaults: values for other fields that are missing. is_gemma: the arithmetic is that of Gemma 3.
    is_nested: the config is for images and text, and the fields are in its text part.
    """

    switches: tuple[str, ...] = ()
    window: int | None = None
    qkv_bias: bool = False
    head_norms: bool = False
    head_dim: int | None = None
    activation: tuple[str, str] = ("hidden_act", "silu")
    defaults: Mapping[str, Any] = field(default_factory=dict)
    is_gemma: bool = False
    is_nested: bool = False


GEMMA = Family(
    switches=("attention_bias",),
    head_norms=True,
    activation=("hidden_activation", "gelu_pytorch_tanh"),
    defaults=DEFAULTS,
    is_gemma=True,
)
FAMILIES = {
    "LlamaForCausalLM": Family(switches=("attention_bias", "mlp_bias")),
    "MistralForCausalLM": Family(window=4096),
    "Qwen2ForCausalLM": Family(switches=("use_sliding_window",), qkv_bias=True),
    "Qwen3ForCausalLM": Family(
        switches=("use_sliding_window", "attention_bias"), head_norms=True, head_dim=128
    ),
    "Gemma3ForCausalLM": GEMMA,
    "Gemma3ForConditionalGeneration": replace(GEMMA, is_nested=True),
}
SWITCHES = ("attention_bias", "mlp_bias", "use_sliding_window")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of a decoder. head_dim is even; heads is a multiple of kv_heads.

    window: number of positions that a row attends to in a local layer, its own included; 0: all.
    local: one bool per layer, True if the layer is local. If `local` is (), all layers use `rope`,
    and all are local if there is a window.
    local_theta, local_rope: the rope of the layers for which `local` is True.
    max_positions: config.json's max_position_embeddings, extended by its rope scaling
    (rope.context_length).
    query_scalar: attention scores are divided by the square root of this number; 0: of head_dim.
    gelu: the activation of the MLP's gate is gelu, not silu. post_norms: there are norms after
    attention and after the MLP. norm_offset: norms multiply by 1 + their weight. scaled_embedding:
    embeddings are multiplied by sqrt(hidden).
    draft_vocab: number of the target's ids for which a draft's LM head has rows; 0: all.
    """

    architecture: str
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
    rope: Rope = field(default_factory=Rope)
    window: int = 0
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False
    local: tuple[bool, ...] = ()
    local_theta: float = 0.0
    local_rope: Rope = field(default_factory=Rope)
    query_scalar: float = 0.0
    gelu: bool = False
    post_norms: bool = False
    norm_offset: bool = False
    scaled_embedding: bool = False
    draft_vocab: int = 0

    @property
    def columns(self) -> int:
        """Number of logits in a row: the number of rows of lm_head.weight, or of the embedding if
        tied."""
        return self.draft_vocab or self.vocab

    @property
    def is_bounded(self) -> bool:
        """True if every layer has a window. The ring then wraps, and a sequence has no limit."""
        return self.window > 0 and all(self.local)

    def core(self) -> DecoderConfig:
        """Return the config in the form that the C++ module takes. Raises InvalidInputError if the
        sizes are impossible."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        del given["architecture"], given["draft_vocab"]
        ropes = {"rope": self.rope.core(), "local_rope": self.local_rope.core()}
        return DecoderConfig(**(given | ropes | {"local": list(self.local)}))


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in `path`. Raises InvalidInputError if it is missing, too long or not
    JSON."""
    return parse_json(path, check.read_bytes(path, MAX_JSON))


def read_config(folder: Path) -> ModelConfig:
    """Read the config.json of a model folder. Raises InvalidInputError, naming the field."""
    path = folder / "config.json"
    return config_of(path, read_json(path))


def config_of(path: Path, raw: Mapping[str, Any]) -> ModelConfig:
    """Return the config for the fields `raw` of config.json; `path` is for messages.

    Raises InvalidInputError, naming the field.
    """
    architecture = _architecture(path, raw)
    family = FAMILIES[architecture]
    raw = {**family.defaults, **(text_config(path, raw) if family.is_nested else raw)}
    _check_activation(path, raw, family)
    switch = _switches(path, raw, architecture)
    sizes = _sizes(path, raw, family)
    return ModelConfig(
        architecture=architecture,
        **(sizes | _sight(path, raw, architecture, sizes)),
        rms_eps=check.number(f"{path}, rms_norm_eps", raw.get("rms_norm_eps", 1e-6), 0, 1),
        tied=check.flag(f"{path}, tie_word_embeddings", raw.get("tie_word_embeddings", False)),
        qkv_bias=family.qkv_bias or switch["attention_bias"],
        o_bias=switch["attention_bias"],
        mlp_bias=switch["mlp_bias"],
        head_norms=family.head_norms,
        gelu=family.is_gemma,
        post_norms=family.is_gemma,
        norm_offset=family.is_gemma,
        scaled_embedding=family.is_gemma,
        draft_vocab=_draft_vocab(path, raw, sizes["vocab"]),
    )


def _draft_vocab(path: Path, raw: Mapping[str, Any], vocab: int) -> int:
    size = raw.get("draft_vocab_size")
    return 0 if size is None else check.integer(f"{path}, draft_vocab_size", size, 1, vocab)


def _sight(
    path: Path, raw: Mapping[str, Any], architecture: str, sizes: Mapping[str, int]
) -> dict[str, Any]:
    """Return the windows, the ropes and the maximum sequence length, by their field names in
    ModelConfig."""
    layers, positions = sizes["layers"], sizes["max_positions"]
    if FAMILIES[architecture].is_gemma:  # Gemma's max_position_embeddings include rope scaling
        kinds = read_kinds(path, raw, layers, positions)
        return {f.name: getattr(kinds, f.name) for f in fields(kinds)} | {
            "max_positions": positions
        }
    window = _window(path, raw, architecture)
    _check_layer_types(path, raw, layers, window)
    theta, rope = read_rope(path, raw, positions)
    length = context_length(path, rope, positions)
    return {"window": window, "rope_theta": theta, "rope": rope, "max_positions": length}


def read_eos(folder: Path, vocab: int) -> tuple[Path, set[int]]:
    """Return the file that names the end-of-sequence ids, and these ids, all below `vocab`.

    The file is generation_config.json. If it names no such id, the file is config.json, as in
    transformers. If the two files differ, config.json is often out of date. Raises
    InvalidInputError.
    """
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        given = read_json(path).get("eos_token_id") if check.is_file(path) else None
        ids = given if isinstance(given, list) else [] if given is None else [given]
        if ids:
            break
    return path, {check.integer(f"{path}, eos_token_id", i, 0, vocab - 1) for i in ids}


def _architecture(path: Path, raw: Mapping[str, Any]) -> str:
    names = raw.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else names
    if not isinstance(name, str) or name not in FAMILIES:
        raise InvalidInputError(
            f"{path}, architectures: expected one of {', '.join(FAMILIES)}, got {check.show(names)}"
        )
    read_scheme(path, raw)
    return name


def _check_activation(path: Path, raw: Mapping[str, Any], family: Family) -> None:
    key, expected = family.activation
    given = raw.get(key, expected)
    if given != expected:
        raise InvalidInputError(f"{path}, {key}: expected {expected!r}, got {check.show(given)}")


def _sizes(path: Path, raw: Mapping[str, Any], family: Family) -> dict[str, int]:
    """Return the sizes, by their field names in ModelConfig."""

    def size(key: str, high: int, *instead: int) -> int:
        value = raw.get(key)
        if value is None and instead:
            return instead[0]
        return check.integer(f"{path}, {key}", value, 1, high)

    hidden = size("hidden_size", 2**18)
    heads = size("num_attention_heads", 2**12)
    kv_heads = size("num_key_value_heads", 2**12, heads)
    if heads % kv_heads:
        raise InvalidInputError(
            f"{path}, num_key_value_heads: expected a divisor of {heads} heads, got {kv_heads}"
        )
    head_dim = size("head_dim", 2**12, family.head_dim or hidden // heads)
    if raw.get("head_dim") is None and not family.head_dim and hidden % heads:
        raise InvalidInputError(
            f"{path}, hidden_size: expected a multiple of {heads} heads, got {hidden}"
        )
    if head_dim % 2:
        raise InvalidInputError(f"{path}, head_dim: expected an even size, got {head_dim}")
    return {
        "hidden": hidden,
        "inner": size("intermediate_size", 2**20),
        "layers": size("num_hidden_layers", 2**10),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "vocab": size("vocab_size", 2**24),
        "max_positions": size("max_position_embeddings", MAX_POSITIONS),
    }


def _switches(path: Path, raw: Mapping[str, Any], architecture: str) -> dict[str, bool]:
    """Return the switches of all families. A switch that is on is refused if this family does not
    read it."""
    found = {}
    for key in SWITCHES:
        value = raw.get(key)
        found[key] = value is not None and check.flag(f"{path}, {key}", value)
        if found[key] and key not in FAMILIES[architecture].switches:
            raise InvalidInputError(f"{path}, {key}: {architecture} expects False, got True")
    if found["use_sliding_window"]:
        raise not_built(f"{path}, use_sliding_window true")
    return found


def _window(path: Path, raw: Mapping[str, Any], architecture: str) -> int:
    """Return the number of positions that a row attends to; 0: all.

    If use_sliding_window is false, sliding_window is ignored.
    """
    family, given = FAMILIES[architecture], raw.get("sliding_window")
    if "use_sliding_window" in family.switches or (given is None and "sliding_window" in raw):
        return 0
    if given is None:
        return family.window or 0
    if family.window is None:
        raise InvalidInputError(
            f"{path}, sliding_window: {architecture} expects null, got {check.show(given)}"
        )
    if raw.get("use_sliding_window") is not None:
        raise InvalidInputError(
            f"{path}, use_sliding_window: {architecture} expects none next to a sliding_window, "
            f"got {check.show(raw['use_sliding_window'])}"
        )
    return check.integer(f"{path}, sliding_window", given, 1, MAX_POSITIONS)


def _check_layer_types(path: Path, raw: Mapping[str, Any], layers: int, window: int) -> None:
    """Check that all layers have a window, or that no layer has one."""
    types = raw.get("layer_types")
    if types is None:
        return
    if not isinstance(types, list) or len(types) != layers:
        raise InvalidInputError(
            f"{path}, layer_types: expected a list of {layers} names, got {check.show(types)}"
        )
    expected = LAYER_TYPES[window > 0]
    for i, name in enumerate(types):
        if name != expected:
            raise InvalidInputError(
                f"{path}, layer_types[{i}]: expected {expected} in every layer, "
                f"got {check.show(name)}"
            )
