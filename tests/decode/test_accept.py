"""Contract under test: the acceptance rules of `rejection` give the target's distribution exactly.

A test computes the distribution of a rule by enumeration: of every token that may be drawn, and of
acceptance and rejection. In 10,000 random cases per rule, degenerate ones included, the total
variation stays below 1e-12. Rules that look right but are wrong must fail the same tests. They must
also fail the chi-square test that the engine's own tokens pass (test_rejection_dist.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from sbrt import _probe
from sbrt.reference import accept
from sbrt.reference.dist import normalised
from sbrt.reference.toy import exp64

CASES = 10_000
RULES = {  # {number and name of a rule: (most draws at a node, most known tokens)}
    "2: one draw": (1, 0),
    "3: known tokens": (0, 3),
    "3 and 4: known tokens, then draws": (3, 2),
    "4: draws without replacement": (4, 0),
}
# Coins under test differ from the acceptance probability by this relative distance, up and down.
EDGE = 1e-9


@dataclass(frozen=True)
class Case:
    """Probabilities p, q [vocab] of target and draft. k: number of drawn candidates. known: tokens
    that are candidates without a draw."""

    p: np.ndarray
    q: np.ndarray
    k: int = 1
    known: tuple[int, ...] = ()


def random_dist(rng: np.random.Generator, vocab: int) -> np.ndarray:
    """Return probabilities [vocab]: smooth, sharp, with zeros, one point, flat, or few values."""
    kind = rng.integers(6)
    dist = rng.dirichlet(np.full(vocab, (1.0, 0.1, 1.0, 1.0, 1.0, 1.0)[kind]))
    if kind == 2:
        dist = dist * rng.integers(0, 2, vocab)
    elif kind == 3:
        dist = np.zeros(vocab)
    elif kind == 4:
        dist = np.ones(vocab)
    elif kind == 5:
        dist = rng.integers(0, 4, vocab).astype(float)
    if not dist.sum() > 0:
        dist = np.eye(vocab)[rng.integers(vocab)]
    return dist / dist.sum()


def random_cases(seed: int, count: int, most: int = 1, known: int = 0) -> Iterator[Case]:
    """Yield random cases with up to `most` draws and `known` known tokens, degenerate ones
    included."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        vocab = int(rng.integers(1, 6))
        p, q = random_dist(rng, vocab), random_dist(rng, vocab)
        kind = rng.integers(8)
        if kind == 0:
            q = p.copy()
        elif kind == 1 and vocab > 1:  # p and q are disjoint
            cut = int(rng.integers(1, vocab))
            p, q = np.r_[p[:cut], np.zeros(vocab - cut)], np.r_[np.zeros(cut), q[cut:]]
            p, q = (dist if dist.sum() > 0 else np.ones(vocab) for dist in (p, q))
            p, q = p / p.sum(), q / q.sum()
        elif kind == 2:  # p and q are nearly the same
            q = p * (1 + 1e-13 * rng.standard_normal(vocab))
            q = q / q.sum()
        tried = rng.permutation(vocab)[: int(rng.integers(0, known + 1))]
        yield Case(p, q, int(rng.integers(1, most + 1)), tuple(map(int, tried)))


def chance(place: _probe.Place, token: int) -> float:
    """Return the probability that a drawn token is accepted. Check that the engine accepts the
    token exactly if its uniform random number (the coin) is below this probability."""
    p, q = place.p[token], place.q[token]
    found = min(1.0, p / q)
    assert place.accepts(token, 0.0) == (p > 0)
    assert found == 0 or place.accepts(token, found * (1 - EDGE))
    assert found == 1 or not place.accepts(token, found * (1 + EDGE))
    return found


# --- the engine's rules ---


def drawn(case: Case) -> np.ndarray:
    """Return the distribution of the token that the engine's rules give: rule 3 for known tokens,
    then rule 4 for drawn ones (see RULES). With k = 1 rule 4 is rule 2."""
    out = np.zeros(len(case.p))
    _known(case, (), 1.0, out)
    return out


def _place(case: Case, known: tuple[int, ...], rejected: tuple[int, ...]) -> tuple:
    """Return the engine's Place (p and q at one node) after these tokens were rejected. Also return
    True if p had probability left after each rejection."""
    place, left = _probe.Place(case.p, case.q), True
    for token in known:
        left &= place.reject_known(token)
    for token in rejected:
        left &= place.reject(token)
    return place, left


