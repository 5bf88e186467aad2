"""Contract under test: the sampling pass. Philox gives its published results. `choose` gives the
tokens of a plain implementation in float64, unless a decision is close. It gives exactly the tokens
of sbrt.reference, which scores every token. Filters and ties follow the documented order. Tokens
that are sampled with the coupled noise follow the distribution."""

import math

import numpy as np
import pytest

from sbrt import InvalidInputError, _core, _probe, reference

# The known answers of Random123 for philox4x32-10: (counter, key, result).
ONES = 0xFFFFFFFF
PI = 0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (PI, (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]
POSITIONS = (0, 1, 77, 2**31 - 1, 2**32 - 1, 2**32, 2**40 + 3)


def choose(logits, sampling, position=0, want=1):
    return _probe.choose(np.asarray(logits, np.float32), _core.Sampling(**sampling), position, want)


def by_reference(logits, sampling, position=0, want=1):
    sampling = reference.Sampling(**sampling)
    noise = reference.gumbel_noise(sampling, position, 1, len(logits))[0]
    return reference.top_tokens(np.asarray(logits, np.float32), sampling, noise, want)


def random_dist(rng):
    sampling = {"temperature": rng.choice([0.3, 0.8, 1.0, 2.0]), "seed": int(rng.integers(2**63))}
    sampling["completion"] = int(rng.integers(2**32))
    if rng.random() < 0.5:
        sampling["top_k"] = int(rng.integers(1, 50))
    if rng.random() < 0.5:
        sampling["top_p"] = float(rng.choice([0.0, 0.3, 0.9, 0.999]))
    if rng.random() < 0.5:
        sampling["min_p"] = float(rng.choice([0.001, 0.05, 0.5, 1.0]))
    return sampling


def random_logits(rng, vocab):
    """Return random logits: normally distributed, or of few values, so that there are ties. Some
    tokens are masked."""
    if rng.random() < 0.5:
        logits = rng.normal(scale=rng.choice([0.5, 3.0, 10.0]), size=vocab)
    else:
        logits = rng.integers(-6, 7, size=vocab) / 2
    logits[rng.random(vocab) < 0.1] = -np.inf
    logits[rng.integers(vocab)] = 1.0  # never mask all tokens
    return logits.astype(np.float32)


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox_gives_its_published_vectors(counter, key, result):
    assert tuple(_probe.philox(counter, *key)) == result
    assert reference.philox(*counter, *key) == result


def plain_scores(logits, sampling, position):
    """Return (scores, distance). The scores [vocab] are float64, and -inf where a filter excludes
    the token. The distance is that of a filter's threshold from the nearest probability or sum of
    probabilities."""
    p = np.exp((logits.astype(np.float64) - logits.max()) / sampling["temperature"])
    order = sorted(np.flatnonzero(p > 0), key=lambda i: (-logits[i], i))
    near = np.abs(p[order] - sampling.get("min_p", 0)).min()
    order = [i for i in order if p[i] >= sampling.get("min_p", 0)]
    order = order[: sampling.get("top_k") or None]
    mass = np.cumsum(p[order]) / p[order].sum()
    if sampling.get("top_p", 1) < 1:
        near = min(near, np.abs(mass - sampling["top_p"]).min())
        order = order[: int(np.argmax(mass >= sampling["top_p"])) + 1]
    scores = np.full(len(logits), -np.inf)
    noise = reference.gumbel_noise(reference.Sampling(**sampling), position, 1, len(logits))[0]
    scores[order] = logits[order].astype(np.float64) / sampling["temperature"] + noise[order]
    return scores, near


def test_choose_gives_the_tokens_of_a_plain_oracle():
    rng = np.random.default_rng(1)
    compared = 0
    for _ in range(1500):
        logits = random_logits(rng, int(rng.integers(2, 100)))
        sampling, position = random_dist(rng), int(rng.choice(POSITIONS))
        scores, near = plain_scores(logits, sampling, position)
        best = np.argsort(-scores, kind="stable")[: np.isfinite(scores).sum()][:5]
        gaps = -np.diff(scores[best])
        # With min_p 1 the threshold is the largest probability. That is exactly 1, so no rounding
        # can move a probability across it.
        boundary = sampling.get("min_p") == 1.0 or near > 1e-6
        if boundary and (gaps.size == 0 or gaps.min() > 1e-5):
            compared += 1
            assert choose(logits, sampling, position, 5) == best.tolist(), (sampling, position)
    assert compared > 1000


def test_choose_equals_the_reference_over_all_tokens():
    rng = np.random.default_rng(2)
    for _ in range(2000):
        logits = random_logits(rng, int(rng.integers(2, 200)))
        sampling, position = random_dist(rng), int(rng.choice(POSITIONS))
        want = int(rng.integers(1, 17))
        assert choose(logits, sampling, position, want) == by_reference(
            logits, sampling, position, want
        )


@pytest.mark.parametrize("vocab", [4096, 32_000])
@pytest.mark.parametrize("order", ["random", "rising", "falling", "flat"])
def test_tokens_that_are_passed_over_could_not_win(vocab, order):
    """Most tokens are skipped, because an upper bound of their score is too low. The result must be
    the same as if every token were scored."""
    rng = np.random.default_rng(vocab)
    for scale in (0.5, 3.0, 8.0):
        logits = rng.normal(scale=scale, size=vocab).astype(np.float32)
        if order in ("rising", "falling"):
            logits = np.sort(logits)[:: 1 if order == "rising" else -1].copy()
        if order == "flat":
            logits[:] = scale
        sampling = {"temperature": 0.9, "seed": int(rng.integers(2**63))}
        for want in (1, 16):
            assert choose(logits, sampling, 5, want) == by_reference(logits, sampling, 5, want)


def test_greedy_ties_go_to_the_lowest_id():
    logits = [1.0, 3.0, 2.0, 3.0, -np.inf, 3.0, 2.0]
    for temperature in (0.0, 9e-6):
        for filters in ({}, {"top_k": 2}, {"top_p": 0.1}, {"min_p": 0.9}):
            sampling = {"temperature": temperature, **filters}
            assert choose(logits, sampling, want=1) == [1]
            assert choose(logits, sampling, want=16) == [1, 3, 5, 2, 6, 0]


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ({}, {0, 1, 2, 3, 5, 6}),
        ({"top_k": 1}, {1}),
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 4}, {1, 2, 3, 5}),  # tokens 2 and 6 are tied, so the lower id is kept
        ({"top_k": 100}, {0, 1, 2, 3, 5, 6}),
        ({"top_p": 0.0}, {1}),
        ({"top_p": 0.25}, {1}),
        ({"top_p": 0.5}, {1, 3}),
        ({"top_p": 0.76}, {1, 3, 5}),
        ({"top_p": 0.99999}, {0, 1, 2, 3, 5, 6}),
        ({"min_p": 1.0}, {1, 3, 5}),
        ({"min_p": 0.3}, {1, 2, 3, 5, 6}),
        # Each filter works on what the filters before it left.
        ({"min_p": 0.3, "top_k": 3, "top_p": 0.6}, {1, 3}),
    ],
)
def test_filters(filters, left):
    logits = [1.0, 3.0, 2.0, 3.0, -np.inf, 3.0, 2.0]  # p: .034 .256 .094 .256 0 .256 .094
    found = set()
    for position in range(60):
        sampling = {"temperature": 1.0, "seed": 3, **filters}
        tokens = choose(logits, sampling, position, 16)
        assert set(tokens) == left
        found.add(tokens[0])
    # If three tokens or fewer are left, each of them is sampled at some position.
    assert found == left or len(left) > 3


