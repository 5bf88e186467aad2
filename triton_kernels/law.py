"""What is kept of a draft's law at a row: its first choices, how sure it was (csrc/ops/choose.cc).

Confidence is the softmax of the raw logits where the choice is greedy and nothing shapes it, else
the softmax over the candidates of their scores; either way sharpened by what the outcomes taught.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .control import CANDIDATES, Control, Law, offset
from .noise import exp32, exp32_torch

SHARPNESS = tl.constexpr(offset(Control, "sharpness"))
_LAW_TOKEN = tl.constexpr(offset(Law, "token"))
_LAW_LP = tl.constexpr(offset(Law, "lp"))
_CANDIDATES = tl.constexpr(CANDIDATES)


@triton.jit
def write_law(P, Logits, Block, token, score, most, total, moment, IS_PLAIN: tl.constexpr):
    """The words of a Law at P, from a row's first choices and the softmax of its raw logits."""
    o = tl.arange(0, _CANDIDATES)
    n = tl.sum((token >= 0).to(tl.int32), axis=0)
    tl.store(P, n)
    if n > 0:
        first = tl.sum(tl.where(o == 0, token, 0), axis=0)
        log_total = tl.log(total.to(tl.float64)).to(tl.float32)
        q = exp32(tl.load(Logits + first).to(tl.float32) - most) / total
        entropy = log_total - moment / total
        temperature = tl.load(Block).to(tl.float32, bitcast=True)
        raw = tl.load(Logits + token, mask=token >= 0, other=0.0).to(tl.float32)
        best = tl.max(score, axis=0)
        lp = tl.where(token >= 0, score - best, 0.0).to(tl.float32)
        lp -= tl.log(tl.sum(tl.where(token >= 0, exp32(lp), 0.0), axis=0))
        if IS_PLAIN and temperature == 0:
            lp = raw - most - log_total
        sharpness = tl.load(Block + SHARPNESS).to(tl.float32, bitcast=True)
        if sharpness != 1.0:
            given = tl.sum(tl.where(token >= 0, exp32(lp), 0.0), axis=0)
            lp = lp * sharpness
            sharp = tl.sum(tl.where(token >= 0, exp32(lp), 0.0), axis=0)
            lp = tl.minimum(lp - tl.log(sharp + tl.maximum(0.0, 1.0 - given)), 0.0)
        tl.store(P + 1, q.to(tl.int32, bitcast=True))
        tl.store(P + 2, entropy.to(tl.int32, bitcast=True))
        tl.store(P + _LAW_TOKEN + o, token, mask=token >= 0)
        tl.store(P + _LAW_LP + o, lp.to(tl.int32, bitcast=True), mask=token >= 0)


def write_law_torch(
    out: torch.Tensor,
    raw: torch.Tensor,
    best: list[int],
    score: torch.Tensor | None,
    sharpness: float,
) -> None:
    """The twin of `write_law`; score: None where confidence is the softmax of the raw logits."""
    out[0] = len(best)
    if not best:
        return
    behind = raw - raw.max()
    e = exp32_torch(behind)
    total = e.sum()
    moment = torch.where(e > 0, e * behind, 0.0).sum()
    if score is None:
        lp = behind[best] - total.log()
    else:
        lp = torch.log_softmax((score[best] - score[best[0]]).float(), -1)
    if sharpness != 1:
        kept = (1 - lp.exp().sum()).clamp(min=0)
        lp = lp * sharpness
        lp = (lp - (lp.exp().sum() + kept).log()).clamp(max=0)
    floats = torch.stack([e[best[0]] / total, total.log() - moment / total])
    out[1:3] = floats.view(torch.int32)
    out[_LAW_TOKEN.value : _LAW_TOKEN.value + len(best)] = torch.tensor(best, dtype=torch.int32)
    out[_LAW_LP.value : _LAW_LP.value + len(best)] = lp.view(torch.int32)
