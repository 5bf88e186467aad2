"""Contract under test: `auto` with a memory for each lane. In virtual time it runs the rounds that
it runs with one memory, by the same candidates, for one sequence and for many. Its draft sits out
rounds, comes back and reads what it missed. On the dry backend the order checker reports a verdict,
a burst, or a host's copy of `draft_have` that is left out. The draft also catches up if a call ends
at its time limit meanwhile."""

import random

import pytest

from sbrt import _core, methods
from tests.decode.test_two_memories import counters

ARMS = methods.parse("auto:gamma=6,k_max=16").arms
TUNED = [arm.policy() for arm in ARMS]
ARMS_BY_CHANCE = methods.parse("auto:gamma=6,k_max=16,acceptance=rejection").arms
BY_CHANCE = [arm.policy() for arm in ARMS_BY_CHANCE]
SIZES = {"max_model_len": 400, "max_gamma": 6, "max_branches": 16, "max_width": 2, "max_piece": 16}
REQUESTS = (
    ({"temperature": 0}, {}),
    ({"temperature": 0.8, "seed": 3}, {}),
    ({"temperature": 0.8, "seed": 4, "top_p": 0.9}, {"repetition_penalty": 1.3}),
    ({"temperature": 0}, {"presence_penalty": 2.0, "bad_words": [[1, 2]]}),
)
ROWS = range(1, _core.MAX_ROWS + 1)


