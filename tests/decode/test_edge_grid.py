"""Contract under test: a sequence has exactly the right length, tokens and finish reason, wherever
its prompt, its budget, a stop token or an abort ends it. The expected values are computed from
plain decoding without limits, for more than 10,000 combinations on the toy lane. Rounds are counted
from 1, 2^31 - 10 and 2^32 - 10, in turn."""

import itertools
from collections import Counter

import pytest

from sbrt import InvalidInputError, _core, _probe

GAMMAS = (1, 4, 7)
LIMIT = 72  # max_model_len
CAPACITY = LIMIT + 64  # number of slots of a ring with full attention
VOCAB = 24
METHODS = ("none", "draft_model", "pearl", "specbranch", "uncut")
SAMPLINGS = {
    "greedy": _core.Sampling(temperature=0.0),
    "sampled": _core.Sampling(temperature=0.9, top_p=0.95, seed=11),
}
SHAPINGS = {
    "bare": _core.Shaping(),
    "shaped": _core.Shaping(
        repetition_penalty=1.1,
        frequency_penalty=0.2,
        bad_words=[[1, 2], [5]],
        logit_bias=[(7, 0.5)],
    ),
}
CASES = tuple(itertools.product(METHODS, SAMPLINGS, SHAPINGS))
COUNTERS = (1, 2**31 - 10, 2**32 - 10)
ran: Counter = Counter()  # number of combinations by test


class Grid:
    """Engine cores over the same pair of toys. Each core begins with another round number.
    Successive sequences use the cores in turn."""

    def __init__(self, name, gamma, *, noise=4, window=0, **sizes):
        self.name, self.gamma = name, gamma
        target = _core.Toy(VOCAB, seed=5, window=window)
        draft = _core.Toy(VOCAB, seed=5, noise16=noise, window=window)
        given = {"max_model_len": LIMIT, "max_gamma": gamma, "max_branches": 8, "debug": True}
        self.turn = itertools.cycle(
            _core.EngineCore(target, draft, backend="sim", first_round=first, **(given | sizes))
            for first in COUNTERS
        )
        self.policies = {
            "none": _probe.policy(0),
            "draft_model": _probe.policy(gamma, 1, 0, 0.0, 1),
            "pearl": _probe.policy(gamma, 1),
            "specbranch": _probe.policy(gamma, 8, 1, 0.05),
            "uncut": _probe.policy(gamma, 8, 0, 0.0),
        }
        self.plain = {}

    def begin(self, case, prompt, budget, stops=(), core=None):
        method, sampling, shaping = case
        ran[self.name] += 1
        core = core or next(self.turn)
        shaping = SHAPINGS[shaping] if isinstance(shaping, str) else shaping
        core.begin(prompt, SAMPLINGS[sampling], self.policies[method], budget, list(stops), shaping)
        return core

    def answer(self, *request):
        """Run one sequence; return (tokens, finish reason, stop token)."""
        core = self.begin(*request)
        tokens = core.run()
        assert core.seat(0).finished
        assert core.run() == []
        return tokens, core.seat(0).finish_reason, core.seat(0).stop_token

    def whole(self, case, prompt):
        """Return the tokens of plain decoding up to the context's end."""
        key = case[1:], tuple(prompt)
        if key not in self.plain:
            tokens, finish, _ = self.answer(("none", *case[1:]), prompt, LIMIT)
            assert (len(prompt) + len(tokens), finish) == (LIMIT, "length")
            self.plain[key] = tokens
        return self.plain[key]


def prompt_of(length):
    return [(7 * i * i + 3 * i + length) % VOCAB for i in range(length)]


def expected(whole, budget, stops=()):
    """Return the right (tokens, finish reason, stop token). The first stop token within the budget
    ends the sequence. Without one, the budget ends it."""
    for i, token in enumerate(whole[:budget]):
        if token in stops:
            return whole[: i + 1], "stop", token
    return whole[:budget], "length", None


@pytest.fixture(params=GAMMAS, ids=lambda gamma: f"gamma{gamma}")
def grid(request):
    return Grid(request.node.originalname, request.param)


def test_prompts_and_budgets(grid):
    near = {1, 2, grid.gamma - 1, grid.gamma, grid.gamma + 1, 2 * grid.gamma, 63, 64, 65}
    lengths = near | {LIMIT - grid.gamma - 1, LIMIT - grid.gamma, LIMIT - 3, LIMIT - 2, LIMIT - 1}
    for length, budget in itertools.product(sorted(lengths - {0}), range(2 * grid.gamma + 3)):
        prompt = prompt_of(length)
        for case in CASES:
            got = grid.answer(case, prompt, budget)
            assert got == expected(grid.whole(case, prompt), budget), (case, length, budget)


