"""Attention in plain torch: the twin of attention.py, and the check of the arguments of both."""

from __future__ import annotations

import torch

from .packed import GROUP, IntegerRows
from .plan import AttentionPlan, Workspace
from .round_rows import round_torch


def branch_attention_torch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    plan: AttentionPlan,
    work: Workspace,
    out: torch.Tensor | IntegerRows,
) -> torch.Tensor | IntegerRows:
    """Plain-torch twin of `branch_attention`: same arguments, effects and errors."""
    check(q, k, v, plan, out)
    found = torch.zeros((plan.rows, plan.heads, plan.head_dim), device=q.device)
    members, firsts = work.members.t().tolist(), work.firsts[0].tolist()
    counts = work.meta[0, : plan.rows].tolist()
    for i, count in enumerate(counts):
        if count < 0:  # padding
            continue
        head, _, _, _, _, storage, *_ = next(m for m in members if m[6] <= i < m[7])
        first = firsts[i]
        trunk = storage + torch.arange(min(first, head), head, device=q.device) % plan.capacity
        flight = work.slots[i, max(0, first - head) : count].long()
        slots = torch.cat([trunk, flight])
        if slots.numel() == 0:
            continue
        keys = k[:, slots].float().repeat_interleave(plan.group, 0)
        values = v[:, slots].float().repeat_interleave(plan.group, 0)
        scores = torch.einsum("hd,hnd->hn", q[i].float(), keys) * plan.score_scale
        weights = torch.exp2(scores - scores.amax(-1, keepdim=True))
        dist = weights / weights.sum(-1, keepdim=True)
        found[i] = torch.einsum("hn,hnd->hd", dist, values)
    return round_torch(found.flatten(1), out) if isinstance(out, IntegerRows) else out.copy_(found)


def check(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    plan: AttentionPlan,
    out: torch.Tensor | IntegerRows,
) -> None:
    """Raise ValueError if a tensor does not have the shape, dtype and strides that
    `branch_attention` expects."""
    queries = (plan.rows, plan.heads, plan.head_dim)
    slots = k.shape[1] if k.dim() == 3 else 0
    storage = (plan.kv_heads, slots, plan.head_dim)
    named = {"q": (q, queries), "k": (k, storage), "v": (v, storage)}
    if isinstance(out, IntegerRows):
        _check_rounded(out, plan, q.device)
    else:
        named["out"] = (out, queries)
    for name, (tensor, shape) in named.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}.shape: expected {shape} but got {tuple(tensor.shape)}")
        if tensor.dtype != plan.dtype:
            raise ValueError(f"{name}.dtype: expected {plan.dtype} but got {tensor.dtype}")
        if tensor.device != q.device:
            raise ValueError(f"{name}.device: expected {q.device} as q but got {tensor.device}")
        if tensor.stride(-1) != 1:
            raise ValueError(
                f"{name}: expected a contiguous head but got stride {tensor.stride(-1)}"
            )
    least = plan.capacity + (plan.seats - 1) * plan.seat_slots
    if slots < least:
        raise ValueError(f"k: expected at least {least} slots but got {slots}")


def _check_rounded(out: IntegerRows, plan: AttentionPlan, device: torch.device) -> None:
    columns = plan.heads * plan.head_dim
    if plan.head_dim % GROUP:
        raise ValueError(
            f"out: expected heads of a multiple of {GROUP} columns but got {plan.head_dim}"
        )
    if out.q.shape[1] < columns or out.q.device != device:
        raise ValueError(
            f"out: expected room for {columns} columns on {device} but got {out.q.shape[1]} on "
            f"{out.q.device}"
        )
