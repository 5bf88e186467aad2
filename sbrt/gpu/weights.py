"""Holds a checkpoint's weights as a lane uses them: q, k, v in one matrix, gate and up in one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from ..errors import InvalidInputError
from ..model.checkpoint import (
    EMBED,
    HEAD,
    QUANTISED,
    Checkpoint,
    Progress,
    Shapes,
    expected_shapes,
)
from ..model.config import ModelConfig
from ..model.stored import Stored
from ..triton_kernels.packed import PackedMatrix
from .memory import Arena, MemoryPlan
from .packing import (
    Layouts,
    buffers_of,
    format_of,
    layouts_of,
    named_layouts,
    values_of,
    write,
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
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
# In a model with post_norms, post_attention_layernorm is the norm of attention's output.
POST_NORMS = NORMS | {
    "post_attention_layernorm": "attention_after_norm",
    "pre_feedforward_layernorm": "mlp_norm",
    "post_feedforward_layernorm": "mlp_after_norm",
}


@dataclass(frozen=True)
class Linear:
    """y = x w^T + b; weight [out, in], bias [out] or None."""

    weight: torch.Tensor | PackedMatrix
    bias: torch.Tensor | None


@dataclass(frozen=True)
class Layer:
    """The weights of one layer. q_norm and k_norm are [head_dim], or None.

    attention_after, mlp_after: weights of the norms of the outputs of attention and MLP, [hidden];
    None without post_norms.
    """

    attention_norm: torch.Tensor
    qkv: Linear
    o: Linear
    mlp_norm: torch.Tensor
    gate_up: Linear
    down: Linear
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    attention_after: torch.Tensor | None = None
    mlp_after: torch.Tensor | None = None


@dataclass(frozen=True)
class Weights:
    """All weights of a model in one allocation. `head` is the tensor `embed` if the LM head is
    tied.

    dtype: dtype of activations, and of all weights that are not quantised. But the norms of a model
    with norm_offset are float32 (norm_dtype). A draft may use its
    target's tensor as `embed`, and as a tied `head`. head_ids and, on the device, `ids` int32
    [columns] are the target's ids that the LM head has rows for; () and None mean all.
    """

    config: ModelConfig
    dtype: torch.dtype
    plan: MemoryPlan
    embed: torch.Tensor
    layers: list[Layer]
    norm: torch.Tensor
    head: torch.Tensor | PackedMatrix
    head_ids: tuple[int, ...] = ()
    ids: torch.Tensor | None = None

    @property
    def matrices(self) -> Iterator[torch.Tensor | PackedMatrix]:
        """All matrices that the forward multiplies with."""
        for layer in self.layers:
            for linear in (layer.qkv, layer.o, layer.gate_up, layer.down):
                yield linear.weight
        yield self.head

    @property
    def is_packed(self) -> bool:
        """True if any matrix is quantised."""
        return any(isinstance(matrix, PackedMatrix) for matrix in self.matrices)


@dataclass(frozen=True)
class _Map:
    """The place of each tensor of a checkpoint in the buffers of a lane.

    layouts: layouts of quantised tensors, by tensor. packed: layouts of the buffers that hold
    quantised tensors, by buffer.
    """

    shapes: Shapes
    places: dict[str, _Place]
    layouts: Layouts
    packed: Layouts

    def matrix(self, arena: Arena, buffer: str) -> PackedMatrix:
        """Return the quantised matrix in a buffer."""
        format, columns = format_of(self.packed[buffer]), self.columns(buffer)
        parts = {name: arena[f"{buffer}.{name}"] for name in format.sizes(1, columns)}
        return PackedMatrix(format, columns, **parts)

    def columns(self, buffer: str) -> int:
        """Return the number of columns of the matrix in a buffer."""
        return next(self.shapes[n][1] for n, p in self.places.items() if p.buffer == buffer)


@dataclass(frozen=True)
class _Place:
    """The destination of a stored tensor: rows [begin, end) of a buffer."""

    buffer: str
    begin: int
    end: int


def storage_of(checkpoint: Checkpoint, dtype: str) -> torch.dtype:
    """Return the dtype of activations, and of weights that are not quantised.

    If `dtype` is int8 or int4, the result is the same as for `auto`. Raises InvalidInputError on a
    dtype that no lane supports.
    """
    name = checkpoint.storage("auto" if dtype in QUANTISED else dtype)
    if name not in DTYPES:
        known = ", ".join((*DTYPES, *QUANTISED))
        raise InvalidInputError(f"dtype: expected {known} or auto, got {name}")
    return DTYPES[name]


def load(
    checkpoint: Checkpoint,
    dtype: str,
    device: torch.device,
    budget: int | None = None,
    progress: Progress | None = None,
    lender: Weights | None = None,
) -> Weights:
    """Read the weights of `checkpoint` to `device`. lender: the target's weights, for a draft that
    uses the target's embedding.

    Raises InvalidInputError, one sentence, if the weights need more than `budget` bytes.
    """
    storage = storage_of(checkpoint, dtype)
    _check_lender(checkpoint, storage, lender)
    config = checkpoint.config
    layouts = layouts_of(checkpoint, dtype)
    where = _map_of(checkpoint.shapes, layouts, config.tied and lender is None, _norms_of(config))
    arena = Arena(_plan(config, where, storage), device, budget)
    for name in checkpoint.read(progress):
        weight = checkpoint.weights[name]
        if name == EMBED and HEAD in where.places and config.tied:
            _write(arena, where, HEAD, weight)
        # as on the CPU, the embedding is rounded to bfloat16
        if name == EMBED and dtype in QUANTISED:
            arena["embed"].copy_(values_of(weight).bfloat16())
        elif config.norm_offset and len(weight.shape) == 1 and "norm" in name:
            _write_norm(arena, where, name, weight, storage)
        else:
            _write(arena, where, name, weight)
    found = _weights(config, arena, storage, where, lender)
    if not checkpoint.head_ids:
        return found
    ids = torch.tensor(checkpoint.head_ids, dtype=torch.int32, device=device)
    return replace(found, head_ids=checkpoint.head_ids, ids=ids)


def _write(arena: Arena, where: _Map, name: str, weight: Stored) -> None:
    """Write one stored tensor to its place in the buffers."""
    place = where.places[name]
    if place.buffer in where.packed:
        matrix = where.matrix(arena, place.buffer)
        write(matrix, place.begin, weight, where.layouts[name], where.packed[place.buffer])
    else:
        arena[place.buffer][place.begin : place.end].copy_(values_of(weight))


def _write_norm(arena: Arena, where: _Map, name: str, weight: Stored, dtype: torch.dtype) -> None:
    """Write 1 + the weight of a norm, in float32. The weight itself has the model's dtype."""
    arena[where.places[name].buffer].copy_(1 + values_of(weight).to(dtype).float())


