"""Reads the model in a GGUF file: its sizes, and its weights under their Hugging Face names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import check
from ...check import show
from ...errors import InvalidInputError
from ..config import ModelConfig, config_of
from ..quantized import Quantized
from ..safetensors_file import TensorEntry, TensorFile
from ..stored import Stored
from . import gemma
from .blocks import NAMED, unpacked
from .fields import Fields
from .parts import open_parts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Families by general.architecture. Mistral's files have the architecture llama; some of them have a
# window.
FAMILIES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    gemma.ARCHITECTURE: "Gemma3ForCausalLM",
}
WINDOWED = "MistralForCausalLM"
INTERLEAVED = {"llama"}  # in their files, the two rows of a rotary pair (in q or k) are neighbours
EMBED, HEAD, DIVISORS = "token_embd.weight", "output.weight", "rope_freqs.weight"
NAMES = {
    EMBED: "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    HEAD: "lm_head.weight",
}
MODULES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
}
# Metadata entries about arithmetic that no family here supports. With these values the entries
# change nothing.
NEUTRAL = {
    "expert_count": (0,), "logit_scale": (0, 1), "embedding_scale": (0, 1),
    "residual_scale": (0, 1), "attention.scale": (0,), "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,), "attention.temperature_scale": (0,),
    "attn_logit_softcapping": (0,), "final_logit_softcapping": (0,),
    "rope.scaling.attn_factor": (0, 1), "rope.scaling.yarn_attn_factor": (0, 1),
    "rope.scaling.yarn_log_multiplier": (0,),
}  # fmt: skip


@dataclass(frozen=True)
class GgufModel:
    """A model in one or more files. weights: the tensors by Hugging Face name, in the order of the
    files."""

    config: ModelConfig
    files: list[TensorFile]
    weights: dict[str, Stored]


@dataclass(frozen=True, kw_only=True)
class GgufWeight(Stored):
    """A tensor of a GGUF file.

    order: for each row of the result, the index of the row in the file. None: the order is the
    same.
    """

    file: TensorFile
    name: str
    order: NDArray[np.int64] | None

    def numbers(self) -> tuple[str, NDArray[np.uint8]]:
        """See Stored.numbers."""
        if self.layout is not None:
            return super().numbers()
        return self.dtype, self._bytes(0, self.shape[0]).reshape(-1)

    def rows(self, begin: int, end: int) -> Quantized:
        """See Stored.rows."""
        return unpacked(NAMED[self.dtype], self._bytes(begin, end), self.shape[1])

    def _bytes(self, begin: int, end: int) -> NDArray[np.uint8]:
        """Return rows [begin, end) of the tensor as bytes, [rows, bytes of a row]."""
        data = self.file.bytes_of(self.name).reshape(self.shape[0], -1)
        return data[begin:end] if self.order is None else data[self.order[begin:end]]


def read_model(path: Path) -> GgufModel:
    """Read sizes and weights of a GGUF file, or of all parts of a split one.

    Only headers are read. Raises InvalidInputError, naming the file and the fault.
    """
    files = open_parts(path)
    metadata, found = files[0].metadata, _tensors(files)
    arch = check.text(f"{path}, general.architecture", metadata.get("general.architecture"))
    if arch not in FAMILIES:
        raise InvalidInputError(
            f"{path}, general.architecture: expected one of {', '.join(FAMILIES)}, got {show(arch)}"
        )
    config = _config(path, Fields(path, arch, metadata), found)
    weights = {
        _hf_name(arch, name): _weight(file, name, entry, _order(arch, name, config))
        for name, (file, entry) in found.items()
        if name != DIVISORS or arch == gemma.ARCHITECTURE  # Gemma has no divisors
    }
    return GgufModel(config, files, weights)


def _tensors(files: list[TensorFile]) -> dict[str, tuple[TensorFile, TensorEntry]]:
    """Return (file, entry) of every tensor, in the order of the files."""
    found: dict[str, tuple[TensorFile, TensorEntry]] = {}
    for file in files:
        for name, entry in sorted(file.tensors.items(), key=lambda item: item[1].begin):
            if name in found:
                raise InvalidInputError(
                    f"{file.path}, tensor {show(name)}: expected it in one part, "
                    f"found it in {found[name][0].path.name} too"
                )
            found[name] = file, entry
    return found


def _hf_name(arch: str, name: str) -> str:
    """Return the Hugging Face name of a tensor. An unknown name is returned unchanged;
    check_tensors then refuses it."""
    modules = MODULES | gemma.MODULES if arch == gemma.ARCHITECTURE else MODULES
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if match is not None and match[2] in modules:
        return f"model.layers.{match[1]}.{modules[match[2]]}.{match[3]}"
    return NAMES.get(name, name)


def _order(arch: str, name: str, config: ModelConfig) -> NDArray[np.int64] | None:
    """Return the row order of q or k (GgufWeight.order); None if the file has our order. In our
    order the two rows of a rotary pair are half a head apart. In other files they are neighbours.
    """
    match = re.fullmatch(r"blk\.\d+\.attn_(q|k)\.(weight|bias)", name)
    if match is None or arch not in INTERLEAVED:
        return None
    import numpy as np  # imported here, so that `import sbrt` stays fast

    heads = config.heads if match[1] == "q" else config.kv_heads
    rows = np.arange(heads * config.head_dim).reshape(heads, config.head_dim // 2, 2)
    return rows.swapaxes(1, 2).reshape(-1)


def _weight(
    file: TensorFile, name: str, entry: TensorEntry, order: NDArray[np.int64] | None
) -> GgufWeight:
    return GgufWeight(
        where=f"{file.path}, tensor {show(name)}",
        dtype=entry.dtype,
        shape=entry.shape,
        size=entry.end - entry.begin,
        layout=NAMED[entry.dtype].layout,
        file=file,
        name=name,
        order=order,
    )


def _config(
    path: Path, fields: Fields, found: Mapping[str, tuple[TensorFile, TensorEntry]]
) -> ModelConfig:
    """Return the config. The file's entries are first turned into the fields of a config.json, so
    that the same rules check both kinds of files."""
    for key, neutral in NEUTRAL.items():
        if fields.number(key, 0.0) not in neutral:
            raise InvalidInputError(f"{fields.where(key)}: expected none, got {fields.get(key)}")
    if EMBED not in found:
        raise InvalidInputError(f"{path}: the tensor {EMBED} is missing")
    raw: dict[str, Any] = {name: fields.size(key) for name, key in SIZES.items()}
    heads = raw["num_attention_heads"]
    raw |= {
        "architectures": [FAMILIES[fields.arch]],
        "num_key_value_heads": fields.size("attention.head_count_kv", heads),
        "head_dim": _head_dim(fields, raw["hidden_size"], heads),
        "vocab_size": found[EMBED][1].shape[0],
        "rms_norm_eps": fields.number("attention.layer_norm_rms_epsilon", 1e-5),
        "tie_word_embeddings": HEAD not in found,
        "rope_theta": fields.number("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(fields),
    }
    is_gemma = fields.arch == gemma.ARCHITECTURE
    raw |= gemma.config_fields(fields, raw) if is_gemma else _window(fields)
    config = config_of(path, raw)
    return replace(
        config,
        rope=replace(config.rope, divisors=() if is_gemma else _divisors(found, config.head_dim)),
        norm_offset=False,
        qkv_bias="blk.0.attn_q.bias" in found,
        o_bias="blk.0.attn_output.bias" in found,
        mlp_bias="blk.0.ffn_up.bias" in found,
    )


def _window(fields: Fields) -> dict[str, Any]:
    """Return the config.json fields of a sliding window. A Llama file with a window is a Mistral
    model."""
    where = fields.where("attention.sliding_window")
    window = check.integer(where, fields.get("attention.sliding_window") or 0, 0)
    return {"sliding_window": window, "architectures": [WINDOWED]} if window else {}


def _head_dim(fields: Fields, hidden: int, heads: int) -> int:
    """Return the number of elements of a head. It must be the same for keys, values and rope."""
    dim = fields.size("attention.key_length", max(1, hidden // heads))
    for key in ("attention.value_length", "rope.dimension_count"):
        if fields.size(key, dim) != dim:
            raise InvalidInputError(
                f"{fields.where(key)}: expected {dim}, the elements of a head, "
                f"got {fields.get(key)}"
            )
    return dim


def _rope_scaling(fields: Fields) -> dict[str, Any] | None:
    """Return rope_scaling as a config.json would have it; None without scaling."""
    kind = fields.get("rope.scaling.type")
    if kind is None and fields.get("rope.scale_linear") is not None:  # in early files
        return {"rope_type": "linear", "factor": fields.number("rope.scale_linear", 1.0)}
    kind = "none" if kind is None else kind
    check.one_of(fields.where("rope.scaling.type"), kind, ("none", "linear", "yarn"))
    if kind == "none":
        return None
    found: dict[str, Any] = {"rope_type": kind, "factor": fields.number("rope.scaling.factor", 1.0)}
    if kind == "yarn":
        found |= {
            theirs: fields.get(f"rope.scaling.{ours}")
            for theirs, ours in (
                ("original_max_position_embeddings", "original_context_length"),
                ("beta_fast", "yarn_beta_fast"),
                ("beta_slow", "yarn_beta_slow"),
            )
        }
    return found


def _divisors(
    found: Mapping[str, tuple[TensorFile, TensorEntry]], head_dim: int
) -> tuple[float, ...]:
    """Return the divisors of the frequencies of rotary pairs; () for models older than Llama
    3.1."""
    if DIVISORS not in found:
        return ()
    file, _ = found[DIVISORS]
    values = file.array(DIVISORS, "F32", (head_dim // 2,)).tolist()
    where = f"{file.path}, tensor {DIVISORS}"
    return tuple(check.number(where, value, 1e-6, 1e9) for value in values)
