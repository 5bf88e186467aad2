"""Looks up the next tokens in the text so far (n-gram matching), as in
csrc/round/{lookup,join}_op.h."""

from __future__ import annotations

import math

import numpy as np

from .dist import Lane
from .toy import TARGET, exp32, f32, noise_word
from .tree import NOUGHT, Draft, Match, Node, Tree, attach, clamp, makes_paths

SHORTEST, LONGEST = 2, 16  # minimum and maximum number of tokens of a match
MOST, SEARCHES = 16, 6  # maximum number of looked-up nodes in a chain, and of searches in a round
LEAST, NO_GAIN = f32(-1.9), f32(-1e30)
BEFORE, WEIGHT = [f32(p) for p in (0.59, 0.72, 0.77, 0.80)], f32(8)
FADING, ONE = f32(0.98), f32(1)
GOOD, SURE = 2, f32(0.65)  # minimum length and probability of a match that replaces a burst


def going_on(match: Match) -> Match:
    """Return the match for the child of a node, if the child holds the token that `match` predicts.
    The new match is one token longer."""
    return Match(match.after + 1, min(match.length + 1, LONGEST))


def best_match(tokens: tuple[int, ...], newest: int, shortest: int) -> Match | None:
    """Return the longest earlier match of the end of `tokens`, which ends at position `newest` or
    before. Among matches of equal length the latest is taken."""
    best, size = None, shortest - 1
    for last in range(newest, -1, -1):
        n = 0
        most = min(LONGEST, last + 1, len(tokens))
        while n < most and tokens[last - n] == tokens[-1 - n]:
            n += 1
        if n > size:
            best, size = Match(last + 1, n), n
        if size == LONGEST:
            break
    return best


def looked_up(trunk: tuple[int, ...], want: int) -> list[int]:
    """Return the `want` tokens that follow the longest match of the trunk's end. Among matches of
    equal length the latest is taken."""
    match = best_match(trunk, len(trunk) - 2, SHORTEST)
    if match is None:
        return []
    again = trunk[match.after :]
    return [again[i % len(again)] for i in range(want)]


class Hindsight:
    """Estimates how often look-ups are right. Look-ups are counted by the length of the match: 1,
    2, 3, or more tokens."""

    def __init__(self, greedy: bool) -> None:
        self.weight = WEIGHT * (ONE if greedy else f32(0.5))  # sampled text repeats less
        self.right, self.seen = [NOUGHT] * 4, [NOUGHT] * 4

    def chance(self, match: Match) -> np.float32:
        """Return the probability that a token looked up with this match is right."""
        k = min(match.length, 4) - 1
        right = self.right[k] + self.weight * BEFORE[k]
        return clamp(right / (self.seen[k] + WEIGHT), f32(0.02), f32(0.98))

    def recall(self, chain: Tree, path: list[int], new: list[int]) -> None:
        """After a round, count the look-ups at the nodes of the accepted path, and how many of them
        were right."""
        for node, y in zip((chain[i] for i in path), new, strict=False):
            if node.match:
                k = min(node.match.length, 4) - 1
                self.right[k] = self.right[k] * FADING + f32(y == node.next)
                self.seen[k] = self.seen[k] * FADING + ONE

    def at(self, lane: Lane, node: Node) -> np.float32:
        """Return the probability that the token looked up after a node is right.

        If the target samples with shared noise, the noise of this token is known. The probability
        is then conditional on this noise.
        """
        assert node.match is not None
        assert node.next is not None
        p = self.chance(node.match)
        if lane.greedy or lane.draws:
            return p
        word = noise_word(lane.sampling, TARGET, len(node.prefix), node.next)
        wait = f32(-math.log((word + 0.5) * 2.0**-32))
        return clamp(exp_of(-(wait * (ONE - p) / p)), f32(1e-6), f32(0.98))

    def fills(self, lane: Lane, chain: Tree) -> bool:
        """True if the chain needs no serial burst, because after a miss a look-up with a good match
        filled it."""
        match = chain[0].match
        if len(chain) == 1 or not match or match.length < GOOD:
            return False
        return bool(self.at(lane, chain[0]) >= SURE)


def log_of(p: np.float32) -> np.float32:
    """Return the logarithm of p, rounded to f32."""
    return f32(math.log(max(p, f32(1e-30))))


def exp_of(x: np.float32) -> np.float32:
    """Return e^x for x <= 0."""
    return exp32(np.array([x]))[0]


def agreed(p: np.float32, drafted: np.float32) -> np.float32:
    """Return the log probability of a token that both the look-up and the draft propose."""
    return log_of(ONE - (ONE - p) * (ONE - exp_of(drafted)))


