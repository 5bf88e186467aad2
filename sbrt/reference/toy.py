"""The toy model, its noise and its exp function, as in csrc/model/toy.h, csrc/ops/philox.h and
exp.h."""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Iterable
from typing import Any

import numpy as np

f32 = np.float32
WORD, HALF = (1 << 64) - 1, (1 << 32) - 1

TARGET, DRAFT, COIN, RESIDUAL = range(4)  # uses of random numbers

LEAST, MAGIC = f32(-87), f32(12582912)  # constants of exp32
MAGIC64 = 1.5 * 2.0**52  # constant of exp64
TAYLOR = [
    f32(c)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
]

# The toy model. Its logits are a hash of the prefix. The row at position nan_at has a NaN.
# head_ids: the tokens that have logits, ascending; empty: all.
_TOY = "vocab seed noise16 max_positions nan_at head_ids"
Toy = namedtuple("Toy", _TOY, defaults=(0, 0, 1 << 20, -1, ()))
_DIST = "temperature top_p top_k min_p seed completion"
Sampling = namedtuple("Sampling", _DIST, defaults=(1.0, 1.0, 0, 0.0, 0, 0))


# `mix` and `philox` take Python ints or arrays of uint64, whose sums and products wrap around.


def mix(a: Any, b: Any) -> Any:
    """Return the hash of two words of 64 bits (the finaliser of splitmix64)."""
    z = a ^ (b * 0x9E3779B97F4A7C15 & WORD)
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB & WORD
    return z ^ z >> 31


def state_after(state: int, tokens: Iterable[int]) -> int:
    """Return the hash of a prefix. state: the hash of its beginning. tokens: the tokens that
    follow."""
    for token in tokens:
        state = mix(state, token + 1)
    return state


def toy_logits(toy: Toy, states: list[int], vocab: int) -> np.ndarray:
    """Return the logits [states, vocab] f32 after prefixes whose hashes are `states`."""
    state = np.array(states, np.uint64)[:, None]
    token = np.arange(vocab, dtype=np.uint64)
    h = mix(state, token + 65536)
    logits = ((h & 65535) + (h >> 16 & 65535)).astype(f32) / f32(8192)
    if toy.noise16:
        centred = (mix(state, token + 131072) & 65535).astype(np.int32) - 32768
        logits += (toy.noise16 * centred).astype(f32) / f32(65536)
    return logits


def philox(c0: Any, c1: Any, c2: Any, c3: Any, key0: int, key1: int) -> tuple[Any, Any, Any, Any]:
    """Return four random words: Philox4x32-10 (Salmon et al., 2011) of a counter and a key."""
    for turn in range(10):
        k0, k1 = key0 + turn * 0x9E3779B9 & HALF, key1 + turn * 0xBB67AE85 & HALF
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & HALF, p0 >> 32 ^ c3 ^ k1, p0 & HALF
    return c0, c1, c2, c3


def gumbel_noise(s: Sampling, first: int, count: int, vocab: int) -> np.ndarray:
    """Return Gumbel noise [count, vocab] in double for `count` positions from `first` on."""
    return gumbels(s, TARGET, np.arange(first, first + count, dtype=np.uint64), vocab)


def gumbels(s: Sampling, use: int, where: np.ndarray, vocab: int) -> np.ndarray:
    """Return Gumbel noise [len(where), vocab] in double. where: positions, or hashes of
    prefixes."""
    where = where[:, None]
    group, one = np.arange((vocab + 3) // 4, dtype=np.uint64), where * 0 + 1
    counter = ((group | use << 30) * one, where & HALF, where >> 32, one * s.completion)
    words = philox(*np.broadcast_arrays(*counter), s.seed & HALF, s.seed >> 32)
    flat = np.stack(words, axis=-1).ravel().tolist()
    log = math.log  # the C library's logarithm, which the engine also uses
    noise = np.array([-log(-log((word + 0.5) * 2.0**-32)) for word in flat])
    return noise.reshape(len(where), -1)[:, :vocab]


def noise_word(s: Sampling, use: int, where: int, token: int) -> int:
    """Return the 32 random bits from which the noise of a token is made."""
    counter = (token // 4 | use << 30, where & HALF, where >> 32, s.completion)
    return philox(*counter, s.seed & HALF, s.seed >> 32)[token % 4]


def uniform(s: Sampling, use: int, where: int, item: int) -> float:
    """Return a random number in [0, 1) of 53 bits."""
    counter = (item | use << 30, where & HALF, where >> 32, s.completion)
    first, second, _, _ = philox(*counter, s.seed & HALF, s.seed >> 32)
    return ((first >> 5) * 2.0**26 + (second >> 6)) * 2.0**-53


def exp64(x: np.ndarray) -> np.ndarray:
    """Return e^x for x <= 0 in double, as csrc/ops/exp64.h does."""
    clamped = np.maximum(x, -700.0)
    n = (clamped * 1.4426950408889634 + MAGIC64) - MAGIC64
    r = clamped - n * 6.93145751953125e-1
    r = r - n * 1.42860682030941723212e-6
    z = r * r
    p = (1.26177193074810590878e-4 * z + 3.02994407707441961300e-2) * z + 9.99999999999999999910e-1
    p = p * r
    q = (3.00198505138664455042e-6 * z + 2.52448340349684104192e-3) * z + 2.27265548208155028766e-1
    q = q * z + 2.0
    e = (1.0 + 2.0 * (p / (q - p))) * (n.astype(np.int64) + 1023 << 52).view(np.float64)
    return np.where(x < -700.0, 0.0, e)


def exp32(x: np.ndarray) -> np.ndarray:
    """Return e^x for f32 x <= 0, with every step rounded to f32."""
    clamped = np.maximum(x, LEAST)
    n = clamped * f32(1.44269504)
    n += MAGIC
    n -= MAGIC
    r = clamped - n * f32(0.693359375)
    r -= n * f32(-2.12194440e-4)
    e = r * f32(1.9875691500e-4)
    e += TAYLOR[0]
    for c in TAYLOR[1:]:
        e *= r
        e += c
    e *= r * r
    e += r
    e += f32(1)
    e *= (n.astype(np.int32) + 127 << 23).view(f32)
    e[x < LEAST] = 0
    return e


def log32(x: np.ndarray) -> np.ndarray:
    """Return the logarithm of x, f32. The C library computes it in double, then it is rounded to
    f32."""
    return np.array([math.log(value) for value in x.tolist()], f32)