def _check_lender(checkpoint: Checkpoint, dtype: torch.dtype, lender: Weights | None) -> None:
    """Raise InvalidInputError unless the target's embedding has the draft's dtype. A lane does not
    convert the embedding."""
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
    storage: str = "auto",
) -> Weights:
    """Return random weights on `device`, for benches. They are normal with standard deviation 0.02,
    but the weights of norms are 1.

    storage: int8 or int4 gives quantised matrices with uniformly drawn levels.
    """
    where = _map_for(config, storage)
    arena = Arena(_plan(config, where, dtype), device, budget)
    generator = torch.Generator(device).manual_seed(seed)
    for name in arena.names("weights"):
        values = arena[name]
        if name.endswith("norm"):
            values.fill_(1)
        elif name.endswith("levels"):
            values.view(torch.uint8).random_(0, 256, generator=generator)
        elif name.endswith("scales"):
            values.fill_(0.02 / 73)  # 73: about the standard deviation of uniform bytes
        elif not name.endswith("minimums"):
            values.normal_(0, 0.02, generator=generator)
    return _weights(config, arena, dtype, where)


def empty_weights(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, storage: str = "auto"
) -> Weights:
    """Return weights of zeros. On torch's device `meta` the tensors have shapes but no memory."""
    where = _map_for(config, storage)
    return _weights(config, Arena(_plan(config, where, dtype), device), dtype, where)