class Join:
    """Adds looked-up nodes to a chain. length: number of tokens of the trunk. room: maximum depth
    of a node."""

    def __init__(
        self, draft: Draft, hindsight: Hindsight, chain: Tree, length: int, room: int
    ) -> None:
        self.lane, self.policy, self.hindsight = draft.lane, draft.policy, hindsight
        self.chain, self.length, self.room = chain, length, room
        given = chain[0].score  # the root is certain
        for node in chain:
            node.score = node.score - given
        self.before = [node.score for node in chain]
        self.left = len(chain) - 1  # number of drafted nodes in the chain
        self.searches = self.known = 0

    def run(self) -> int:
        """Add the looked-up nodes. Returns the number of drafted nodes that remain in the chain."""
        if makes_paths(self.policy):
            at: int | None = 0
            while at is not None:
                if at <= self.left:
                    self.find(at)
                at = self.next_on_path(at)
        elif self.lane.draws:
            self.find(0)
            self.line()
        else:
            self.find(0)
            for i in range(1, self.left + 1):
                self.rescore(i)
                self.find(i)
            self.grow()
        return self.left

    def find(self, i: int) -> None:
        """Find and store the match of a node."""
        node = self.chain[i]
        above = self.chain[node.parent] if i else None
        match = None
        if above and above.match and above.next == node.token:
            match = going_on(above.match)
        elif self.searches < SEARCHES and node.score >= LEAST:
            self.searches += 1
            newest = self.length - 1 if i else self.length - 2
            match = best_match(node.prefix.tokens, newest, 1)
        self.say(node, match)

    def say(self, node: Node, match: Match | None) -> None:
        """Store `match` at a node, and the token that follows the match. If `match` is None, the
        node has no such token."""
        node.match = match
        node.next = node.prefix.tokens[match.after] if match else None

    def attach(self, parent: int, lp: np.float32) -> int:
        """Append a looked-up node under `parent`; returns its index in the chain."""
        above = self.chain[parent]
        assert above.match is not None
        assert above.next is not None
        attach(self.chain, parent, above.next, lp)
        self.chain[-1].known = True
        self.say(self.chain[-1], going_on(above.match))
        return len(self.chain) - 1

    def child(self, i: int) -> int:
        """Return the child of node i that holds the token looked up after node i; 0 if there is
        none."""
        want = (i, self.chain[i].next)
        found = (j for j, c in enumerate(self.chain) if j and (c.parent, c.token) == want)
        return next(found, 0)

    def rescore(self, i: int) -> None:
        """Compute the score of a drafted node. The score of its parent must be final."""
        node = self.chain[i]
        above = self.chain[node.parent]
        own = self.before[i] - self.before[node.parent]
        if above.match and above.next == node.token:
            own = agreed(self.hindsight.at(self.lane, above), own)
        node.score = above.score + own

    def promise(self, node: Node) -> np.float32:
        """Return the log probability of the token looked up after a node. The draft's candidates at
        this node are taken into account."""
        assert node.match is not None
        assert node.next is not None
        p = self.hindsight.at(self.lane, node)
        tokens = self.lane.dist(node.prefix).tokens if node.drafted else []
        if not tokens:
            return log_of(p)
        if tokens[0] == node.next:
            return agreed(p, node.lp[0])
        q = exp_of(node.lp[0])
        apart = p * (ONE - q) / (ONE - p * q)
        there = exp_of(node.lp[tokens.index(node.next)]) if node.next in tokens else NOUGHT
        return log_of(max(apart, there))

    def gain(self, i: int) -> np.float32:
        """Return the score that the looked-up child of node i would have; NO_GAIN if node i can
        have none."""
        node = self.chain[i]
        if not node.match or node.level >= self.room or self.child(i):
            return NO_GAIN
        return node.score + self.promise(node)

    def grow(self) -> None:
        """Append looked-up nodes, those with the best scores first."""
        gains = [self.gain(i) for i in range(len(self.chain))]
        while self.known < MOST and len(self.chain) < 64:
            best = gains.index(max(gains))
            if gains[best] < LEAST:
                return
            self.attach(best, self.promise(self.chain[best]))
            gains[best] = NO_GAIN
            gains.append(self.gain(len(self.chain) - 1))
            self.known += 1

    def line(self) -> None:
        """Append a path of the tokens that follow the match of the trunk's end."""
        at = 0
        while self.known < MOST:
            node = self.chain[at]
            if not node.match or node.level >= self.room:
                return
            lp = log_of(self.hindsight.at(self.lane, node))
            if node.score + lp < LEAST:
                return
            self.known += 1
            drafted = self.child(at)
            at = self.take(at, drafted, lp) if drafted else self.attach(at, lp)

    def take(self, at: int, drafted: int, lp: np.float32) -> int:
        """Mark a drafted node as looked up, because it holds the looked-up token. Returns its
        index."""
        above, node = self.chain[at], self.chain[drafted]
        assert above.match is not None
        node.known, node.score = True, above.score + lp
        self.say(node, going_on(above.match))
        return drafted

    def next_on_path(self, at: int) -> int | None:
        """Return the next node on the path: the drafted node, or the looked-up node if it is more
        likely."""
        node = self.chain[at]
        drafted = at + 1 if at < self.left else 0
        own = self.before[drafted] - self.before[at] if drafted else NO_GAIN
        if drafted:
            self.chain[drafted].score = node.score + own
        otherwise = drafted or None
        if not node.match:
            return otherwise
        p = self.hindsight.at(self.lane, node)
        lp = log_of(p)
        agrees = drafted and self.chain[drafted].token == node.next
        if agrees and not self.lane.draws:
            self.chain[drafted].score = node.score + agreed(p, own)
            return drafted
        fits = node.score + lp >= LEAST and node.level < self.room
        if not fits or self.known == MOST or at == 63 or own >= lp:
            return otherwise
        self.known += 1
        if agrees:
            return self.take(at, drafted, lp)
        if drafted:
            del self.chain[drafted:]
            self.left = at
        return self.attach(at, lp)
