"""Contract under test: with the rule `rejection` many sequences share rounds, and rounds are
enqueued ahead. If each lane has a memory of its own, every sequence has the tokens and counters
that it has with one memory. So it is on the dry backend and with two pinned teams.
tests/gpu/test_rejection.py has a draft on the CPU next to a device."""

import os
import random

import pytest

from sbrt import _core
from tests.decode.test_auto_apart import BY_CHANCE, REQUESTS, SIZES
from tests.decode.test_two_memories import counters

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def engine(seats, **fields):
    pair = _core.Toy(vocab=32, seed=7), _core.Toy(vocab=32, seed=7, noise16=4)
    return _core.EngineCore(*pair, max_num_seqs=seats, rejection=True, **SIZES, **fields)


def pinned(seats):
    """Return an engine whose teams have two threads each. They may share a core."""
    target, draft = [CORES[0], CORES[-1]], [CORES[-1], CORES[0]]
    teams = {"target_cores": target, "draft_cores": draft, "num_threads": 4, "draft_threads": 2}
    return engine(seats, backend="cpu", draft_device=_core.ON_HOST, **teams)


def answers(core, count):
    """Return ([(tokens, counters)] of `count` requests that take turns in the seats of an engine,
    number of rounds enqueued ahead). The requests have all policies of `auto` in turn."""
    turns, running, found, ahead = random.Random(core.seats), {}, [None] * count, 0
    waiting = list(range(count))
    while waiting or running:
        while waiting and core.has_free_seat:
            number = waiting.pop(0)
            rng = random.Random(number)
            _, shaping = REQUESTS[number // 2 % len(REQUESTS)]
            prompt = [rng.randrange(32) for _ in range(rng.randint(1, 20))] * 2
            sampling = _core.Sampling(temperature=0.8, seed=number)
            how = sampling, BY_CHANCE[number % len(BY_CHANCE)], rng.randint(10, 30)
            running[number] = core.admit(prompt, *how, [], _core.Shaping(**shaping)), []
        core.advance(turns.randint(1, 3))
        for number, (seat, tokens) in list(running.items()):
            tokens += seat.take()
            if seat.finished:
                found[number] = tokens, counters(seat)
                ahead += seat.stats.rounds_ahead
                seat.release()
                del running[number]
    return found, ahead


@pytest.mark.parametrize("seats", [12, 20])
@pytest.mark.parametrize("lanes", ["dry", "pinned"])
def test_two_memories_have_the_tokens_and_counters_of_one(seats, lanes):
    if lanes == "pinned" and not CORES:
        pytest.skip("threads are pinned on Linux")
    core = pinned(seats) if lanes == "pinned" else engine(seats, backend="dry", draft_device=1)
    count = 2 * len(BY_CHANCE)
    found, ahead = answers(core, count)
    assert ahead > 0
    assert found == answers(engine(seats, backend="sim"), count)[0]
    kept = [counts for _, counts in found]
    assert any(0 < counts["accepted"] < counts["draft_tokens"] for counts in kept)
    if lanes == "pinned":
        return
    order = core.order
    assert order.conflicts() == []
    for mail in ("burst", "offer"):
        assert any("draft_scores" in said for said in order.conflicts(without=[mail])), mail
