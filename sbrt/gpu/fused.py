"""The forward of few rows in six calls a layer: products include norms, gate and residual.

A layer is norm and qkv; rope with the write to the ring; attention; o with the residual; norm, gate
and up; down with the residual. A norm reads sums of squares that the last writer of the residual
stream left: the embedding, o or down. `LAYER_NODES` is that number, and a test counts the calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..model.config import ModelConfig
from ..triton_kernels.linear import Terms
from ..triton_kernels.linear_plan import LinearPlan, LinearWork
from .decoder import Decoder, Rows, Views, feature_blocks
from .ops import Run, copy
from .weights import Layer, Linear

LAYER_NODES = 6


@dataclass(frozen=True)
class Products:
    """Plans of the products of one forward of a fixed number of rows."""

    qkv: LinearPlan
    o: LinearPlan
    gate_up: LinearPlan
    down: LinearPlan
    head: LinearPlan

    def __iter__(self) -> Iterator[LinearPlan]:
        yield from vars(self).values()


def products_of(config: ModelConfig, layer: Layer, dtype: torch.dtype, rows: int) -> Products:
    """The plans for a model, by its sizes and by which weights have a bias, the same in every
    layer."""
    c, queries = config, config.heads * config.head_dim
    keys = config.kv_heads * config.head_dim

    def plan(n: int, k: int, linear: Linear | None, **how: bool) -> LinearPlan:
        bias = linear is not None and linear.bias is not None
        return LinearPlan(rows, n, k, dtype=dtype, bias=bias, **how)

    return Products(
        qkv=plan(queries + 2 * keys, c.hidden, layer.qkv, norm=True),
        o=plan(c.hidden, queries, layer.o, residual=True),
        gate_up=plan(c.inner, c.hidden, layer.gate_up, norm=True, gate=True),
        down=plan(c.hidden, c.inner, layer.down, residual=True),
        head=plan(c.columns, c.hidden, None, norm=True),
    )


class FusedDecoder:
    """Records forwards of up to 64 rows of one lane, over the buffers of a Decoder."""

    def __init__(self, plain: Decoder, products: dict[int, Products], work: LinearWork) -> None:
        self.plain, self.products, self.work = plain, products, work
        self.config, self.weights, self.ops = plain.config, plain.weights, plain.ops

    def forward(self, run: Run, rows: Rows, with_logits: bool) -> None:
        """Record the same as Decoder.forward: K and V of every row and, `with_logits`, its
        logits."""
        v = Views(self.plain.buffers, rows, self.config.heads)
        self.start(run, rows, v)
        last = len(self.weights.layers) - 1
        for i in range(last + 1):
            self.attention(run, rows, v, i)
            if i == last and not with_logits:
                return
            self.rest(run, rows, v, i)
        self.finish(run, rows, v)

    def start(self, run: Run, rows: Rows, v: Views) -> None:
        """Record the embedding with its sums of squares, and the mask of every row."""
        run(
            self.ops.embed, rows.table, self.weights.embed, out=v.h, first_row=rows.first,
            squares=self.work.squares,
        )  # fmt: skip
        run(self.ops.see, rows.table, rows.plan, rows.work, first_row=rows.first)

    def attention(self, run: Run, rows: Rows, v: Views, i: int) -> None:
        """Record q, k and v of the normalised rows, and the write to the ring."""
        layer, plain = self.weights.layers[i], self.plain
        run(
            self.ops.linear, v.h, layer.qkv.weight, plan=self.products[rows.count].qkv,
            work=self.work, out=v.qkv, terms=self.normed(layer.attention_norm, layer.qkv),
        )  # fmt: skip
        run(
            self.ops.rope_kv_write, v.heads, plain.keys[i], plain.values[i], rows.table,
            plain.ropes[i], first_row=rows.first,
        )  # fmt: skip

    def rest(self, run: Run, rows: Rows, v: Views, i: int) -> None:
        """Record attention, o, and the MLP. Each product adds its result to h itself."""
        layer, plain, plans = self.weights.layers[i], self.plain, self.products[rows.count]
        run(
            self.ops.branch_attention, v.queries, plain.keys[i], plain.values[i],
            plan=rows.plan, work=rows.work, out=v.attended,
        )  # fmt: skip
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
        for block in feature_blocks(i, self.config.layers if v.features is not None else 0):
            run(copy, v.h, out=v.features[:, block])

    def finish(self, run: Run, rows: Rows, v: Views) -> None:
        """Record the last norm and the logits, in float32."""
        weights = self.weights
        run(
            self.ops.linear, v.h, weights.head, plan=self.products[rows.count].head,
            work=self.work, out=v.logits, terms=self.normed(weights.norm, None),
        )  # fmt: skip

    def normed(self, norm: torch.Tensor, linear: Linear | None) -> Terms:
        """Terms of a product whose rows are normalised first."""
        return Terms(linear.bias if linear else None, norm, self.config.rms_eps)