def test_rows_without_an_answer():
    for sampling in (
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 1.0, "top_p": 0.5},
    ):
        assert choose([1.0, np.nan, 2.0], sampling) == []
        assert choose([np.nan] * 3, sampling) == []
        assert choose([1.0, np.inf, 2.0], sampling) == []
        assert choose([-np.inf] * 3, sampling) == []
        assert choose([-np.inf, -2.0, -np.inf], sampling, want=16) == [1]


def chi_square_z(counts, expected):
    """Return chi-square as a number that has about the standard normal distribution (Wilson and
    Hilferty). Cells with few counts are merged."""
    order = np.argsort(expected)
    counts, expected = counts[order], expected[order]
    few = expected < 10
    counts = np.append(counts[~few], counts[few].sum())
    expected = np.append(expected[~few], expected[few].sum())
    if expected[-1] < 10:
        counts = np.append(counts[:-2], counts[-2:].sum())
        expected = np.append(expected[:-2], expected[-2:].sum())
    free = len(counts) - 1
    ratio = ((counts - expected) ** 2 / expected).sum() / free
    return (ratio ** (1 / 3) - (1 - 2 / (9 * free))) / math.sqrt(2 / (9 * free))


def softmax(logits, temperature):
    p = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    return p / p.sum()


@pytest.mark.parametrize("filters", [{}, {"top_k": 10}, {"top_p": 0.8}, {"min_p": 0.05}], ids=str)
def test_the_coupled_draw_follows_the_dist(filters):
    """Tokens must follow the distribution if the position varies, if the seed varies, and if the
    completion varies."""
    rng = np.random.default_rng(7)
    logits = rng.normal(scale=1.5, size=32).astype(np.float32)
    sampling = {"temperature": 0.8, "seed": 11, **filters}
    scores, near = plain_scores(logits, sampling, 0)
    assert near > 1e-6
    p = softmax(logits, 0.8) * np.isfinite(scores)
    n = 20_000
    vary = {
        "position": [choose(logits, sampling, i)[0] for i in range(n)],
        "seed": [choose(logits, {**sampling, "seed": i})[0] for i in range(n)],
        "completion": [choose(logits, {**sampling, "completion": i})[0] for i in range(n)],
    }
    for name, drawn in vary.items():
        counts = np.bincount(drawn, minlength=32)
        assert not counts[p == 0].any()
        assert abs(chi_square_z(counts[p > 0], n * p[p > 0] / p.sum())) < 5, name


