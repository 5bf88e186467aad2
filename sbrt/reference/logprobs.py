"""Computes the log-probs of a sequence of the toy model, as in csrc/ops/logprobs.cc, in double."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import accumulate

import numpy as np

from .toy import Toy, mix, state_after, toy_logits


def logprobs(
    toy: Toy, trunk: Sequence[int], first: int, top: int, holes: Collection[int] = ()
) -> list[list[tuple[int, int, float]]]:
    """Return a list of (token, rank, log-prob) for each position of the trunk from `first` on.

    At each position the trunk's own token comes first, then the `top` most likely tokens. first: at
    least 1. holes: ids without a token.
    """
    begin = state_after(mix(toy.seed, 0), trunk[:first])
    follow = accumulate(trunk[first:], lambda s, t: mix(s, t + 1), initial=begin)
    states = list(follow)[:-1]
    rows = toy_logits(toy, states, toy.vocab).astype(np.float64)
    rows[:, list(holes)] = -np.inf
    found = []
    for row, token in zip(rows, trunk[first:], strict=True):
        dist = row - row.max() - np.log(np.exp(row - row.max()).sum())
        order = np.argsort(-row, kind="stable")  # among equal logits the lower id comes first
        rank = np.argsort(order) + 1
        best = [i for i in order[:top] if row[i] > -np.inf]
        found.append([(int(i), int(rank[i]), float(dist[i])) for i in (token, *best)])
    return found
