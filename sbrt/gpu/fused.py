"""Forwards of up to 64 rows with five calls per layer. Products include norms, rope, gate and
residual add.

The calls of a layer are: norm and qkv with rope and the write to the ring; attention; o with the
residual add; norm, gate and up; down with the residual add. `LAYER_NODES` is their number, and a
test counts the calls. A model with norms of q and k (Qwen3) has one more call, for rope.

A norm needs the sum of squares of each row. The op that last wrote the residual stream stores these
sums: the embedding, o or down.
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

    def plan(n: int, k: int, linear: Linear | None, **how: Any) -> LinearPlan:
        bias = linear is not None and linear.bias is not None
        return LinearPlan(rows, n, k, dtype=weights.dtype, bias=bias, **how)

    return Products(
        qkv=plan(queries + 2 * keys, c.hidden, layer.qkv, norm=True, heads=heads_of(weights)),
        o=plan(c.hidden, queries, layer.o, residual=True),
        gate_up=plan(c.inner, c.hidden, layer.gate_up, norm=True, gate=True),
        down=plan(c.hidden, c.inner, layer.down, residual=True),
        head=plan(c.columns, c.hidden, None, norm=True),
    )


class FusedDecoder(FewRows):
    """Records forwards of up to 64 rows with five calls per layer. It uses the buffers of a
    Decoder."""

    def __init__(self, plain: Decoder, products: dict[int, Products], work: LinearWork) -> None:
        super().__init__(plain)
        self.products, self.work = products, work

    def start(self, run: Run, rows: Rows, v: Views) -> None:
        """See Forwards. The embedding also stores the sums of squares of its rows, for the first
        norm."""
        self.embed(run, rows, v, self.work.squares)

    def attention(self, run: Run, rows: Rows, v: Views, i: int) -> None:
        """See Forwards."""
        layer, heads = self.weights.layers[i], self.head_terms(rows, i)
        run(
            self.ops.linear, v.h, layer.qkv.weight, plan=self.products[rows.count].qkv,
            work=self.work, out=v.qkv, terms=self.normed(layer.attention_norm, layer.qkv, heads),
        )  # fmt: skip
        if heads is None:
            self.plain.rope(run, rows, v, i)

    def rest(self, run: Run, rows: Rows, v: Views, i: int) -> None:
        """See Forwards. The products o and down add their results to h."""
        layer, plans = self.weights.layers[i], self.products[rows.count]
        self.plain.attend(run, rows, v, i)
        run(
            self.ops.linear, v.summed, layer.o.weight, plan=plans.o, work=self.work, out=v.h,
            terms=Terms(layer.o.bias, residual=v.h),
        )  # fmt: skip
        run(
            self.ops.linear, v.h, layer.gate_up.weight, plan=plans.gate_up, work=self.work,
            out=v.gated, terms=self.normed(layer.mlp_norm, layer.gate_up),
        )  # fmt: skip
        run(
            self.ops.linear, v.gated, layer.down.weight, plan=plans.down, work=self.work, out=v.h,
            terms=Terms(layer.down.bias, residual=v.h),
        )  # fmt: skip
        self.keep(run, v, i)

    def finish(self, run: Run, rows: Rows, v: Views) -> None:
        """See Forwards."""
        weights = self.weights
        run(
            self.ops.linear, v.h, weights.head, plan=self.products[rows.count].head,
            work=self.work, out=v.logits, terms=self.normed(weights.norm, None),
        )  # fmt: skip

    def normed(
        self, norm: torch.Tensor, linear: Linear | None, heads: HeadTerms | None = None
    ) -> Terms:
        """Return the Terms of a product with RMSNorm: its input rows are first normalised, with the
        weights `norm`."""
        return Terms(linear.bias if linear else None, norm, self.config.rms_eps, heads=heads)
