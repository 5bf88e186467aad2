"""Runs the rounds of a sequence, as in csrc/round/{round,select,settle}.cc, and keeps the host's
counters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .accept import verified_by_chance
from .dist import Lane, Prefix, Shaper, Shaping, is_greedy, lane
from .lookup import MOST, Hindsight, Join, looked_up
from .toy import Sampling, Toy, f32
from .tree import BURST, LOOKUP, SLOTS, Branch, Draft, Node, Policy, Room, Shape, Tree, attach

LAG = 8  # maximum number of tokens that a draft may have left unprocessed


@dataclass
class Stats:
    """Counters of one sequence, as csrc/decode/stats.h defines them."""

    rounds: int = 0
    draft_tokens: int = 0  # sum of the depths of all chains
    accepted: int = 0  # sum of accepted nodes
    branches: int = 0
    branch_rounds: int = 0  # rounds with a prepared branch, except the round that ends the sequence
    branch_hits: int = 0
    discarded_branch_tokens: int = 0  # number of drafted nodes that can never be verified
    empty_residuals: int = 0  # rounds in which the residual distribution was empty
    draft_limit_rounds: int = 0  # rounds in which the draft had no free positions
    histogram: list[int] = field(default_factory=lambda: [0] * SLOTS)  # [accepted nodes]: rounds

    @property
    def rollback_tokens(self) -> int:
        """Drafted tokens that were verified and rejected."""
        return self.draft_tokens - self.accepted


def verified(target: Lane, at: Prefix, chain: Tree) -> tuple[list[int], list[int]]:
    """Verify a chain by the rule `coupled`. Returns (path, tokens).

    path: the accepted nodes, beginning with the root. tokens: the target's tokens, one for each
    node of the path. The last token is missing if its logits are invalid.
    """
    child = {(node.parent, node.token): i for i, node in enumerate(chain)}
    path, new = [0], list[int]()
    while (y := target.choice(at)) is not None:
        new.append(y)
        if (path[-1], y) not in child:
            break
        path.append(child[path[-1], y])
        at = at.then(y)
    return path, new


def examined(new: list[int], stops: Sequence[int], room: int) -> tuple[list[int], str | None]:
    """Return (tokens, reason). tokens: the new tokens up to the end of the sequence. reason: the
    finish reason; None if the sequence goes on."""
    for i, token in enumerate(new, 1):
        if token in stops or i == room:
            return new[:i], "stop" if token in stops else "length"
    return new, None


class Play:
    """The state of one sequence between two rounds."""

    def __init__(self, target: Lane, draft: Draft, prompt: Sequence[int], limits: tuple) -> None:
        self.target, self.draft, self.policy = target, draft, draft.policy
        self.limit, self.draft_limit = limits  # maximum tokens of the trunk, for each model
        self.at = target.empty + prompt
        self.chain = [Node(draft.lane.empty + prompt)]
        self.lag = 0  # number of tokens before the root that the draft has not processed
        self.missed, self.idle = True, False
        self.filled = False  # True if the chain was looked up after a miss and needs no burst
        self.hindsight = Hindsight(draft.lane.greedy)
        self.stats = Stats()

    @property
    def room(self) -> int:
        """The maximum depth of a chain. It leaves room for the token that the target itself adds in
        a round."""
        return max(0, self.limit - len(self.at) - 1)

    def fits(self, steps: int) -> bool:
        """True if the draft has free positions for the chain and for `steps` more tokens."""
        return len(self.at) + self.depth + steps < self.draft_limit

    @property
    def depth(self) -> int:
        """Depth of the chain's deepest node."""
        return max(node.level for node in self.chain)

    def round(self, stops: Sequence[int]) -> tuple[list[int], str | None]:
        """Run one round. Returns (tokens, reason). tokens: the tokens that the round committed.
        reason: the finish reason; None if the sequence goes on."""
        p, s = self.policy, self.stats
        self.idle = False
        lost = 0
        if p.on_miss == BURST and self.missed and p.burst:
            lost = self.held_back() if self.filled else self.burst()
        branches = self.prepared() if p.gamma else []
        depth, siblings = self.depth, len(self.chain) - 1 - self.depth
        if self.draft.lane.draws:
            place = self.draft.lane, self.chain, branches
            path, new, empty = verified_by_chance(self.target, self.at, place)
            s.empty_residuals += empty
        else:
            path, new = verified(self.target, self.at, self.chain)
        n, failed = len(path) - 1, len(new) < len(path)
        out, finish = examined(new, stops, self.limit - len(self.at))
        finish = finish or ("error" if failed else None)
        adopted = None if failed else find(branches, path[-1], new[-1])
        self.missed = adopted is None

        drafted = self.drafted(branches)
        self.settle(path, new, adopted)
        kept = self.join()
        self.filled = self.missed and p.lookup and self.hindsight.fills(self.draft.lane, self.chain)
        if self.missed and p.on_miss == LOOKUP and not p.lookup and not failed:
            for i, token in enumerate(looked_up(self.at.tokens, min(p.burst, self.room))):
                attach(self.chain, i, token, f32(0))
                self.chain[-1].known = True

        s.rounds += 1
        s.draft_tokens += depth
        s.accepted += n
        s.histogram[n] += 1
        s.branches += len(branches)
        s.branch_rounds += branches != [] and not finish
        s.branch_hits += not self.missed and not finish
        s.discarded_branch_tokens += lost + siblings + drafted - kept
        s.draft_limit_rounds += self.idle
        return out, finish

    def burst(self) -> int:
        """Draft the next chain in a serial burst, after a miss.

        Returns the number of drafted nodes that are not in the chain.
        """
        p, d = self.policy, self.draft
        self.idle = not self.may_burst
        tail, size = [Node(self.chain[0].prefix)], 0
        if self.idle or not self.near:
            pass
        elif p.burst_width == 1:
            steps = min(p.burst, SLOTS - self.lag)
            size = d.path_sizes([tail], steps)
            d.grow_path(tail, steps, self.room)
        else:
            shape = Shape(p.burst_width, p.burst_width, SLOTS - self.lag)
            d.grow_trees([tail], p.burst, shape)
            size = len(tail) - 1
        self.lag = 0 if self.near and not self.idle else self.lag
        self.chain = self.worth(tail)
        return size - self.join()

    def held_back(self) -> int:
        """Skip the serial burst. If the method only drafts serially, and the draft has more than
        `LAG` unprocessed tokens, the draft processes them now.

        Returns 0: no drafted node is lost.
        """
        if self.policy.gamma == 0 and self.lag > LAG and self.may_burst:
            self.draft.feed(self.chain[:1])
            self.lag = 0
        return 0

    @property
    def near(self) -> bool:
        """True if the tokens that the draft has not processed fit in its slots for uncommitted
        tokens."""
        return self.lag + len(self.chain) - 1 < SLOTS

    @property
    def may_burst(self) -> bool:
        """True if the draft has free positions for a serial burst."""
        reads_chain = self.policy.gamma == 0 or len(self.at) + self.depth <= self.draft_limit
        return reads_chain and len(self.at) + self.policy.burst < self.draft_limit

    def join(self) -> int:
        """Add looked-up nodes to the chain. Returns the number of drafted nodes that remain in the
        chain."""
        if not self.policy.lookup:
            return len(self.chain) - 1
        return Join(self.draft, self.hindsight, self.chain, len(self.at), self.room).run()

    def prepared(self) -> list[Branch]:
        """Return the branches for outcomes of the chain. Tails that are trees are drafted here;
        tails that are paths are drafted later."""
        p, d = self.policy, self.draft
        near = self.near
        if near and len(self.at) + self.depth <= self.draft_limit:
            d.feed([node for node in self.chain if not node.drafted])
            self.lag = 0
        self.idle = not self.fits(p.gamma)
        branches = d.branches(self.chain) if near and not self.idle else []
        if p.width > 1:
            budget = min(d.room.rows, p.width * p.branches)
            shape = Shape(budget, -(-p.nodes // p.gamma), d.room.slots)
            d.grow_trees([b.tail for b in branches], p.gamma, shape)
        return branches

    def drafted(self, branches: list[Branch]) -> int:
        """Return the number of drafted nodes in all tails."""
        tails = [b.tail for b in branches]
        if self.policy.width > 1:
            return sum(len(tail) - 1 for tail in tails)
        return self.draft.path_sizes(tails, self.policy.gamma)

    def settle(self, path: list[int], new: list[int], adopted: Branch | None) -> None:
        """Commit the new tokens, and make the next chain. On a hit, the chain is made from the tail
        of the branch for the outcome."""
        drafted = 0
        while drafted < len(path) and self.chain[path[drafted]].drafted:
            drafted += 1
        self.lag += len(path) - (0 if self.lag else drafted)
        root = Node(self.chain[0].prefix + new)
        self.at += new
        if adopted and self.policy.width == 1:
            self.draft.grow_path(adopted.tail, self.policy.gamma, self.room)
        if self.draft.ranks:
            self.draft.sharpen(self.chain, path, new)
        self.hindsight.recall(self.chain, path, new)
        self.chain = self.worth(adopted.tail) if adopted else [root]

    def worth(self, tail: Tree) -> Tree:
        """Return the chain that is made of a tail: its most likely nodes, at most `nodes` of them.

        A node is kept only if it may still be committed, and the draft's probability at its parent
        exceeds epsilon.
        """
        p, dist = self.policy, self.draft.lane.dist
        sure = {0}
        for j, node in enumerate(tail[1:], 1):
            if node.parent not in sure or node.level > self.room:
                continue
            if dist(tail[node.parent].prefix).q > f32(p.epsilon):
                sure.add(j)
        most = min(p.nodes, SLOTS - 1 - MOST) if p.lookup else p.nodes
        best = sorted(sure - {0}, key=lambda j: (-tail[j].score, j))[:most]
        place, chain = {0: 0}, tail[:1]
        for j in sorted(best):
            place[j] = len(chain)
            tail[j].parent = place[tail[j].parent]
            chain.append(tail[j])
        return chain


def find(branches: list[Branch], node: int, token: int) -> Branch | None:
    """Return the branch that was prepared for an outcome; None if there is none."""
    same = (b for b in branches if (b.node, b.tail[0].token) == (node, token))
    return next(same, None)


def generate(
    target: Toy,
    draft: Toy | None,
    prompt: Sequence[int],
    sampling: Sampling,
    policy: Policy,
    *,
    max_tokens: int,
    max_model_len: int,
    stop_token_ids: Sequence[int] = (),
    shaping: Shaping | None = None,
    room: Room | None = None,
) -> tuple[list[int], str, Stats]:
    """Generate one sequence.

    Returns the sequence's tokens, its finish reason ("stop", "length" or "error") and its counters.

    The vocabulary is that of the target. A draft never drafts a token that it does not have or has
    no logit for. `draft` may be None if the policy drafts nothing.
    """
    if policy.serial:
        burst = {"burst": policy.gamma, "burst_width": policy.width}
        policy = policy._replace(gamma=0, branches=0, width=1, on_miss=BURST, **burst)
    draft = draft or target
    vocab = target.vocab
    ends = tuple(token for token in stop_token_ids if token < vocab)
    has_shape = shaping is not None and shaping != Shaping()
    shaper = Shaper(shaping, ends, len(prompt)) if has_shape else None
    draws = bool(policy.rejection and not is_greedy(sampling))
    t, d = lane(target, sampling, vocab, shaper), lane(draft, sampling, vocab, shaper, draws)
    limits = min(len(prompt) + max_tokens, max_model_len), min(max_model_len, draft.max_positions)
    play = Play(t, Draft(d, policy, room or Room()), prompt, limits)
    tokens: list[int] = []
    finish = None if max_tokens else "length"
    while finish is None:
        out, finish = play.round(stop_token_ids)
        tokens += out
    return tokens, finish, play.stats
