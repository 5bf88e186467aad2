"""Forwards of up to 64 rows with quantised weights. Products sum integers, as on the CPU.

A layer is seven calls: norm and rounding, qkv with rope and the write to the ring; attention; o
with the residual; norm and rounding, gate and up; down with the residual. Attention, and gate and
up, round their results as they write them. If heads have 16 columns, fewer than a group, attention
is rounded by a call of its own. Matrices of floats, which a quantised file may also have, are
multiplied as in fused.py. A model with norms of heads has one call more, for rope. In Gemma 3 the
calls that norm and round also norm what a product made, and add it to the residual stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..triton_kernels.heads import HeadTerms
from ..triton_kernels.integer_linear import IntegerTerms
from ..triton_kernels.integer_plan import IntegerPlan
from ..triton_kernels.linear import Terms
from ..triton_kernels.linear_plan import LinearPlan, LinearWork
from ..triton_kernels.packed import GROUP, IntegerRows, PackedMatrix
from .decoder import Decoder, FewRows, Rows, Views
from .ops import Run
from .weights import Linear, Weights

LAYER_NODES = 7


@dataclass(frozen=True)
class Integers:
    """Buffers that hold activations rounded to int8.

    gated: the input of down, which is the result of gate and up. x: the input of any other product;
    x has as many columns as the widest of these inputs.
    """

    x: IntegerRows
    gated: IntegerRows


def widest(weights: Weights) -> dict[str, int]:
    """Return the number of columns of each field of Integers."""
    config = weights.config
    return {"x": max(config.hidden, config.heads * config.head_dim), "gated": config.inner}


def float_plans(weights: Weights, rows: int) -> Iterator[LinearPlan]:
    """Yield the plans of all products with float matrices."""
    dtype, gelu, adds = weights.dtype, weights.config.gelu, not weights.config.post_norms
    for layer in weights.layers:
        for linear in (layer.qkv, layer.o, layer.gate_up, layer.down):
            if isinstance(linear.weight, torch.Tensor):
                gate = linear is layer.gate_up
                yield _float_plan(
                    rows, linear, dtype, gate=gate, gelu=gate and gelu,
                    residual=adds and linear in (layer.o, layer.down),
                )  # fmt: skip
    if isinstance(weights.head, torch.Tensor):
        yield _float_plan(rows, Linear(weights.head, None), dtype)


def _float_plan(rows: int, linear: Linear, dtype: torch.dtype, **how: Any) -> LinearPlan:
    assert isinstance(linear.weight, torch.Tensor)
    n, k = linear.weight.shape
    n = n // 2 if how.get("gate") else n
    return LinearPlan(rows, n, k, dtype=dtype, bias=linear.bias is not None, **how)


def integer_plan(rows: int, linear: Linear, dtype: torch.dtype, **how: Any) -> IntegerPlan:
    """Return the plan of the product of `rows` rows with the quantised matrix of `linear`."""
    weight = linear.weight
    assert isinstance(weight, PackedMatrix)
    n = weight.n // 2 if how.get("gate") else weight.n
    bias = linear.bias is not None
    return IntegerPlan(rows, n, weight.k, weight.format, dtype=dtype, bias=bias, **how)


class IntegerDecoder(FewRows):
    """Records forwards of up to 64 rows with quantised weights. It uses the buffers of a
    Decoder."""

    def __init__(self, plain: Decoder, integers: Integers, work: LinearWork) -> None:
        super().__init__(plain)
        self.integers, self.work = integers, work

    def start(self, run: Run, rows: Rows, v: Views) -> None:
        """See Forwards."""
        self.embed(run, rows, v, None)

    def attention(self, run: Run, rows: Rows, v: Views, i: int) -> None:
        """See Forwards."""
        layer, heads = self.weights.layers[i], self.head_terms(rows, i)
        after = self.weights.layers[i - 1].mlp_after if i else None
        x = self.normed(run, v, layer.attention_norm, layer.qkv.weight, after)
        if i:
            self.keep(run, v, i - 1)
        self.product(run, v, x, layer.qkv, v.qkv, heads=heads)
        if heads is None:
            self.plain.rope(run, rows, v, i)

    def rest(self, run: Run, rows: Rows, v: Views, i: int) -> None:
        """See Forwards. Each product adds its result to h itself, or leaves it for the next norm,
        which adds it."""
        layer, adds = self.weights.layers[i], not self.config.post_norms
        out = v.h if adds else v.x
        self.product(run, v, self.attended(run, rows, v, i), layer.o, out, residual=adds)
        gated = self.input(run, self.gated(run, v, i), layer.down.weight)
        self.product(run, v, gated, layer.down, out, residual=adds)

    def attended(self, run: Run, rows: Rows, v: Views, i: int) -> torch.Tensor | IntegerRows:
        """Record the attention of layer i. Return its result, the input of o."""
        weight = self.weights.layers[i].o.weight
        if isinstance(weight, PackedMatrix) and self.config.head_dim % GROUP == 0:
            self.plain.attend(run, rows, v, i, self.integers.x)
            return self.integers.x
        self.plain.attend(run, rows, v, i)
        return self.input(run, v.summed, weight)

    def finish(self, run: Run, rows: Rows, v: Views) -> None:
        """See Forwards."""
        last = len(self.weights.layers) - 1
        x = self.normed(
            run, v, self.weights.norm, self.weights.head, self.weights.layers[last].mlp_after
        )
        self.keep(run, v, last)
        self.product(run, v, x, Linear(self.weights.head, None), v.logits)

    def normed(
        self,
        run: Run,
        v: Views,
        norm: torch.Tensor,
        weight: torch.Tensor | PackedMatrix,
        after: torch.Tensor | None = None,
    ) -> torch.Tensor | IntegerRows:
        """Record the norm of h, rounded if the weight is quantised; returns the result.

        after: if given, v.x is normed with it and added to h first.
        """
        x, residual = (v.h, None) if after is None else (v.x, v.h)
        more = {"residual": residual, "after": after, "eps": self.config.rms_eps}
        if isinstance(weight, PackedMatrix):
            run(self.ops.round_rows, x, out=self.integers.x, norm=norm, **more)
            return self.integers.x
        run(self.ops.rms_norm, x, norm, out=v.normed, **more)
        return v.normed

    def input(
        self, run: Run, x: torch.Tensor | IntegerRows, weight: torch.Tensor | PackedMatrix
    ) -> torch.Tensor | IntegerRows:
        """Return x as the input of a product with `weight`. If `weight` is quantised and x is not
        rounded yet, record the rounding of x and return the rounded rows."""
        if isinstance(x, torch.Tensor) and isinstance(weight, PackedMatrix):
            run(self.ops.round_rows, x, out=self.integers.x)
            return self.integers.x
        return x

    def gated(self, run: Run, v: Views, i: int) -> torch.Tensor | IntegerRows:
        """Record the product gate_up of layer i. Return its gated result, the input of down. The
        result is rounded if both matrices are quantised."""
        layer = self.weights.layers[i]
        x = self.normed(run, v, layer.mlp_norm, layer.gate_up.weight, layer.attention_after)
        rounds = isinstance(layer.down.weight, PackedMatrix)
        if isinstance(x, IntegerRows) and rounds:
            self.product(run, v, x, layer.gate_up, self.integers.gated, gate=True)
            return self.integers.gated
        self.product(run, v, x, layer.gate_up, v.gated, gate=True)
        return v.gated

    def product(
        self,
        run: Run,
        v: Views,
        x: torch.Tensor | IntegerRows,
        linear: Linear,
        out: torch.Tensor | IntegerRows,
        *,
        gate: bool = False,
        residual: bool = False,
        heads: HeadTerms | None = None,
    ) -> None:
        """Record y = x w^T + b, and the write of y to `out`.

        gate: write silu(gate) * up, where y is gate and up. residual: add y to `out`. heads: y is
        q, k and v; rotate q and k, and write k and v to the ring.
        """
        rows, dtype, weight = v.h.shape[0], self.weights.dtype, linear.weight
        own, gelu = self.heads if heads else None, gate and self.config.gelu
        if isinstance(x, torch.Tensor):
            plan = _float_plan(
                rows, linear, dtype, gate=gate, gelu=gelu, residual=residual, heads=own
            )
            terms = Terms(linear.bias, residual=out if residual else None, heads=heads)
            run(self.ops.linear, x, weight, plan=plan, work=self.work, out=out, terms=terms)
            return
        rounded = out if isinstance(out, IntegerRows) else None
        plan = integer_plan(
            rows, linear, dtype, gate=gate, gelu=gelu, residual=residual,
            rounds=rounded is not None, heads=own,
        )  # fmt: skip
        terms = IntegerTerms(linear.bias, out if residual else None, rounded, heads)
        out = None if rounded else out
        run(self.ops.integer_linear, x, weight, plan=plan, out=out, terms=terms)
