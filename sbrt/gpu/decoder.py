"""Computes the forward of all model families, as calls of ops on fixed buffers.

`Forwards` holds the loop over layers. `Decoder` computes a layer with torch's matrix products.
fused.py and integer.py have the other implementations.

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
from ..triton_kernels.packed import IntegerRows
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
    """Buffers of a forward of up to n rows. n is the largest number of rows of a prompt forward,
    and at least 64.

    h         [n, hidden]                         residual stream
    x         [n, hidden]                         output of o or of the MLP, not yet added to h
    normed    [n, hidden]                         normalised h
    qkv       [n, heads + 2 kv_heads, head_dim]
    attended  [n, heads, head_dim]                output of attention
    gate_up   [n, 2 inner]
    gated     [n, inner]                          silu(gate) * up
    logits    float32 [max_rows, columns]
    raw       [64, columns]                       logits in the model's dtype; None if the product
                                                  can write float32
    features  [max_rows, 4, hidden]               inputs of H-RAD; or None
    kv        [2, layers, kv_heads, slots, head_dim]
    angles    float32 [2, 64, head_dim / 2]       cosines and sines of up to 64 rows
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
    """Views of a forward's buffers. They hold only the forward's rows, in the shapes that the ops
    need."""

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
    """Records forwards of one lane. Its methods pass each call of an op to `run`; they allocate and
    compute nothing."""

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
        """Record a forward. The forward writes K and V of every row to the slot of the row.

        If `with_logits`, the forward also computes the logits. Otherwise it ends when K and V of
        the last layer are written, because nothing reads later results.
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
        """Record the embedding, and the op `see`: it finds the keys that each row attends to."""

    @abstractmethod
    def attention(self, run: Run, rows: Rows, v: Views, i: int) -> None:
        """Record the first half of layer i up to attention: norm, q, k and v, rope, and the write
        to the ring."""

    @abstractmethod
    def rest(self, run: Run, rows: Rows, v: Views, i: int) -> None:
        """Record attention, the output projection o, and the MLP of layer i."""

    @abstractmethod
    def finish(self, run: Run, rows: Rows, v: Views) -> None:
        """Record the last norm, and the product that computes the logits in float32."""


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
        """Record rope for q and k of layer i, and the write of k and v to the ring."""
        run(
            self.ops.rope_kv_write, v.heads, self.keys[i], self.values[i], rows.table,
            self.ropes[i], first_row=rows.first,
        )  # fmt: skip

    def rest(self, run: Run, rows: Rows, v: Views, i: int) -> None:
        """See Forwards."""
        self.attend(run, rows, v, i)
        self.mlp(run, v, i)

    def attend(
        self, run: Run, rows: Rows, v: Views, i: int, out: IntegerRows | None = None
    ) -> None:
        """Record attention. Its result is written to v.attended or, rounded, to `out`."""
        sight = rows.sights[self.kinds[i]]
        run(
            self.ops.branch_attention, v.queries, self.keys[i], self.values[i],
            plan=sight.plan, work=sight.work, out=v.attended if out is None else out,
        )  # fmt: skip

    def mlp(self, run: Run, v: Views, i: int) -> None:
        """Record the output projection o and the MLP of layer i.

        Afterwards v.x holds the output of the MLP. It is not yet added to the residual stream v.h.
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
    """Base of FusedDecoder and IntegerDecoder, which record forwards of up to 64 rows.

    The product qkv also applies rope, unless q and k have norms (Qwen3). Then rope is a separate
    call, because a tile of the product holds only a part of a head. The buffers are those of the
    Decoder `plain`.
    """

    def __init__(self, plain: Decoder) -> None:
        super().__init__(plain.weights, plain.ops, plain.buffers)
        self.plain = plain
        self.heads = heads_of(plain.weights)

    def embed(self, run: Run, rows: Rows, v: Views, squares: torch.Tensor | None) -> None:
        """Record the embedding with the rope angles of every row. Then record the op `see`, which
        finds the keys that each row attends to.

        squares: None, or the buffer in which the embedding stores sums of squares of its rows.
        """
        has = self.heads is not None
        run(
            self.ops.embed, rows.table, self.weights.embed, out=v.h, first_row=rows.first,
            squares=squares, rope=self.plain.ropes[0] if has else None,
            angles=self.buffers.angles if has else None, factor=self.embed_factor,
        )  # fmt: skip
        self.see(run, rows)

    def head_terms(self, rows: Rows, i: int) -> HeadTerms | None:
        """Return what the product qkv of layer i needs to apply rope and to write to the ring.
        Returns None if rope is a separate call."""
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

    The features are the outputs of the last FEATURE_LAYERS layers, one block for each layer. If the
    model has fewer layers, layer 0 also fills the remaining blocks. layers: number of layers of the
    model; 0 if no features are kept.
    """
    first = layers - FEATURE_LAYERS
    if layers == 0 or layer < first:
        return range(0)
    return range(0 if layer == 0 else layer - first, layer - first + 1)


def rope_of(rope: Rope, layer: Layer, eps: float) -> Rope:
    """Return `rope` together with the norms of q and k of `layer`."""
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
