"""Sums of integer products in plain torch, in the order of the kernel."""

from __future__ import annotations

import torch
import triton

from .packed import GROUP, IntegerRows, PackedMatrix


def fma_torch(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """a * b + c of float32, rounded once.

    The float64 sum is rounded to odd, so that the second rounding decides alone.
    """
    product, c = a.double() * b.double(), c.double()  # exact
    total = product + c
    part = total - product
    lost = (product - (total - part)) + (c - part)
    is_even = (total.view(torch.int64) & 1) == 0
    away = torch.where(lost > 0, float("inf"), float("-inf")).to(total)
    odd = torch.nextafter(total, away)
    return torch.where((lost != 0) & is_even & total.isfinite(), odd, total).float()


def product_torch(x: IntegerRows, weight: PackedMatrix, rows: int) -> torch.Tensor:
    """The product of some rows with a quantised matrix, float32 [rows, n], group by group."""
    known, k = weight.format, weight.k
    step = min(known.group, GROUP)
    each = GROUP // step
    q = x.q[:rows, : triton.cdiv(k, GROUP) * GROUP].float().view(rows, -1, step)
    levels = weight.unpacked().unflatten(-1, (each, step))
    total = torch.zeros((rows, weight.n), device=weight.device)
    for g in range(triton.cdiv(k, step)):
        own, of_row, half = g * step // known.group, g // each, g % each
        of_x = x.scales[of_row, :rows, None]
        sums = q[:, g] @ levels[of_row, :, half].t()  # exact: below 2^24
        total = fma_torch(sums, weight.scales[own] * of_x, total)
        if weight.minimums is not None:
            of_q = x.sums[:, of_row, :rows].sum(0) if each == 1 else x.sums[half, of_row, :rows]
            moment = of_x * of_q.float()[:, None]
            total = fma_torch(weight.minimums[own], moment, total)
    return total
