"""Writes a draft's distribution at a row: its best candidates and their confidence
(csrc/ops/choose.cc).

Without temperature and shaping, the confidence is the softmax of the raw logits. Otherwise it is
the softmax of the candidates' scores. In both cases its exponent `sharpness` is fitted to the
outcomes of verification.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .noise import exp32, exp32_torch
from .state import CANDIDATES, Dist, Sampling, Sequence, offset

SHARPNESS = tl.constexpr(offset(Sequence, "sharpness"))
SHAPES = tl.constexpr(offset(Sequence, "shaping", "active"))
_DIST_TOKEN = tl.constexpr(offset(Dist, "token"))
DIST_LP = tl.constexpr(offset(Dist, "lp"))
_CANDIDATES = tl.constexpr(CANDIDATES)


@triton.jit
def thinned(P, Block, token, p_stat, m_split, best, best_score):
    """Removes the candidates that the filters certainly drop, and closes the gaps.

    Only the picks of the chunks are known. The number and the weight of the picks above a candidate
    are lower bounds for all tokens above the candidate. So every candidate removed here is dropped
    by the filters, up to the rounding of a sum of weights. The target decides exactly.
    """
    temperature = tl.load(Block).to(tl.float32, bitcast=True)
    min_p = tl.load(Block + 1).to(tl.float32, bitcast=True)
    top_p = tl.load(Block + 2).to(tl.float32, bitcast=True)
    top_k = tl.load(Block + 3)
    draws = temperature > 0  # if greedy, nothing is filtered, and chunks wrote no weights
    temperature = tl.where(draws, temperature, 1.0)
    min_p = tl.where(draws, min_p, 0.0)
    most_tokens = tl.where(draws & (top_k > 0), top_k, 2147483647)
    most_weight = tl.where(draws & (top_p < 1), top_p + 1e-4, 2.0)
    top = tl.load(p_stat + 4, mask=m_split, other=float("-inf"), cache_modifier=".cg")
    top = tl.where(draws, top, float("-inf"))
    most = tl.max(top, axis=0)
    most = tl.where(most > float("-inf"), most, 0.0)
    total = tl.load(p_stat + 5, mask=m_split, other=0.0, cache_modifier=".cg")
    total = tl.sum(
        tl.where(draws, total, 0.0)
        * exp32(tl.div_rn(top - most, temperature + tl.zeros_like(top))),
        axis=0,
    )
    is_pick = token >= 0
    x = tl.load(P + token, mask=is_pick, other=float("-inf")).to(tl.float32)
    weight = exp32(tl.div_rn(x - most, temperature + tl.zeros_like(x)))
    best_x = tl.load(P + best, mask=best >= 0, other=float("-inf")).to(tl.float32)
    best_weight = exp32(tl.div_rn(best_x - most, temperature + tl.zeros_like(best_x)))
    equal = (x[None, :] == best_x[:, None]) & (token[None, :] < best[:, None])
    above = is_pick[None, :] & ((x[None, :] > best_x[:, None]) | equal)
    tokens_above = tl.sum(above.to(tl.int32), axis=1)
    weight_above = tl.sum(tl.where(above, weight[None, :], 0.0), axis=1)
    left = (best_weight >= min_p) & (tokens_above < most_tokens)
    left = left & (weight_above <= total * most_weight)
    left = (best >= 0) & (left | (draws == 0))
    o = tl.arange(0, _CANDIDATES)
    place = tl.cumsum(left.to(tl.int32), axis=0) - 1
    goes = left[:, None] & (place[:, None] == o[None, :])
    moved = tl.max(tl.where(goes, best[:, None], -1), axis=0)
    return moved, tl.max(tl.where(goes, best_score[:, None], float("-inf")), axis=0)


@triton.jit
def among(lp, m):
    """Returns the log-softmax of the scores lp over the candidates in the mask m. lp: scores minus
    the best score."""
    return lp - tl.log(tl.sum(tl.where(m, exp32(lp), 0.0), axis=0))


@triton.jit
def calibrated(lp, m, Block):
    """Returns the log of the calibrated confidence p^sharpness of the candidates in the mask m. lp:
    log p. The result is normalised; the weight of all other tokens is not sharpened."""
    sharpness = tl.load(Block + SHARPNESS).to(tl.float32, bitcast=True)
    if sharpness != 1.0:
        given = tl.sum(tl.where(m, exp32(lp), 0.0), axis=0)
        lp = lp * sharpness
        sharp = tl.sum(tl.where(m, exp32(lp), 0.0), axis=0)
        lp = tl.minimum(lp - tl.log(sharp + tl.maximum(0.0, 1.0 - given)), 0.0)
    return lp


@triton.jit
def write_dist(
    P, Logits, Ids, Block, token, score, most, total, moment, draws, HAS_IDS: tl.constexpr
):  # fmt: skip
    """Writes the words of a Dist at P, from the best candidates of a row and the softmax of its raw
    logits.

    token, score: columns and scores of the candidates, best first. With HAS_IDS the Dist gets the
    tokens of these columns.
    draws: True if the row uses rejection sampling. Then q is the largest probability of the row,
    and another launch overwrites the confidence (rate.py).
    """
    o = tl.arange(0, _CANDIDATES)
    n = tl.sum((token >= 0).to(tl.int32), axis=0)
    tl.store(P, n)
    if n > 0:
        first = tl.sum(tl.where(o == 0, token, 0), axis=0)
        log_total = tl.log(total.to(tl.float64)).to(tl.float32)
        of_q = tl.where(draws, most, tl.load(Logits + first).to(tl.float32))
        q = exp32(of_q - most) / total
        entropy = log_total - moment / total
        temperature = tl.load(Block).to(tl.float32, bitcast=True)
        raw = tl.load(Logits + token, mask=token >= 0, other=0.0).to(tl.float32)
        best = tl.max(score, axis=0)
        lp = among(tl.where(token >= 0, score - best, 0.0).to(tl.float32), token >= 0)
        if (temperature == 0) & (tl.load(Block + SHAPES) == 0):
            lp = raw - most - log_total
        lp = calibrated(lp, token >= 0, Block)
        tl.store(P + 1, q.to(tl.int32, bitcast=True))
        tl.store(P + 2, entropy.to(tl.int32, bitcast=True))
        name = token
        if HAS_IDS:
            name = tl.load(Ids + token, mask=token >= 0, other=0)
        tl.store(P + _DIST_TOKEN + o, name, mask=token >= 0)
        tl.store(P + DIST_LP + o, lp.to(tl.int32, bitcast=True), mask=token >= 0)


def write_dist_torch(
    out: torch.Tensor,
    raw: torch.Tensor,
    best: list[int],
    score: torch.Tensor | None,
    sharpness: float,
    ids: torch.Tensor,
    likely: list[int] | None = None,
) -> None:
    """Plain-torch twin of `write_dist`.

    best: columns of the candidates. ids: the token of each column. likely: for rejection sampling,
    the columns of the len(best) largest scores, which give the confidence.
    """
    out[0] = len(best)
    if not best:
        return
    below = raw - raw.max()
    e = exp32_torch(below)
    total = e.sum()
    moment = torch.where(e > 0, e * below, 0.0).sum()
    if score is None:
        lp = below[best] - total.log()
    else:
        ranked = best if likely is None else likely
        lp = torch.log_softmax((score[ranked] - score[ranked[0]]).float(), -1)
    if sharpness != 1:
        kept = (1 - lp.exp().sum()).clamp(min=0)
        lp = lp * sharpness
        lp = (lp - (lp.exp().sum() + kept).log()).clamp(max=0)
    first = e[best[0]] if likely is None else e.max()
    floats = torch.stack([first / total, total.log() - moment / total])
    out[1:3] = floats.view(torch.int32)
    out[_DIST_TOKEN.value : _DIST_TOKEN.value + len(best)] = ids[best].int()
    out[DIST_LP.value : DIST_LP.value + len(best)] = lp.view(torch.int32)


def thinned_torch(
    x: torch.Tensor,
    dist: Sampling,
    score: torch.Tensor,
    best: list[int],
    chunk: int,
    n_picks: int,
) -> list[int]:
    """Plain-torch twin of `thinned`. It finds the picks of each chunk again, from the scores."""
    picks: list[int] = []
    for start in range(0, len(x), chunk):
        found = torch.sort(score[start : start + chunk], descending=True, stable=True)
        pairs = zip(found.values[:n_picks].tolist(), found.indices[:n_picks].tolist(), strict=True)
        picks += [start + t for s, t in pairs if s > -torch.inf]
    weight = exp32_torch((x - x.max()) / dist.temperature)
    total, left = float(weight.sum()), []
    known = [*picks, *best]
    place = {t: (-value, t) for t, value in zip(known, x[known].tolist(), strict=True)}
    for t in best:
        above = [j for j in picks if place[j] < place[t]]
        if 0 < dist.top_k <= len(above) or weight[t] < dist.min_p:
            continue
        if dist.top_p < 1 and float(weight[above].sum()) > total * (dist.top_p + 1e-4):
            continue
        left.append(t)
    return left
