"""Sizes of real models for device benches, and the bytes and operations of their forwards."""

from __future__ import annotations

from sbrt.model.config import ModelConfig

from .sizes import llama_of

# Sizes of models, in the order of bench.models.sizes.NAMES.
MODELS = {"8b": (4096, 32, 14336, 32, 8, 128), "1b": (2048, 16, 8192, 32, 8, 64)}
# 70b is not in MODELS, because a 70B target and a draft do not fit on one device.
SIZES = MODELS | {"70b": (8192, 80, 28672, 64, 8, 128)}
VOCAB, POSITIONS = 128_256, 8192


def config_of(name: str) -> ModelConfig:
    """Return the config of a model of SIZES."""
    return llama_of(
        SIZES[name], vocab=VOCAB, max_positions=POSITIONS, rope_theta=5e5, tied=name == "1b"
    )


# Bytes per weight on a device, with scales and minimums: first for a layer's matrices, then for the
# LM head.
STORED = {"bfloat16": (2.0, 2.0), "int8": (1.0625, 1.0625), "int4": (0.75, 1.125)}


def moved_bytes(config: ModelConfig, context: int, size: int, storage: str = "bfloat16") -> int:
    """Return the bytes that a forward of few rows reads: weights, and keys and values of the
    context.

    The embedding is not included. size: bytes of an element that is not quantised. storage: storage
    format of the matrices, a key of STORED.
    """
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    layer, head = STORED[storage] if storage != "bfloat16" else (float(size), float(size))
    weights = config.hidden * (2 * queries + 2 * keys + 3 * config.inner)
    seen = size * 2 * keys * context
    return int(config.layers * (layer * weights + seen) + head * config.vocab * config.hidden)


def prefill_flops(config: ModelConfig, context: int, rows: int) -> int:
    """Return the number of operations of a prompt piece of `rows` rows that follows `context`
    tokens.

    Matrix products and attention are included. In the last layer only the keys and values are
    computed.
    """
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    taken_in = config.hidden * (queries + 2 * keys)
    rest = config.hidden * (queries + 3 * config.inner)
    seen = rows * context + rows * (rows + 1) // 2
    products = config.layers * taken_in + (config.layers - 1) * rest
    return 2 * rows * products + 4 * (config.layers - 1) * queries * seen
