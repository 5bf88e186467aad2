"""Computes the distribution of a lane after a prefix: shaping, sampling and confidence, as in
csrc/ops/{shaping,choose}.cc. Functions take many rows together, because a draft step of trees has
hundreds of rows."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .toy import (
    DRAFT,
    Sampling,
    Toy,
    exp32,
    exp64,
    f32,
    gumbel_noise,
    gumbels,
    log32,
    mix,
    state_after,
    toy_logits,
)

NOTHING = np.zeros(())  # in place of noise, if there is none
# Number of candidates of a Dist, of partial sums of a softmax, and of positions in a block of
# noise.
CANDIDATES, LANES, BLOCK = 16, 16, 16
# Number of partial sums, and of partial sums in a group, when a vocabulary is summed in double.
SUM_LANES, SUM_GROUP = 1024, 32

# Parameters that change logits before the temperature. logit_bias: pairs (token, bias). bad_words:
# tuples of tokens.
_SHAPING = """repetition_penalty presence_penalty frequency_penalty min_tokens logit_bias
    allowed_token_ids bad_words"""
Shaping = namedtuple("Shaping", _SHAPING, defaults=(1.0, 0.0, 0.0, 0, (), None, ()))


@dataclass(frozen=True)
class Shaper:
    """Changes the logits of one sequence by its Shaping. ends: the sequence's stop tokens. prompt:
    the number of tokens of its prompt."""

    shaping: Shaping
    ends: tuple[int, ...]
    prompt: int

    def shaped(self, logits: np.ndarray, prefixes: Sequence[Prefix]) -> np.ndarray:
        """Return the logits [prefixes, vocab] f32 after masks, bias and penalties. Row i belongs to
        prefix i."""
        s, rows = self.shaping, logits.copy()
        if s.allowed_token_ids is not None:
            rows = np.full_like(logits, -np.inf)
            allowed = list(s.allowed_token_ids)
            rows[:, allowed] = logits[:, allowed]
        for row, prefix in zip(rows, prefixes, strict=True):
            tokens = prefix.tokens
            for *beginning, last in s.bad_words:
                if tokens[max(0, len(tokens) - len(beginning)) :] == tuple(beginning):
                    row[last] = -np.inf
            if len(tokens) - self.prompt < s.min_tokens:
                row[list(self.ends)] = -np.inf
        for token, bias in s.logit_bias:
            rows[:, token] += f32(bias)
        return rows if s[:3] == Shaping()[:3] else self.penalised(rows, prefixes)

    def penalised(self, rows: np.ndarray, prefixes: Sequence[Prefix]) -> np.ndarray:
        """Return the rows of logits after the penalties for the tokens of their prefixes."""
        s, vocab = self.shaping, rows.shape[1]
        prompt = np.bincount(prefixes[0].tokens[: self.prompt], minlength=vocab)
        new = [np.bincount([*p.tokens[self.prompt :]] or [0], minlength=vocab) for p in prefixes]
        output = np.stack(new)
        output[[len(p) == self.prompt for p in prefixes]] = 0
        factor = f32(s.repetition_penalty)
        x = np.where(rows > 0, rows / factor, rows * factor)
        x = x - f32(s.frequency_penalty) * output.astype(f32)
        x = np.where(output > 0, x - f32(s.presence_penalty), x)
        return np.where(output + prompt > 0, x, rows)

    def may_leave_nothing(self, known: Sequence[int]) -> bool:
        """True if the masks could remove every token of a row. known: the ids that have logits."""
        s = self.shaping
        allowed = known if s.allowed_token_ids is None else s.allowed_token_ids
        left = set(known).intersection(allowed)
        return left <= {word[-1] for word in s.bad_words} | set(self.ends if s.min_tokens else ())


# The sampling pass.


def is_greedy(s: Sampling) -> bool:
    """True if the most likely token is always taken."""
    return f32(s.temperature) < f32(1e-5)


def filtered(rows: np.ndarray, s: Sampling) -> np.ndarray:
    """Return bool [rows, vocab]: True for the tokens that min_p, top_k and top_p keep."""
    keep = rows > -np.inf
    if s.min_p == 0 and s.top_k == 0 and s.top_p >= 1:
        return keep
    most = rows.max(axis=1, keepdims=True)
    weight = exp32((rows - np.where(most > -np.inf, most, f32(0))) / f32(s.temperature))
    keep &= weight >= f32(s.min_p)
    order = np.where(keep, -rows, np.inf).argsort(axis=1, kind="stable")
    place = order.argsort(axis=1)
    if s.top_k:
        keep &= place < s.top_k
    if f32(s.top_p) < 1:
        units = np.rint(np.where(keep, weight, f32(0)).astype(np.float64) * 2**40).astype(np.int64)
        enough = np.ceil(float(f32(s.top_p)) * units.sum(axis=1, keepdims=True)).astype(np.int64)
        sums = units[np.arange(len(rows))[:, None], order].cumsum(axis=1)
        keep &= place <= (sums < enough.clip(min=1)).sum(axis=1, keepdims=True)
    return keep


def ranked(rows: np.ndarray, s: Sampling, noise: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Rank the tokens of each row. Returns three arrays: tokens [n, vocab], best first; their
    scores [n, vocab]; the number of valid tokens [n].

    rows: [n, vocab] f32. A row with NaN or +inf, or all -inf, has no valid token. noise: Gumbel
    noise [n, vocab] for the positions of the sampled tokens; None: greedy.
    """
    fine = rows.max(axis=1, keepdims=True) < np.inf
    rows = np.where(fine, rows, f32(-np.inf))
    if noise is None:
        keep, scores = rows > -np.inf, rows.astype(np.float64)
    else:
        keep = filtered(rows, s)
        scores = (rows / f32(s.temperature)).astype(np.float64) + noise
    tokens = np.where(keep, -scores, np.nan).argsort(axis=1, kind="stable")  # NaN comes last
    return tokens, scores[np.arange(len(rows))[:, None], tokens], keep.sum(axis=1)


