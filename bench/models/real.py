"""Sizes of real models that are measured on a device, and the bytes and operations of their
forwards."""

from __future__ import annotations

from sbrt.model.config import ModelConfig

from .sizes import llama_of

MODELS = {"8b": (4096, 32, 14336, 32, 8, 128), "1b": (2048, 16, 8192, 32, 8, 64)}  # see sizes
SIZES = MODELS | {"70b": (8192, 80, 28672, 64, 8, 128)}  # too large to be measured with a draft
VOCAB, POSITIONS = 128_256, 8192


def config_of(name: str) -> ModelConfig:
    """Sizes of a model of SIZES."""
    return llama_of(
        SIZES[name], vocab=VOCAB, max_positions=POSITIONS, rope_theta=5e5, tied=name == "1b"
    )


# Bytes of a weight, and of one of the head, with scales and minimums as a device has them.
STORED = {"bfloat16": (2.0, 2.0), "int8": (1.0625, 1.0625), "int4": (0.75, 1.125)}


def moved_bytes(config: ModelConfig, context: int, size: int, storage: str = "bfloat16") -> int:
    """Bytes that a forward of few rows reads: weights without the embedding, keys, values.

    size: bytes of an element that is not quantised. storage: of matrices, a key of STORED.
    """
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    layer, head = STORED[storage] if storage != "bfloat16" else (float(size), float(size))
    weights = config.hidden * (2 * queries + 2 * keys + 3 * config.inner)
    seen = size * 2 * keys * context
    return int(config.layers * (layer * weights + seen) + head * config.vocab * config.hidden)


def prefill_flops(config: ModelConfig, context: int, rows: int) -> int:
    """Operations of a prompt piece that follows `context` tokens: products and attention.

    The last layer ends with its keys and values.
    """
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    taken_in = config.hidden * (queries + 2 * keys)
    rest = config.hidden * (queries + 3 * config.inner)
    seen = rows * context + rows * (rows + 1) // 2
    products = config.layers * taken_in + (config.layers - 1) * rest
    return 2 * rows * products + 4 * (config.layers - 1) * queries * seen
