"""Chains and tails, and how the draft makes them, as in csrc/round/{plan,grow}.cc.

Paths are drafted late: only when their branch is adopted after a hit, and only as far as they may
be kept. For branches that are not adopted, only the length of the path matters. This length is the
number of draft steps, unless the draft can stop early.
"""

from __future__ import annotations

import heapq
import math
from collections import namedtuple
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .dist import Dist, Lane, Prefix, calibrated, in_order
from .toy import exp32, f32

SLOTS = 64  # maximum nodes of a chain or a tail, the first node included
GO_ON, BURST, LOOKUP = 0, 1, 2  # values of on_miss
NOUGHT = f32(0)

# The fields of a method's policy, named as in the engine. gamma 0 is plain decoding.
_KNOBS = """gamma branches adaptive epsilon serial likely width nodes on_miss burst burst_width
    lambda_ theta rejection lookup"""
_DEFAULTS = (0, 0, False, 0.0, False, False, 1, 63, GO_ON, 0, 1, 0.0, 0.0, False, False)
Policy = namedtuple("Policy", _KNOBS, defaults=_DEFAULTS)
# The maximum number of rows of a draft step, and of slots of a tail.
Room = namedtuple("Room", "rows slots", defaults=(512, SLOTS))


def makes_paths(policy: Policy) -> bool:
    """True if all chains of the policy are paths."""
    return policy.width == 1 and (policy.on_miss != BURST or policy.burst_width == 1)


def room_of(gamma: int, branches: int, width: int) -> Room:
    """Return the Room that an engine needs for methods of at most `gamma` draft steps, `branches`
    branches and width `width`."""
    slots = 1 + width * (gamma - 1) * (2 if width > 1 else 1)
    return Room(min(max(branches * width, 64), 512), min(max(slots, 1), SLOTS))


class Match(NamedTuple):
    """An earlier match of the text's end: the position after the match, and the number of equal
    tokens."""

    after: int
    length: int


@dataclass(slots=True)
class Node:
    """A node of a chain or of a tail. Node 0 of a chain is the root. Node 0 of a tail is the
    outcome's token.

    score: the draft's log probability that the node is accepted. drafted: True if the draft has
    processed the node. lp: calibrated log-probs of the candidates for the node's child. They are
    set when the draft processes the node, and only if outcomes are ranked. known: True if the node
    was looked up. match: the match for a look-up after the node. next: the token that this look-up
    gives.
    """

    prefix: Prefix
    parent: int = -1
    level: int = 0
    score: np.float32 = NOUGHT
    drafted: bool = False
    lp: np.ndarray | None = None
    known: bool = False
    next: int | None = None
    match: Match | None = None

    @property
    def token(self) -> int:
        """The token of the node, which is the last token of its prefix."""
        return self.prefix.tokens[-1]


Tree = list[Node]  # parents come first


class Branch(NamedTuple):
    """A branch: the continuation that is prepared for the outcome (node, tail[0].token)."""

    node: int
    tail: Tree


