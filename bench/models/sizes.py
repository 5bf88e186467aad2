"""Checkpoints for benches: the sizes of real ones, weights drawn from a seed."""

from __future__ import annotations

from typing import Any

from sbrt._core import Decoder
from sbrt.errors import InvalidInputError
from sbrt.model.checkpoint import random_decoder
from sbrt.model.config import ModelConfig

VOCAB, POSITIONS = 4096, 2048
NAMES = ("hidden", "layers", "inner", "heads", "kv_heads", "head_dim")
SIZES = {
    "m37": (512, 12, 1408, 8, 4, 64),  # 37.5 M parameters, the size of a target
    "m2": (192, 4, 512, 6, 3, 32),  # 2.4 M, of a draft
}


def llama_of(sizes: tuple[int, ...], **more: Any) -> ModelConfig:
    """A Llama of these sizes, in the order of NAMES; more: the other fields except rms_eps."""
    given = dict(zip(NAMES, sizes, strict=True))
    return ModelConfig(architecture="LlamaForCausalLM", rms_eps=1e-5, **given, **more)


def config_of(name: str) -> ModelConfig:
    """Sizes of a checkpoint of SIZES. Raises InvalidInputError."""
    if name not in SIZES:
        raise InvalidInputError(f"checkpoint: expected one of {', '.join(SIZES)}, got {name}")
    return llama_of(SIZES[name], vocab=VOCAB, max_positions=POSITIONS, rope_theta=1e4, tied=True)


def decoder_of(name: str, dtype: str, isa: str = "auto", activation_dtype: str = "auto") -> Decoder:
    """A checkpoint of SIZES in memory, stored as `dtype`. Raises InvalidInputError."""
    return random_decoder(config_of(name), 0, dtype, isa, activation_dtype)
