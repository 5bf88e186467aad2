"""Forwards of up to 64 rows with five calls per layer. Products include norms, rope, gate and
residual add.

A layer is norm and qkv with rope and the write to the ring; attention; o with the residual; norm,
gate and up; down with the residual. A norm reads sums of squares that the last writer of the
residual stream left: the embedding, o or down. `LAYER_NODES` is that number, and a test counts the
calls. A model with norms of heads (Qwen3) has one more, for rope.

Gemma 3 norms the results of o and of down before they are added. Such a norm needs whole rows, so
it is a call of its own. It also computes the next norm. `POST_NORM_NODES` is the number of calls of
a layer of Gemma 3, with the one for rope.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..triton_kernels.heads import HeadTerms
from ..triton_kernels.linear import Terms
from ..triton_kernels.linear_plan import LinearPlan, LinearWork
from .decoder import Decoder, FewRows, Rows, Views, heads_of
from .ops import Run
from .weights import Linear, Weights

LAYER_NODES = 5
POST_NORM_NODES = 8


@dataclass(frozen=True)
class Products:
    """The plans of a forward's matrix products, for a fixed number of rows."""

    qkv: LinearPlan
    o: LinearPlan
    gate_up: LinearPlan
    down: LinearPlan
    head: LinearPlan

    def __iter__(self) -> Iterator[LinearPlan]:
        yield from vars(self).values()


def products_of(weights: Weights, rows: int) -> Products:
    """Return the plans of the products of `rows` rows. They are made from layer 0, because all
    layers have the same sizes and the same biases."""
    c, layer = weights.config, weights.layers[0]
    queries = c.heads * c.head_dim
    keys = c.kv_heads * c.head_dim
    fuses = not c.post_norms  # products include norms and residual

    def plan(n: int, k: int, linear: Linear | None, **how: Any) -> LinearPlan:
        bias = linear is not None and linear.bias is not None
        return LinearPlan(rows, n, k, dtype=weights.dtype, bias=bias, **how)

    return Products(
        qkv=plan(queries + 2 * keys, c.hidden, layer.qkv, norm=fuses, heads=heads_of(weights)),
        o=plan(c.hidden, queries, layer.o, residual=fuses),
        gate_up=plan(c.inner, c.hidden, layer.gate_up, norm=fuses, gate=True, gelu=c.gelu),
        down=plan(c.hidden, c.inner, layer.down, residual=fuses),
        head=plan(c.columns, c.hidden, None, norm=fuses),
    )


class FusedDecoder(FewRows):
    """Records forwards of up to 64 rows with five calls per layer. It uses the buffers of a
    Decoder."""

    def __init__(self, plain: Decoder, products: dict[int, Products], work: LinearWork) -> None:
        super().__init__(plain)
        self.products, self.work = products, work
        layers = plain.weights.layers
        self.next_norms = [*(layer.attention_norm for layer in layers[1:]), plain.weights.norm]

    def start(self, run: Run, rows: Rows, v: Views) -> None:
        """See Forwards. The embedding leaves its sums of squares for the first norm, or the first
        norm is a call of its own."""
        if not self.config.post_norms:
            self.embed(run, rows, v, self.work.squares)
            return
        self.embed(run, rows, v, None)
        self.plain.norm(run, v, self.weights.layers[0].attention_norm, 0)

    def attention(self, run: Run, rows: Rows, v: Views, i: int) -> None:
        """See Forwards."""
        layer, heads = self.weights.layers[i], self.head_terms(rows, i)
        plan = self.products[rows.count].qkv
        run(
            self.ops.linear, v.h if plan.norm else v.normed, layer.qkv.weight, plan=plan,
            work=self.work, out=v.qkv, terms=self.normed(layer.attention_norm, layer.qkv, heads),
        )  # fmt: skip
        if heads is None:
            self.plain.rope(run, rows, v, i)

    def rest(self, run: Run, rows: Rows, v: Views, i: int) -> None:
        """See Forwards. Each product adds its result to h itself, unless the result is normed
        first."""
        layer, plans = self.weights.layers[i], self.products[rows.count]
        self.plain.attend(run, rows, v, i)
        self.added(run, v, v.summed, layer.o, plans.o)
        if not plans.o.residual:
            self.plain.add(run, v, layer.attention_after, layer.mlp_norm)
        run(
            self.ops.linear, v.h if plans.gate_up.norm else v.normed, layer.gate_up.weight,
            plan=plans.gate_up, work=self.work, out=v.gated,
            terms=self.normed(layer.mlp_norm, layer.gate_up),
        )  # fmt: skip
        self.added(run, v, v.gated, layer.down, plans.down)
        if not plans.down.residual:
            self.plain.add(run, v, layer.mlp_after, self.next_norms[i])
        self.keep(run, v, i)

    def added(self, run: Run, v: Views, x: torch.Tensor, linear: Linear, plan: LinearPlan) -> None:
        """Record h += x w^T + b. Without a residual in the plan, record v.x = x w^T + b."""
        out = v.h if plan.residual else v.x
        run(
            self.ops.linear, x, linear.weight, plan=plan, work=self.work, out=out,
            terms=Terms(linear.bias, residual=v.h if plan.residual else None),
        )  # fmt: skip

    def finish(self, run: Run, rows: Rows, v: Views) -> None:
        """See Forwards."""
        weights, plan = self.weights, self.products[rows.count].head
        run(
            self.ops.linear, v.h if plan.norm else v.normed, weights.head, plan=plan,
            work=self.work, out=v.logits, terms=self.normed(weights.norm, None),
        )  # fmt: skip

    def normed(
        self, norm: torch.Tensor, linear: Linear | None, heads: HeadTerms | None = None
    ) -> Terms:
        """Terms of a product of normalised rows. The product normalises them itself, or an earlier
        call did."""
        own = None if self.config.post_norms else norm
        return Terms(linear.bias if linear else None, own, self.config.rms_eps, heads=heads)