class Draft:
    """The state of the draft lane for one sequence, and the operations of the draft on it."""

    def __init__(self, lane: Lane, policy: Policy, room: Room) -> None:
        self.lane, self.policy, self.room = lane, policy, room
        self.ranks = policy.likely or policy.width > 1 or policy.burst_width > 1
        self.ranks = self.ranks or policy.lookup
        self.sharpness = f32(2.5 if lane.greedy else 1)

    def feed(self, nodes: Sequence[Node]) -> None:
        """Let the draft process `nodes`."""
        for node in nodes:
            node.drafted = True
        if self.ranks and nodes:
            dists = self.lane.dists([node.prefix for node in nodes])
            lps = calibrated(np.stack([dist.lp for dist in dists]), self.sharpness)
            for node, lp in zip(nodes, lps, strict=True):
                node.lp = lp

    def goes_on(self, dist: Dist) -> bool:
        """True if a path continues after a node whose next token has the distribution `dist`. The
        test is AdaEDL's bound."""
        p = self.policy
        if p.lambda_ and dist.tokens:
            return not f32(1) - np.sqrt(f32(p.lambda_) * dist.entropy) < f32(p.theta)
        return bool(dist.tokens)

    def path_sizes(self, tails: Sequence[Tree], steps: int) -> int:
        """Return the total number of nodes that the paths `tails` have after `steps` draft
        steps."""
        if not self.lane.can_fail and not self.policy.lambda_:
            return steps * len(tails)
        ends, total = [tail[0].prefix for tail in tails], 0
        for _ in range(steps):
            dists = zip(ends, self.lane.dists(ends), strict=True)
            ends = [end + dist.tokens[:1] for end, dist in dists if self.goes_on(dist)]
            total += len(ends)
        return total

    def grow_path(self, tail: Tree, steps: int, deepest: int) -> None:
        """Grow a path down to level `deepest`, or to the first node after which the draft is
        uncertain."""
        while len(tail) <= steps:
            end = tail[-1]
            self.feed([end])
            dist = self.lane.dist(end.prefix)
            if end.level == deepest or not self.goes_on(dist):
                return
            if not dist.q > f32(self.policy.epsilon):
                return
            attach(tail, len(tail) - 1, dist.tokens[0], end.lp[0] if self.ranks else NOUGHT)

    def grow_trees(self, tails: Sequence[Tree], steps: int, shape: Shape) -> None:
        """Grow the trees. Each step adds the most likely nodes among the candidates of all
        trees."""
        most = shape.most
        if self.lane.draws:  # with this limit no tree ever gets full
            most = min(most, (SLOTS - 1) // steps, (shape.slots - 1) // max(1, steps - 1))
        tries: list[list[tuple[float, int, int]]] = [[] for _ in tails]  # (-score, node, rank)

        def put(b: int, j: int, rank: int) -> None:
            node = tails[b][j]
            if rank < len(self.lane.dist(node.prefix).tokens):
                heapq.heappush(tries[b], (-float(node.score + node.lp[rank]), j, rank))

        fresh = [(b, 0) for b in range(len(tails))]  # nodes that the next step processes
        for step in range(1, steps + 1):
            self.feed([tails[b][j] for b, j in fresh])
            for b, j in fresh:
                put(b, j, 0)
            fresh = []
            best = [(t[0][0], b, 0) for b, t in enumerate(tries) if can_grow(tails[b], t)]
            heapq.heapify(best)
            for _ in range(shape.budget):
                if not best or most == 0:
                    break
                _, b, grown = heapq.heappop(best)
                _, j, rank = heapq.heappop(tries[b])
                node = tails[b][j]
                attach(tails[b], j, self.lane.dist(node.prefix).tokens[rank], node.lp[rank])
                put(b, j, rank + 1)
                if step < steps and len(tails[b]) <= shape.slots:
                    fresh.append((b, len(tails[b]) - 1))
                if grown + 1 < most and can_grow(tails[b], tries[b]):
                    heapq.heappush(best, (tries[b][0][0], b, grown + 1))

    # --- the outcomes for which branches are prepared ---

    def branches(self, chain: Tree) -> list[Branch]:
        """Return the branches for outcomes of a chain."""
        p = self.policy
        if p.likely:
            best = sorted(self.outcomes(chain))[: p.branches]
            return [branch(chain, i, token, f32(-score)) for score, i, _, token in best]
        dist = self.lane.dist(chain[-1].prefix)
        k = p.branches
        if p.adaptive and dist.tokens:
            k = max(1, math.floor(f32(k) * (f32(1) - dist.q)))
        return [branch(chain, len(chain) - 1, token, NOUGHT) for token in dist.tokens[:k]]

    def outcomes(self, chain: Tree) -> list[tuple[float, int, int, int]]:
        """Return (-score, node, rank, token) of every possible outcome. The token of an outcome is
        not held by any child of the node.

        score: log of P(the node is accepted) x P(the token follows).
        """
        reach = [NOUGHT] * len(chain)
        below: list[dict[int, int]] = [{} for _ in chain]
        for j, child in enumerate(chain[1:], 1):
            below[child.parent][child.token] = j
        found = []
        for i, (node, children) in enumerate(zip(chain, below, strict=True)):
            tokens = self.lane.dist(node.prefix).tokens
            for j in children.values():
                reach[j] = reach[i] + self.confidence(node, chain[j], tokens)
            scores = (-(reach[i] + node.lp)).tolist()
            ranks = range(len(tokens))
            rest = zip(scores, ranks, tokens)  # noqa: B905
            found += [(s, i, r, t) for s, r, t in rest if t not in children]
        return found

    def confidence(self, above: Node, node: Node, tokens: list[int]) -> np.float32:
        """Return the log probability that a node is accepted, given that its parent `above` is."""
        own = node.score - above.score
        # The draft's sampled candidates must not change a looked-up node's score.
        blind = self.lane.draws and node.known
        if self.policy.lookup and (blind or not tokens):
            return own
        if not tokens:
            return NOUGHT
        if blind:
            return above.lp[0]
        # A looked-up token may not be among the candidates. Then the log-prob of the least likely
        # candidate is used.
        rank = tokens.index(node.token) if node.token in tokens else len(tokens) - 1
        return max(own, above.lp[rank]) if self.policy.lookup else above.lp[rank]

    def sharpen(self, chain: Tree, path: list[int], new: list[int]) -> None:
        """At each node of the accepted path, adjust `sharpness` so that the target's token gets a
        higher confidence."""
        for node, y in zip((chain[i] for i in path), new, strict=False):
            tokens = self.lane.dist(node.prefix).tokens if node.drafted else []
            if len(tokens) < 2:
                continue
            rank = tokens.index(y) if y in tokens else len(tokens) - 1
            self.sharpness = sharpened(self.sharpness, node.lp[: len(tokens)], rank)


def sharpened(sharpness: np.float32, lp: np.ndarray, rank: int) -> np.float32:
    """Return the new sharpness after an outcome. Sharpness is the exponent that calibrates the
    draft's confidences.

    lp: calibrated log-probs of the candidates. rank: the index of the right token among the
    candidates; the last index if it is none of them.
    """
    mean = in_order((exp32(lp) * lp)[None])[0]
    step = f32(0.05) * (lp[rank] - mean) / sharpness
    return clamp(sharpness + clamp(step, f32(-0.1), f32(0.1)), f32(0.25), f32(4))


def clamp(x: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """Return x, limited to [low, high]."""
    return min(max(x, low), high)


class Shape(NamedTuple):
    """Limits of a draft step. budget: maximum number of nodes added to all trees. most: maximum
    number of nodes added to one tree. slots: maximum slots of one tree."""

    budget: int
    most: int
    slots: int


def can_grow(tail: Tree, tries: list) -> bool:
    """Return a branch for the outcome (node, token), with only the first node of its tail."""
    return bool(tries) and len(tail) < SLOTS


def branch(chain: Tree, node: int, token: int, score: np.float32) -> Branch:
    """Return the branch for this outcome, with only the first node of its tail."""
    return Branch(node, [Node(chain[node].prefix.then(token), score=score)])


def attach(tree: Tree, parent: int, token: int, lp: np.float32) -> None:
    """Append one node to a tree, under `parent`."""
    above = tree[parent]
    tree.append(Node(above.prefix.then(token), parent, above.level + 1, above.score + lp))
