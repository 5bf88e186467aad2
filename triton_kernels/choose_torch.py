"""Computes one row of `choose_torch`, the twin of `choose`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .choose_plan import PICKS, ChoosePlan
from .dist import SHAPES, SHARPNESS, thinned_torch, write_dist_torch
from .draw import DRAFT, Scores, draws_torch, place_torch, prefix_torch
from .noise import exp32_torch, gumbel_torch, noise_words_torch
from .shaping import path_of
from .state import CANDIDATES, Row, Sampling, Sequence, size, struct


@dataclass(frozen=True)
class Asked:
    """The request of one row.

    head: position of the root of the row's seat. words: words of all sequences, from the row's
    sequence on. tokens: the token of each column.
    """

    plan: ChoosePlan
    row: Row
    head: int
    words: torch.Tensor
    tokens: torch.Tensor
    scores: Scores | None

    @property
    def sampling(self) -> Sampling:
        """The sequence's sampling parameters."""
        return struct(Sampling, self.words[: size(Sampling)])


def choose_row(
    asked: Asked, raw: torch.Tensor, x: torch.Tensor, cuts: torch.Tensor, out: torch.Tensor
) -> None:
    """Write the Choice or the Dist of one row.

    raw, x [vocab]: logits before and after shaping. cuts: the row's result of `find_cut`; empty if
    plan.cuts is False.
    """
    plan, dist = asked.plan, asked.sampling
    is_bad = not bool((raw < float("inf")).all() and (x < float("inf")).all())
    cut = cuts[0] if plan.cuts and dist.temperature > 0 else None
    kept, noise, draws = kept_torch(x, dist, cut), (asked.row.position + 1, 0), False
    if asked.scores is not None:
        c = struct(Sequence, asked.words[: size(Sequence)])
        draws = draws_torch(c)
        if draws and plan.dists:
            is_bad |= asked.row.node < 0
            noise = (prefix_torch(c, path_of(c, asked.head, asked.row)), DRAFT)
        if draws and not is_bad:
            at = place_torch(c, asked.row, asked.scores.tail_slots, plan.dists)
            asked.scores.rows[asked.row.seat, at] = kept
    score = scores_torch(kept, asked.tokens, dist, noise)
    best = [] if is_bad else best_torch(score)
    if plan.dists:
        _write_dist(asked, (raw, x, kept, score), best, draws, out)
    else:
        error = 1 if is_bad else 2 if not best else 0
        out[:] = torch.tensor([best[0] if best else -1, error], dtype=torch.int32)


def _write_dist(
    asked: Asked, rows: tuple[torch.Tensor, ...], best: list[int], draws: bool, out: torch.Tensor
) -> None:
    raw, x, kept, score = rows
    plan, dist, words = asked.plan, asked.sampling, asked.words
    sharpness = float(words[SHARPNESS.value].view(torch.float32))
    if draws:
        likely = best_torch(kept)[: len(best)]
        write_dist_torch(out, raw, best, kept.double(), sharpness, asked.tokens, likely)
        return
    if plan.filtered and not plan.cuts and dist.temperature > 0 and best:
        best = thinned_torch(x, dist, score, best, plan.chunk, PICKS[True])
    is_plain = dist.temperature == 0 and words[SHAPES.value] == 0
    write_dist_torch(out, raw, best, None if is_plain else score, sharpness, asked.tokens)


def best_torch(score: torch.Tensor) -> list[int]:
    """Return the columns of the best scores above -inf, at most CANDIDATES."""
    found = torch.sort(score, descending=True, stable=True)
    values, order = found.values[:CANDIDATES].tolist(), found.indices[:CANDIDATES].tolist()
    return [t for s, t in zip(values, order, strict=True) if s > -torch.inf]


def kept_torch(x: torch.Tensor, dist: Sampling, cut: torch.Tensor | None) -> torch.Tensor:
    """Return logits / temperature, [vocab] float32; -inf for tokens that filters drop."""
    if dist.temperature == 0:
        return x
    scaled = x / dist.temperature
    if cut is None:
        return scaled
    most, last = cut[:2].view(torch.float32)
    at = torch.arange(len(x), device=x.device)
    left = exp32_torch((x - most) / dist.temperature) >= dist.min_p
    return torch.where(left & ((x > last) | ((x == last) & (at <= cut[2]))), scaled, -torch.inf)


def scores_torch(
    kept: torch.Tensor, ids: torch.Tensor, dist: Sampling, noise: tuple[int, int]
) -> torch.Tensor:
    """Return the float64 scores of all tokens, [vocab]. noise: `where` and `use` of Noise
    (philox.h)."""
    if dist.temperature == 0:
        return kept.double()
    where, use = noise
    words = noise_words_torch(dist.seed, dist.completion, where, ids, use)
    return kept.double() + gumbel_torch(words)