def _known(case: Case, tried: tuple[int, ...], weight: float, out: np.ndarray) -> None:
    place, left = _place(case, tried, ())
    if len(tried) < len(case.known) and left:
        token = case.known[len(tried)]
        stands = place.p[token]
        out[token] += weight * stands
        if stands < 1:
            _known(case, (*tried, token), weight * (1 - stands), out)
        return
    _drawn(case, (), weight, out)


def _drawn(case: Case, rejected: tuple[int, ...], weight: float, out: np.ndarray) -> None:
    place, left = _place(case, case.known, rejected)
    true = case.q.copy()  # distribution of the next draw, computed here, not by the engine
    true[[*case.known, *rejected]] = 0
    if len(rejected) == case.k or not true.sum() > 0 or not left:
        out += weight * place.p
        return
    for token in np.flatnonzero(true):
        came = weight * true[token] / true.sum()
        stands = chance(place, token)
        out[token] += came * stands
        if stands < 1:
            _drawn(case, (*rejected, int(token)), came * (1 - stands), out)


def two_in_a_row(first: Case, then: list[Case]) -> np.ndarray:
    """Return the joint probabilities [vocab, vocab] of two successive tokens of a chain. Each is
    accepted or rejected by its own uniform random number."""
    return drawn(first)[:, None] * np.stack([drawn(case) for case in then])


# --- wrong rules ---


