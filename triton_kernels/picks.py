"""Parts of `choose` that find the best tokens of a chunk, and compute their scores."""

from __future__ import annotations

import triton
import triton.language as tl

from .noise import gumbel64, noise_words

_ALL_IDS = tl.constexpr(0x7FFFFFFF)
_NOTHING = tl.constexpr(-0x7F800000 << 32)  # entries of `order` below this have the score -inf
_TAKEN = tl.constexpr(-1 << 63)


@triton.jit
def take_first(order, o_pick, pick, picked):
    """Move the id with the greatest score in `order` to index `pick` of `picked`.

    Of equal scores the lowest id is taken. An entry of `order` has two 32-bit words. The high word
    is the score as an int32 of the same order; the low word is the inverted id. So one maximum
    finds score and id.
    """
    best = tl.max(order, axis=0)
    token = ((best & _ALL_IDS) ^ _ALL_IDS).to(tl.int32)
    here = (o_pick == pick) & (best >= _NOTHING)
    return tl.where(order == best, _TAKEN, order), tl.where(here, token, picked)


@triton.jit
def take_best(score, ids, o_pick, pick, picked, picked_score):
    """Move the best remaining score and its id to index `pick`. Of equal scores, the one with the
    lowest id is taken."""
    best = tl.max(score, axis=0)
    none = best == float("-inf")
    token = tl.min(tl.where(score == best, ids, 2147483647), axis=0)
    here = (o_pick == pick) & (none == 0)
    picked = tl.where(here, token, picked)
    picked_score = tl.where(here, best, picked_score)
    return tl.where(ids == token, float("-inf"), score), picked, picked_score


@triton.jit
def score_of(x, word, temperature):
    """Return the exact score in float64: the logit at temperature 0, otherwise logit / temperature
    + noise."""
    greedy = x.to(tl.float64)
    if temperature > 0:
        scaled = tl.div_rn(x, temperature + tl.zeros_like(x))
        greedy = scaled.to(tl.float64) + gumbel64(word)
    return greedy


@triton.jit
def word_of(seed, completion, where, use, token):
    """Return the random word of each token (noise.py)."""
    w0, w1, w2, w3 = noise_words(seed, completion, where, (token >> 2).to(tl.uint32) | use)
    lane = token & 3
    return tl.where(lane < 2, tl.where(lane == 0, w0, w1), tl.where(lane == 2, w2, w3))


@triton.jit
def order_of(score, ids):
    """Return scores and ids as the 64-bit entries that `take_first` compares."""
    bits = (score + 0.0).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64) << 32 | (ids ^ _ALL_IDS)
