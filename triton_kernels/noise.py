"""Counter-based noise and the exponential of softmax, with the same bits as on the CPU.

The generator is Philox (csrc/ops/philox.h). The key is the seed. The counter is (token / 4,
position, completion). A counter gives four words; a token gets word token % 4. The Gumbel noise of
a word is g = -log(-log u), where u = (word + 1/2) / 2^32. Noise that decides is computed in
float64. Noise that only selects the tokens that can win is computed in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


@triton.jit
def noise_words(seed, completion, position, group):
    """Returns the words of tokens 4 group .. 4 group + 3, as four tensors like `group` (uint32)."""
    zero = group * 0
    low = zero + position.to(tl.uint32)
    high = zero + (position >> 32).to(tl.uint32)
    return tl.philox(seed, group, low, high, zero + completion)


@triton.jit
def gumbel64(word):
    """Returns the Gumbel noise of a word in float64."""
    return -tl.log(-tl.log((word.to(tl.float64) + 0.5) * 2.3283064365386963e-10))


@triton.jit
def gumbel32(word):
    """Returns the noise of gumbel64 within 4e-6, in float32. For u >= 1/2, -log u is computed as a
    series in 1 - u, because u itself would lose digits."""
    is_low = word < 0x80000000
    u = (word.to(tl.float32) + 0.5) * 2.3283064365386963e-10
    v = ((0xFFFFFFFF - word).to(tl.float32) + 0.5) * 2.3283064365386963e-10
    s = v / (2.0 - v)
    s = tl.where(is_low, 0.0, s)
    z = s * s
    p = 0.1111111111 + z * (0.0909090909 + z * (0.0769230769 + z * 0.0666666667))
    series = 2.0 * s * (1.0 + z * (0.3333333333 + z * (0.2 + z * (0.1428571429 + z * p))))
    return -tl.log(tl.where(is_low, -tl.log(tl.where(is_low, u, 0.5)), series))


@triton.jit
def exp32(x):
    """Returns e^x for x <= 0 as csrc/ops/exp.h does. The bits are equal if products and sums are
    not fused."""
    clamped = tl.where(x < -87.0, -87.0, x)
    n = (clamped * 1.44269504 + 12582912.0) - 12582912.0
    r = clamped - n * 0.693359375
    r = r - n * -2.12194440e-4
    p = 1.9875691500e-4 * r + 1.3981999507e-3
    p = p * r + 8.3334519073e-3
    p = p * r + 4.1665795894e-2
    p = p * r + 1.6666665459e-1
    p = p * r + 5.0000001201e-1
    e = p * (r * r) + r + 1.0
    scale = ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return tl.where(x < -87.0, 0.0, e * scale)


def philox_torch(counter: list[torch.Tensor], seed: int) -> list[torch.Tensor]:
    """Return the four words of Philox4x32-10. All tensors are int64 and have 32-bit words."""
    c0, c1, c2, c3 = counter
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(ROUNDS):
        high0, low0 = _product(c0, MULTIPLIERS[0])
        high1, low1 = _product(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ key[0], low1, high0 ^ c3 ^ key[1], low0
        key = [(k + step) & 0xFFFFFFFF for k, step in zip(key, KEY_STEPS, strict=True)]
    return [c0, c1, c2, c3]


def noise_words_torch(
    seed: int, completion: int, position: int, tokens: torch.Tensor, use: int = 0
) -> torch.Tensor:
    """Return the random word of each token, int64 [tokens]. use: a value of Use in
    csrc/ops/philox.h."""
    zero = torch.zeros_like(tokens)
    counter = [tokens >> 2 | use << 30, zero + (position & 0xFFFFFFFF), zero + (position >> 32)]
    words = torch.stack(philox_torch([*counter, zero + completion], seed))
    return words.gather(0, (tokens & 3)[None])[0]


def gumbel_torch(words: torch.Tensor) -> torch.Tensor:
    """Return the Gumbel noise of words, float64."""
    return -torch.log(-torch.log((words.double() + 0.5) * 2.0**-32))


def exp32_torch(x: torch.Tensor) -> torch.Tensor:
    """Plain-torch twin of `exp32`, with the same steps."""
    clamped = x.clamp(min=-87.0)
    n = (clamped * 1.44269504 + 12582912.0) - 12582912.0
    r = clamped - n * 0.693359375
    r = r - n * -2.12194440e-4
    p = torch.full_like(r, 1.9875691500e-4)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = p * r + c
    e = p * (r * r) + r + 1.0
    return torch.where(x < -87.0, 0.0, torch.ldexp(e, n.to(torch.int32)))


def _product(x: torch.Tensor, by: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the high and the low 32-bit word of x * by. The int64 product may wrap to a negative
    number, but its bits are the same."""
    product = x * by
    return (product >> 32) & 0xFFFFFFFF, product & 0xFFFFFFFF
