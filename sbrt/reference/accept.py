"""Accepts or rejects drafted tokens by the rule `rejection`, as csrc/round/accept_op.h does."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from .dist import SUM_LANES, Lane, Prefix, groups_of, lanes_of, normalised, sum_of
from .toy import COIN, RESIDUAL, uniform
from .tree import Branch, Tree


class Place:
    """The target's probabilities p [vocab] and the draft's probabilities q [vocab] at one node.
    Both are updated after each rejected candidate."""

    def __init__(self, p: np.ndarray, q: np.ndarray) -> None:
        self.p, self.q = p.copy(), q.copy()

    def accepts(self, token: int, u: float) -> bool:
        """True if a candidate that the draft sampled is accepted; u is uniform in [0, 1)."""
        return bool(u * self.q[token] < self.p[token])

    def reject(self, token: int) -> bool:
        """Reject a candidate that the draft sampled: update p and q. Returns False, and keeps p, if
        no token has p > q."""
        surplus = np.where(self.p > self.q, self.p - self.q, 0.0)
        left = sum_of(surplus)
        if left > 0:
            self.p = surplus / left
        self.q[token] = 0.0
        self.q = normalised(self.q)
        return bool(left > 0)

    def reject_known(self, token: int) -> bool:
        """Reject a looked-up candidate, which the draft did not sample: update p and q.

        Returns False, and keeps p, if p is 0 for all other tokens.
        """
        self.q[token] = 0.0
        self.q = normalised(self.q)
        rest = self.p.copy()
        rest[token] = 0.0
        if not sum_of(rest) > 0:
            return False
        self.p = normalised(rest)
        return True

    def draw(self, u: float) -> int:
        """Return a token sampled from p; u is uniform in [0, 1)."""
        bar, lanes = u * sum_of(self.p), lanes_of(self.p)
        groups = groups_of(lanes)
        group, before = first_past(0.0, bar, groups)
        size = SUM_LANES // len(groups)
        lane, before = first_past(before, bar, lanes[group * size :][:size])
        at, _ = first_past(before, bar, self.p[group * size + lane :: SUM_LANES])
        return group * size + lane + at * SUM_LANES


def first_past(before: float, bar: float, weights: np.ndarray) -> tuple[int, float]:
    """Return the index of the weight at which the running sum first exceeds `bar`, and the sum
    before that weight. The sum begins at `before`.

    If the sum never exceeds `bar`, the index is that of the last weight above 0.
    """
    found = (0, before)
    for i in np.flatnonzero(weights > 0).tolist():
        found = (i, before)
        before += float(weights[i])
        if before > bar:
            break
    return found


def verified_by_chance(
    target: Lane, at: Prefix, said: tuple[Lane, Tree, Sequence[Branch]]
) -> tuple[list[int], list[int], bool]:
    """Verify a chain by the rule `rejection`. Returns (path, tokens, empty).

    path: the accepted nodes, beginning with the root. tokens: the committed tokens, one for each
    node of the path. The last token is missing if the logits of its row are invalid. empty: True if
    a residual distribution was empty. said: the draft lane, the chain and the branches.
    """
    path, new = [0], list[int]()
    while target.choice(at) is not None:
        token, node, is_empty = decided(target, at, path[-1], said)
        new.append(token)
        if node == 0:
            return path, new, is_empty
        path.append(node)
        at = at.then(token)
    return path, new, False


def decided(
    target: Lane, at: Prefix, node: int, said: tuple[Lane, Tree, Sequence[Branch]]
) -> tuple[int, int, bool]:
    """Return three values: the token after `node`; the child of `node` that holds this token, or 0
    if none does; True if a residual distribution was empty."""
    draft, chain, branches = said
    below = [(child.token, i) for i, child in enumerate(chain) if child.parent == node]
    drawn = [(token, i) for token, i in below if not chain[i].known]
    drawn = drawn + [(b.tail[0].token, 0) for b in branches if b.node == node]
    if not drawn:
        own = target.choice(at)
        assert own is not None
        return own, dict(below).get(own, 0), False
    s, position = target.sampling, len(at)
    place = Place(target.whole(at), draft.whole(chain[node].prefix))
    coins = (uniform(s, COIN, position, i) for i in itertools.count())
    is_empty = False
    for known, child in ((token, i) for token, i in below if chain[i].known):
        if next(coins) < place.p[known]:
            return known, child, False
        is_empty = not place.reject_known(known)
    for token, child in drawn:
        if is_empty:
            break
        if place.accepts(token, next(coins)):
            return token, child, False
        is_empty = not place.reject(token)
    return place.draw(uniform(s, RESIDUAL, position, 0)), 0, is_empty