def test_an_end_at_every_offset_of_a_chain(grid):
    """Makes each token of the output the stop token once, with budgets that end before, at and
    after that token. The result must be the right one each time."""
    offsets = {method: set() for method in METHODS}
    for case, length in itertools.product(CASES, (1, 2, 5, 40)):
        prompt = prompt_of(length)
        whole = grid.whole(case, prompt)
        for at, stop in enumerate(whole[:30]):
            if stop in whole[:at]:
                continue
            for budget in (max(0, at - 1), at, at + 1, at + 2, LIMIT):
                for stops in ([stop], [whole[at + 1], stop]):
                    core, tokens, last = grid.begin(case, prompt, budget, stops), [], []
                    while not core.seat(0).finished:
                        last = core.run(max_rounds=1)
                        tokens += last
                    got = tokens, core.seat(0).finish_reason, core.seat(0).stop_token
                    assert got == expected(whole, budget, stops), (case, length, at, budget)
                    if got[1] == "stop":
                        offsets[case[0]].add(len(last) - 1)
    every = set(range(grid.gamma + 1))
    assert offsets == {method: {0} if method == "none" else every for method in METHODS}


def test_a_drafted_end_that_is_rejected_ends_nothing(grid):
    """Only the draft, which hardly resembles the target, proposes these stop tokens. The target
    rejects them, so they must not end the sequence."""
    grid = Grid(grid.name, grid.gamma, noise=256)
    prompt = prompt_of(3)
    for case in CASES:
        whole = grid.whole(case, prompt)
        for stop in sorted(set(range(VOCAB)) - set(whole[:20])):
            assert grid.answer(case, prompt, 20, [stop]) == expected(whole, 20)


def test_an_abort_at_every_round(grid):
    """A call of end() after any round must not affect the next sequence."""
    for case, length in itertools.product(CASES, (1, 2, grid.gamma, 40)):
        prompt, other = prompt_of(length), prompt_of(length + 1)
        whole, then = grid.whole(case, prompt), grid.whole(case, other)
        for rounds in itertools.count():
            core = grid.begin(case, prompt, 24)
            tokens = core.run(max_rounds=rounds) if rounds else []
            assert tokens == whole[: len(tokens)]
            aborted = not core.seat(0).finished
            core.end()
            assert core.seat(0).finished
            assert core.seat(0).finish_reason == (None if aborted else "length")
            assert core.run() == []
            grid.begin(case, other, 9, (), core)
            assert core.run() == then[:9], (case, length, rounds)
            if not aborted:
                assert tokens == whole[:24]
                break


@pytest.mark.parametrize("window", [1, 2, 5, 64])
def test_rings_that_wrap_end_with_the_context(grid, window):
    """With a small window the ring wraps many times. The sequence must end exactly at
    max_model_len."""
    longest = 2 * CAPACITY
    grid = Grid(grid.name, grid.gamma, window=window, max_model_len=longest)
    ring = window + 64
    for length in (1, ring - 1, ring, ring + 1, CAPACITY, longest - grid.gamma, longest - 1):
        prompt = prompt_of(length)
        for sampling in SAMPLINGS:
            plain = grid.answer(("none", sampling, "bare"), prompt, 10**6)
            assert (len(plain[0]), plain[1]) == (longest - length, "length")
            for method in METHODS[1:]:
                assert grid.answer((method, sampling, "bare"), prompt, 10**6) == plain


def test_prompts_that_cannot_be_are_refused(grid):
    for case, budget in itertools.product(CASES, (0, 1, grid.gamma)):
        for prompt in ([], prompt_of(LIMIT), prompt_of(LIMIT + 1), prompt_of(CAPACITY)):
            with pytest.raises(InvalidInputError):
                grid.begin(case, prompt, budget)
        with pytest.raises(InvalidInputError):
            grid.begin(case, [1], -1)
        assert len(grid.answer(case, [1], budget)[0]) == budget


def test_no_end_before_min_tokens(grid):
    """The first three tokens of plain decoding are stop tokens. While min_tokens masks them, the
    text continues with other tokens."""
    prompt = prompt_of(3)
    for method, sampling in itertools.product(METHODS, SAMPLINGS):
        stops = grid.whole((method, sampling, "bare"), prompt)[:3]
        for least in range(2 * grid.gamma + 3):
            shaping = _core.Shaping(min_tokens=least)
            for budget in (1, least, least + 1, 40):
                plain = grid.answer(("none", sampling, shaping), prompt, budget, stops)
                got = grid.answer((method, sampling, shaping), prompt, budget, stops)
                assert got == plain, (method, sampling, least, budget)
                tokens, finish, _ = got
                assert not set(tokens[:least]) & set(stops)
                ends = bool(tokens) and tokens[-1] in stops
                assert finish == ("stop" if ends else "length")
                assert ends or len(tokens) == budget


def test_the_grid_is_as_large_as_promised(request):
    """The tests above ran enough combinations. The test is skipped if some of them did not run."""
    names = {n for n in vars(request.module) if n.startswith("test_")} - {request.node.name}
    if set(ran) != names:
        pytest.skip("only part of the grid ran")
    print(dict(ran))
    assert sum(ran.values()) > 10_000