def top_tokens(logits: np.ndarray, s: Sampling, noise: np.ndarray | None, want: int) -> list[int]:
    """Return the `want` best tokens of one row of logits [vocab] f32. noise: Gumbel noise [vocab]
    of the row's position; None: greedy."""
    noise = None if noise is None or is_greedy(s) else noise[None]
    tokens, _, count = ranked(logits[None], s, noise)
    return tokens[0, : min(want, count[0])].tolist()


# Confidence.


def lane_sum(x: np.ndarray) -> np.ndarray:
    """Return the sum of each row of x [rows, vocab] f32, as [rows, 1]. A row is first added into 16
    partial sums, then the partial sums are added in pairs."""
    lane = np.zeros((len(x), LANES), f32)
    for first in range(0, x.shape[1], LANES):
        part = x[:, first : first + LANES]
        lane[:, : part.shape[1]] += part
    while lane.shape[1] > 1:
        half = lane.shape[1] // 2
        lane = lane[:, :half] + lane[:, half:]
    return lane


def softmax_of(logits: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return (y, e^y, sum of e^y, sum of y e^y) with y = x - max, for rows x of raw logits."""
    x = logits - logits.max(axis=1, keepdims=True)
    e = exp32(x)
    total, moment = np.split(lane_sum(np.concatenate([e, e * x])), 2)
    return x, e, total, moment


def raw_softmax(logits: np.ndarray, token: int) -> np.float32:
    """Return the probability of one token in the softmax of a row of raw logits."""
    _, e, total, _ = softmax_of(logits[None])
    return e[0, token] / total[0, 0]


def lanes_of(x: np.ndarray) -> np.ndarray:
    """Return SUM_LANES partial sums of x [vocab] in double. Partial sum l adds x[l], x[l +
    SUM_LANES], x[l + 2 SUM_LANES], ... in this order."""
    padded = np.zeros((-(-len(x) // SUM_LANES), SUM_LANES))
    padded.ravel()[: len(x)] = x
    return padded.cumsum(axis=0)[-1]


def groups_of(lanes: np.ndarray) -> np.ndarray:
    """Return the sums of groups of SUM_GROUP neighbouring partial sums."""
    return in_order(lanes.reshape(-1, SUM_GROUP))


def sum_of(x: np.ndarray) -> float:
    """Return the sum of x [vocab] in double. The order of the additions is that of
    csrc/round/accept_op.h."""
    return float(groups_of(lanes_of(x)).cumsum()[-1])


def normalised(x: np.ndarray) -> np.ndarray:
    """Return x [vocab] in double, divided by its sum. If the sum is 0, return x unchanged."""
    total = sum_of(x)
    return x / total if total > 0 else x


def in_order(x: np.ndarray) -> np.ndarray:
    """Return the sum of each row, [rows]. Elements are added from left to right."""
    return x.cumsum(axis=1)[:, -1]


def calibrated(lp: np.ndarray, sharpness: np.float32) -> np.ndarray:
    """Raise each candidate's confidence p to p^sharpness, then normalise. Takes and returns
    logarithms [rows, candidates].

    The normalisation includes the probability of all tokens that are no candidates. Sharpness does
    not change this probability.
    """
    if sharpness == 1:
        return lp
    given = in_order(exp32(lp))
    lp = lp * sharpness
    total = in_order(exp32(lp)) + np.maximum(f32(0), f32(1) - given)
    return np.minimum(lp - log32(total)[:, None], f32(0))


@dataclass(slots=True)
class Dist:
    """The candidates for the token after a prefix, best first, and the lane's confidence in them.
    There are no candidates if the logits are invalid.

    q: probability of the first candidate in the softmax of the raw logits. entropy: entropy of that
    softmax, nats. lp: [CANDIDATES] f32, logarithms of the candidates' confidence; -inf after the
    last candidate.
    """

    tokens: list[int]
    q: np.float32
    entropy: np.float32
    lp: np.ndarray


@dataclass(frozen=True, slots=True)
class Prefix:
    """A sequence of tokens. state: the hash that is the toy model's state after the tokens. hash: a
    hash of the tokens themselves.

    known: number of ids that the lane can read. The lane reads any other token as 0.
    """

    state: int
    known: int
    tokens: tuple[int, ...] = ()
    hash: int = 0

    def __add__(self, tokens: Sequence[int]) -> Prefix:
        state = state_after(self.state, [self.read(token) for token in tokens])
        return Prefix(state, self.known, (*self.tokens, *tokens), state_after(self.hash, tokens))

    def then(self, token: int) -> Prefix:
        """Return this prefix with one more token at its end."""
        state = mix(self.state, self.read(token) + 1)
        return Prefix(state, self.known, (*self.tokens, token), mix(self.hash, token + 1))

    def read(self, token: int) -> int:
        """Return the token as the lane reads it: 0 if its id is not known."""
        return token if token < self.known else 0

    def __len__(self) -> int:
        return len(self.tokens)


class Lane:
    """A toy model with one set of sampling parameters. Its results are cached.

    draws: True if candidates are drawn without replacement, with independent noise for every
    prefix. The other fields of a Dist do not depend on the drawn candidates.
    """

    def __init__(
        self,
        toy: Toy,
        sampling: Sampling,
        vocab: int,
        shaper: Shaper | None,
        draws: bool = False,
    ) -> None:
        self.toy, self.sampling, self.vocab, self.shaper = toy, sampling, vocab, shaper
        self.greedy, self.draws = is_greedy(sampling), draws
        # Ids that the lane has a logit for, and the ids that it has none for.
        known = [i for i in toy.head_ids or range(toy.vocab) if i < vocab]
        self.columns = np.array(known, np.intp)
        self.absent = np.delete(np.arange(vocab), self.columns)
        self.empty = Prefix(mix(toy.seed, 0), toy.vocab)
        self.choices: dict[int, int | None] = {}
        self.known: dict[int, Dist] = {}
        self.noise: dict[int, np.ndarray] = {}
        # True if the logits after a prefix may be invalid, or all masked.
        self.can_fail = toy.nan_at >= 0 or bool(shaper and shaper.may_leave_nothing(known))

    def choice(self, prefix: Prefix) -> int | None:
        """Return the sampled next token; None if the logits are invalid."""
        if prefix.hash not in self.choices:
            tokens, _, count = self.ranked(self.shaped([prefix]), [prefix])
            self.choices[prefix.hash] = int(tokens[0, 0]) if count[0] else None
        return self.choices[prefix.hash]

    def dist(self, prefix: Prefix) -> Dist:
        """Return the distribution of the token after a prefix."""
        return self.known.get(prefix.hash) or self.dists([prefix])[0]

    def dists(self, prefixes: Sequence[Prefix]) -> list[Dist]:
        """Return the distributions of the tokens after each of `prefixes`."""
        new = {p.hash: p for p in prefixes if p.hash not in self.known}
        if new:
            self.known.update(zip(new, self.compute(list(new.values())), strict=True))
        return [self.known[p.hash] for p in prefixes]

    def compute(self, prefixes: list[Prefix]) -> list[Dist]:
        """Compute the distribution after each prefix, in order, without the cache."""
        logits = self.logits(prefixes)
        shaped = self.shaped(prefixes, logits)
        tokens, scores, count = self.ranked(shaped, prefixes)
        if self.draws:
            scores = ranked(shaped, self.sampling, NOTHING)[1]
        tokens, scores = tokens[:, :CANDIDATES], scores[:, :CANDIDATES]
        count = np.minimum(count, CANDIDATES)
        if self.toy.nan_at >= 0:
            logits = np.nan_to_num(logits, nan=0)  # results of a row with a NaN are not used
        x, e, total, moment = softmax_of(logits[:, self.columns])
        if len(self.absent):
            x, e = (self.widened(given) for given in (x, e))
        log = log32(total[:, 0])[:, None]
        entropy = (log - moment / total)[:, 0]
        row = np.arange(len(prefixes))
        q = (e.max(axis=1) if self.draws else e[row, tokens[:, 0]]) / total[:, 0]
        if self.greedy and not self.shaper:
            lp = x[row[:, None], tokens] - log
        else:
            lp = self.among_candidates(scores, count)
        padded = np.full((len(prefixes), CANDIDATES), -np.inf, f32)
        mine = np.arange(tokens.shape[1]) < count[:, None]
        padded[:, : tokens.shape[1]] = np.where(mine, lp, f32(-np.inf))
        tokens = [row[:n] for row, n in zip(tokens.tolist(), count.tolist(), strict=True)]
        return list(map(Dist, tokens, q, entropy, padded))

    def widened(self, rows: np.ndarray) -> np.ndarray:
        """Return rows [n, vocab] from rows [n, columns], with 0 for ids without a logit."""
        wide = np.zeros((len(rows), self.vocab), rows.dtype)
        wide[:, self.columns] = rows
        return wide

    def among_candidates(self, scores: np.ndarray, count: np.ndarray) -> np.ndarray:
        """Return the logarithms of a softmax over the candidates' scores only."""
        first = np.where(count > 0, scores[:, 0], 0.0)[:, None]
        mine = np.arange(scores.shape[1]) < count[:, None]
        lp = np.where(mine, scores - first, -np.inf).astype(f32)
        total = in_order(exp32(lp))
        return lp - log32(np.where(count > 0, total, f32(1)))[:, None]

    def logits(self, prefixes: list[Prefix]) -> np.ndarray:
        """Return raw logits [prefixes, vocab] f32, -inf for ids without a logit."""
        logits = toy_logits(self.toy, [p.state for p in prefixes], self.vocab)
        logits[:, self.absent] = -np.inf
        for i, prefix in enumerate(prefixes):
            if len(prefix) - 1 == self.toy.nan_at:
                logits[i, self.columns[0]] = np.nan
        return logits

    def shaped(self, prefixes: list[Prefix], logits: np.ndarray | None = None) -> np.ndarray:
        """Return the logits after masks, bias and penalties, which precede the temperature."""
        logits = self.logits(prefixes) if logits is None else logits
        # Rows with a NaN are left unchanged, because a NaN is an error even at a masked token.
        if self.shaper:
            fine = logits.max(axis=1, keepdims=True) < np.inf
            logits = np.where(fine, self.shaper.shaped(logits, prefixes), logits)
        return logits

    def whole(self, prefix: Prefix) -> np.ndarray:
        """Return the probabilities [vocab] of the next token after a prefix, in double."""
        rows = self.shaped([prefix])
        scores = np.where(filtered(rows, self.sampling), rows, f32(-np.inf))
        scores = (scores[0] / f32(self.sampling.temperature)).astype(np.float64)
        return normalised(exp64(scores - scores.max()))

    def ranked(self, rows: np.ndarray, prefixes: list[Prefix]) -> tuple[np.ndarray, ...]:
        """Apply the function `ranked` to rows of shaped logits, with this lane's noise."""
        noise = None
        if self.draws:
            where = np.array([prefix.hash for prefix in prefixes], np.uint64)
            noise = gumbels(self.sampling, DRAFT, where, self.vocab)
        elif not self.greedy:
            noise = np.stack([self.noise_at(len(prefix)) for prefix in prefixes])
        return ranked(rows, self.sampling, noise)

    def noise_at(self, position: int) -> np.ndarray:
        """Return the Gumbel noise [vocab] of a position, cached in blocks."""
        block, row = divmod(position, BLOCK)
        if block not in self.noise:
            self.noise[block] = gumbel_noise(self.sampling, block * BLOCK, BLOCK, self.vocab)
        return self.noise[block][row]


lane = lru_cache(maxsize=4)(Lane)
