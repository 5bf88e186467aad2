"""Contract under test: `auto` under `rejection` in which the draft sits out rounds, while rounds
are enqueued ahead. A draft that sits out leaves no branches and no distributions, with one memory
and with two. Next to `auto` other sequences fill whole rounds, so `auto` skips rounds. Its first
round without the draft may then be enqueued ahead. A chain that another policy made counts with all
its nodes, so a round never has too many rows."""

import random

import pytest

from sbrt import _core, methods
from tests.decode.test_auto_apart import BY_CHANCE, answers, engine, tokens_of

# Its chains fill a round: under rejection no other sequence with drafted nodes fits.
WIDE = methods.parse("hedge:gamma=6,F=16,on_miss=lookup,nodes=63,acceptance=rejection").policy()


def drafting(order):
    """Return {round: the seats whose draft takes part in it, as bits}."""
    found, number = {}, 0
    for op in order.ops():
        number += op[:2] == ("target", "end_round")
        if op[:2] == ("draft", "settle_draft"):
            found[number] = op[4]
    return found


def rounds_of(core, count):
    """Run `count` requests, every second one with the policy WIDE, and the others by `auto`. Return
    [(seat, rounds, rounds enqueued ahead)] of the requests by `auto`."""
    running, found, waiting = {}, [], list(range(count))
    while waiting or running:
        while waiting and core.has_free_seat:
            number = waiting.pop(0)
            rng = random.Random(number)
            prompt = [rng.randrange(32) for _ in range(rng.randint(1, 40))] * 2
            policy = WIDE if number % 2 == 0 else None
            how = _core.Sampling(temperature=0.8, seed=number), policy, rng.randint(60, 200)
            running[number] = core.admit(prompt, *how)
        core.advance(1)
        for number, seat in list(running.items()):
            seat.take()
            if not seat.finished:
                continue
            if number % 2:
                found.append((seat.number, seat.rounds(), seat.stats.rounds_ahead))
            seat.release()
            del running[number]
    return found


@pytest.mark.parametrize("apart", [False, True])
def test_a_draft_that_sits_out_leaves_no_branches(apart):
    core = engine(apart, "dry", 2, c=3, tuned=BY_CHANCE)
    found = rounds_of(core, 24)
    order = core.order
    drafts = drafting(order)
    assert sum(ahead for *_, ahead in found) > 0
    assert any(op[1] == "sit_out" for op in order.ops())
    without = 0
    for seat, rounds, _ in found:
        for number, _, _, branches, hit, _ in rounds:
            if not drafts.get(number, 0) >> seat & 1:
                assert (branches, hit) == (0, False), (seat, number)
                without += 1
    assert without > 0


@pytest.mark.parametrize(("c", "seats"), [(8, 8), (12, 16)])
def test_chains_of_the_last_policy_fit_into_a_round(c, seats):
    """The toy lane refuses more rows than a forward may have."""
    found = answers(engine(False, "dry", seats, c, BY_CHANCE), seats + 8)
    assert all(tokens_of(found))
