"""Products of integer rows in plain torch, with sums in the order of the kernel."""

from __future__ import annotations

import torch
import triton

from .packed import GROUP, IntegerRows, PackedMatrix


def fma_torch(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Return a * b + c for float32 tensors, rounded once, like a fused multiply-add.

    The float64 sum is rounded to odd. So rounding it again to float32 gives the right result.
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
    """Return the product of the first `rows` rows with a quantised matrix, float32 [rows, n].

    Groups of k are added one after the other.
    """
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
