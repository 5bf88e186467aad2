"""Computes the forward of all model families, as calls of ops on fixed buffers.

`Forwards` is the loop over layers. `Decoder` is one form of it, with torch's products. The other
forms are in fused.py and integer.py.

A layer of `Decoder` is nine calls: norm (with the residual add), qkv, rope with the write to the
ring, attention, o, norm, gate and up, activation, down. `LAYER_NODES` is nine, and a test counts
them. A norm of Gemma 3 also includes the norm of what is added.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from .._core import FEATURE_LAYERS
from ..model.config import ModelConfig
from ..triton_kernels.heads import HeadTerms
from ..triton_kernels.plan import AttentionPlan, Workspace
from ..triton_kernels.product_plan import Heads
from ..triton_kernels.rope import Rope
from .kinds import kind_of, scale_of
from .ops import Ops, Run, copy, matmul, matmul_bias, matmul_float32
from .prefill import Flash, Lengths, prefill_attention, read_lengths
from .weights import Layer, Linear, Weights

LAYER_NODES = 9


@dataclass(frozen=True)
class Buffers:
    """Buffers of a forward of up to n rows. n: 64, or the number of rows of the widest prompt
    forward.

    h, x, normed [n, hidden]; qkv [n, heads + 2 kv_heads, head_dim]; attended [n, heads, head_dim];
    gate_up [n, 2 inner]; gated [n, inner]; logits float32 [max_rows, columns]; raw [64, columns] in
    the model's dtype, only where products cannot be float32; features [max_rows, 4, hidden] or
    None; kv [2, layers, kv_heads, slots, head_dim]; angles float32 [2, 64, head_dim / 2], the
    cosines and sines of up to 64 rows.
    """

    h: torch.Tensor
    x: torch.Tensor
    normed: torch.Tensor
    qkv: torch.Tensor
    attended: torch.Tensor
    gate_up: torch.Tensor
    gated: torch.Tensor
    logits: torch.Tensor
    raw: torch.Tensor | None
    features: torch.Tensor | None
    kv: torch.Tensor
    angles: torch.Tensor


@dataclass(frozen=True)
class Sight:
    """The plan and the memory of attention, for a forward's rows in the layers of one kind. `see`
    fills the memory with the keys that each row sees."""

    plan: AttentionPlan
    work: Workspace


@dataclass(frozen=True)
class Rows:
    """The rows that a forward computes: `count` rows of a row table, beginning with row `first`.

    sights: one for each kind of layers (kinds.py).
    """

    table: torch.Tensor
    first: int
    count: int
    sights: Sequence[Sight]


@dataclass(frozen=True)
class PromptRows:
    """Rows of a prompt, for flash attention: the first `count` rows of a row table, or all of its
    rows if it has fewer.

    lengths: one for each kind of layers, over the same memory.
    """

    table: torch.Tensor
    count: int
    lengths: Sequence[Lengths]
    flash: Flash
    first: int = 0


class Views:
    """Views of the buffers, cut to the number of rows, in the shape that each op needs."""

    def __init__(self, buffers: Buffers, rows: Rows | PromptRows, heads: int) -> None:
        n = rows.count
        self.h, self.x, self.normed = (b[:n] for b in (buffers.h, buffers.x, buffers.normed))
        self.heads = buffers.qkv[:n]
        self.qkv = self.heads.flatten(1)
        self.queries = self.heads[:, :heads]
        self.attended = buffers.attended[:n]
        self.summed = self.attended.flatten(1)
        self.gate_up, self.gated = buffers.gate_up[:n], buffers.gated[:n]
        self.logits = buffers.logits[rows.first : rows.first + n]
        self.raw = None if buffers.raw is None else buffers.raw[:n]
        kept = buffers.features
        self.features = None if kept is None else kept[rows.first : rows.first + n]


class Forwards(ABC):
    """Records forwards of one lane. It allocates nothing, and computes nothing itself."""

    def __init__(self, weights: Weights, ops: Ops, buffers: Buffers) -> None:
        self.weights, self.ops, self.buffers = weights, ops, buffers
        self.config = weights.config

    @cached_property
    def embed_factor(self) -> float:
        """Factor of the embedding, rounded to the model's dtype as in transformers."""
        factor = math.sqrt(self.config.hidden) if self.config.scaled_embedding else 1.0
        return float(torch.tensor(factor, dtype=self.weights.dtype))

    def see(self, run: Run, rows: Rows) -> None:
        """Record which keys every row sees, in the layers of each kind."""
        for sight in rows.sights:
            run(self.ops.see, rows.table, sight.plan, sight.work, first_row=rows.first)

    def keep(self, run: Run, v: Views, i: int) -> None:
        """Record the copies of the residual stream after layer i that are features."""
        for block in feature_blocks(i, self.config.layers if v.features is not None else 0):
            run(copy, v.h, out=v.features[:, block])

    def forward(self, run: Run, rows: Rows, with_logits: bool) -> None:
        """Record a forward. It writes K and V of every row to the row's slot.

        If `with_logits`, it also computes the logits. Otherwise it ends with K and V of the last
        layer, because nothing reads the rest.
        """
        v = Views(self.buffers, rows, self.config.heads)
        self.start(run, rows, v)
        last = len(self.weights.layers) - 1
        for i in range(last + 1):
            self.attention(run, rows, v, i)
            if i == last and not with_logits:
                return
            self.rest(run, rows, v, i)
        self.finish(run, rows, v)

    @abstractmethod
    def start(self, run: Run, rows: Rows, v: Views) -> None:
        """Record the embedding, and the keys that every row sees."""

    @abstractmethod
    def attention(self, run: Run, rows: Rows, v: Views, i: int) -> None:
        """Record q, k and v of the normalised rows of layer i, and the write to the ring."""

    @abstractmethod
    def rest(self, run: Run, rows: Rows, v: Views, i: int) -> None:
        """Record attention, o, and the MLP of layer i."""

    @abstractmethod
    def finish(self, run: Run, rows: Rows, v: Views) -> None:
        """Record the last norm and the logits, in float32."""