def part(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return the normalised residual max(p - q, 0), or p if the residual is 0."""
    rest = np.maximum(p - q, 0)
    return rest / rest.sum() if rest.sum() > 0 else p


def ratio(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return min(1, p / q), or 1 where q is 0."""
    return np.minimum(1, np.divide(p, q, out=np.ones_like(p), where=q > 0))


def top(q: np.ndarray, k: int) -> list[int]:
    """Return the k tokens with the largest q, the largest first."""
    return [int(i) for i in np.argsort(-q, kind="stable")[:k] if q[i] > 0]


def ratio_on_a_deterministic_candidate(case: Case) -> np.ndarray:
    """Wrong: the draft's most likely token is accepted as if it had been drawn from q."""
    [best] = top(case.q, 1)
    stands = ratio(case.p, case.q)[best]
    return stands * np.eye(len(case.p))[best] + (1 - stands) * part(case.p, case.q)


def the_branch_the_target_likes_best(case: Case) -> np.ndarray:
    """Wrong: of the draft's k most likely tokens, take the one to which the target gives the
    largest p."""
    best = max(top(case.q, case.k), key=lambda token: case.p[token])
    return np.eye(len(case.p))[best]


def _sequences(q: np.ndarray, k: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yield all sequences of k draws from q without replacement, as (tokens, probability)."""

    def go(taken: tuple[int, ...], weight: float) -> Iterator[tuple[tuple[int, ...], float]]:
        rest = q.copy()
        rest[list(taken)] = 0
        if len(taken) == k or not rest.sum() > 0:
            yield taken, weight
            return
        for token in np.flatnonzero(rest):
            yield from go((*taken, int(token)), weight * rest[token] / rest.sum())

    yield from go((), 1.0)


def _verified(case: Case, order, renormalises: bool) -> np.ndarray:
    out = np.zeros(len(case.p))
    for sequence, came in _sequences(case.q, case.k):
        p, q, weight = case.p, case.q, came
        for token in order(sequence):
            stands = ratio(p, q)[token]
            out[token] += weight * stands
            weight *= 1 - stands
            p, q = part(p, q), np.where(np.arange(len(q)) == token, 0, q)
            if renormalises and q.sum() > 0:
                q = q / q.sum()
        out += weight * p
    return out


def sorted_before_verifying(case: Case) -> np.ndarray:
    """Wrong: try the drawn candidates in order of q, and not in the order of their draws."""
    return _verified(case, lambda s: sorted(s, key=lambda token: -case.q[token]), True)


def q_not_renormalised(case: Case) -> np.ndarray:
    """Wrong: after a draw, do not normalise the rest of q."""
    return _verified(case, lambda s: s, False)


def dropped_by_its_own_q(case: Case) -> np.ndarray:
    """Wrong: drop a drawn token of small q before the acceptance test."""
    dropped = case.q < case.q.mean()
    stands = np.where(dropped, 0, ratio(case.p, case.q))
    rejected = (case.q * (1 - stands))[~dropped].sum()
    return case.q * stands + rejected * part(case.p, case.q) + case.q[dropped].sum() * case.p


def raw_q_of_a_truncated_draw(case: Case) -> np.ndarray:
    """Wrong: draw a token from the largest values of q, but verify it with the whole q."""
    kept = np.zeros(len(case.q))
    best = top(case.q, max(1, len(case.q) // 2))
    kept[best] = case.q[best]
    came = kept / kept.sum()
    stands = ratio(case.p, case.q)
    return came * stands + (came * (1 - stands)).sum() * part(case.p, case.q)


def resampled_from_p(case: Case) -> np.ndarray:
    """Wrong: after a rejection, sample the token from p, and not from the residual."""
    stands = ratio(case.p, case.q)
    return case.q * stands + (case.q * (1 - stands)).sum() * case.p


WRONG = {
    rule.__name__: rule
    for rule in (
        ratio_on_a_deterministic_candidate,
        the_branch_the_target_likes_best,
        sorted_before_verifying,
        q_not_renormalised,
        dropped_by_its_own_q,
        raw_q_of_a_truncated_draw,
        resampled_from_p,
    )
}


def one_coin_for_two(first: Case, then: list[Case]) -> np.ndarray:
    """Wrong: accept or reject both tokens of a chain by the same random number (coin)."""
    vocab = len(first.p)
    out = np.zeros((vocab, vocab))
    a = ratio(first.p, first.q)
    for x, case in enumerate(then):
        b = ratio(case.p, case.q)
        both = np.minimum(a[x], b)  # probability that the coin accepts both tokens
        out[x] += first.q[x] * case.q * both
        # Probability that the coin accepts only the first token.
        fell = (case.q * (a[x] - both)).sum()
        out[x] += first.q[x] * fell * part(case.p, case.q)
        # If the first token is rejected, the next token is decided in another round, with its own
        # coin.
        out[x] += (first.q * (1 - a)).sum() * part(first.p, first.q)[x] * case.p
    return out


# --- tests ---


def variation(dist, expected):
    """Return the total variation distance of two distributions."""
    return abs(np.asarray(dist) - expected).sum() / 2


def check_exact(rule, cases):
    """Check that the rule gives p exactly in every case. The AssertionError shows the worst
    case."""
    worst = max(((variation(rule(case), case.p), i, case) for i, case in enumerate(cases)))
    assert worst[0] < 1e-12, worst


@pytest.mark.parametrize("name", RULES)
def test_a_rule_gives_the_targets_dist(name):
    most, known = RULES[name]
    cases = [
        case if most else Case(case.p, case.q, 0, case.known)
        for case in random_cases(len(name), CASES, max(most, 1), known)
    ]
    check_exact(drawn, cases)
    assert sum((case.p == case.q).all() for case in cases) > CASES // 20
    assert sum(not (case.p * case.q).any() for case in cases) > CASES // 20
    assert sum(1.0 in case.p for case in cases) > CASES // 20


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_caught(name):
    cases = list(random_cases(1, 300, 3))
    with pytest.raises(AssertionError):
        check_exact(WRONG[name], cases)
    off = np.mean([variation(WRONG[name](case), case.p) for case in cases])
    assert off > 0.005, "hardly wrong"


def chains(count):
    """Yield triples: the case of the first token, the next case after each first token, and the
    right joint distribution of both tokens."""
    rng = np.random.default_rng(3)
    for _ in range(count):
        vocab = int(rng.integers(1, 5))
        first, *then = (
            Case(random_dist(rng, vocab), random_dist(rng, vocab)) for _ in range(vocab + 1)
        )
        yield first, then, first.p[:, None] * np.stack([case.p for case in then])


def test_two_tokens_have_the_joint_dist():
    assert max(variation(two_in_a_row(f, t), joint) for f, t, joint in chains(2000)) < 1e-12


def test_one_coin_for_two_tokens_is_caught():
    """With one coin for two tokens, each token alone has the right distribution. Only the joint
    distribution shows the fault."""
    off = [variation(one_coin_for_two(f, t), joint) for f, t, joint in chains(2000)]
    assert np.mean(off) > 0.005
    assert max(off) > 1e-3


def test_the_chi_square_catches_what_the_enumeration_does(tally):
    """The engine's tokens must pass a chi-square test. A million draws by each wrong rule fail
    it."""
    rng = np.random.default_rng(5)
    p, q = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6))
    assert abs(tally.distance(rng.multinomial(1_000_000, p), p)) < 5
    for name, rule in WRONG.items():
        dist = rule(Case(p, q, 3))
        assert tally.distance(rng.multinomial(1_000_000, dist / dist.sum()), p) > 5, name
    first, *then = (Case(p, q) for p, q in rng.dirichlet(np.ones(4), (5, 2)))
    joint = (first.p[:, None] * np.stack([case.p for case in then])).ravel()
    right, wrong = (rule(first, then).ravel() for rule in (two_in_a_row, one_coin_for_two))
    assert abs(tally.distance(rng.multinomial(1_000_000, right / right.sum()), joint)) < 5
    assert tally.distance(rng.multinomial(1_000_000, wrong / wrong.sum()), joint) > 5


def test_draws_follow_the_sums_of_the_dist():
    rng = np.random.default_rng(7)
    for case in random_cases(7, 2000):
        place = _probe.Place(case.p, case.q)
        sums = case.p.cumsum()
        for u in (0.0, 1 - 2**-53, *rng.random(20)):
            token = place.draw(u)
            assert case.p[token] > 0
            assert sums[token] >= u * sums[-1] * (1 - 1e-15)
            assert sums[token] - case.p[token] <= u * sums[-1] * (1 + 1e-15)


@pytest.mark.parametrize("vocab", [1, 31, 1024, 1025, 5000])
def test_every_bit_is_the_references(vocab):
    """The engine's probabilities and residuals equal those of sbrt.reference bit for bit. Both sum
    over the vocabulary in the same order, and use the same formula for exp."""
    rng = np.random.default_rng(vocab)
    dists = []
    for ids in ([], np.flatnonzero(rng.random(vocab) < 0.7).tolist() or [0]):
        n = len(ids) or vocab
        scores = rng.normal(scale=9, size=n).astype(np.float32)
        scores[1:][rng.random(n - 1) < 0.2] = -np.inf
        wide = np.full(vocab, -np.inf)
        wide[ids or slice(None)] = scores
        dists.append(_probe.softmax_of(scores, ids, vocab))
        assert dists[-1].tolist() == normalised(exp64(wide - wide.max())).tolist()
        exact = np.exp(wide - wide.max())
        assert dists[-1] == pytest.approx(exact / exact.sum(), rel=1e-13)
    place, same = (kind(*dists) for kind in (_probe.Place, accept.Place))
    for token in rng.permutation(vocab)[:4].tolist():
        for u in (0.0, 1 - 2**-53, *rng.random(50)):
            assert place.draw(u) == same.draw(u)
            assert place.accepts(token, u) == same.accepts(token, u)
        assert place.reject(token) == same.reject(token)
        assert place.reject_known(token) == same.reject_known(token)
        assert (place.p.tolist(), place.q.tolist()) == (same.p.tolist(), same.q.tolist())


def test_what_is_empty_falls_back_to_the_target():
    dist = np.array([0.25, 0.75])
    place = _probe.Place(dist, dist)
    assert not place.reject(1)
    assert place.p.tolist() == dist.tolist()
    assert place.q.tolist() == [1.0, 0.0]
    assert place.reject(0)  # only token 0 has probability left in q
    assert place.p.tolist() == [0.0, 1.0]
    alone = _probe.Place([0.0, 1.0], dist)
    assert not alone.reject_known(1)
    assert alone.p.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("p", "q", "words"), [([], [], "from 1"), ([1.0], [0.5, 0.5], "tokens")])
def test_dists_that_cannot_be_are_refused(p, q, words):
    with pytest.raises(ValueError, match=words):
        _probe.Place(p, q)
    with pytest.raises(ValueError, match="token"):
        _probe.Place([1.0], [1.0]).reject(1)