def _map_for(config: ModelConfig, storage: str) -> _Map:
    """Return the places of the tensors of a model without a checkpoint."""
    shapes = expected_shapes(config)
    layouts = named_layouts(shapes, storage) if storage in QUANTISED else {}
    return _map_of(shapes, layouts, config.tied, _norms_of(config))


def _norms_of(config: ModelConfig) -> Mapping[str, str]:
    """Return the names of the buffers of a layer's norms, by module."""
    return POST_NORMS if config.post_norms else NORMS


def norm_dtype(config: ModelConfig, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the weights of norms. Gemma's norms round only their result, and 1 + a
    weight has more digits than the weight."""
    return torch.float32 if config.norm_offset else dtype


def _map_of(
    shapes: Shapes, layouts: Layouts, ties_head: bool, norms: Mapping[str, str] = NORMS
) -> _Map:
    """Return the places of tensors with these shapes in buffers.

    ties_head: the LM head is tied to the embedding. If the head is quantised, it has a matrix of
    its own, made from the embedding. norms: the buffers of norms, by module.
    """
    if ties_head and HEAD in layouts:
        shapes = shapes | {HEAD: shapes[EMBED]}
    places = dict(_places(shapes, norms))
    packed = buffers_of(layouts, {name: place.buffer for name, place in places.items()})
    return _Map(shapes, places, layouts, packed)


def _places(shapes: Shapes, norms: Mapping[str, str]) -> Iterator[tuple[str, _Place]]:
    """Yield the place of every tensor. Tensors that share a buffer follow each other in the order
    of `shapes`."""
    filled: dict[str, int] = {}
    for name, shape in shapes.items():
        buffer = _buffer(name, norms)
        begin = filled.get(buffer, 0)
        filled[buffer] = begin + shape[0]
        yield name, _Place(buffer, begin, begin + shape[0])


def _buffer(name: str, norms: Mapping[str, str]) -> str:
    """Return the name of a tensor's buffer. For example, `model.layers.3.self_attn.q_proj.bias` is
    stored in `3.qkv.bias`."""
    if name in (EMBED, HEAD, "model.norm.weight"):
        return {EMBED: "embed", HEAD: "head"}.get(name, "norm")
    _, _, layer, *_, module, kind = name.split(".")
    return f"{layer}.{norms[module]}" if module in norms else f"{layer}.{FUSED[module]}.{kind}"


def _plan(config: ModelConfig, where: _Map, dtype: torch.dtype) -> MemoryPlan:
    rows: dict[str, int] = {}
    columns: dict[str, tuple[int, ...]] = {}
    for name, shape in where.shapes.items():
        place = where.places[name]
        rows[place.buffer] = place.end
        columns[place.buffer] = shape[1:]
    plan = MemoryPlan(f"{config.architecture} of {config.layers} layers")
    for buffer, count in rows.items():
        if buffer not in where.packed:
            own = norm_dtype(config, dtype) if buffer.endswith("norm") else dtype
            plan.add("weights", buffer, (count, *columns[buffer]), own)
            continue
        format = format_of(where.packed[buffer])
        for part, (shape, kind) in format.sizes(count, *columns[buffer]).items():
            plan.add("weights", f"{buffer}.{part}", shape, kind)
    return plan


def _weights(
    config: ModelConfig,
    arena: Arena,
    dtype: torch.dtype,
    where: _Map,
    lender: Weights | None = None,
) -> Weights:
    known = set(arena.names("weights"))

    def some(name: str) -> torch.Tensor | None:
        return arena[name] if name in known else None

    def matrix(buffer: str) -> torch.Tensor | PackedMatrix:
        return where.matrix(arena, buffer) if buffer in where.packed else arena[buffer]

    def linear(name: str) -> Linear:
        return Linear(matrix(f"{name}.weight"), some(f"{name}.bias"))

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
            attention_after=some(f"{i}.attention_after_norm"),
            mlp_after=some(f"{i}.mlp_after_norm"),
        )
        for i in range(config.layers)
    ]
    embed = arena["embed"] if lender is None else lender.embed
    tied_head = embed if lender is None else lender.head
    head = matrix("head") if HEAD in where.places else tied_head
    return Weights(config, dtype, arena.plan, embed, layers, arena["norm"], head)
