"""Random checkpoints for benches: fixed sizes, and weights drawn from a seed."""

from __future__ import annotations

from typing import Any

from sbrt._core import Decoder
from sbrt.errors import InvalidInputError
from sbrt.model.checkpoint import random_decoder
from sbrt.model.config import ModelConfig

VOCAB, POSITIONS = 4096, 2048
NAMES = ("hidden", "layers", "inner", "heads", "kv_heads", "head_dim")
SIZES = {
    "m37": (512, 12, 1408, 8, 4, 64),  # 37.5 M parameters, as a target
    "m2": (192, 4, 512, 6, 3, 32),  # 2.4 M parameters, as a draft
}


def llama_of(sizes: tuple[int, ...], **more: Any) -> ModelConfig:
    """Return the config of a Llama. sizes: in the order of NAMES. more: other fields of ModelConfig
    except rms_eps."""
    given = dict(zip(NAMES, sizes, strict=True))
    return ModelConfig(architecture="LlamaForCausalLM", rms_eps=1e-5, **given, **more)


def config_of(name: str) -> ModelConfig:
    """Return the config of a checkpoint of SIZES. Raises InvalidInputError for another name."""
    if name not in SIZES:
        raise InvalidInputError(f"checkpoint: expected one of {', '.join(SIZES)}, got {name}")
    return llama_of(SIZES[name], vocab=VOCAB, max_positions=POSITIONS, rope_theta=1e4, tied=True)


def decoder_of(name: str, dtype: str, isa: str = "auto", activation_dtype: str = "auto") -> Decoder:
    """Return a checkpoint of SIZES in memory, with weights stored as `dtype`.

    Raises InvalidInputError if the name or the dtype is unknown.
    """
    return random_decoder(config_of(name), 0, dtype, isa, activation_dtype)
