"""The whole algorithm in plain Python on the toy lane: the oracle that the engine is compared with.

Nothing here is shared with the engine. The arithmetic of csrc/model/toy.h and of csrc/ops/philox.h,
exp.h, shaping.h and choose.h is done step by step in float32 and double, so that results compare
with `==`.
One thing is lazy: a tail is drafted when its branch is adopted; of the others only the length
matters, and that is gamma unless the draft can fail.
"""

from __future__ import annotations

import math
from collections import Counter, namedtuple
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

f32 = np.float32
WORD, HALF = (1 << 64) - 1, (1 << 32) - 1
CANDIDATES, LANES, BLOCK = 16, 16, 16  # of a law; of a softmax's sum; positions of noise at once

# A model whose logits are a hash of the prefix; the row at position nan_at has a NaN.
Toy = namedtuple("Toy", "vocab seed noise16 max_positions nan_at", defaults=(0, 0, 1 << 20, -1))
_LAW = "temperature top_p top_k min_p seed completion"
Sampling = namedtuple("Sampling", _LAW, defaults=(1.0, 1.0, 0, 0.0, 0, 0))
# What happens to logits before the temperature: bias as (token, bias), words as tuples of tokens.
_SHAPING = """repetition_penalty presence_penalty frequency_penalty min_tokens logit_bias
    allowed_token_ids bad_words"""
Shaping = namedtuple("Shaping", _SHAPING, defaults=(1.0, 0.0, 0.0, 0, (), None, ()))
# The knobs of a round; gamma 0 is plain decoding.
_KNOBS = "gamma branches adaptive epsilon serial"
Policy = namedtuple("Policy", _KNOBS, defaults=(0, 0, False, 0.0, False))


@dataclass
class Stats:
    """Counters of one sequence, as design.md section 7 defines them."""

    rounds: int = 0
    draft_tokens: int = 0  # sum of the chains' depths
    accepted: int = 0  # sum of n
    branches: int = 0
    branch_rounds: int = 0  # with a prepared branch, and the sequence did not end
    branch_hits: int = 0
    discarded_branch_tokens: int = 0  # drafted nodes that never entered a chain
    draft_limit_rounds: int = 0  # in which the draft had no room to plan anything
    histogram: list[int] = field(default_factory=lambda: [0] * 64)  # rounds by n

    @property
    def rollback_tokens(self) -> int:
        """Drafted tokens that were verified and did not stand."""
        return self.draft_tokens - self.accepted


# The toy model. `mix`, `philox` take Python ints or arrays of uint64 (which wrap by themselves).


def mix(a: Any, b: Any) -> Any:
    """Hash of two words of 64 bits (the finaliser of splitmix64)."""
    z = a ^ (b * 0x9E3779B97F4A7C15 & WORD)
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB & WORD
    return z ^ z >> 31


def state_after(state: int, tokens: Iterable[int]) -> int:
    """Hash of a prefix, from the hash of its beginning."""
    for token in tokens:
        state = mix(state, token + 1)
    return state


def toy_logits(toy: Toy, state: int, vocab: int) -> np.ndarray:
    """Logits [vocab] f32 after the prefix of this state."""
    token = np.arange(vocab, dtype=np.uint64)
    h = mix(state, token + 65536)
    logits = ((h & 65535) + (h >> 16 & 65535)).astype(f32) / f32(8192)
    if toy.noise16:
        centred = (mix(state, token + 131072) & 65535).astype(np.int32) - 32768
        logits += (toy.noise16 * centred).astype(f32) / f32(65536)
    return logits


# Noise and exp.


def philox(c0: Any, c1: Any, c2: Any, c3: Any, key0: int, key1: int) -> tuple[Any, Any, Any, Any]:
    """Philox4x32-10 (Salmon et al., 2011): four words of a counter, two of a key."""
    for turn in range(10):
        k0, k1 = key0 + turn * 0x9E3779B9 & HALF, key1 + turn * 0xBB67AE85 & HALF
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & HALF, p0 >> 32 ^ c3 ^ k1, p0 & HALF
    return c0, c1, c2, c3


