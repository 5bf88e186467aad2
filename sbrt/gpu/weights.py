"""A checkpoint's weights as the lane uses them: q, k, v in one matrix, gate and up in one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ..errors import InvalidInputError
from ..model.checkpoint import EMBED, HEAD, Checkpoint, Progress, Shapes, expected_shapes
from ..model.config import ModelConfig
from .memory import Arena, MemoryPlan

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
FUSED = {
    "q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "o_proj": "o",
    "gate_proj": "gate_up", "up_proj": "gate_up", "down_proj": "down",
}  # fmt: skip
NORMS = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "mlp_norm",
    "q_norm": "q_norm",
    "k_norm": "k_norm",
}


@dataclass(frozen=True)
class Linear:
    """y = x w^T + b; weight [out, in], bias [out] or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True)
class Layer:
    """One layer. q_norm and k_norm [head_dim], or None."""

    attention_norm: torch.Tensor
    qkv: Linear
    o: Linear
    mlp_norm: torch.Tensor
    gate_up: Linear
    down: Linear
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None


@dataclass(frozen=True)
class Weights:
    """All weights of a model in one allocation; `head` is `embed` itself if they are tied.

    A draft's `embed`, and its tied `head`, may be its target's. head_ids and, on the device, `ids`
    int32 [columns] are the target's ids that the head knows; () and None mean all.
    """

    config: ModelConfig
    dtype: torch.dtype
    plan: MemoryPlan
    embed: torch.Tensor
    layers: list[Layer]
    norm: torch.Tensor
    head: torch.Tensor
    head_ids: tuple[int, ...] = ()
    ids: torch.Tensor | None = None


@dataclass(frozen=True)
class _Place:
    """Destination of a stored tensor: rows [begin, end) of a buffer."""

    buffer: str
    begin: int
    end: int


def storage_of(checkpoint: Checkpoint, dtype: str) -> torch.dtype:
    """The dtype of weights and activations. Raises InvalidInputError on one that no lane
    supports."""
    name = checkpoint.storage(dtype)
    if name not in DTYPES:
        raise InvalidInputError(f"dtype: expected {', '.join(DTYPES)} or auto, got {name}")
    return DTYPES[name]


def load(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: torch.device,
    *,
    budget: int | None = None,
    progress: Progress | None = None,
    lender: Weights | None = None,
) -> Weights:
    """Read the weights. lender: the target of a draft that shares its embedding.

    Raises InvalidInputError, one sentence, if they do not fit in `budget`.
    """
    _check_lender(checkpoint, dtype, lender)
    places = dict(_places(checkpoint.shapes))
    arena = Arena(_plan(checkpoint.config, checkpoint.shapes, places, dtype), device, budget)
    for name in checkpoint.read(progress):
        place, weight = places[name], checkpoint.weights[name]
        stored, data = weight.numbers()
        values = torch.from_numpy(data.copy()).view(STORED[stored]).view(weight.shape)
        arena[place.buffer][place.begin : place.end].copy_(values)
    found = _weights(checkpoint.config, arena, dtype, lender)
    if not checkpoint.head_ids:
        return found
    ids = torch.tensor(checkpoint.head_ids, dtype=torch.int32, device=device)
    return replace(found, head_ids=checkpoint.head_ids, ids=ids)


def _check_lender(checkpoint: Checkpoint, dtype: torch.dtype, lender: Weights | None) -> None:
    """A lane reads embeddings of its own dtype."""
    if not checkpoint.shares_embedding:
        return
    if lender is None or lender.dtype != dtype:
        got = "none" if lender is None else str(lender.dtype).removeprefix("torch.")
        raise InvalidInputError(
            f"{checkpoint.folder}: expected a target that lends its embedding in "
            f"{str(dtype).removeprefix('torch.')}, got {got}"
        )


def random_weights(
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    seed: int = 0,
    budget: int | None = None,
) -> Weights:
    """Weights drawn on the device, for benches: normal with deviation 0.02, norms of 1."""
    arena = _arena(config, dtype, device, budget)
    generator = torch.Generator(device).manual_seed(seed)
    for name in arena.names("weights"):
        if name.endswith("norm"):
            arena[name].fill_(1)
        else:
            arena[name].normal_(0, 0.02, generator=generator)
    return _weights(config, arena, dtype)


def empty_weights(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Weights:
    """Weights of zeros. On the device `meta` they have sizes and no memory."""
    return _weights(config, _arena(config, dtype, device, None), dtype)


def _arena(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, budget: int | None
) -> Arena:
    """Memory for the weights of a model without a checkpoint."""
    shapes = expected_shapes(config)
    return Arena(_plan(config, shapes, dict(_places(shapes)), dtype), device, budget)


def _places(shapes: Shapes) -> Iterator[tuple[str, _Place]]:
    """Destinations of every tensor of a checkpoint. Tensors that share a buffer follow each other
    in the order of `shapes`."""
    filled: dict[str, int] = {}
    for name, shape in shapes.items():
        buffer = _buffer(name)
        begin = filled.get(buffer, 0)
        filled[buffer] = begin + shape[0]
        yield name, _Place(buffer, begin, begin + shape[0])


def _buffer(name: str) -> str:
    """The buffer of a tensor: `model.layers.3.self_attn.q_proj.bias` is a part of `3.qkv.bias`."""
    if name in (EMBED, HEAD, "model.norm.weight"):
        return {EMBED: "embed", HEAD: "head"}.get(name, "norm")
    _, _, layer, *_, module, kind = name.split(".")
    return f"{layer}.{NORMS[module]}" if module in NORMS else f"{layer}.{FUSED[module]}.{kind}"


def _plan(
    config: ModelConfig, shapes: Shapes, places: dict[str, _Place], dtype: torch.dtype
) -> MemoryPlan:
    rows: dict[str, int] = {}
    columns: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        place = places[name]
        rows[place.buffer] = place.end
        columns[place.buffer] = shape[1:]
    plan = MemoryPlan(f"{config.architecture} of {config.layers} layers")
    for buffer, count in rows.items():
        plan.add("weights", buffer, (count, *columns[buffer]), dtype)
    return plan


def _weights(
    config: ModelConfig, arena: Arena, dtype: torch.dtype, lender: Weights | None = None
) -> Weights:
    known = set(arena.names("weights"))

    def some(name: str) -> torch.Tensor | None:
        return arena[name] if name in known else None

    def linear(name: str) -> Linear:
        return Linear(arena[f"{name}.weight"], some(f"{name}.bias"))

    layers = [
        Layer(
            attention_norm=arena[f"{i}.attention_norm"],
            qkv=linear(f"{i}.qkv"),
            o=linear(f"{i}.o"),
            mlp_norm=arena[f"{i}.mlp_norm"],
            gate_up=linear(f"{i}.gate_up"),
            down=linear(f"{i}.down"),
            q_norm=some(f"{i}.q_norm"),
            k_norm=some(f"{i}.k_norm"),
        )
        for i in range(config.layers)
    ]
    embed = arena["embed"] if lender is None else lender.embed
    tied_head = embed if lender is None else lender.head
    head = tied_head if config.tied else arena["head"]
    return Weights(config, dtype, arena.plan, embed, layers, arena["norm"], head)
