"""Forwards of up to 64 rows with quantised weights. Products sum integers, as on the CPU.

A layer has eight calls: norm with rounding; qkv with rope and the write to the ring; attention;
rounding; o with the residual add; norm with rounding; gate and up, which write a rounded result;
down with the residual add. A model with norms of q and k (Qwen3) has one more call, for rope.

A quantised file may also have matrices of floats. Their products use the op `linear`, as in
fused.py.
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
from ..triton_kernels.packed import IntegerRows, PackedMatrix
from .decoder import Decoder, FewRows, Rows, Views
from .ops import Run
from .weights import Linear, Weights

LAYER_NODES = 8


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
    """Yield the plans of all products of `rows` rows with float matrices."""
    dtype = weights.dtype
    for layer in weights.layers:
        for linear in (layer.qkv, layer.o, layer.gate_up, layer.down):
            if isinstance(linear.weight, torch.Tensor):
                yield _float_plan(
                    rows, linear, dtype, gate=linear is layer.gate_up,
                    residual=linear in (layer.o, layer.down),
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
        x = self.normed(run, v, layer.attention_norm, layer.qkv.weight)
        self.product(run, v, x, layer.qkv, v.qkv, heads=heads)
        if heads is None:
            self.plain.rope(run, rows, v, i)

    def rest(self, run: Run, rows: Rows, v: Views, i: int) -> None:
        """See Forwards. The products o and down add their results to h."""
        layer = self.weights.layers[i]
        self.plain.attend(run, rows, v, i)
        attended = self.input(run, v.summed, layer.o.weight)
        self.product(run, v, attended, layer.o, v.h, residual=True)
        gated = self.input(run, self.gated(run, v, i), layer.down.weight)
        self.product(run, v, gated, layer.down, v.h, residual=True)
        self.keep(run, v, i)

    def finish(self, run: Run, rows: Rows, v: Views) -> None:
        """See Forwards."""
        x = self.normed(run, v, self.weights.norm, self.weights.head)
        self.product(run, v, x, Linear(self.weights.head, None), v.logits)

    def normed(
        self, run: Run, v: Views, norm: torch.Tensor, weight: torch.Tensor | PackedMatrix
    ) -> torch.Tensor | IntegerRows:
        """Record the norm of h, with rounding if `weight` is quantised. Return the result."""
        eps = self.config.rms_eps
        if isinstance(weight, PackedMatrix):
            run(self.ops.round_rows, v.h, out=self.integers.x, norm=norm, eps=eps)
            return self.integers.x
        run(self.ops.rms_norm, v.h, norm, eps=eps, out=v.normed)
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
        x = self.normed(run, v, layer.mlp_norm, layer.gate_up.weight)
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
        own = self.heads if heads else None
        if isinstance(x, torch.Tensor):
            plan = _float_plan(rows, linear, dtype, gate=gate, residual=residual, heads=own)
            terms = Terms(linear.bias, residual=out if residual else None, heads=heads)
            run(self.ops.linear, x, weight, plan=plan, work=self.work, out=out, terms=terms)
            return
        rounded = out if isinstance(out, IntegerRows) else None
        plan = integer_plan(
            rows, linear, dtype, gate=gate, residual=residual, rounds=rounded is not None, heads=own
        )
        terms = IntegerTerms(linear.bias, out if residual else None, rounded, heads)
        out = None if rounded else out
        run(self.ops.integer_linear, x, weight, plan=plan, out=out, terms=terms)