def costs(c, step=100):
    """Return costs in which a target forward takes about the time of c draft steps."""
    target = [step * c + 3 * rows for rows in ROWS]
    draft = [step + rows // 8 for rows in ROWS]
    lanes = {"target_overlapped": target, "draft_overlapped": draft}
    return _core.Costs(target=target, draft=draft, round_ns=5, **lanes)


def engine(apart, backend, seats, c=3, tuned=TUNED, known=None, **more):
    pair = _core.Toy(vocab=32, seed=7), _core.Toy(vocab=32, seed=7, noise16=4)
    known = {"costs" if backend == "sim" else "tuning": known or costs(c)}
    rule = {"rejection": True} if tuned is BY_CHANCE else {}
    return _core.EngineCore(
        *pair, backend=backend, draft_device=1 if apart else -1, max_num_seqs=seats,
        tuned=tuned, **known, **SIZES, **rule, **more,
    )  # fmt: skip


def answers(core, count, policy=None):
    """Return [(tokens, counters, rounds of each candidate, its predicted tokens/s)] of `count`
    requests that take turns in the seats of an engine. The prediction depends on each rank that the
    draft gave to a token."""
    turns, running, found = random.Random(core.seats), {}, [None] * count
    waiting = list(range(count))
    while waiting or running:
        while waiting and core.has_free_seat:
            number = waiting.pop(0)
            rng = random.Random(number)
            sampling, shaping = REQUESTS[number % len(REQUESTS)]
            prompt = [rng.randrange(32) for _ in range(rng.randint(1, 40))] * 2
            how = _core.Sampling(**sampling), policy, rng.randint(60, 200)
            running[number] = core.admit(prompt, *how, [], _core.Shaping(**shaping)), []
        core.advance(turns.randint(1, 3))
        for number, (seat, tokens) in list(running.items()):
            tokens += seat.take()
            if seat.finished:
                rounds, rates = zip(*seat.tuned, strict=True) if seat.tuned else ((), ())
                found[number] = tokens, counters(seat), rounds, rates
                seat.release()
                del running[number]
    return found


def tokens_of(found):
    return [tokens for tokens, *_ in found]


# (cost of a target forward in draft steps, rule, seats). The first rows make the draft sit out many
# rounds, and come back.
WORLDS = [
    *((1, TUNED, 1), (1, TUNED, 8), (1, BY_CHANCE, 1), (3, BY_CHANCE, 8)),
    *((20, BY_CHANCE, 12), (8, BY_CHANCE, 20)),
]


@pytest.mark.parametrize(("c", "tuned", "seats"), WORLDS)
def test_it_runs_the_rounds_of_one_memory(c, tuned, seats):
    core = engine(True, "sim", seats, c, tuned)
    count = 12 if seats == 1 else 24
    found = answers(core, count)
    assert found == answers(engine(False, "sim", seats, c, tuned), count)
    rounds = [sum(one) for one in zip(*(arms for *_, arms, _ in found), strict=True)]
    arms = ARMS if tuned is TUNED else ARMS_BY_CHANCE
    drafting = sum(n for arm, n in zip(arms, rounds, strict=True) if arm.drafts)
    assert drafting > 0
    assert c > 1 or sum(rounds) > drafting
    if tuned is TUNED:
        plain = answers(core, count, TUNED[0])
        assert tokens_of(found) == tokens_of(plain)


@pytest.mark.parametrize("seats", [1, 8])
def test_mails_and_copies_by_the_host_that_are_left_out(seats):
    """The order checker reports three of them. It does not watch the trunk, so for `tell_trunk` the
    test only checks that the host copies it."""
    core = engine(True, "dry", seats, c=1)
    count = 7 if seats == 1 else 24
    found = answers(core, count)
    order = core.order
    assert order.conflicts() == []
    for mail in ("verdict", "burst", "tell_have"):
        missing = order.conflicts(without=[mail])
        assert any("no mail for" in said for said in missing), mail
    assert tokens_of(found) == tokens_of(answers(core, count, TUNED[0]))
    told = [op for op in order.ops() if op[1] == "tell_trunk"]
    assert told


def costs_of_one_draft():
    """Return costs in which the draft of one sequence pays, but the drafts of two do not."""
    target = [1000 + 3 * rows for rows in ROWS]
    draft = [30 if rows <= 2 else 3000 for rows in ROWS]
    lanes = {"target_overlapped": target, "draft_overlapped": draft}
    return _core.Costs(target=target, draft=draft, round_ns=5, **lanes)


def visited(apart, backend):
    """Run a sequence that other sequences join for one to six rounds. While they run, no draft
    takes part. Return (tokens, counters, rounds of each candidate) of the first, and the core."""
    core = engine(apart, backend, 2, known=costs_of_one_draft())
    first = core.admit([1, 2, 3, 4, 5], _core.Sampling(temperature=0), None, 200)
    for rounds in range(1, 7):
        core.advance(3)
        visitor = core.admit([7, 8, 9], _core.Sampling(temperature=0), None, rounds)
        while not visitor.finished:
            core.advance(1)
        visitor.release()
    while not first.finished:
        core.advance(1)
    rounds = [rounds for rounds, _ in first.tuned]
    return (first.take(), counters(first), rounds), core


@pytest.mark.parametrize("backend", ["sim", "dry"])
def test_a_draft_that_lacks_few_tokens_gets_them_before_its_burst(backend):
    """The draft sat out several rounds, but lacks too few tokens for a catch-up of its own. Its
    `settle` reads those tokens, so the host must have copied them to the draft's memory."""
    found, core = visited(True, backend)
    assert found == visited(False, backend)[0]
    assert sum(n for arm, n in zip(ARMS, found[2], strict=True) if arm.drafts) > 0
    assert found[2][0] > 6
    if backend == "dry":
        names = [op[1] for op in core.order.ops()]
        assert names.count("tell_trunk") == 6
        assert "look" not in names
        assert core.order.conflicts() == []


@pytest.mark.parametrize("seats", [1, 8])
def test_so_it_is_with_threads(seats):
    core = engine(True, "cpu", seats, c=1, num_threads=2)
    count = 12 if seats == 1 else 24
    assert tokens_of(answers(core, count)) == tokens_of(answers(core, count, TUNED[0]))


@pytest.mark.parametrize("apart", [False, True])
def test_a_draft_that_caught_up_after_a_time_limit_has_no_more_to_read(apart):
    """The draft's forward waits at a gate while it catches up, so that the call ends. The next call
    finds that the draft has read all tokens, and makes no further launch for them."""
    prompt = [7 * i % 31 for i in range(30)]
    pair = _core.Toy(vocab=32, seed=7), _core.Toy(vocab=32, seed=7, gate_at=len(prompt) + 5)
    core = _core.EngineCore(
        *pair, backend="cpu", num_threads=2, draft_device=1 if apart else -1,
        tuned=TUNED, tuning=costs(1), **SIZES,
    )  # fmt: skip
    seat = core.admit(prompt, _core.Sampling(temperature=0), None, 300)

    def looks():
        return [name for stream, name, *_ in core.trace() if stream == "draft"].count("look")

    while not pair[1].waiting:
        core.advance(1, 0.05)
    assert not any(rounds for rounds, _ in seat.tuned[1:])
    pair[1].open_gate()
    core.idle()
    before = looks()
    assert before > 0
    core.advance(1)
    assert looks() == before
    core.close()
