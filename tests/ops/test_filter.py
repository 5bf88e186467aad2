"""Contract under test: min_p, top_k and top_p keep exactly the ids that the plain reference keeps.
This holds on every instruction set, wherever a row's logits lie relative to the thresholds."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from sbrt import _core, _probe, reference
from sbrt.reference.dist import filtered
from sbrt.reference.toy import exp32

ISAS = _core.instruction_sets()
SIZES = (1, 2, 15, 16, 17, 63, 64, 65, 129, 257, 1000, 4096, 4099)
ALMOST_1 = float(np.nextafter(np.float32(1), np.float32(0)))
TOP_P = (1.0, 1.0, 0.0, 1e-30, 0.1, 0.5, 0.9, 0.999, ALMOST_1)
MIN_P = (0.0, 0.0, 0.0, 1e-38, 1e-6, 0.05, 0.3, 1.0)


def flat(rng, n):
    return np.full(n, rng.choice([0.0, -7.25, 3e38, -3e38]))


def normal(rng, n):
    return rng.normal(scale=rng.choice([1e-3, 0.5, 3, 40]), size=n)


def peaked(rng, n):
    x = rng.normal(scale=2, size=n)
    x[rng.integers(n, size=3)] += rng.choice([8.0, 30.0])
    return x


def tied(rng, n):
    return rng.integers(-3, 3, size=n) / 2


def rising(rng, n):
    return np.sort(normal(rng, n))


def falling(rng, n):
    return np.sort(normal(rng, n))[::-1]


def masked(rng, n):
    x = np.where(rng.random(n) < 0.95, -np.inf, normal(rng, n))
    x[rng.integers(n)] = 1.0
    return x


def lonely(rng, n):
    x = np.full(n, -np.inf)
    x[rng.integers(n)] = rng.choice([-3e38, 0.0, 5.0])
    return x


def zeros_of_both_signs(rng, n):
    return rng.choice([0.0, -0.0, -1.0], size=n)


def wide(rng, n):
    return rng.choice([-3.4e38, -1e30, -88.0, -87.0, -86.9, 0.0, 1e-40, 3e38], size=n)


def neighbours(rng, n):
    """Return logits that differ by at most a few ulp. exp32 may give equal values for different
    logits."""
    steps = rng.integers(0, 5, size=n)
    return np.float32(rng.choice([1.0, -30.0, 100.0])) * (1 + steps * np.float32(2**-23))


ROWS = (flat, normal, peaked, tied, rising, falling, masked, lonely, zeros_of_both_signs, wide)
ROWS = (*ROWS, neighbours)


def left(logits, sampling, isa):
    return _probe.filter_probe(logits, _core.Sampling(**sampling), isa)


def by_reference(logits, sampling):
    with np.errstate(over="ignore", under="ignore"):
        kept = filtered(logits[None], reference.Sampling(**sampling))[0]
    return np.flatnonzero(kept).tolist()


def check(logits, sampling, isas=ISAS):
    logits = np.ascontiguousarray(logits, np.float32)
    expected = by_reference(logits, sampling)
    for isa in isas:
        given = left(logits, sampling, isa)
        assert given == expected, (isa, len(logits), sampling, set(given) ^ set(expected))


def dists(rng, n):
    for k in (0, 0, 0, 1, 2, 40, n // 9, n // 2, n - 1, n, n + 1):
        temperature = float(rng.choice([1e-5, 0.3, 0.8, 1.0, 2.0, 1e4]))
        filters = {"top_k": max(0, k), "top_p": float(rng.choice(TOP_P))}
        yield {"temperature": temperature, "min_p": float(rng.choice(MIN_P)), **filters}


@pytest.mark.parametrize("make", ROWS, ids=lambda f: f.__name__)
def test_what_is_left_is_what_the_reference_leaves(make):
    for n in SIZES:
        rng = np.random.default_rng(n)
        for _ in range(3):
            row = make(rng, n)
            for sampling in dists(rng, n):
                check(row, sampling)


@pytest.mark.parametrize("kind", [normal, peaked, tied, falling], ids=lambda f: f.__name__)
def test_large_vocabularies(kind):
    rng = np.random.default_rng(5)
    for n in (32_000, 128_256):
        row = kind(rng, n)
        filters = [{"top_p": p} for p in (0.1, 0.9, 0.9999)]
        filters += [{"top_k": k} for k in (1, 50, 3000)] + [{"min_p": 0.02}]
        filters += [{"top_k": 50, "top_p": 0.95}, {"top_k": 900, "top_p": 0.99, "min_p": 1e-4}]
        for sampling in filters:
            check(row, {"temperature": 0.9, **sampling})


@pytest.mark.parametrize("n", [64, 300, 1024, 5000])
def test_a_sum_that_is_just_enough(n):
    """All weights are 1. With top_p = i / n, the weights of the first i tokens add up to the
    threshold exactly, to the last bit."""
    row = np.full(n, 2.5)
    for i in (1, n // 4, n // 2, n - 1):
        for p in (np.float32(i / n), np.nextafter(np.float32(i / n), np.float32(2))):
            if p < 1:
                check(row, {"temperature": 1.0, "top_p": float(p)})
                check(row, {"temperature": 1.0, "top_p": float(p), "min_p": 0.5})


def weight_of(v):
    return Fraction(float(exp32(np.array([v], np.float32))[0]))


def filled(rng, n, ones):
    """Return a row with `ones` weights of 1. All other weights together also sum to `ones`; the
    error is far below the last bit of a double."""
    x = rng.uniform(-25, -9, size=n).astype(np.float32)
    left = Fraction(ones) - sum(Fraction(float(w)) for w in exp32(x))
    while left > Fraction(2) ** -80:
        v = np.float32(min(np.log(float(left)), -1 - rng.random()))
        while weight_of(v) > left:
            v = np.nextafter(v, np.float32(-99))
        x = np.append(x, v)
        left -= weight_of(v)
    return np.append(x, np.zeros(ones, np.float32))


def by_units(row, p):
    """Return the ids that top_p = p keeps, computed with Python's integers. Weights are rounded to
    multiples of 2^-40, ties to even."""
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))
    units = [round(weight_of(row[i]) * 2**40) for i in order]
    sums = list(itertools.accumulate(units))
    last = next(i for i, s in enumerate(sums) if s >= Fraction(p) * sums[-1])
    return sorted(order[: last + 1])


@pytest.mark.parametrize("ones", [1, 70])
def test_no_order_of_additions_changes_what_is_left(ones):
    """The kept tokens must not depend on the order of the row. The tokens of weight 1 have half of
    the total weight; the error is far below the last bit of a double. So top_p keeps these tokens,
    or one more, as the rounded weights decide."""
    rng, kept = np.random.default_rng(3), set()
    for _ in range(8):
        row = filled(rng, 700, ones)
        expected = {float(row[i]) for i in by_units(row, 0.5)}
        for _ in range(6):
            row = rng.permutation(row)
            check(row, {"temperature": 1.0, "top_p": 0.5})
            ids = by_reference(row, {"temperature": 1.0, "top_p": 0.5})
            assert {float(row[i]) for i in ids} == expected
        kept.add(len(ids))
    assert kept == {ones, ones + 1}


def test_a_greater_logit_never_weighs_less():
    """For arguments from -87 to -2^-25, exp32 of a larger float must never be smaller. So min_p
    keeps the tokens with the largest logits."""
    step, sign = 1 << 22, np.uint32(1 << 31)
    for first in range(0x33000000, 0x42AE0000, step):
        weight = exp32((np.arange(first, first + step + 1, dtype=np.uint32) | sign).view("f4"))
        assert (weight[1:] <= weight[:-1]).all(), hex(first)


def test_ties_at_the_cut_go_to_the_lowest_ids():
    row = np.zeros(5000, np.float32)
    row[[7, 4000]] = 1.0
    for isa in ISAS:
        assert left(row, {"top_k": 4}, isa) == [0, 1, 7, 4000]
        assert left(row, {"top_p": 3e-4}, isa) == [7]
        assert left(row, {"min_p": 0.9}, isa) == [7, 4000]


@pytest.mark.exact
def test_a_long_run_of_random_dists():
    rng = np.random.default_rng(11)
    for _ in range(6000):
        n = int(rng.integers(1, 3000))
        row = ROWS[rng.integers(len(ROWS))](rng, n)
        for sampling in dists(rng, n):
            check(row, sampling)


@pytest.mark.parametrize("filters", [{"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_no_dist_is_an_error_whatever_the_filter(filters, bad):
    row = np.zeros(300, np.float32)
    row[299] = bad
    assert _probe.choose(row, _core.Sampling(**filters), 0, 1) == []
    assert _probe.choose(np.full(300, -np.inf, np.float32), _core.Sampling(**filters), 0, 1) == []