def test_draws_at_neighbouring_positions_are_independent():
    rng = np.random.default_rng(8)
    logits = rng.normal(size=8).astype(np.float32)
    p = softmax(logits, 1.0)
    n = 60_000
    drawn = np.array([choose(logits, {"seed": 5}, i)[0] for i in range(n + 1)])
    counts = np.bincount(drawn[:-1] * 8 + drawn[1:], minlength=64)
    assert abs(chi_square_z(counts, n * np.outer(p, p).ravel())) < 5


def test_a_wrong_dist_is_noticed():
    """The tests above must notice a wrong distribution: here, one with temperature 0.75 instead of
    0.8."""
    rng = np.random.default_rng(7)
    logits = rng.normal(scale=1.5, size=32).astype(np.float32)
    n = 40_000
    drawn = [choose(logits, {"temperature": 0.8, "seed": 11}, i)[0] for i in range(n)]
    counts = np.bincount(drawn, minlength=32)
    assert abs(chi_square_z(counts, n * softmax(logits, 0.75))) > 5


def test_softmax_at():
    rng = np.random.default_rng(9)
    for vocab in (*range(1, 70), 1000, 5003):
        logits = rng.normal(scale=4, size=vocab).astype(np.float32)
        exact = softmax(logits, 1.0)
        for token in rng.integers(vocab, size=3):
            q = _probe.softmax_at(logits, int(token))
            assert q == reference.raw_softmax(logits, int(token))
            assert q == pytest.approx(exact[token], rel=2e-6)
    assert _probe.softmax_at(np.array([0.0, -200.0, -np.inf], np.float32), 0) == 1.0
    assert _probe.softmax_at(np.array([0.0, -200.0, -np.inf], np.float32), 1) == 0.0


@pytest.mark.parametrize("want", [0, 17, -1])
def test_want_that_cannot_be(want):
    with pytest.raises(InvalidInputError, match=f"choose: want.* got {want}"):
        choose([1.0, 2.0], {}, want=want)


def test_logits_that_cannot_be():
    with pytest.raises(InvalidInputError, match="vocabulary"):
        choose([], {})
    with pytest.raises(InvalidInputError, match="token"):
        _probe.softmax_at(np.zeros(3, np.float32), 3)