class Decoder(Forwards):
    """The form with torch's products, which takes any number of rows. ropes: one for each kind of
    layers."""

    def __init__(self, weights: Weights, ops: Ops, buffers: Buffers, ropes: Sequence[Rope]) -> None:
        super().__init__(weights, ops, buffers)
        self.kinds = [kind_of(self.config, i) for i in range(len(weights.layers))]
        self.ropes = [
            rope_of(ropes[kind], layer, self.config.rms_eps)
            for kind, layer in zip(self.kinds, weights.layers, strict=True)
        ]
        self.keys, self.values = buffers.kv[0].unbind(0), buffers.kv[1].unbind(0)

    def prefill(self, run: Run, rows: PromptRows) -> None:
        """Record a forward of a prompt. The forward writes K and V of the rows to their slots. It
        computes no logits."""
        v = Views(self.buffers, rows, self.config.heads)
        v.features = None  # only verified rows have features
        run(self.ops.embed, rows.table, self.weights.embed, out=v.h, factor=self.embed_factor)
        read_lengths(run, rows.table, rows.lengths[0])
        last = len(self.weights.layers) - 1
        for i in range(last + 1):
            self.attention(run, rows, v, i)
            if i == last:
                return
            run(
                prefill_attention, v.queries, self.keys[i], self.values[i],
                lengths=rows.lengths[self.kinds[i]], flash=rows.flash, out=v.attended,
            )  # fmt: skip
            self.mlp(run, v, i)

    def start(self, run: Run, rows: Rows, v: Views) -> None:
        """See Forwards."""
        run(
            self.ops.embed, rows.table, self.weights.embed, out=v.h, first_row=rows.first,
            factor=self.embed_factor,
        )  # fmt: skip
        self.see(run, rows)

    def attention(self, run: Run, rows: Rows | PromptRows, v: Views, i: int) -> None:
        """See Forwards."""
        layer = self.weights.layers[i]
        self.norm(run, v, layer.attention_norm, i)
        self.linear(run, v.normed, layer.qkv, v.qkv)
        self.rope(run, rows, v, i)

    def rope(self, run: Run, rows: Rows | PromptRows, v: Views, i: int) -> None:
        """Record rope, and the write to the ring."""
        run(
            self.ops.rope_kv_write, v.heads, self.keys[i], self.values[i], rows.table,
            self.ropes[i], first_row=rows.first,
        )  # fmt: skip

    def rest(self, run: Run, rows: Rows, v: Views, i: int) -> None:
        """See Forwards."""
        self.attend(run, rows, v, i)
        self.mlp(run, v, i)

    def attend(self, run: Run, rows: Rows, v: Views, i: int) -> None:
        """Record attention."""
        sight = rows.sights[self.kinds[i]]
        run(
            self.ops.branch_attention, v.queries, self.keys[i], self.values[i],
            plan=sight.plan, work=sight.work, out=v.attended,
        )  # fmt: skip

    def mlp(self, run: Run, v: Views, i: int) -> None:
        """Record o and the MLP, which follow attention.

        Afterwards v.x holds the MLP's output. It is not yet added to the residual stream v.h.
        """
        layer = self.weights.layers[i]
        self.linear(run, v.summed, layer.o, v.x)
        self.add(run, v, layer.attention_after, layer.mlp_norm)
        self.linear(run, v.normed, layer.gate_up, v.gate_up)
        run(self.ops.gate_mul, v.gate_up, out=v.gated, gelu=self.config.gelu)
        self.linear(run, v.gated, layer.down, v.x)

    def finish(self, run: Run, rows: Rows, v: Views) -> None:
        """See Forwards."""
        self.norm(run, v, self.weights.norm, len(self.weights.layers))
        if v.raw is not None:
            run(matmul, v.normed, self.weights.head, out=v.raw)
            run(copy, v.raw, out=v.logits)
        elif self.weights.dtype == torch.float32:
            run(matmul, v.normed, self.weights.head, out=v.logits)
        else:
            run(matmul_float32, v.normed, self.weights.head, out=v.logits)

    def norm(self, run: Run, v: Views, weight: torch.Tensor, i: int) -> None:
        """Record h += x, then normed = norm(h). i: the layer that follows; before layer 0 nothing
        is added."""
        if i == 0:
            run(self.ops.rms_norm, v.h, weight, eps=self.config.rms_eps, out=v.normed)
            return
        self.add(run, v, self.weights.layers[i - 1].mlp_after, weight)
        self.keep(run, v, i - 1)

    def add(self, run: Run, v: Views, after: torch.Tensor | None, weight: torch.Tensor) -> None:
        """Record h += x, then normed = norm(h). after: the weight of a norm of x, if it has one."""
        run(
            self.ops.rms_norm, v.x, weight, eps=self.config.rms_eps, out=v.normed, residual=v.h,
            after=after,
        )  # fmt: skip

    def linear(self, run: Run, x: torch.Tensor, linear: Linear, out: torch.Tensor) -> None:
        """Record out = x w^T + b."""
        if linear.bias is None:
            run(matmul, x, linear.weight, out=out)
        else:
            run(matmul_bias, x, linear.weight, linear.bias, out=out)