def gumbel_noise(s: Sampling, first: int, count: int, vocab: int) -> np.ndarray:
    """Noise [count, vocab] in double of the positions from `first` on."""
    position = np.arange(first, first + count, dtype=np.uint64)[:, None]
    group, one = np.arange((vocab + 3) // 4, dtype=np.uint64), position * 0 + 1
    counter = (group * one, position & HALF, position >> 32, one * s.completion)
    words = philox(*np.broadcast_arrays(*counter), s.seed & HALF, s.seed >> 32)
    flat = np.stack(words, axis=-1).ravel().tolist()
    log = math.log  # the C library's, as the engine's
    noise = np.array([-log(-log((word + 0.5) * 2.0**-32)) for word in flat])
    return noise.reshape(count, -1)[:, :vocab]


def exp32(x: np.ndarray) -> np.ndarray:
    """e^x of f32 x <= 0, every step rounded to f32."""
    clamped = np.maximum(x, f32(-87))
    n = (clamped * f32(1.44269504) + f32(12582912)) - f32(12582912)
    r = clamped - n * f32(0.693359375)
    r = r - n * f32(-2.12194440e-4)
    p = f32(1.9875691500e-4)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = p * r + f32(c)
    e = p * (r * r) + r + f32(1)
    return np.where(x < f32(-87), f32(0), e * np.ldexp(f32(1), n.astype(np.int32)))


def raw_softmax(logits: np.ndarray, token: int) -> np.float32:
    """Softmax at temperature 1 of one token: 16 partial sums, then halved."""
    weights = exp32(logits - logits.max())
    lane = np.zeros(LANES, f32)
    for first in range(0, len(weights), LANES):
        part = weights[first : first + LANES]
        lane[: len(part)] += part
    while len(lane) > 1:
        lane = lane[: len(lane) // 2] + lane[len(lane) // 2 :]
    return weights[token] / lane[0]


# The sampling pass.


@dataclass(frozen=True)
class Shaper:
    """Shaping of one sequence: `ends` are its stop tokens, `prompt` is how long its prompt is."""

    shaping: Shaping
    ends: tuple[int, ...]
    prompt: int

    def shaped(self, logits: np.ndarray, prefix: tuple[int, ...]) -> np.ndarray:
        """The row [vocab] f32 that follows `prefix`, after masks, bias and penalties."""
        s, row = self.shaping, logits.copy()
        if s.allowed_token_ids is not None:
            row[np.setdiff1d(np.arange(len(row)), s.allowed_token_ids)] = -np.inf
        for *beginning, last in s.bad_words:
            if prefix[max(0, len(prefix) - len(beginning)) :] == tuple(beginning):
                row[last] = -np.inf
        if len(prefix) - self.prompt < s.min_tokens:
            row[list(self.ends)] = -np.inf
        for token, bias in s.logit_bias:
            row[token] += f32(bias)
        output = Counter(prefix[self.prompt :])
        for token in set(prefix):
            x, factor = row[token], f32(s.repetition_penalty)
            x = x / factor if x > 0 else x * factor
            x = x - f32(s.frequency_penalty) * f32(output[token])
            row[token] = x - f32(s.presence_penalty) if output[token] else x
        return row


def is_greedy(s: Sampling) -> bool:
    """Whether nothing is drawn."""
    return f32(s.temperature) < f32(1e-5)


def filtered(logits: np.ndarray, s: Sampling) -> np.ndarray:
    """Ascending ids that min_p, top_k and top_p leave."""
    ids = (logits > -np.inf).nonzero()[0]
    if s.min_p == 0 and s.top_k == 0 and s.top_p >= 1:
        return ids
    weight = exp32((logits - logits.max()) / f32(s.temperature))
    ids = ids[weight[ids] >= f32(s.min_p)]
    ids = ids[(-logits[ids]).argsort(kind="stable")][: s.top_k or None]
    if f32(s.top_p) < 1:
        total = np.cumsum(weight[np.sort(ids)], dtype=np.float64)[-1]
        sums = np.cumsum(weight[ids], dtype=np.float64)
        ids = ids[: np.searchsorted(sums, float(f32(s.top_p)) * total) + 1]
    return np.sort(ids)


def top_tokens(logits: np.ndarray, s: Sampling, noise: np.ndarray | None, want: int) -> list[int]:
    """The `want` best tokens of a row [vocab] f32; none of a row with NaN or +inf, or all -inf.

    noise: [vocab], of the position of the token to be chosen; not read when greedy.
    """
    if not -np.inf < logits.max() < np.inf:
        return []
    if is_greedy(s):
        ids = (logits > -np.inf).nonzero()[0]
        scores = logits[ids]
    else:
        ids = filtered(logits, s)
        scores = (logits[ids] / f32(s.temperature)).astype(np.float64) + noise[ids]
    return ids[(-scores).argsort(kind="stable")[:want]].tolist()


@dataclass
class Law:
    """Candidates after a prefix, best first (none: a NaN row), and q of the first."""

    tokens: list[int]
    logits: np.ndarray

    @cached_property
    def q(self) -> np.float32:
        """Confidence: softmax of the raw logits at the first choice."""
        return raw_softmax(self.logits, self.tokens[0])


@dataclass(frozen=True)
class Prefix:
    """Tokens so far, and the state of a lane after them."""

    state: int
    tokens: tuple[int, ...] = ()

    def __add__(self, tokens: Sequence[int]) -> Prefix:
        return Prefix(state_after(self.state, tokens), (*self.tokens, *tokens))

    def __len__(self) -> int:
        return len(self.tokens)


class Lane:
    """One toy under one sampling law: what it says after a prefix. Remembers what it said."""

    def __init__(self, toy: Toy, sampling: Sampling, vocab: int, shaper: Shaper | None) -> None:
        self.toy, self.sampling, self.vocab, self.shaper = toy, sampling, vocab, shaper
        self.greedy = is_greedy(sampling)
        self.empty = Prefix(mix(toy.seed, 0))
        self.laws: dict[int, Law] = {}
        self.noise: dict[int, np.ndarray] = {}
        s = shaper.shaping if shaper else Shaping()
        masks = s.allowed_token_ids is not None or s.bad_words or s.min_tokens
        self.can_fail = bool(toy.nan_at >= 0 or masks)  # a row may have no token

    def law(self, prefix: Prefix) -> Law:
        """The law of the token that follows."""
        if prefix.state not in self.laws:
            logits = toy_logits(self.toy, prefix.state, self.vocab)
            if len(prefix) - 1 == self.toy.nan_at:
                logits[0] = np.nan
            block, row = divmod(len(prefix), BLOCK)
            if block not in self.noise and not self.greedy:
                self.noise[block] = gumbel_noise(self.sampling, block * BLOCK, BLOCK, self.vocab)
            noise = None if self.greedy else self.noise[block][row]
            shaped = logits
            if self.shaper and logits.max() < np.inf:  # a NaN is an error even where masked
                shaped = self.shaper.shaped(logits, prefix.tokens)
            best = top_tokens(shaped, self.sampling, noise, CANDIDATES)
            self.laws[prefix.state] = Law(best, logits)
        return self.laws[prefix.state]


lane = lru_cache(maxsize=4)(Lane)


# The round.


def planned(draft: Lane, at: Prefix, policy: Policy) -> list[int]:
    """The tokens of the branches at one node."""
    law = draft.law(at)
    k = policy.branches
    if policy.adaptive and law.tokens:
        k = max(1, math.floor(f32(k) * (f32(1) - law.q)))
    return law.tokens[:k]


def tail_size(draft: Lane, at: Prefix, gamma: int) -> int:
    """Nodes that a burst drafts below `at`: gamma, or up to where the draft has nothing to say."""
    if not draft.can_fail:
        return gamma
    size = 0
    while size < gamma and (first := draft.law(at).tokens[:1]):
        at, size = at + first, size + 1
    return size


def drafted(draft: Lane, at: Prefix, policy: Policy, limit: int) -> list[int]:
    """Gamma nodes below the root, kept up to the first doubtful one, and no deeper than what may
    still be emitted: with every chain goes a token of the target's own."""
    chain: list[int] = []
    most = min(policy.gamma, limit - len(at) - 1)
    while len(chain) < most:
        law = draft.law(at)
        if not law.tokens or not law.q > f32(policy.epsilon):
            break
        chain.append(law.tokens[0])
        at += chain[-1:]
    return chain


def verified(target: Lane, at: Prefix, chain: list[int]) -> tuple[list[int], int]:
    """The target's tokens down to the first one that the chain did not foresee (or to a row that
    failed), and how many it did foresee."""
    new: list[int] = []
    while y := target.law(at).tokens[:1]:
        new += y
        if new != chain[: len(new)]:
            return new, len(new) - 1
        at += y
    return new, len(new)


def examined(new: list[int], stops: Sequence[int], room: int) -> tuple[list[int], str | None]:
    """New tokens one by one: what is put out, and why the sequence ends with it."""
    for i, token in enumerate(new, 1):
        if token in stops or i == room:
            return new[:i], "stop" if token in stops else "length"
    return new, None


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
) -> tuple[list[int], str, Stats]:
    """One sequence: its tokens, its finish reason ("stop", "length", "error") and its counters.

    Logits are cut to the smaller vocabulary. `draft` may be None if gamma is 0.
    """
    draft, gamma = draft or target, policy.gamma
    shaper = Shaper(shaping, tuple(stop_token_ids), len(prompt)) if shaping else None
    vocab = min(target.vocab, draft.vocab)
    t, d = (lane(toy, sampling, vocab, shaper) for toy in (target, draft))
    limit = min(len(prompt) + max_tokens, max_model_len)
    draft_limit = min(max_model_len, draft.max_positions)
    at_t, at_d = t.empty + prompt, d.empty + prompt
    tokens, chain, stats = [], [], Stats()
    finish = None if max_tokens else "length"
    while finish is None:
        # The draft: the chain of this round, or branches at the end of the chain that there is.
        drafts = gamma > 0 and len(at_t) + len(chain) + gamma < draft_limit
        branches: list[int] = []
        if drafts and policy.serial:
            chain = drafted(d, at_d, policy, limit)
            stats.discarded_branch_tokens += tail_size(d, at_d, gamma) - len(chain)
        elif drafts:
            branches = planned(d, at_d + chain, policy)
        prepared = [(*chain, token) for token in branches]
        tails = sum(tail_size(d, at_d + path, gamma) for path in prepared)

        # The target: the outcome, its branch, and what of it is put out.
        new, n = verified(t, at_t, chain)
        hit = n == len(chain) and n < len(new) and new[n] in branches
        out, finish = examined(new, stop_token_ids, limit - len(at_t))
        finish = "error" if not finish and n == len(new) else finish
        stats.rounds += 1
        stats.draft_tokens += len(chain)
        stats.accepted += n
        stats.histogram[n] += 1
        stats.branches += len(branches)
        stats.branch_rounds += branches != [] and not finish
        stats.branch_hits += hit and not finish
        stats.draft_limit_rounds += gamma > 0 and not drafts

        # The next round: behind the new tokens hangs the tail of the branch that was hit.
        tokens, at_t, at_d = tokens + out, at_t + new, at_d + new
        chain = drafted(d, at_d, policy, limit) if hit else []
        stats.discarded_branch_tokens += tails - len(chain)
    return tokens, finish, stats
