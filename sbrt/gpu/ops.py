"""The ops that a lane may record: our kernels, or functions in plain torch with the same results.

A recorded function only calls `run(op, ...)`. Every op writes into the buffers that it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch

from ..errors import InvalidInputError
from ..triton_kernels import (
    attention,
    attention_torch,
    choose,
    embed,
    gate,
    integer_linear,
    linear,
    norm,
    rope,
    round_rows,
    settle,
    visible,
)

Op = Callable[..., Any]


class Run(Protocol):
    """A function that takes one call of an op. It runs the call, records it, or does both."""

    def __call__(self, op: Op, *args: Any, **kwargs: Any) -> None:
        """Run or record op(*args, **kwargs). A recording keeps the present values of pointers and
        scalars."""


@dataclass(frozen=True)
class Ops:
    """One set of ops, named as in triton_kernels.

    fused: True if forwards of up to 64 rows use `linear` for products (fused.py), not torch
    (decoder.py). Products with quantised matrices always use `integer_linear` (integer.py).
    """

    name: str
    embed: Op
    see: Op
    rms_norm: Op
    linear: Op
    round_rows: Op
    integer_linear: Op
    rope_kv_write: Op
    branch_attention: Op
    gate_mul: Op
    choose: Op
    ring_settle: Op
    fused: bool = True


TRITON = Ops(
    "triton",
    embed.embed,
    visible.see,
    norm.rms_norm,
    linear.linear,
    round_rows.round_rows,
    integer_linear.integer_linear,
    rope.rope_kv_write,
    attention.branch_attention,
    gate.gate_mul,
    choose.choose,
    settle.ring_settle,
)
TORCH = Ops(
    "torch",
    embed.embed_torch,
    visible.see_torch,
    norm.rms_norm_torch,
    linear.linear_torch,
    round_rows.round_rows_torch,
    integer_linear.integer_linear_torch,
    rope.rope_kv_write_torch,
    attention_torch.branch_attention_torch,
    gate.gate_mul_torch,
    choose.choose_torch,
    settle.ring_settle_torch,
)
ALL = {ops.name: ops for ops in (TRITON, TORCH)}


def ops_named(name: str) -> Ops:
    """Return the set of ops called `name`, "triton" or "torch". Raises InvalidInputError for
    another name."""
    if name not in ALL:
        raise InvalidInputError(f"ops: expected one of {', '.join(ALL)}, got {name}")
    return ALL[name]


EARLY = ("linear", "integer_linear", "round_rows", "rope_kv_write", "branch_attention")


def early(ops: Ops, asked: bool = True) -> Ops:
    """Return `ops`. If `asked` and the ops are Triton's, the ops in EARLY are launched before the
    previous kernel ends (triton_kernels/early.py)."""
    if not asked or ops.name != TRITON.name:
        return ops
    return replace(ops, **{name: partial(getattr(ops, name), early=True) for name in EARLY})


def matmul(x: torch.Tensor, weight: torch.Tensor, *, out: torch.Tensor) -> None:
    """Write x weight^T to `out`. x [rows, k], weight [n, k] and out [rows, n] have one dtype."""
    torch.mm(x, weight.t(), out=out)


def matmul_bias(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, out: torch.Tensor
) -> None:
    """Like matmul, but bias [n] is added to each row."""
    torch.addmm(bias, x, weight.t(), out=out)


def matmul_float32(x: torch.Tensor, weight: torch.Tensor, *, out: torch.Tensor) -> None:
    """Write x weight^T to `out`, float32 [rows, n]. x and weight have half precision; sums are
    float32. CUDA only."""
    torch.mm(x, weight.t(), out_dtype=torch.float32, out=out)


def copy(x: torch.Tensor, *, out: torch.Tensor) -> None:
    """Copy x to `out`, converted to the dtype of `out`. Both tensors may have any strides."""
    out.copy_(x)


def add(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> None:
    """Write a + b to `out`."""
    torch.add(a, b, out=out)


def subtract(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> None:
    """Write a - b to `out`."""
    torch.sub(a, b, out=out)