class FewRows(Forwards):
    """Records forwards of up to 64 rows. The two forms for few rows inherit from it.

    The product qkv ends with rope. A model with norms of heads has a separate call for rope,
    because a tile of qkv has only a part of a head. The buffers are those of a Decoder.
    """

    def __init__(self, plain: Decoder) -> None:
        super().__init__(plain.weights, plain.ops, plain.buffers)
        self.plain = plain
        self.heads = heads_of(plain.weights)

    def embed(self, run: Run, rows: Rows, v: Views, squares: torch.Tensor | None) -> None:
        """Record the embedding, with the angles of every row; then the keys that it sees."""
        has = self.heads is not None
        run(
            self.ops.embed, rows.table, self.weights.embed, out=v.h, first_row=rows.first,
            squares=squares, rope=self.plain.ropes[0] if has else None,
            angles=self.buffers.angles if has else None, factor=self.embed_factor,
        )  # fmt: skip
        self.see(run, rows)

    def head_terms(self, rows: Rows, i: int) -> HeadTerms | None:
        """Return what qkv of layer i needs to rotate heads; None if rope is a separate call."""
        if self.heads is None:
            return None
        keys, values = self.plain.keys[i], self.plain.values[i]
        return HeadTerms(self.buffers.angles, rows.table, keys, values, rows.first)


def heads_of(weights: Weights) -> Heads | None:
    """The heads of a product that rotates them itself; None if they have norms, or if layers have
    different ropes."""
    config, layer = weights.config, weights.layers[0]
    if layer.q_norm is not None or config.local:
        return None
    return Heads(config.heads, config.kv_heads, config.head_dim)


def feature_blocks(layer: int, layers: int) -> range:
    """Return the indices of the blocks of H-RAD's features that hold the residual stream after
    `layer`.

    If the model has fewer layers than there are blocks, layer 0 fills the rest. layers: number of
    layers of the model; 0 if no features are kept.
    """
    first = layers - FEATURE_LAYERS
    if layers == 0 or layer < first:
        return range(0)
    return range(0 if layer == 0 else layer - first, layer - first + 1)


def rope_of(rope: Rope, layer: Layer, eps: float) -> Rope:
    """Return the model's rope with one layer's norms of q and k."""
    return Rope(rope.inv_freq, rope.amplitude, layer.q_norm, layer.k_norm, eps)


def attention_plan(
    config: ModelConfig,
    dtype: torch.dtype,
    rows: int,
    capacity: int,
    tail_slots: int,
    window: int | None,
) -> AttentionPlan:
    """Return the attention plan of `rows` rows that see `window` positions (None: all). Raises
    ValueError on sizes without a kernel."""
    return AttentionPlan(
        rows=rows,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        capacity=capacity,
        dtype=dtype,
        window=window,
        tail_slots=tail_slots,
        scale=scale_of(config),
    )
